package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/config"
)

// wait is what the test binary does instead of tests when it is started as a program by TestSignals.
const wait = "SDBACKUP_TEST_WAIT"

func TestMain(m *testing.M) {
	if os.Getenv(wait) != "" {
		os.Exit(Main("wait", "Waits.", new(waiter), os.Args[1:], OS()))
	}
	os.Exit(m.Run())
}

type waiter struct {
	Deaf bool `help:"Do not end when cancelled."`
}

func (w *waiter) Run(ctx context.Context, env *Env) error {
	fmt.Fprintln(env.Stdout, "ready")
	<-ctx.Done()
	fmt.Fprintln(env.Stdout, "cancelled")
	if w.Deaf {
		time.Sleep(time.Minute)
	}
	return fmt.Errorf("stopped: %w", context.Cause(ctx))
}

func TestSignals(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		signals []syscall.Signal
		stderr  string
	}{
		{"SIGTERM", nil, []syscall.Signal{syscall.SIGTERM}, "wait: stopped: terminated (SIGTERM)\n"},
		{"SIGINT", nil, []syscall.Signal{syscall.SIGINT}, "wait: stopped: interrupted (SIGINT)\n"},
		{"the second does not wait", []string{"--deaf"}, []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], c.args...)
			cmd.Env = append(os.Environ(), wait+"=1")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(stdout)
			for _, s := range c.signals {
				if !lines.Scan() {
					t.Fatalf("the program ended before it got %v: %s", s, stderr.String())
				}
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			if len(c.signals) > 1 { // what comes within sameSignal of the first is no second one
				ended := make(chan struct{})
				defer close(ended)
				go func() {
					for {
						select {
						case <-ended:
							return
						case <-time.After(sameSignal / 4):
							_ = cmd.Process.Signal(c.signals[1]) // it may have ended
						}
					}
				}()
			}
			_, _ = io.Copy(io.Discard, stdout)
			_ = cmd.Wait() // its code is looked at
			if code := cmd.ProcessState.ExitCode(); code != ExitFailed || stderr.String() != c.stderr {
				t.Errorf("after %v: exit code %d, stderr %q; want %d, %q", c.signals, code, stderr.String(), ExitFailed, c.stderr)
			}
		})
	}
}

func TestSignalError(t *testing.T) {
	if got := (SignalError{syscall.SIGHUP}).Error(); got != "hangup" {
		t.Errorf("SignalError{SIGHUP} = %q; want hangup", got)
	}
}

// grammar is a command that does what a test says.
type grammar struct {
	Location
	Name string                            `arg:"" optional:""`
	Do   func(context.Context, *Env) error `kong:"-"`
}

func (g *grammar) Run(ctx context.Context, env *Env) error { return g.Do(ctx, env) }

// run is Main with a world of its own.
func run(name string, args []string, do func(context.Context, *Env) error) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	env := &Env{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }, Now: time.Now}
	code = Main(name, "Does things.", &grammar{Do: do}, args, env)
	return code, out.String(), errs.String()
}

func TestMainEndsWith(t *testing.T) {
	no := errors.New("no")
	for name, c := range map[string]struct {
		err    error
		code   int
		stderr string
	}{
		"success":            {nil, ExitOK, ""},
		"error":              {no, ExitFailed, "x: no\n"},
		"code":               {&ExitError{Code: ExitLocked, Err: no}, ExitLocked, "x: no\n"},
		"code alone":         {&ExitError{Code: ExitLocked}, ExitLocked, ""},
		"wrapped code":       {fmt.Errorf("backup 1: %w", &ExitError{Code: ExitUsage, Err: no}), ExitUsage, "x: backup 1: no\n"},
		"hint":               {Hint(no, "say please"), ExitFailed, "x: no\nx: hint: say please\n"},
		"wrapped hint":       {fmt.Errorf("a: %w", Hint(no, "say please")), ExitFailed, "x: a: no\nx: hint: say please\n"},
		"hint and code":      {&ExitError{Code: ExitUsage, Err: Hint(no, "b")}, ExitUsage, "x: no\nx: hint: b\n"},
		"no error, no hint":  {Hint(nil, "b"), ExitOK, ""},
		"joined":             {errors.Join(no, errors.New("never")), ExitFailed, "x: no\nx: never\n"},
		"joined twice":       {errors.Join(errors.Join(no, errors.New("b")), Hint(errors.New("c"), "d"), errors.New("e")), ExitFailed, "x: no\nx: b\nx: c\nx: hint: d\nx: e\n"},
		"joined with a code": {errors.Join(no, &ExitError{Code: ExitUsage, Err: errors.New("b")}), ExitUsage, "x: no\nx: b\n"},
		"nothing joined":     {&ExitError{Code: ExitFailed, Err: errors.Join()}, ExitFailed, ""},
		"two in a sentence":  {fmt.Errorf("a: %w, then %w", no, errors.New("b")), ExitFailed, "x: a: no, then b\n"},
		"lines":              {errors.New("a\nb"), ExitFailed, "x: a\nx: b\n"},
		"control characters": {Hint(errors.New("a\x1b[2Jb\r"), "c\nd\x9b"), ExitFailed, "x: a [2Jb \nx: hint: c d?\n"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := run("x", nil, func(context.Context, *Env) error { return c.err })
			if code != c.code || stderr != c.stderr || stdout != "" {
				t.Errorf("Main = %d, stdout %q, stderr %q; want %d, nothing, %q", code, stdout, stderr, c.code, c.stderr)
			}
		})
	}
}

