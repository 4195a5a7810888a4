package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli/clitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"remote-backup": main})
}

// TestScripts runs testdata/script. What needs an SSH server is in test/system.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/script",
		Setup: func(env *testscript.Env) error { env.Setenv("HOME", env.WorkDir); return nil },
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits},
	})
}
