package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli"
	"sdbackup/internal/cli/clitest"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

// TestScripts runs testdata/script with the programs as they are built.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", Setup: clitest.Setup(t, "../run-backup", "../module-backup"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits, "here": clitest.Here, "held": held},
	})
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
