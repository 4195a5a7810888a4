package main

import (
	"context"
	"fmt"
	"strconv"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

type undelete struct {
	ID         string   `arg:"" name:"id" help:"ID of the destination." predictor:"destination"`
	Day        []string `placeholder:"DAY" xor:"what" help:"Put back what was deleted on this day in UTC, as in 2026-07-14; several with commas."`
	All        bool     `xor:"what" help:"Put back all that is kept."`
	Repository string   `placeholder:"TYPE/UUID" help:"Only what was deleted from this repository."`
	DryRun     bool     `help:"Only show what --day or --all would put back."`
	JSON       bool     `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*undelete) Help() string {
	return `Of a destination with keep-deleted, what anybody deletes through the gateway is kept for that time. Without --day and --all
this lists it. Nothing is ever replaced: what is there and differs is named, and the exit code is 1. The gateway may run meanwhile.
Snapshots that retention removed come back as well, until it runs again.

Examples:

  backup-destination undelete archive

  backup-destination undelete archive --day=2026-07-14`
}

// Run lists what was deleted, or puts it back.
func (c *undelete) Run(ctx context.Context, env *cli.Env, root *command) error {
	if c.DryRun && len(c.Day) == 0 && !c.All {
		return mistake("--dry-run: want --day or --all with it; without them nothing is put back anyway")
	}
	store, err := root.store(env)
	if err != nil {
		return err
	}
	if len(c.Day) == 0 && !c.All {
		held, err := store.Held(ctx, c.ID, c.Repository)
		if err != nil {
			return explain(err)
		}
		return c.list(env, held)
	}
	done, err := store.Undelete(ctx, destination.Undeletion{ID: c.ID, Days: c.Day, All: c.All, Repository: c.Repository, DryRun: c.DryRun})
	if err != nil && len(done) == 0 {
		return explain(err)
	}
	if report := c.report(env, done); report != nil {
		return report
	}
	if err != nil {
		return explain(err)
	}
	for _, d := range done {
		if len(d.Different) > 0 {
			return &cli.ExitError{Code: cli.ExitFailed}
		}
	}
	return nil
}

func (c *undelete) list(env *cli.Env, held []destination.Deleted) error {
	if c.JSON {
		type entry struct {
			Day        string `json:"day"`
			Repository string `json:"repository"`
			Objects    int    `json:"objects"`
			Bytes      int64  `json:"bytes"`
			Until      string `json:"until,omitempty"`
		}
		entries := []entry{}
		for _, d := range held {
			entries = append(entries, entry{d.Day, d.Repository, d.Objects, d.Bytes, d.Until})
		}
		return cli.JSON(env.Stdout, map[string]any{"destination": c.ID, "deleted": entries})
	}
	if len(held) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "nothing that was deleted is kept")
		return err
	}
	var rows [][]string
	for _, d := range held {
		rows = append(rows, []string{d.Day, d.Repository, strconv.Itoa(d.Objects), cli.Bytes(uint64(d.Bytes))})
	}
	if err := cli.Table(whole{env.Stdout}, []string{"DELETED", "REPOSITORY", "OBJECTS", "SIZE"}, rows); err != nil {
		return err
	}
	if oldest := held[len(held)-1]; oldest.Until != "" {
		fmt.Fprintf(env.Stderr, "What was deleted on %s is kept until %s. --day or --all puts it back.\n", oldest.Day, oldest.Until)
	}
	return nil
}

func (c *undelete) report(env *cli.Env, done []destination.Deleted) error {
	if c.JSON {
		return cli.JSON(env.Stdout, map[string]any{"destination": c.ID, "dry_run": c.DryRun, "deleted": done})
	}
	if len(done) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "there is nothing to put back")
		return err
	}
	var rows [][]string
	restored := 0
	for _, d := range done {
		restored += d.Restored
		rows = append(rows, []string{d.Day, d.Repository, strconv.Itoa(d.Restored), strconv.Itoa(d.Present), strconv.Itoa(len(d.Different))})
		for _, name := range d.Different {
			fmt.Fprintf(env.Stderr, "backup-destination: %s has another content now and is not replaced; what was deleted on %s stays kept\n", name, d.Day)
		}
	}
	if err := cli.Table(whole{env.Stdout}, []string{"DELETED", "REPOSITORY", "BACK", "THERE", "DIFFERS"}, rows); err != nil {
		return err
	}
	switch {
	case c.DryRun:
		fmt.Fprintln(env.Stderr, "Nothing was changed.")
	case restored > 0:
		fmt.Fprintln(env.Stderr, `Now "restic check" tells whether a repository is whole. "restic repair index" (before 0.16 "rebuild-index") mends its index.`)
	}
	return nil
}
