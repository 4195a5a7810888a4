package clitest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// Setup builds programs and returns what prepares a script for them: a folder of its own for everything that a user's programs keep, and the
// file "password" with a password. No script reaches a service manager: what needs one is in test/system. The real restic must be there.
func Setup(t *testing.T, programs ...string) func(*testscript.Env) error {
	t.Helper()
	if _, err := exec.LookPath("restic"); err != nil {
		t.Fatalf("these tests need restic: %v", err)
	}
	bin := t.TempDir()
	build := exec.Command("go", append([]string{"build", "-buildvcs=false", "-o", bin + "/"}, programs...)...)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", build.Args, err, out)
	}
	return func(env *testscript.Env) error {
		env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
		for name, dir := range map[string]string{
			"HOME": "home", "XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache", "XDG_RUNTIME_DIR": "run",
		} {
			env.Setenv(name, filepath.Join(env.WorkDir, dir))
			if err := os.Mkdir(filepath.Join(env.WorkDir, dir), 0o700); err != nil {
				return err
			}
		}
		env.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+env.WorkDir+"/run/bus")
		env.Setenv("TZ", "UTC")
		return os.WriteFile(filepath.Join(env.WorkDir, "password"), []byte("correct horse\n"), 0o600)
	}
}

// Here is a command of scripts: it writes the script's folder into files in place of @WORK@, for the configuration wants absolute paths.
//
//	here FILE...
func Here(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: here FILE...")
	}
	for _, name := range args {
		path := ts.MkAbs(name)
		ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(ts.ReadFile(name), "@WORK@", ts.Getenv("WORK"))), 0o600))
	}
}
