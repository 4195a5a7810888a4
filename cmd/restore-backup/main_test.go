package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli/clitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"restore-backup": main})
}

// TestScripts runs testdata/script with module-backup as it is built and the real restic.
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		t.Fatalf("these tests need restic: %v", err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "../module-backup")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", build.Args, err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			for name, dir := range map[string]string{
				"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "XDG_RUNTIME_DIR": "run",
			} {
				env.Setenv(name, filepath.Join(env.WorkDir, dir))
				if err := os.Mkdir(filepath.Join(env.WorkDir, dir), 0o700); err != nil {
					return err
				}
			}
			env.Setenv("TZ", "UTC")
			return os.WriteFile(filepath.Join(env.WorkDir, "password"), []byte("correct horse\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits, "here": here},
	})
}

// here writes the script's folder into files in place of @WORK@, for the configuration wants absolute paths: here FILE...
func here(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: here FILE...")
	}
	for _, name := range args {
		path := ts.MkAbs(name)
		ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(ts.ReadFile(name), "@WORK@", ts.Getenv("WORK"))), 0o600))
	}
}

func TestPrintable(t *testing.T) {
	for name, want := range map[string]string{"/data/ü b": "/data/ü b", "/a\nb": `"/a\nb"`, "/a\x1b[2J": `"/a\x1b[2J"`, "/\ufffd": "/\ufffd"} {
		if got := printable(name); got != want {
			t.Errorf("printable(%q) = %s; want %s", name, got, want)
		}
	}
}
