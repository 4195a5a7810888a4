package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/restore"
	"sdbackup/internal/run"
	"sdbackup/internal/schedule"
	records "sdbackup/internal/status"
)

type drill struct {
	Module  string `arg:"" optional:"" name:"module" predictor:"drill" help:"Module with [module.ID.drill] in the configuration."`
	Sample  string `placeholder:"SIZE" help:"About so many bytes of files, as in 64MiB, in place of what the configuration says; or all."`
	JSON    bool   `help:"Print the verdict as JSON."`
	Recover string `hidden:"" placeholder:"MODULE" help:"Record the drill of this module that died, if one did."`
}

// Help implements kong.HelpProvider.
func (*drill) Help() string {
	return `The latest snapshot is restored into a folder that is removed at the end, compared with what the repository says, and shown to the
module's command, which has no network and can write nowhere else. The verdict is recorded and told of like that of a backup. Of several backups
that save the module, each has its turn.

Example:

  restore-backup drill wiki1 --sample all`
}

// Run restores a module for practice.
func (c *drill) Run(ctx context.Context, root *command, env *cli.Env) error {
	if (c.Module == "") == (c.Recover == "") {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("want a module")}
	}
	worker, done, noManager := root.managed(ctx, env)
	defer done()
	drills := &restore.Drills{Restorer: worker}
	if c.Sample != "" {
		size, err := sampleSize(c.Sample)
		if err != nil {
			return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf("--sample: %w", err)}
		}
		drills.Sample = &size
	}
	paths := drills.Paths
	runner := &run.Runner{
		Config: drills.Config, Paths: paths, Store: records.Store{Dir: paths.State}, Start: drills, Log: env.Log, Now: env.Now, Getenv: env.Getenv,
		Next:   schedule.New(paths, env.Log).Next,
		Status: func(line string) { journal.Notify("STATUS=" + line) },
	}
	drills.Ready = func() error {
		if noManager != nil {
			return fmt.Errorf("the drill's command is run only by a service manager, without a network and what else it need not have: %w", noManager)
		}
		return nil
	}
	if conn := worker.Units; conn != nil {
		runner.Leftover = conn.StopModules
		drills.Probe = run.Probe{Conn: conn, Paths: paths, BindsTo: conn.OwnService(ctx)}.Run
	}
	if c.Recover != "" {
		return runner.Recover(ctx, config.DrillID(c.Recover), run.Fate(env.Getenv))
	}
	bars := cli.NewProgress(env)
	defer bars.Done()
	runner.Progress = bars
	verdict, failure := runner.Backup(ctx, config.DrillID(c.Module))
	bars.Done()
	return c.report(env, runner.Store, verdict, failure)
}

func sampleSize(text string) (int64, error) {
	if text == "all" {
		return 0, nil
	}
	size, err := config.ParseSize(text)
	if err == nil && size <= 0 {
		err = fmt.Errorf("%q is nothing", text)
	}
	if err != nil {
		return 0, fmt.Errorf("%w; want a number of bytes, say \"64MiB\", or \"all\"", err)
	}
	return size, nil
}

// report tells what a drill came to. Why one failed is in the log already.
func (c *drill) report(env *cli.Env, store records.Store, verdict records.Run, failure error) error {
	result := records.Result{Module: c.Module, Backup: verdict.Backup, Run: verdict.ID, Outcome: verdict.Outcome, Error: verdict.Error, Start: verdict.Start, End: verdict.End}
	if rec, err := store.Module(verdict.Backup, c.Module); verdict.ID != "" && err == nil && rec.Run == verdict.ID {
		result = rec.Result
		result.Snapshots = nil
	}
	if verdict.ID != "" && c.JSON {
		if err := cli.JSON(env.Stdout, result); err != nil {
			return err
		}
	}
	switch {
	case errors.Is(failure, run.ErrRunning):
		return &cli.ExitError{Code: cli.ExitLocked, Err: failure}
	case errors.Is(failure, run.ErrConfiguration):
		if verdict.ID != "" {
			failure = nil
		}
		return &cli.ExitError{Code: cli.ExitUsage, Err: failure}
	case failure != nil:
		return explain(failure)
	case verdict.Outcome != records.Success:
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	if !c.JSON {
		text := fmt.Sprintf("%d files (%s) of %s, as of %s, restored from destination %s and found good", result.Files, cli.Bytes(result.SizeBytes), c.Module,
			result.Drill.Saved.Local().Format(time.DateTime), result.Drill.Destination)
		if result.Drill.Probed {
			text += ", by the module's command, too"
		}
		_, err := fmt.Fprintln(env.Stdout, text)
		return err
	}
	return nil
}
