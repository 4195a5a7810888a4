// run-backup runs backups: it saves every module of each, applies retention, records the verdict and writes the metrics.
//
// Synopsis:
//
//	run-backup [--config PATH|--remote URL] [--user] [--no-units] [--init] [--json] ID...
//	run-backup [--config PATH|--remote URL] [--user] [--no-units] [--init] [--json] --all
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/run"
	"sdbackup/internal/schedule"
	"sdbackup/internal/status"
	"sdbackup/internal/units"
)

type command struct {
	cli.Source
	Backups []string `arg:"" optional:"" name:"id" predictor:"backup" help:"Backups to run, one after another and each once, as [backup.ID] in the configuration."`
	All     bool     `help:"Run every enabled backup; mistakes in the configuration are told at the end."`
	NoUnits bool     `help:"Run modules as child processes, where no service manager is: without limits, sandbox and accounting."`
	Init    bool     `help:"Make missing repositories anew, also where the records say that there was one."`
	JSON    bool     `help:"Print the verdicts as JSON."`

	bereft error // why there is no configuration

	Recover string `hidden:"" placeholder:"ID" help:"Record the run of this backup that died, if one did."`
}

// Help implements kong.HelpProvider.
func (*command) Help() string {
	return `The table of modules goes to standard output, what happens to standard error. check@ID examines the repositories of backup ID.

Examples:

  run-backup nightly

  run-backup --all --json

  run-backup check@nightly`
}

func main() {
	os.Exit(cli.Main("run-backup", "Runs backups: every module of each, retention, records and metrics.",
		new(command), os.Args[1:], cli.OS()))
}

// Bereft has every run fail on record whose configuration cannot be fetched.
func (c *command) Bereft(err error) { c.bereft = err }

func (c *command) Run(ctx context.Context, env *cli.Env) error {
	if c.Recover == "" && c.All == (len(c.Backups) > 0) {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("want either the IDs of backups or --all")}
	}
	for _, id := range c.Backups {
		if module, isDrill := config.DrillOf(id); isDrill {
			err := fmt.Errorf("%s is a restore drill, and nothing to be saved", id)
			return &cli.ExitError{Code: cli.ExitUsage, Err: cli.Hint(err, "restore-backup drill "+module)}
		}
	}
	paths := c.Paths(env)
	cfg := config.Load(paths.Config, units.CheckProperty)
	if c.bereft != nil {
		cfg = config.Load(nil, nil)
		cfg.Add(config.Problem{Kind: config.KindFile, Position: config.Position{File: c.Remote}, Message: c.bereft.Error()})
		if c.All {
			return c.bereft
		}
	}
	runner := &run.Runner{
		Config: cfg, Paths: paths, Store: status.Store{Dir: paths.State},
		Log: env.Log, Now: env.Now, Getenv: env.Getenv, Version: cli.Version(), Init: c.Init,
		Next:   schedule.New(paths, env.Log).Next,
		Status: func(line string) { journal.Notify("STATUS=" + line) },
	}
	if c.Recover != "" {
		return runner.Recover(ctx, c.Recover, run.Fate(env.Getenv))
	}
	closeManager, err := c.starter(ctx, runner)
	if err != nil {
		return err
	}
	defer closeManager()
	bars := cli.NewProgress(env)
	defer bars.Done()
	runner.Progress = bars

	ids := once(c.Backups)
	if c.All {
		ids = enabled(cfg)
	}
	var runs []status.Run
	var errs []error
	worst := cli.ExitOK
	for _, id := range ids {
		verdict, err := runner.Backup(ctx, id)
		worst = worse(worst, exitCode(verdict, err))
		if err != nil && (verdict.ID == "" || !errors.Is(err, run.ErrConfiguration)) { // else it is in the log already
			errs = append(errs, explain(err))
		}
		if verdict.ID != "" {
			runs = append(runs, verdict)
		}
		if ctx.Err() != nil {
			break
		}
	}
	bars.Done()
	if err := c.print(env, runner.Store, runs); err != nil {
		errs = append(errs, err)
	}
	if c.All {
		if mistakes := cli.AllMistakes(cfg.Errors()); mistakes != nil {
			errs = append(errs, mistakes)
			worst = cli.ExitUsage
		} else if len(ids) == 0 {
			fmt.Fprintln(env.Stderr, "run-backup: no enabled backup")
		}
	}
	if worst == cli.ExitOK && len(errs) == 0 {
		return nil
	}
	return &cli.ExitError{Code: max(worst, cli.ExitFailed), Err: errors.Join(errs...)}
}

