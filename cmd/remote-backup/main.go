// remote-backup sends the configuration of a backup to another host, has it run there and leaves nothing behind; and it lets hosts fetch theirs.
//
// Synopsis:
//
//	remote-backup [--config PATH] [--user] send REMOTE... [--parallel N] [--json] [-- COMMAND ARGUMENT...]
//	remote-backup [...] send --all [...]
//	remote-backup [...] status REMOTE...|--all [--parallel N] [--json]
//	remote-backup [...] serve
//	remote-backup receive
//
// send to one remote exits with the exit code of the command there.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/term"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/remote"
	"sdbackup/internal/units"
)

type command struct {
	cli.Location

	Send    send    `cmd:"" help:"Send configurations to remotes and run a command there, by default run-backup --all."`
	Status  status  `cmd:"" help:"Ask remotes how their backups fare, and when they run next."`
	Serve   serve   `cmd:"" help:"Let remotes fetch their configurations."`
	Receive receive `cmd:"" help:"Receive a configuration on standard input and run its command: the other end of send."`

	argv []string // after --
}

func main() {
	c := new(command)
	args := os.Args[1:]
	if i := slices.Index(args, "--"); i >= 0 {
		args, c.argv = args[:i], args[i+1:]
	}
	os.Exit(cli.Main("remote-backup", "Sends a backup's configuration to another host, runs it there, and leaves nothing behind.", c, args, cli.OS()))
}

// choice says which remotes are meant.
type choice struct {
	Remotes  []string `arg:"" optional:"" name:"remote" predictor:"remote" help:"Remotes, as [remote.ID] in the configuration."`
	All      bool     `help:"All remotes that configurations are sent to."`
	Parallel int      `default:"8" placeholder:"N" help:"How many at once."`
	JSON     bool     `help:"Print the results as JSON."`
}

// find returns the remotes that are meant, or all that is wrong with that.
func (c *choice) find(root *command, env *cli.Env) ([]*config.Remote, error) {
	usage := func(err error) error { return &cli.ExitError{Code: cli.ExitUsage, Err: err} }
	if c.All == (len(c.Remotes) > 0) {
		return nil, usage(errors.New("want either remotes or --all"))
	}
	if c.Parallel < 1 {
		return nil, usage(errors.New("--parallel: want 1 or more"))
	}
	cfg := config.Load(root.Paths(env).Config, units.CheckProperty)
	ids := c.Remotes
	if c.All {
		ids = slices.DeleteFunc(cfg.RemoteIDs(), func(id string) bool { return !cfg.Remotes[id].Pushes() })
	}
	var remotes []*config.Remote
	var errs []error
	if c.All { // nobody knows which remotes are missing
		for _, p := range cfg.Errors() {
			if p.Hides() {
				errs = append(errs, errors.New(p.String()))
			}
		}
	}
	for _, id := range slices.Compact(slices.Clone(ids)) {
		r := cfg.Remotes[id]
		switch problems := cfg.ErrorsOf(config.KindRemote, id); {
		case r == nil:
			for _, p := range cfg.Errors() {
				if p.Kind == config.KindFile {
					errs = append(errs, errors.New(p.String()))
				}
			}
			errs = append(errs, fmt.Errorf("there is no [remote.%s] in the configuration", id))
		case len(problems) > 0:
			for _, p := range problems {
				errs = append(errs, errors.New(p.String()))
			}
		case !r.Pushes():
			errs = append(errs, fmt.Errorf("remote %s fetches its configuration itself (connection = %q); nothing is sent to it", id, r.Connection))
		default:
			remotes = append(remotes, r)
		}
	}
	if len(ids) == 0 {
		errs = append(errs, errors.New("the configuration has no remote to send to"))
	}
	if len(errs) > 0 {
		return nil, usage(errors.Join(errs...))
	}
	return remotes, nil
}

// sender returns what sends to remotes. Only where one is meant can a person be asked: questions of several would be in each other's way.
func sender(env *cli.Env, remotes int) *remote.Sender {
	keys := &remote.Keys{Getenv: env.Getenv}
	terminal := term.IsTerminal(int(os.Stdin.Fd()))
	if terminal {
		keys.Passphrase = func(path string) ([]byte, error) {
			fmt.Fprintf(env.Stderr, "Passphrase of %s: ", path)
			defer fmt.Fprintln(env.Stderr)
			return term.ReadPassword(int(os.Stdin.Fd()))
		}
	}
	return &remote.Sender{Keys: keys, Batch: !terminal || remotes > 1, Signal: func(cause error) syscall.Signal {
		var s cli.SignalError
		if errors.As(cause, &s) {
			return s.Signal
		}
		return syscall.SIGTERM
	}}
}

type receive struct{}

// Help is printed below the usage of receive.
func (receive) Help() string {
	return `Nobody types it: send starts it over SSH. In authorized_keys it can be all that a key is for.

Example, as the beginning of a line there: restrict,command="remote-backup receive"`
}

// Run receives.
func (receive) Run(ctx context.Context, root *command, env *cli.Env) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	receiver := remote.Receiver{
		In: os.Stdin, Out: env.Stdout, Err: env.Stderr, BinDir: filepath.Dir(exe), LinksDir: config.UserPaths(env.Getenv).Memory, Getenv: env.Getenv,
		Notice: func(text string) { env.Log.Info(text) },
	}
	code, err := receiver.Run(ctx)
	if err != nil || code == 0 {
		return err
	}
	return &cli.ExitError{Code: code}
}

type serve struct{}

// Help is printed below the usage of serve.
func (serve) Help() string {
	return `It listens where remote-backup.socket does, or by itself at [serve] listen. Hosts are known by certificates, or by pre-shared keys of their own.

Example: remote-backup serve`
}

// Run serves.
func (serve) Run(ctx context.Context, root *command, env *cli.Env) error {
	paths := root.Paths(env)
	server := remote.Server{Log: env.Log, Load: func() *config.Config { return config.Load(paths.Config, nil) }}
	return server.Serve(ctx, func() { journal.Notify("READY=1") })
}
