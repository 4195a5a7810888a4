package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/schedule"
)

// shownElapses is how many elapses of each backup --verbose prints.
const shownElapses = 5

type check struct {
	Verbose bool `short:"v" help:"Print the next five elapses of every backup."`
	JSON    bool `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*check) Help() string {
	return `Problems go to standard error, a line each: file:line: key: what is wrong. Warnings make nothing invalid.

Examples:

  schedule-backup check --verbose

  schedule-backup check --config /root/new.toml`
}

// Run validates the configuration: problems go to standard error, each with its place, and the verdict to standard output.
func (c *check) Run(ctx context.Context, env *cli.Env, root *command) error {
	elapses := 0
	if c.Verbose {
		elapses = shownElapses
	}
	j, err := root.scheduler(env).Check(ctx, elapses)
	if err != nil {
		return advise(err)
	}
	if c.JSON {
		err = printJSON(env.Stdout, j)
	} else {
		err = print(env, j)
	}
	if err != nil {
		return err
	}
	if !j.Valid() {
		return &cli.ExitError{Code: cli.ExitUsage}
	}
	return nil
}

func print(env *cli.Env, j schedule.Judgement) error {
	for _, p := range j.Problems {
		fmt.Fprintln(env.Stderr, p)
	}
	if j.Unjudged {
		fmt.Fprintln(env.Stderr, "warning: schedules were not looked at: systemd-analyze is not installed")
	}
	for _, e := range j.Elapses {
		fmt.Fprintf(env.Stdout, "backup %s (%s): %s\n", e.Backup, e.Name, strings.Join(e.OnCalendar, " | "))
		for _, t := range e.Next {
			fmt.Fprintf(env.Stdout, "    %s", moment(t, longTime))
			if e.RandomizedDelay > 0 {
				fmt.Fprintf(env.Stdout, ", or up to %s later", cli.Duration(e.RandomizedDelay))
			}
			fmt.Fprintln(env.Stdout)
		}
		if len(e.Next) == 0 {
			fmt.Fprintln(env.Stdout, "    never")
		}
	}
	if !j.Valid() {
		return nil
	}
	_, err := fmt.Fprintln(env.Stdout, "the configuration is valid")
	return err
}

// printJSON prints the judgement as one object.
func printJSON(w io.Writer, j schedule.Judgement) error {
	type problem struct {
		File    string      `json:"file"`
		Line    int         `json:"line,omitempty"`
		Kind    config.Kind `json:"kind"`
		ID      string      `json:"id,omitempty"`
		Key     string      `json:"key,omitempty"`
		Message string      `json:"message"`
		Warning bool        `json:"warning"`
	}
	problems := []problem{}
	for _, p := range j.Problems {
		problems = append(problems, problem{p.File, p.Line, p.Kind, p.ID, p.Key, p.Message, p.Warning})
	}
	object := map[string]any{"valid": j.Valid(), "problems": problems, "schedules_judged": !j.Unjudged}
	if j.Elapses != nil {
		object["elapses"] = j.Elapses
	}
	return cli.JSON(w, object)
}