func TestExitError(t *testing.T) {
	if got := (&ExitError{Code: 3}).Error(); got != "exit code 3" {
		t.Errorf("ExitError{3} = %q; want exit code 3", got)
	}
	if !errors.Is(Hint(&ExitError{Code: 3, Err: io.EOF}, "h"), io.EOF) {
		t.Error("the cause of an ExitError with a hint is lost")
	}
}

func TestUsageErrors(t *testing.T) {
	for _, args := range [][]string{{"--nonsense"}, {"a", "b"}, {"--config"}, {"--completion", "nonsense"}, {"--completion", ""}, {"--\x1b[2J"}} {
		code, stdout, stderr := run("x", args, func(context.Context, *Env) error { panic("ran") })
		lines := strings.Split(stderr, "\n")
		if code != ExitUsage || stdout != "" || len(lines) != 3 || lines[1] != `x: hint: see "x --help"` ||
			!strings.HasPrefix(lines[0], "x: ") || strings.Contains(stderr, "\x1b") {
			t.Errorf("x %q: %d, stdout %q, stderr %q; want %d, one sentence and where to look", args, code, stdout, stderr, ExitUsage)
		}
	}
}

func TestHelp(t *testing.T) {
	for name, want := range map[string]string{
		"run-backup": "3 none failed but", "module-backup": "0 a snapshot is saved", "schedule-backup": "0 done", "other": "2 usage",
	} {
		code, stdout, stderr := run(name, []string{"--help"}, nil)
		if code != ExitOK || stderr != "" || !strings.Contains(stdout, "Exit codes: ") || !strings.Contains(stdout, want) {
			t.Errorf("%s --help: %d, stderr %q, stdout:\n%s\nwant the exit codes, with %q", name, code, stderr, stdout, want)
		}
		if strings.Contains(stdout, "completion") {
			t.Errorf("%s --help shows a hidden flag:\n%s", name, stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	oldVersion, oldCommit := version, commit
	defer func() { version, commit = oldVersion, oldCommit }()
	version, commit = "v1.2.3", "0123abcd"
	code, stdout, stderr := run("x", []string{"--version"}, nil)
	if want := "x v1.2.3 (commit 0123abcd, " + runtime.Version() + ")\n"; code != ExitOK || stdout != want || stderr != "" {
		t.Errorf("--version: %d, stdout %q, stderr %q; want %q", code, stdout, stderr, want)
	}
	version, commit = "", ""
	if Version() == "" || revision() == "" {
		t.Error("a build that was given no version has none; want that of its build information")
	}
}

func TestPanicIsAFailure(t *testing.T) {
	var null *grammar
	for name, do := range map[string]func(context.Context, *Env) error{
		"value":       func(context.Context, *Env) error { panic("boom") },
		"nil pointer": func(context.Context, *Env) error { return errors.New(null.Name) },
		"nil":         func(context.Context, *Env) error { panic(nil) },
		"a code":      func(context.Context, *Env) error { panic(&ExitError{Code: ExitOK}) },
		"error":       func(context.Context, *Env) error { panic(&ExitError{Code: ExitUsage}) },
	} {
		code, stdout, stderr := run("x", nil, do)
		if code != ExitFailed || stdout != "" || !strings.HasPrefix(stderr, "x: error: this is a bug: ") || !strings.Contains(stderr, "cli_test.go") {
			t.Errorf("panic, %s: %d, stdout %q, stderr %q; want %d and where it was", name, code, stdout, stderr, ExitFailed)
		}
	}
}

func TestMainCancelsWhenDone(t *testing.T) {
	var kept context.Context
	run("x", nil, func(ctx context.Context, env *Env) error {
		kept = ctx
		if env.Log == nil || ctx.Err() != nil {
			t.Errorf("the command has the log %v and the context's error %v; want a log, and no error yet", env.Log, ctx.Err())
		}
		return nil
	})
	if kept.Err() == nil {
		t.Error("the context outlives the command")
	}
}

func TestPaths(t *testing.T) {
	env := &Env{Getenv: func(key string) string {
		return map[string]string{"HOME": "/home/ann", "XDG_STATE_HOME": "/state", "XDG_RUNTIME_DIR": "/run/user/1"}[key]
	}}
	system, user := config.SystemPaths(), config.UserPaths(env.Getenv)
	for name, c := range map[string]struct {
		location Location
		config   []string
		state    string
	}{
		"system":           {Location{}, system.Config, system.State},
		"user":             {Location{User: true}, user.Config, user.State},
		"place":            {Location{Config: "a.toml"}, []string{"a.toml"}, system.State},
		"place for a user": {Location{Config: "a.toml", User: true}, []string{"a.toml"}, user.State},
	} {
		got := c.location.Paths(env)
		if !slices.Equal(got.Config, c.config) || got.State != c.state {
			t.Errorf("%s: Paths = config %q, state %q; want %q, %q", name, got.Config, got.State, c.config, c.state)
		}
	}
	if system.State == user.State {
		t.Error("the state of the user is that of the system")
	}
}

func TestOS(t *testing.T) {
	env := OS()
	if env.Stdin != os.Stdin || env.Stdout != os.Stdout || env.Stderr != os.Stderr || time.Since(env.Now()) > time.Minute {
		t.Errorf("OS() = %+v; want the real world", env)
	}
}
