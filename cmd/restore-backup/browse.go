package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/restore"
)

type browse struct {
	repository
	Where string `arg:"" optional:"" name:"path" default:"." help:"Folder or file, from the module's directory or as it was on the machine; dumps are in dumps/."`
	choice
	Recursive bool `short:"R" xor:"how" help:"List all that is below it."`
	Cat       bool `xor:"how" help:"Print the file; a folder is printed as a tar archive."`
	JSON      bool `xor:"how2" help:"Print JSON, an object for each line."`
}

// Help implements kong.HelpProvider.
func (*browse) Help() string {
	return `Examples:

  restore-backup browse wiki1 data/pages --at 2026-11-20

  restore-backup browse wiki1 data/pages/start.txt --cat`
}

// Run lists files.
func (c *browse) Run(ctx context.Context, root *command, env *cli.Env) error {
	if c.Cat && c.JSON {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("--json: is not for --cat")}
	}
	worker, done := root.restorer(ctx, env)
	defer done()
	return cli.Mistakes(env, "restore-backup", root, worker.Config.Errors(), c.browse(ctx, worker, env))
}

func (c *browse) browse(ctx context.Context, worker *restore.Restorer, env *cli.Env) error {
	wanted, err := c.choose(c.Backup)
	if err != nil {
		return explain(err)
	}
	at, err := c.find(ctx, worker)
	if err != nil {
		return explain(err)
	}
	if c.Cat {
		return explain(worker.Cat(ctx, at, wanted, c.Where, env.Stdout))
	}
	return explain(worker.Browse(ctx, at, wanted, c.Where, c.Recursive, func(e restore.Entry) error {
		if c.JSON {
			return json.NewEncoder(env.Stdout).Encode(e)
		}
		name := e.Path
		if e.Type == "dir" {
			name = strings.TrimSuffix(name, "/") + "/"
		}
		_, err := fmt.Fprintf(env.Stdout, "%-11s %5d %5d %10s %s %s\n", e.Mode, e.UID, e.GID, cli.Bytes(e.Size), e.MTime.Local().Format(minute), printable(name))
		return err
	}))
}

// printable quotes a name that would not be one line, or would control the terminal.
func printable(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

type mount struct {
	repository
	Folder string `arg:"" predictor:"file" help:"Empty folder to show them in."`
}

// Help implements kong.HelpProvider.
func (*mount) Help() string {
	return `Example:

  restore-backup mount wiki1 /mnt`
}

// Run mounts the repository.
func (c *mount) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker, done := root.restorer(ctx, env)
	defer done()
	return cli.Mistakes(env, "restore-backup", root, worker.Config.Errors(), c.mount(ctx, worker, env))
}

func (c *mount) mount(ctx context.Context, worker *restore.Restorer, env *cli.Env) error {
	at, err := c.find(ctx, worker)
	if err != nil {
		return explain(err)
	}
	return explain(worker.Mount(ctx, at, c.Backup, c.Folder, func() {
		fmt.Fprintf(env.Stderr, "the snapshots of %s are in %s until this ends (Ctrl-C)\n", at.Label(), c.Folder)
	}))
}
