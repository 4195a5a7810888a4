package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

type save struct {
	Module string `arg:"" predictor:"module" help:"Module to save, as [module.ID] in the configuration."`
	Backup string `arg:"" predictor:"backup" help:"Backup that it is saved for: its destination and retention."`
	Plan   bool   `hidden:"" help:"Read the plan from the socket on standard input."`
}

// Help is shown by kong.
func (save) Help() string { return "Example: module-backup wiki1 1" }

func (c *save) Run(ctx context.Context, location *command, env *cli.Env) error {
	if c.Plan {
		ctx, plan, report, err := module.Receive(ctx, os.Stdin)
		if err != nil {
			return &cli.ExitError{Code: cli.ExitUsage, Err: err}
		}
		return finish(env, module.Run(ctx, plan, report, env.Log), false)
	}
	return c.byHand(ctx, location.Paths(env), env)
}

// byHand makes the attempt for a person: as root, as a child with the module's user.
func (c *save) byHand(ctx context.Context, paths config.Paths, env *cli.Env) error {
	job, err := find(paths, c.Module, c.Backup)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bars := cli.NewProgress(env)
	attempt := run.ByHand(ctx, run.Children{Exe: filepath.Clean(exe), Paths: paths}, job, env.Log,
		func(p module.Progress) { bars.Update(c.Module, p.Percent, p.BytesDone, p.BytesTotal) })
	bars.Done()
	return finish(env, attempt.Result, true)
}

// finish prints the result and returns the exit code that says the same; to a person also in words.
func finish(env *cli.Env, r status.Result, words bool) error {
	if err := json.NewEncoder(env.Stdout).Encode(r); err != nil {
		return err
	}
	code := map[status.Outcome]int{status.Success: cli.ExitOK, status.Partial: cli.ExitOK, status.Conflict: cli.ExitLocked}
	exit, known := code[r.Outcome]
	if !known {
		exit = cli.ExitFailed
	}
	if exit == cli.ExitOK {
		return nil
	}
	if !words {
		return &cli.ExitError{Code: exit}
	}
	err := errors.New(r.Error)
	if r.Hint != "" {
		err = cli.Hint(err, r.Hint)
	}
	return &cli.ExitError{Code: exit, Err: err}
}
