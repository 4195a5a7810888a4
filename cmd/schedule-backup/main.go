// schedule-backup turns the backups of the configuration into timers of systemd, and tells how they fare.
//
// Synopsis:
//
//	schedule-backup [--config PATH] [--user] start-timers [--dry-run]
//	schedule-backup [...] stop-timers
//	schedule-backup [...] list-timers [--json]
//	schedule-backup [...] list-backups [--json]
//	schedule-backup [...] install-units [--dry-run]
//	schedule-backup [...] check [--verbose] [--json]
//	schedule-backup [...] init [--to PLACE] [--schedule EXPRESSION] [--run] [--dry-run] [--json] [FOLDER...]
//	schedule-backup [...] doctor [--timeout DURATION] [--json]
//
// It exits with 0 when all was done; 1 when the manager refused something, an enabled backup has no next elapse, or doctor found a problem; 2 when
// the configuration has errors, after doing what can be done in spite of them.
package main

import (
	"context"
	"errors"
	"os"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/run"
	"sdbackup/internal/schedule"
	"sdbackup/internal/status"
	"sdbackup/internal/units"
)

type command struct {
	cli.Source

	Init         initialize   `cmd:"" help:"Write a first configuration: the folders to save, where to, and a password. It asks for what is not given."`
	Doctor       examine      `cmd:"" help:"Look at all that backups need on this machine, and tell what is wrong and what to do about it."`
	StartTimers  startTimers  `cmd:"" help:"Make the timers of the manager those of the configuration: start, replace and stop what differs, and leave the rest untouched."`
	StopTimers   stopTimers   `cmd:"" help:"Stop the timers of all backups."`
	ListTimers   listTimers   `cmd:"" help:"List the timers: when they elapse, when they did, and how that ended."`
	ListBackups  listBackups  `cmd:"" help:"List the backups, their modules and how each fared last."`
	InstallUnits installUnits `cmd:"" help:"Write the unit files that backups run by, and enable them."`
	Check        check        `cmd:"" help:"Validate the configuration: every mistake at once, without root or a running systemd."`
}

func main() {
	os.Exit(cli.Main("schedule-backup", "Schedules backups with systemd's timers.", new(command), os.Args[1:], cli.OS()))
}

// scheduler returns the scheduler of the configuration that the command line names.
func (c *command) scheduler(env *cli.Env) *schedule.Scheduler {
	paths := c.Paths(env)
	s := schedule.New(paths, env.Log)
	s.Recover = func(ctx context.Context, cfg *config.Config) error {
		runner := run.Runner{
			Config: cfg, Paths: paths, Store: status.Store{Dir: paths.State},
			Log: env.Log, Now: env.Now, Getenv: env.Getenv, Next: s.Next,
		}
		return runner.RecoverAll(ctx)
	}
	return s
}

// advise adds to an error what the operator can do.
func advise(err error) error {
	switch job := (*units.JobError)(nil); {
	case err == nil:
		return nil
	case errors.As(err, &job):
		return cli.Hint(err, `is backup@.service installed? "schedule-backup install-units" writes it; systemctl status tells more of a timer`)
	case errors.Is(err, schedule.ErrNotRoot), errors.Is(err, units.ErrDenied):
		return cli.Hint(err, "run it as root, or with --user for timers of your own")
	case errors.Is(err, units.ErrNoManager):
		line := errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		return cli.Hint(line, "is systemd running here, and with --user that of this user? list-backups and check work without")
	case errors.Is(err, units.ErrNoAnalyze):
		return cli.Hint(err, "install systemd-analyze, a part of systemd")
	}
	return err
}
