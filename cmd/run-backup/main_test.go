package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli"
	"sdbackup/internal/cli/clitest"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

// TestScripts runs testdata/script with the programs as they are built and the real restic. No script reaches a service manager:
// what needs one is in test/system.
func TestScripts(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		t.Fatalf("these tests need restic: %v", err)
	}
	bin := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "../run-backup", "../module-backup")
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
			env.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+env.WorkDir+"/run/bus")
			env.Setenv("TZ", "UTC")
			return os.WriteFile(filepath.Join(env.WorkDir, "password"), []byte("correct horse\n"), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits, "here": here, "held": held},
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

// held waits until a program in the background holds the lock of a file: held FILE
func held(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: held FILE")
	}
	path := ts.MkAbs(args[0])
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if exec.Command("flock", "--nonblock", "--exclusive", path, "true").Run() != nil {
			return
		}
	}
	ts.Fatalf("nobody locks %s", path)
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		outcome status.Outcome
		err     error
		want    int
	}{
		{status.Success, nil, cli.ExitOK},
		{status.Partial, nil, cli.ExitOK},
		{status.Conflict, nil, cli.ExitLocked},
		{status.Failed, nil, cli.ExitFailed},
		{"", nil, cli.ExitFailed},
		{"", fmt.Errorf("backup 1: %w", run.ErrRunning), cli.ExitLocked},
		{status.Failed, fmt.Errorf("backup 1: %w", run.ErrConfiguration), cli.ExitUsage},
		{status.Success, errors.New("the verdict could not be written"), cli.ExitFailed},
	} {
		if got := exitCode(status.Run{Outcome: c.outcome}, c.err); got != c.want {
			t.Errorf("exitCode(%q, %v) = %d; want %d", c.outcome, c.err, got, c.want)
		}
	}
}

func TestWorse(t *testing.T) {
	order := []int{cli.ExitOK, cli.ExitLocked, cli.ExitFailed, cli.ExitUsage}
	for i, a := range order {
		for j, b := range order {
			if got, want := worse(a, b), order[max(i, j)]; got != want {
				t.Errorf("worse(%d, %d) = %d; want %d", a, b, got, want)
			}
		}
	}
}

func TestFate(t *testing.T) {
	for want, vars := range map[string]map[string]string{
		"":                           {"SERVICE_RESULT": "success"},
		"result signal, killed KILL": {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"},
	} {
		if got := fate(&cli.Env{Getenv: func(key string) string { return vars[key] }}); got != want {
			t.Errorf("fate(%v) = %q; want %q", vars, got, want)
		}
	}
}

func TestExplain(t *testing.T) {
	err := fmt.Errorf("open lock: %w", fs.ErrPermission)
	if os.Geteuid() == 0 {
		if got := explain(err); got != err {
			t.Errorf("explain for root = %v; want the error alone", got)
		}
		return
	}
	if got := explain(err); got == err || !errors.Is(got, fs.ErrPermission) {
		t.Errorf("explain = %v; want the error with a hint", got)
	}
}

// A record that cannot be read leaves the columns empty that are made from it.
func TestPrintWithoutRecords(t *testing.T) {
	var b bytes.Buffer
	runs := []status.Run{{ID: "r", Backup: "1", Modules: []status.Brief{{Module: "wiki1", Outcome: status.Failed, Error: "a\nb"}}}, {ID: "s"}}
	if err := new(command).print(&cli.Env{Stdout: &b}, status.Store{Dir: t.TempDir()}, runs); err != nil {
		t.Fatal(err)
	}
	if want := "MODULE  RESULT  SIZE  ADDED  TIME  ERROR\nwiki1   failed  -     -      -     a b\n"; b.String() != want {
		t.Errorf("table =\n%s\nwant\n%s", b.String(), want)
	}
}
