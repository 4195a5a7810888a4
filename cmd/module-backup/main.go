// module-backup makes one attempt to save one module, under its lock and as its user, and prints the result as a JSON object.
//
// Synopsis:
//
//	module-backup [--config PATH] [--user] MODULE BACKUP
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

type command struct {
	cli.Location
	Module string `arg:"" predictor:"module" help:"Module to save, as [module.ID] in the configuration."`
	Backup string `arg:"" predictor:"backup" help:"Backup that it is saved for: its destination and retention."`
	Plan   bool   `hidden:"" help:"Read the plan from the socket on standard input."`
}

func main() {
	os.Exit(cli.Main("module-backup", "Saves one module: dump, restic, cleanup and retention, under the module's lock.",
		new(command), os.Args[1:], cli.OS()))
}

func (c *command) Run(ctx context.Context, env *cli.Env) error {
	if c.Plan {
		ctx, plan, report, err := module.Receive(ctx, os.Stdin)
		if err != nil {
			return &cli.ExitError{Code: cli.ExitUsage, Err: err}
		}
		return finish(env, module.Run(ctx, plan, report, env.Log), false)
	}
	return c.byHand(ctx, env)
}

// byHand makes the attempt for a person: as root, as a child with the module's user.
func (c *command) byHand(ctx context.Context, env *cli.Env) error {
	paths := c.Paths(env)
	cfg := config.Load(paths.Config, nil)
	b, m := cfg.Backups[c.Backup], cfg.Modules[c.Module]
	var errs []error
	if b == nil {
		errs = append(errs, fmt.Errorf("there is no backup %s in the configuration", c.Backup))
	}
	if m == nil {
		errs = append(errs, fmt.Errorf("there is no module %s in the configuration", c.Module))
	}
	for _, p := range append(cfg.BackupErrors(c.Backup), cfg.ErrorsOf(config.KindModule, c.Module)...) {
		errs = append(errs, errors.New(p.String()))
	}
	if len(errs) == 0 && cfg.Destinations[b.Destination] == nil {
		errs = append(errs, fmt.Errorf("there is no destination %s in the configuration", b.Destination))
	}
	if len(errs) > 0 {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.Join(errs...)}
	}
	d := cfg.Destinations[b.Destination]
	rec, _ := (status.Store{Dir: paths.State}).Module(b.ID, m.ID) // what is not known costs at most a call of restic
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bars := cli.NewProgress(env)
	attempt := run.ByHand(ctx, run.Children{Exe: filepath.Clean(exe), Paths: paths}, run.Job{
		Plan: module.NewPlan(cfg, paths, b, m, "manual", rec), Module: m, Destination: d, Backup: b, Gateway: cfg.Gateway,
	}, env.Log, func(p module.Progress) { bars.Update(m.ID, p.Percent, p.BytesDone, p.BytesTotal) })
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
