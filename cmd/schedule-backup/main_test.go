package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli/clitest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"schedule-backup": main})
}

// TestScripts runs testdata/script. No script reaches a service manager: those that need one are in internal/schedule,
// under the build tag systemd.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_RUNTIME_DIR", env.WorkDir+"/run")
			env.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+env.WorkDir+"/run/bus")
			env.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits},
	})
}

// TestFirst runs testdata/first with the programs as they are built: they call one another.
func TestFirst(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/first", Setup: clitest.Setup(t, ".", "../run-backup", "../module-backup", "../restore-backup"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits, "here": clitest.Here},
	})
}
