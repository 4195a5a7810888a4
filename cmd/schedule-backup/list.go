package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/schedule"
	"sdbackup/internal/status"
)

type listTimers struct {
	JSON bool `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*listTimers) Help() string {
	return `It fails when an enabled backup will not run again, which makes it a check for a monitoring system.

Examples:

  schedule-backup list-timers

  schedule-backup list-timers --json`
}

// Run prints the timers by their next elapse. It fails when an enabled backup has none.
func (c *listTimers) Run(ctx context.Context, env *cli.Env, root *command) error {
	scheduler := root.scheduler(env)
	list, err := scheduler.Timers(ctx)
	if err != nil {
		return cli.Mistakes(env, "schedule-backup", root, scheduler.Load().Errors(), advise(err))
	}
	return cli.Mistakes(env, "schedule-backup", root, list.Problems, c.list(env, list))
}

func (c *listTimers) list(env *cli.Env, list schedule.TimerList) error {
	var err error
	if c.JSON {
		err = cli.JSON(env.Stdout, map[string]any{"timers": list.Timers})
	} else {
		err = c.print(env, list.Timers)
	}
	if err != nil {
		return err
	}
	var silent int
	for _, t := range list.Timers {
		if t.Problem != "" {
			silent++
			fmt.Fprintf(env.Stderr, "schedule-backup: backup %s: %s\n", t.Backup, t.Problem)
		}
	}
	if silent > 0 {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return nil
}

func (c *listTimers) print(env *cli.Env, timers []schedule.TimerEntry) error {
	if len(timers) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "no timers")
		return err
	}
	now := env.Now()
	header := []string{"NEXT", "LEFT", "LAST", "PASSED", "RESULT", "BACKUP", "NAME"}
	layout, last := longTime, 2
	if narrow(env.Stdout) {
		layout, header = shortTime, slices.Delete(header, last, last+1)
	}
	var rows [][]string
	for _, t := range timers {
		result := t.Result
		if t.Running {
			result = "running"
		}
		row := []string{
			moment(t.Next, layout), left(t.Next, now), moment(t.Last, layout), ago(t.Last, now), cmp.Or(result, cli.None), t.Backup, t.Name,
		}
		if layout == shortTime {
			row = slices.Delete(row, last, last+1)
		}
		rows = append(rows, row)
	}
	return cli.Table(env.Stdout, header, rows)
}

// narrow tells whether the writer is a terminal that has no room for the long form of two times in a line.
func narrow(w io.Writer) bool {
	const wide = 120 // columns
	columns := cli.Width(w)
	return columns > 0 && columns < wide
}

type listBackups struct {
	JSON bool `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*listBackups) Help() string {
	return `It needs no service manager. Modules that no enabled backup saves are named at the end.

Examples:

  schedule-backup list-backups

  schedule-backup list-backups --json`
}

// Run prints the backups, a line a module, and what no backup covers.
func (c *listBackups) Run(_ context.Context, env *cli.Env, root *command) error {
	list := root.scheduler(env).Backups()
	return cli.Mistakes(env, "schedule-backup", root, list.Problems, c.list(env, list))
}

func (c *listBackups) list(env *cli.Env, list schedule.BackupList) error {
	if c.JSON {
		return cli.JSON(env.Stdout, list)
	}
	now := env.Now()
	var rows [][]string
	for _, b := range list.Backups {
		schedule := strings.Join(b.Schedule, ", ")
		if !b.Enabled {
			schedule = "disabled"
		}
		first := []string{b.ID, b.Name, cmp.Or(schedule, cli.None), cmp.Or(b.Destination, cli.None)}
		for _, m := range b.Modules {
			rows = append(rows, append(first, m.ID, word(m.Verdict), size(m), ago(m.LastSuccess, now)))
			first = []string{"", "", "", ""}
		}
		if len(b.Modules) == 0 {
			rows = append(rows, append(first, cli.None, word(b.Verdict), cli.None, cli.None))
		}
	}
	if len(rows) == 0 {
		fmt.Fprintln(env.Stdout, "no backups")
	} else if err := cli.Table(env.Stdout,
		[]string{"BACKUP", "NAME", "SCHEDULE", "DESTINATION", "MODULE", "RESULT", "SIZE", "SAVED"}, rows); err != nil {
		return err
	}
	if len(list.Uncovered) > 0 {
		fmt.Fprintf(env.Stdout, "\nIn no enabled backup: %s\n", strings.Join(list.Uncovered, ", "))
	}
	return nil
}

const (
	longTime  = "Mon 2006-01-02 15:04:05 MST" // as systemctl has it
	shortTime = "Mon 01-02 15:04"
)

// moment writes a time of the local zone.
func moment(t time.Time, layout string) string {
	if t.IsZero() {
		return cli.None
	}
	return t.Local().Format(layout)
}

func left(t, now time.Time) string {
	if t.IsZero() {
		return cli.None
	}
	return cli.Duration(t.Sub(now))
}

func ago(t, now time.Time) string {
	if t.IsZero() {
		return cli.None
	}
	return cli.Duration(now.Sub(t)) + " ago"
}

func size(m schedule.ModuleEntry) string {
	if m.Verdict == status.Unknown {
		return cli.None
	}
	return cli.Bytes(m.SizeBytes)
}

func word(o status.Outcome) string {
	if o == status.Unknown {
		return cli.None
	}
	return cmp.Or(string(o), cli.None)
}
