package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/journal"
	"sdbackup/internal/schedule"
	"sdbackup/internal/units"
)

// shownRefusals bounds how many backups are named that the manager refused: mostly all of them for one reason.
const shownRefusals = 10

type startTimers struct {
	DryRun bool `short:"n" help:"Print the difference, + for a timer to start, ~ to replace, - to stop, and change nothing."`
}

// Help implements kong.HelpProvider.
func (*startTimers) Help() string {
	return `The units that install-units writes run it at boot and whenever the configuration changes.

Examples:

  schedule-backup start-timers

  schedule-backup start-timers --dry-run`
}

// Run reconciles the timers and reports what that came to.
func (c *startTimers) Run(ctx context.Context, env *cli.Env, root *command) error {
	if !c.DryRun {
		forget, err := root.remember(ctx, env)
		if err != nil {
			return err
		}
		defer forget()
	}
	report, err := root.scheduler(env).Start(ctx, c.DryRun)
	if err != nil && report.Refused == nil {
		return advise(err)
	}
	for _, p := range report.Problems {
		env.Log.Error(p.String())
	}
	for _, id := range report.Undecided {
		env.Log.Warn(fmt.Sprintf("backup %s: its timer stays as it is until its errors are mended", id), "backup", id)
	}
	if len(report.Kept) > 0 {
		env.Log.Warn(fmt.Sprintf("no timer is removed, because a file cannot be read: %s may stand in it",
			strings.Join(report.Kept, ", ")))
	}
	if c.DryRun {
		printDifference(env.Stdout, report)
	} else {
		env.Log.Info(report.String(), journal.Message(journal.TimersReconciled))
	}
	return verdict(report, err)
}

// printDifference prints what a reconcile would do, a line a timer.
func printDifference(w io.Writer, report schedule.Report) {
	for _, t := range report.Started {
		fmt.Fprintf(w, "+ %s  %s\n", units.TimerName(t.ID), strings.Join(t.OnCalendar, ", "))
	}
	for _, c := range report.Replaced {
		fmt.Fprintf(w, "~ %s  %s\n", units.TimerName(c.ID), strings.Join(c.Differences, "; "))
	}
	for _, id := range report.Stopped {
		fmt.Fprintf(w, "- %s\n", units.TimerName(id))
	}
	fmt.Fprintf(w, "%d unchanged\n", report.Unchanged)
}

// verdict is the error that a report comes to: what the manager refused outweighs what is wrong in the configuration.
func verdict(report schedule.Report, err error) error {
	errs := []error{err}
	refused := slices.Sorted(maps.Keys(report.Refused))
	for _, id := range refused[:min(len(refused), shownRefusals)] {
		errs = append(errs, fmt.Errorf("backup %s: %w", id, report.Refused[id]))
	}
	if n := len(refused) - shownRefusals; n > 0 {
		errs = append(errs, fmt.Errorf("and %d more like these", n))
	}
	if err := errors.Join(errs...); err != nil {
		return advise(err)
	}
	if len(report.Problems) > 0 {
		return &cli.ExitError{Code: cli.ExitUsage} // each was told
	}
	return nil
}

type stopTimers struct{}

// Help implements kong.HelpProvider.
func (*stopTimers) Help() string {
	return `A run that is under way goes on. What is missed until the timers are started again is caught up then.

Example:

  schedule-backup stop-timers`
}

// Run stops the timers.
func (c *stopTimers) Run(ctx context.Context, env *cli.Env, root *command) error {
	report, err := root.scheduler(env).Stop(ctx)
	if err != nil {
		return advise(err)
	}
	env.Log.Info(report.String())
	return verdict(report, nil)
}
