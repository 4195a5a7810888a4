package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli/clitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"restore-backup": main})
}

// TestScripts runs testdata/script with module-backup and run-backup as they are built.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", Setup: clitest.Setup(t, "../module-backup", "../run-backup"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits, "here": clitest.Here},
	})
}

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{"/data/ü b": "/data/ü b", "/a\nb": `"/a\nb"`, "/a\x1b[2J": `"/a\x1b[2J"`, "/\ufffd": "/\ufffd"} {
		if got := printable(name); got != want {
			t.Errorf("printable(%q) = %s; want %s", name, got, want)
		}
	}
}
