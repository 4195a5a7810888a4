package main

import (
	"context"
	"fmt"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/exchange"
)

type exchanging struct {
	Module string `arg:"" name:"module"`
}

// Run makes the exchange, as the service of a restore in place, and prints what became of it.
func (c *exchanging) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker, done := root.restorer(ctx, env)
	defer done()
	out, failure := worker.Exchange(ctx, c.Module)
	if out.Error == "" && failure != nil {
		out.Error = failure.Error()
	}
	if err := cli.JSON(env.Stdout, out); err != nil {
		return err
	}
	return explain(failure)
}

type recovering struct {
	Module string `arg:"" optional:"" name:"module" predictor:"module" help:"Module; without, every one whose restore was interrupted."`
	JSON   bool   `help:"Print JSON: an object for each module."`
}

// Help implements kong.HelpProvider.
func (*recovering) Help() string {
	return `What was interrupted before the end is undone: what was live is live again. Units of the module that run are stopped meanwhile, and those
that ran before are started, unless the machine was started anew since. After the end, only what was replaced is removed. It may be
interrupted, and run again.

Example:

  restore-backup recover wiki1`
}

// Run recovers.
func (c *recovering) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker, done := root.restorer(ctx, env)
	defer done()
	list, failure := worker.Recover(ctx, c.Module)
	for _, out := range list {
		if c.JSON {
			if err := cli.JSON(env.Stdout, out); err != nil {
				return err
			}
			continue
		}
		warn(env, out.Warnings)
		fmt.Fprintln(env.Stdout, recovered(out))
	}
	if len(list) == 0 && failure == nil && !c.JSON {
		fmt.Fprintln(env.Stdout, "nothing to recover")
	}
	return explain(failure)
}

// recovered says in a line what became of an interrupted restore.
func recovered(out exchange.Outcome) string {
	switch {
	case out.RolledBack && len(out.Stopped) > 0:
		return fmt.Sprintf("%s: what is live is as it was before the restore; %s ran then", out.Module, strings.Join(out.Stopped, ", "))
	case out.RolledBack:
		return out.Module + ": what is live is as it was before the restore"
	case out.Committed && out.Error != "":
		return out.Module + ": the restore was done, but not all that it replaced is gone"
	case out.Committed:
		return out.Module + ": the restore was done, and what it replaced is gone"
	case out.Error != "":
		return out.Module + ": not put right"
	}
	return out.Module + ": what is live was not touched, and what was restored is removed"
}
