// module-backup makes one attempt to save one module, under its lock and as its user, and prints the result as a JSON object.
//
// Synopsis:
//
//	module-backup [--config PATH] [--user] MODULE BACKUP
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
)

type command struct {
	cli.Location
	Module string `arg:"" predictor:"module" help:"Module to save, as [module.ID] in the configuration."`
	Backup string `arg:"" predictor:"backup" help:"Backup that it is saved for: its destination and retention."`
	Plan   bool   `hidden:"" help:"Read the plan from the socket on standard input."`
}

// stopTimeout is what the attempt has from SIGTERM to SIGKILL.
const stopTimeout = 2 * time.Minute

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
	secrets, err := module.FindSecrets(d, env.Getenv)
	if err != nil {
		return err
	}
	plan := module.NewPlan(cfg, paths, b, m, "manual", rec)
	u, err := module.LookupUser(m.User, m.Group)
	if err != nil {
		return err
	}
	if err := lock.EnsureDir(paths.Lock); err != nil {
		return err
	}
	if err := lock.Prepare(plan.LockFile, int(u.UID), int(u.GID)); err != nil {
		return err
	}
	if err := module.PrepareCache(plan.CacheDir, u); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bars := cli.NewProgress(env)
	end, err := module.RunChild(ctx, module.Child{
		Exe: filepath.Clean(exe), Plan: plan, User: m.User, Group: m.Group, Secrets: secrets, StopTimeout: stopTimeout, Stderr: env.Stderr, Log: env.Log,
		Progress: func(p module.Progress) { bars.Update(m.ID, p.Percent, p.BytesDone, p.BytesTotal) },
	})
	bars.Done()
	if err != nil {
		return err
	}
	var result status.Result
	if end.Death != "" || json.Unmarshal(end.Output, &result) != nil {
		return fmt.Errorf("the attempt %s", cmp.Or(end.Death, "printed no result"))
	}
	return finish(env, result, true)
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
