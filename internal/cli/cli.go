// Package cli is what the main functions share: arguments, signals, errors and exit codes, tables and progress.
//
// A main has a grammar for kong, whose commands have a method Run(context.Context, *Env) error, and one line:
//
//	func main() { os.Exit(cli.Main("run-backup", "Runs backups.", new(command), os.Args[1:], cli.OS())) }
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/remote"
)

// Exit codes of all binaries. Each binary says in its help what they mean for it. Codes from 200 on are systemd's,
// systemd.exec(5).
const (
	ExitOK     = 0
	ExitFailed = 1
	ExitUsage  = 2 // or a mistake in the configuration
	ExitLocked = 3
)

// Env is the world as a command sees it, so that a test can give it another one.
type Env struct {
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	Getenv func(string) string
	Now    func() time.Time
	Log    *slog.Logger // set by Main
}

// OS is the real world.
func OS() *Env {
	return &Env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Now: time.Now}
}

// Location is where the configuration is; every grammar embeds it.
type Location struct {
	Config string `placeholder:"PATH" env:"SDBACKUP_CONFIG" help:"Configuration to use in place of all layers: a file or a folder." predictor:"file"`
	User   bool   `help:"Work for the calling user and its own service manager, not for the system."`
}

// Paths returns the folders of the installation that the command line names.
func (l Location) Paths(env *Env) config.Paths {
	paths := config.SystemPaths()
	if l.User {
		paths = config.UserPaths(env.Getenv)
	}
	if l.Config != "" {
		paths.Config = []string{l.Config}
	}
	return paths
}

// ExitError ends the program with a code. Err may be nil: all has been said.
type ExitError struct {
	Code int
	Err  error
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

func (e *ExitError) Unwrap() error { return e.Err }

// Hint returns the error with what the operator can do about it, printed on a line of its own.
func Hint(err error, hint string) error {
	if err == nil {
		return nil
	}
	return &hintError{err, hint}
}

type hintError struct {
	error
	hint string
}

func (e *hintError) Unwrap() error { return e.error }

// SignalError is the cause of a context that a signal cancelled.
type SignalError struct{ Signal syscall.Signal }

func (e SignalError) Error() string {
	switch e.Signal {
	case syscall.SIGINT:
		return "interrupted (SIGINT)"
	case syscall.SIGTERM:
		return "terminated (SIGTERM)"
	}
	return e.Signal.String()
}

type exit int // what kong is made to end with in place of os.Exit

// Main parses the arguments, runs the command they name, prints what went wrong and returns the exit code. The first
// SIGINT or SIGTERM cancels the command's context, with a SignalError as its cause; the second ends the program at once.
func Main(name, description string, grammar any, args []string, env *Env) (code int) {
	env.Log = slog.New(journal.New(name, env.Stderr, env.Getenv))
	defer func() {
		switch p := recover(); p := p.(type) {
		case nil:
		case exit:
			code = int(p)
		default:
			env.Log.Error(fmt.Sprintf("this is a bug: %v", p), "stack", string(debug.Stack()))
			code = ExitFailed
		}
	}()
	parser, err := kong.New(grammar,
		kong.Name(name), kong.Description(description+"\n\n"+exitCodes(name)),
		kong.Writers(env.Stdout, env.Stderr),
		kong.Exit(func(code int) { panic(exit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 80}),
		kong.Bind(env),
		kong.Embed(new(common)),
	)
	if err != nil {
		panic(err)
	}
	complete(parser, grammar, env)
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(env.Stderr, "%s: %s\n%s: hint: see \"%s --help\"\n", name, clean(err.Error()), name, name)
		return ExitUsage
	}
	ctx, stop := withSignals(context.Background())
	defer stop()
	parsed.BindTo(ctx, (*context.Context)(nil))
	remote.Inherited(env.Getenv)
	told, _ := grammar.(Told)
	if source, ok := grammar.(fetching); ok && (told == nil || !told.Told(parsed.Command())) {
		forget, err := source.fetch(ctx, env)
		bereft, ok := grammar.(Bereft)
		switch {
		case err == nil:
			defer forget()
		case ok && !errors.As(err, new(*ExitError)):
			bereft.Bereft(err)
		default:
			return report(env.Stderr, name, err)
		}
	}
	return report(env.Stderr, name, parsed.Run())
}

// sameSignal is the time in which a signal that comes again is no second one: the death signal of a parent, prctl(2), PR_SET_PDEATHSIG,
// comes as often as it had threads to die one after the other.
const sameSignal = 200 * time.Millisecond

// withSignals is signal.NotifyContext with the signal as the cause, and a second one that does not wait.
func withSignals(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		var first time.Time
		for s := range signals {
			if ctx.Err() == nil {
				first = time.Now()
			} else if time.Since(first) > sameSignal {
				os.Exit(ExitFailed)
			}
			cancel(SignalError{s.(syscall.Signal)})
		}
	}()
	return ctx, func() { signal.Stop(signals); close(signals); cancel(nil) }
}

// report prints an error as lines for people and returns the exit code that belongs to it.
func report(w io.Writer, name string, err error) int {
	if err == nil {
		return ExitOK
	}
	code := ExitFailed
	if e := (*ExitError)(nil); errors.As(err, &e) {
		code = e.Code
	}
	for _, err := range flatten(err) {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintf(w, "%s: %s\n", name, clean(strings.TrimSuffix(line, "\n")))
		}
		if h := (*hintError)(nil); errors.As(err, &h) {
			fmt.Fprintf(w, "%s: hint: %s\n", name, clean(h.hint))
		}
	}
	return code
}

// flatten returns the errors that errors.Join has joined, and none for an ExitError that says nothing.
func flatten(err error) []error {
	if e, ok := err.(*ExitError); ok { //nolint:errorlint // an error around it has a sentence of its own
		if e.Err == nil {
			return nil
		}
		return flatten(e.Err)
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	if all := errors.Join(joined.Unwrap()...); all == nil || all.Error() != err.Error() {
		return []error{err} // of fmt.Errorf, which has a sentence around them
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// exitCodes says in a binary's help what its exit codes mean.
func exitCodes(name string) string {
	meaning := map[string]string{
		"backup-destination": "0 done, 1 failed or a destination cannot be used, 2 usage or configuration",
		"backup-gateway":     "0 stopped, or nobody needed it any more, 1 it cannot listen, 2 usage",
		"file-backup":        "0 done, 1 failed, or files could not be read, or something is damaged, 2 usage or configuration, 3 another one is running with the same lock file",
		"module-backup":      "0 a snapshot is saved, 1 failed, 2 usage or configuration, 3 the module is already being backed up; shell ends with that of restic",
		"remote-backup":      "0 done, 1 failed, unreachable or what ran there failed, 2 usage or configuration; send to one remote ends with the exit code of its command",
		"restore-backup":     "0 done, 1 failed, 2 usage or configuration, 3 this drill is already running",
		"run-backup":         "0 every module is saved, 1 at least one failed, 2 usage or configuration, 3 none failed but at least one stayed locked, or this backup is already running",
		"schedule-backup":    "0 done, 1 the manager refused something, an enabled backup has no next elapse, or doctor found a problem, 2 usage or configuration",
	}[name]
	if meaning == "" {
		meaning = "0 done, 1 failed, 2 usage or configuration"
	}
	return "Exit codes: " + meaning + "."
}
