package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/restore"
)

// minute is how tables write a time.
const minute = "2006-01-02 15:04"

type list struct {
	Module      string `arg:"" optional:"" name:"module" predictor:"module" help:"Module, or TYPE/UUID, whose snapshots are listed; without, one line for everything that can be restored."`
	Destination string `predictor:"destination" placeholder:"ID" help:"Only what is at this destination."`
	Backup      string `predictor:"backup" placeholder:"ID" help:"Only snapshots of this backup."`
	Sizes       bool   `default:"true" negatable:"" help:"Measure snapshots that do not say their size, as those of restic before 0.17; takes time."`
	JSON        bool   `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*list) Help() string {
	return `What is found belongs to a module that is installed here, to this node (a module that was removed), or to another node.
A destination that is neither a folder nor behind the gateway cannot be looked through: there only modules of the configuration are found.

Examples:

  restore-backup list --destination archive

  restore-backup list wiki1 --json`
}

// Run lists what can be restored.
func (c *list) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker, done := root.restorer(ctx, env)
	defer done()
	return cli.Mistakes(env, "restore-backup", root, worker.Config.Errors(), c.list(ctx, worker, env))
}

func (c *list) list(ctx context.Context, worker *restore.Restorer, env *cli.Env) error {
	options := restore.ListOptions{Destination: c.Destination, Sizes: c.Sizes, Backup: c.Backup}
	if c.Module != "" {
		found, err := worker.Find(ctx, c.Module, c.Destination, c.Backup)
		if err != nil {
			return explain(err)
		}
		options.Repository = &found
	}
	listing, err := worker.List(ctx, options)
	if err != nil {
		return explain(err)
	}
	switch {
	case c.JSON:
		err = cli.JSON(env.Stdout, listing)
	case c.Module != "":
		err = printPoints(env, listing.Repositories[0].Points)
	default:
		err = printRepositories(env, listing.Repositories)
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range listing.Repositories {
		if f.Error != "" {
			errs = append(errs, errors.New(f.Error))
		}
	}
	for _, text := range listing.Errors {
		errs = append(errs, errors.New(text))
	}
	if !c.JSON {
		for _, note := range listing.Notes {
			fmt.Fprintln(env.Stderr, note)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	if c.JSON {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return errors.Join(errs...)
}

// printRepositories prints a line for each repository. The name is what the other commands take.
func printRepositories(env *cli.Env, list []restore.Found) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "nothing to restore")
		return err
	}
	var rows [][]string
	for _, f := range list {
		row := []string{name(f, list), origin(f), f.Destination, cli.None, strconv.Itoa(len(f.Points)), cli.None}
		if f.Error != "" {
			row[4] = "error"
		}
		if len(f.Points) > 0 {
			row[3] = f.Points[0].Time.Local().Format(minute)
			if n := f.Points[0].Bytes(); n != nil {
				row[5] = cli.Bytes(*n)
			}
		}
		rows = append(rows, row)
	}
	return cli.Table(env.Stdout, []string{"NAME", "OF", "AT", "LATEST", "COUNT", "SIZE"}, rows)
}

// name is the module, or as much of TYPE/UUID as tells it from all others.
func name(f restore.Found, all []restore.Found) string {
	if f.Origin == restore.Installed {
		return f.Module
	}
	for n := min(8, len(f.UUID)); ; n++ {
		alone := true
		for _, other := range all {
			alone = alone && (other.Type != f.Type || other.UUID == f.UUID || !strings.HasPrefix(other.UUID, f.UUID[:n]))
		}
		if alone || n == len(f.UUID) {
			return f.Type + "/" + f.UUID[:n]
		}
	}
}

// origin is whose it is, in a word.
func origin(f restore.Found) string {
	switch {
	case f.Origin == restore.Installed:
		return "installed"
	case f.Origin == restore.ThisNode:
		return "this node"
	}
	return cmp.Or(f.Node, "unknown")
}

func printPoints(env *cli.Env, points []restore.Point) error {
	if len(points) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "no snapshots")
		return err
	}
	var rows [][]string
	for _, p := range points {
		row := []string{p.Snapshots[0].Short(), p.Time.Local().Format(minute), cmp.Or(p.Backup, cli.None), cli.None, cli.None, cli.None, cli.None}
		if n := p.FileCount(); n != nil {
			row[3] = strconv.FormatUint(*n, 10)
		}
		if n := p.Bytes(); n != nil {
			row[4] = cli.Bytes(*n)
		}
		if d, ok := p.Duration(); ok {
			row[5] = cli.Duration(d.Round(time.Millisecond))
		}
		var dumps []string
		for _, s := range p.Snapshots {
			if s.Dump != "" {
				dumps = append(dumps, s.Dump)
			}
		}
		row[6] = cmp.Or(strings.Join(dumps, ", "), cli.None)
		rows = append(rows, row)
	}
	return cli.Table(env.Stdout, []string{"SNAPSHOT", "TIME", "BACKUP", "FILES", "SIZE", "TOOK", "DUMPS"}, rows)
}
