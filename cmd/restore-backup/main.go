// restore-backup lists what can be restored from the destinations of backups, and restores it: into a new folder, or in place, wholly or not at all.
//
// Synopsis:
//
//	restore-backup [--config PATH] [--user] list [MODULE|TYPE/UUID] [--destination ID] [--backup ID] [--no-sizes] [--json]
//	restore-backup [...] MODULE|TYPE/UUID [--snapshot ID|--at TIME] [--path PATH]... [--target FOLDER|--in-place] [--as MODULE] [--verify] [--dry-run]
//	restore-backup [...] check-eligibility MODULE|TYPE/UUID [...] [--json]
//	restore-backup [...] browse MODULE|TYPE/UUID [PATH] [--recursive|--cat] [--json]
//	restore-backup [...] drill MODULE [--sample SIZE|all] [--json]
//	restore-backup [...] mount MODULE|TYPE/UUID FOLDER
//	restore-backup [...] recover [MODULE] [--json]
//	restore-backup [...] node FILE|- | --destination ID [--node UUID|NAME] [--overwrite] [--ignore-mistakes] [--dry-run] [--yes] [--json]
//
// It exits with 0 when all was done; 1 when something failed; 2 when the command line or the configuration is wrong; 3 when the drill is
// already running.
package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/restore"
	"sdbackup/internal/units"
)

type command struct {
	cli.Source

	Restore restoring  `cmd:"" default:"withargs" help:"Restore a module, into a new folder or in place; the word restore can be left out."`
	List    list       `cmd:"" help:"List what can be restored, also what other nodes and removed modules have left."`
	Check   check      `cmd:"" name:"check-eligibility" help:"Tell all that stands in the way of a restore, and write nothing."`
	Browse  browse     `cmd:"" help:"List the files of a snapshot, or print one."`
	Drill   drill      `cmd:"" help:"Restore a sample of a module for practice, and record whether it is good."`
	Mount   mount      `cmd:"" help:"Show all snapshots in a folder, by FUSE, until it is interrupted."`
	Node    node       `cmd:"" help:"Make a bare machine the node again that a copy of a configuration is of."`
	Recover recovering `cmd:"" help:"Put right a restore in place that was interrupted. This happens by itself, also at boot."`

	Exchange exchanging `cmd:"" hidden:"" help:"Do the part of a restore in place that changes what is live."`
}

// Told is that a restore in place goes by its journal.
func (c *command) Told(command string) bool {
	name, _, _ := strings.Cut(command, " ")
	return name == "exchange" || name == "recover"
}

func main() {
	os.Exit(cli.Main("restore-backup", "Restores backups, into a new folder or in place.",
		new(command), os.Args[1:], cli.OS()))
}

// restorer returns what works with the configuration that the command line names, and what ends it. What needs the manager says so when it
// is not there.
func (c *command) restorer(ctx context.Context, env *cli.Env) (*restore.Restorer, func()) {
	worker, done, _ := c.managed(ctx, env)
	return worker, done
}

// managed is restorer, with why there is no manager.
func (c *command) managed(ctx context.Context, env *cli.Env) (_ *restore.Restorer, done func(), noManager error) {
	paths := c.Paths(env)
	worker := &restore.Restorer{Config: config.Load(paths.Config, nil), Paths: paths, Getenv: env.Getenv, Now: env.Now, Log: env.Log}
	// Not with ctx: what is cancelled still needs the connection, to stop its service or the command of a drill.
	conn, err := units.Dial(context.WithoutCancel(ctx), c.User)
	if err != nil {
		return worker, func() {}, err
	}
	worker.Units = conn
	if exe, err := os.Executable(); err == nil {
		worker.Exe = exe
	}
	return worker, conn.Close, nil
}

// repository is what every command but list needs to know of where to look.
type repository struct {
	Module      string `arg:"" name:"module" predictor:"module" help:"Module, as [module.ID] in the configuration; or TYPE/UUID of any repository, as list shows it."`
	Destination string `predictor:"destination" placeholder:"ID" help:"Destination; needed where there is more than one."`
	Backup      string `predictor:"backup" placeholder:"ID" help:"Only snapshots of this backup."`
}

func (r repository) find(ctx context.Context, worker *restore.Restorer) (restore.Repository, error) {
	return worker.Find(ctx, r.Module, r.Destination, r.Backup)
}

// choice says which snapshot is meant.
type choice struct {
	Snapshot string `xor:"snapshot" placeholder:"ID" help:"Snapshot, or the beginning of its ID; its run's others belong to it. Default: latest."`
	At       string `xor:"snapshot" placeholder:"TIME" help:"The last snapshot up to then, as in \"2026-11-20 03:00\"; a day alone means its end."`
}

func (c choice) choose(backup string) (restore.Choice, error) {
	wanted := restore.Choice{Snapshot: c.Snapshot, Backup: backup}
	var err error
	if c.At != "" {
		wanted.At, err = restore.ParseAt(c.At, time.Local)
	}
	return wanted, err
}

// explain gives an error its exit code, and says what the operator can do.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var mistake *restore.UsageError
	usage := errors.As(err, &mistake)
	if joined, ok := err.(interface{ Unwrap() []error }); !ok || len(joined.Unwrap()) < 2 { // else each has a sentence of its own
		if hint := restore.Remedy(err); hint != "" {
			err = cli.Hint(err, hint)
		}
	}
	if usage {
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	}
	return err
}

// problems is the error of all problems, each with its hint.
func problems(list []restore.Problem) error {
	var errs []error
	for _, p := range list {
		err := errors.New(p.Text)
		if p.Remedy != "" {
			err = cli.Hint(err, p.Remedy)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
