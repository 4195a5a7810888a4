//go:build linux

// Private-systemd runs a command on a systemd of its own: pid 1 of new namespaces, over a throw-away copy of a root tree.
//
//	private-systemd [--root TREE] [--bind DIR]... [--setenv NAME[=VALUE]]... [--chdir DIR] [--] COMMAND [ARGUMENT...]
//
// The command is a service of that systemd, with the caller's standard input, output and error, and private-systemd ends with
// the command's exit code. Whatever the command did then is gone: everything that it started is killed, and what it
// wrote to the tree was in memory. Only the folders given with --bind are the real ones. There is no network but lo.
//
// It boots in about a second, since it has next to nothing to start: the tree's own enabled units, fstab, journal,
// timers' stamps and sdbackup configuration are left out, see tree.go. Any number may run at the same time, also one in another: the tree
// as it was is at /run/host/root inside, read-only.
//
// It needs root, overlayfs, and the right to make namespaces, which an unprivileged container does not give.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// exitBroken is the exit code where the command was not run to its end; env(1) and timeout(1) use it so.
const exitBroken = 125

// options is the command line.
type options struct {
	Tree    string     // root tree, seen but not written to
	Binds   []bind     // folders of the caller's that are the same inside
	Env     stringList // NAME or NAME=VALUE
	Dir     string     // working directory of the command
	Journal int        // lines of the journal to print when the command failed
	Argv    []string
}

// bind is a folder of the caller's that is to be seen at the same path inside.
type bind struct {
	Path     string
	From     string // "": the same; else without what is mounted below it
	ReadOnly bool
}

type stringList []string

func (l *stringList) String() string     { return strings.Join(*l, " ") }
func (l *stringList) Set(s string) error { *l = append(*l, s); return nil }

func main() {
	if len(os.Args) == 3 && os.Args[1] == insideArg {
		fmt.Fprintln(os.Stderr, "private-systemd:", inside(os.Args[2])) // returns only when it fails
		os.Exit(exitBroken)
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "private-systemd:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	code, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "private-systemd:", err)
		code = exitBroken
	}
	os.Exit(code)
}

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("private-systemd", flag.ContinueOnError)
	f.StringVar(&o.Tree, "root", "/", "root `TREE` with systemd in it")
	f.Func("bind", "`DIR` that is the real one inside too", func(s string) error {
		o.Binds = append(o.Binds, bind{Path: s})
		return nil
	})
	f.Func("bind-ro", "`DIR` that is the real one inside too, not writable", func(s string) error {
		o.Binds = append(o.Binds, bind{Path: s, ReadOnly: true})
		return nil
	})
	f.Var(&o.Env, "setenv", "`NAME[=VALUE]` in the command's environment; without a value that of the caller, if set")
	f.StringVar(&o.Dir, "chdir", "/", "working `DIR`ectory of the command")
	f.IntVar(&o.Journal, "journal", 100, "`LINES` of the journal to print when the command failed")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if o.Argv = f.Args(); len(o.Argv) == 0 {
		return nil, errors.New("no command given")
	}
	return o, nil
}

// run boots, runs the command and tears everything down, whatever happened. The code is the command's.
func run(ctx context.Context, o *options) (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("needs root: it makes namespaces and mounts an overlay")
	}
	if err := intoScope(); err != nil {
		return 0, err
	}
	m, err := boot(ctx, o)
	if err != nil {
		return 0, err
	}
	defer m.kill()
	code, err = m.command(ctx, o)
	if cause := ctx.Err(); cause != nil {
		return 0, errors.New("stopped by a signal")
	}
	if err == nil && code != 0 && o.Journal > 0 {
		m.printJournal(o.Journal)
	}
	return code, err
}

// command runs the command as a service of the machine. As a service it has a cgroup inside, a clean environment, and a unit that
// tests can ask for; a process that merely enters the namespaces would have none of these.
func (m *machine) command(ctx context.Context, o *options) (int, error) {
	args := []string{
		"systemd-run", "--quiet", "--collect", "--wait", "--service-type=exec", "--working-directory=" + o.Dir,
		"--property=TasksMax=infinity", "--property=LimitNOFILE=524288", "--property=Description=the command of private-systemd",
	}
	if isTerminal(os.Stdin) && isTerminal(os.Stdout) {
		args = append(args, "--pty")
	} else {
		args = append(args, "--pipe")
	}
	env := append([]string{"HOME=/root", "USER=root", "LANG=C.UTF-8", "SDBACKUP_DISPOSABLE=1", "PATH=" + defaultPath}, o.Env...)
	for _, e := range env {
		if name, _, hasValue := strings.Cut(e, "="); !hasValue {
			value, ok := os.LookupEnv(name)
			if !ok {
				continue
			}
			e = name + "=" + value
		}
		args = append(args, "--setenv="+e)
	}
	args = append(append(args, "--"), o.Argv...)
	cmd := m.enter(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// printJournal prints the end of the machine's journal to standard error.
func (m *machine) printJournal(lines int) {
	fmt.Fprintf(os.Stderr, "private-systemd: the command failed; the last %d lines of the journal:\n", lines)
	cmd := m.enter(context.Background(), "journalctl", "--no-pager", "--quiet", "--output=short-precise", fmt.Sprint("--lines=", lines))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "private-systemd: journalctl:", err)
	}
}