// starter gives the runner its way to start modules, and returns what ends it.
func (c *command) starter(ctx context.Context, runner *run.Runner) (func(), error) {
	exe, err := run.FindModuleBackup()
	if err != nil {
		return nil, err
	}
	if c.NoUnits {
		runner.Start = run.Children{Exe: exe, Paths: runner.Paths}
		return func() {}, nil
	}
	// Not with ctx: a cancelled run still needs the connection, to stop its modules.
	conn, err := units.Dial(context.WithoutCancel(ctx), c.User)
	if err != nil {
		runner.Start = run.NoManager{Err: err}
		return func() {}, nil
	}
	runner.Start = run.Units{Conn: conn, Exe: exe, Paths: runner.Paths, BindsTo: conn.OwnService(ctx)}
	runner.Leftover = conn.StopModules
	return conn.Close, nil
}

// once leaves out what was named before: a backup that is named twice is run once.
func once(ids []string) []string {
	var out []string
	for _, id := range ids {
		if !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out
}

func enabled(cfg *config.Config) []string {
	var ids []string
	for _, id := range cfg.BackupIDs() {
		if cfg.Backups[id].Enabled {
			ids = append(ids, id)
		}
	}
	return ids
}

// exitCode is the exit code for a verdict and the error that came with it.
func exitCode(verdict status.Run, err error) int {
	switch {
	case errors.Is(err, run.ErrRunning):
		return cli.ExitLocked
	case errors.Is(err, run.ErrConfiguration):
		return cli.ExitUsage
	case err != nil:
		return cli.ExitFailed
	}
	switch verdict.Outcome {
	case status.Success, status.Partial:
		return cli.ExitOK
	case status.Conflict:
		return cli.ExitLocked
	default:
		return cli.ExitFailed
	}
}

// worse is the exit code over several runs: a mistake in the configuration before a failure before a conflict.
func worse(a, b int) int {
	for _, code := range []int{cli.ExitUsage, cli.ExitFailed, cli.ExitLocked} {
		if a == code || b == code {
			return code
		}
	}
	return cli.ExitOK
}

// explain adds what an administrator can do about an error of the machine.
func explain(err error) error {
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		return cli.Hint(err, "run it as root, or with --user for backups of your own")
	}
	return err
}

// print writes the verdicts to standard output: JSON, or for people a table of every run's modules.
func (c *command) print(env *cli.Env, store status.Store, runs []status.Run) error {
	if c.JSON {
		if runs == nil {
			runs = []status.Run{}
		}
		return cli.JSON(env.Stdout, runs)
	}
	for _, verdict := range runs {
		var rows [][]string
		for _, m := range verdict.Modules {
			row := []string{m.Module, string(m.Outcome), cli.None, cli.None, cli.None, m.Error}
			if rec, err := store.Module(verdict.Backup, m.Module); err == nil && rec.Run == verdict.ID {
				row[4] = cli.Duration(rec.End.Sub(rec.Start))
				if rec.Snapshot != "" || len(rec.Dumps) > 0 { // a check saves nothing, nor does what failed
					row[2], row[3] = cli.Bytes(rec.SizeBytes), cli.Bytes(rec.AddedBytes)
				}
			}
			rows = append(rows, row)
		}
		if len(rows) == 0 {
			continue
		}
		if err := cli.Table(env.Stdout, []string{"MODULE", "RESULT", "SIZE", "ADDED", "TIME", "ERROR"}, rows); err != nil {
			return err
		}
	}
	return nil
}
