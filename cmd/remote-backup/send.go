package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/remote"
)

type send struct {
	choice
}

// Help is shown by kong.
func (send) Help() string {
	return `The remote needs sdbackup and an SSH server, and no configuration. What is sent stays in memory that is never swapped, and is gone with the command.

Example: remote-backup send web2 -- run-backup nightly`
}

// Run sends.
func (c *send) Run(ctx context.Context, root *command, env *cli.Env) error {
	remotes, err := c.find(root, env)
	if err != nil {
		return err
	}
	argv := root.argv
	if len(argv) == 0 {
		argv = remote.DefaultCommand
	}
	s := sender(env, len(remotes))
	if len(remotes) == 1 && !c.All && !c.JSON {
		result := s.Send(ctx, remotes[0], [][]string{argv}, always(env.Stdout), always(env.Stderr))
		return single(result)
	}
	var mu sync.Mutex
	results := remote.Each(ctx, remotes, c.Parallel, func(r *config.Remote) remote.Result {
		out := &lines{w: env.Stderr, prefix: r.ID + ": ", mu: &mu}
		defer out.flush()
		return s.Send(ctx, r, [][]string{argv}, always(out), always(out))
	})
	return report(env, c.JSON, path.Base(argv[0]), results)
}

func always(w io.Writer) func(int) io.Writer { return func(int) io.Writer { return w } }

// single is the end of sending to one remote: that of its command.
func single(r remote.Result) error {
	switch {
	case errors.As(r.Err, new(*remote.ConfigurationError)):
		return &cli.ExitError{Code: cli.ExitUsage, Err: r.Err}
	case r.Err != nil:
		return r.Err
	case r.ExitCode != 0:
		return &cli.ExitError{Code: r.ExitCode} // the command has said why
	}
	return nil
}

// verdict says what the exit code of a command means.
func verdict(command string, r remote.Result) string {
	if r.Outcome == remote.Unreachable || r.Err != nil {
		return cli.None
	}
	if command == "run-backup" {
		if word, ok := map[int]string{0: "success", 1: "failed", 2: "configuration", 3: "conflict"}[r.ExitCode]; ok {
			return word
		}
	}
	return fmt.Sprintf("exit code %d", r.ExitCode)
}

// listed is a result in JSON.
type listed struct {
	Remote   string  `json:"remote"`
	Result   string  `json:"result"`
	ExitCode *int    `json:"exit_code"` // null: its command has none
	Seconds  float64 `json:"duration_seconds"`
	Error    string  `json:"error,omitempty"`
}

// report prints what sending to several remotes came to.
func report(env *cli.Env, asJSON bool, command string, results []remote.Result) error {
	rows := [][]string{}
	list := []listed{}
	failed := 0
	for _, r := range results {
		entry := listed{Remote: r.Remote, Result: r.Outcome, Seconds: r.Duration.Seconds()}
		if r.Err == nil {
			entry.ExitCode = &r.ExitCode
		} else {
			entry.Error = strings.TrimPrefix(r.Err.Error(), "remote "+r.Remote+": ")
		}
		if r.Outcome != remote.Applied {
			failed++
		}
		rows = append(rows, []string{r.Remote, r.Outcome, verdict(command, r), cli.Duration(r.Duration), entry.Error})
		list = append(list, entry)
	}
	err := cli.Table(env.Stdout, []string{"REMOTE", "RESULT", "VERDICT", "TIME", "ERROR"}, rows)
	if asJSON {
		err = cli.JSON(env.Stdout, list)
	}
	if err != nil {
		return err
	}
	if failed > 0 {
		return &cli.ExitError{Code: cli.ExitFailed} // the table says which
	}
	return nil
}

// lines writes whole lines, each with a prefix.
type lines struct {
	w      io.Writer
	prefix string
	mu     *sync.Mutex
	rest   []byte
	own    sync.Mutex
}

// maxLine bounds what is kept of a line without an end.
const maxLine = 64 << 10

func (l *lines) Write(data []byte) (int, error) {
	l.own.Lock()
	defer l.own.Unlock()
	l.rest = append(l.rest, data...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 && len(l.rest) < maxLine {
			return len(data), nil
		}
		if i < 0 {
			i = len(l.rest) - 1
		}
		l.print(l.rest[:i+1])
		l.rest = l.rest[i+1:]
	}
}

func (l *lines) print(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%s%s\n", l.prefix, bytes.TrimSuffix(line, []byte("\n")))
}

// flush writes what has no end.
func (l *lines) flush() {
	l.own.Lock()
	defer l.own.Unlock()
	if len(l.rest) > 0 {
		l.print(l.rest)
		l.rest = nil
	}
}
