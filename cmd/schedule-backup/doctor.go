package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
	"sdbackup/internal/doctor"
	"sdbackup/internal/restore"
)

type examine struct {
	Timeout time.Duration `default:"20s" placeholder:"DURATION" help:"How long each question may take; default ${default}."`
	JSON    bool          `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*examine) Help() string {
	return `Programs and their versions, units and timers, the clock, metrics, secrets, locks, free space, and every destination with its password:
a line each, with what to do where something is wrong. Nothing is changed. Without root it says what it could not look at.

It fails when there is a problem. A warning is none.

Examples:

  schedule-backup doctor

  schedule-backup doctor --timeout=1m --json`
}

// Run examines the machine.
func (c *examine) Run(ctx context.Context, env *cli.Env, root *command) error {
	if c.Timeout <= 0 {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("--timeout: want more than 0, as in 20s")}
	}
	paths := root.Paths(env)
	scheduler := root.scheduler(env)
	cfg := scheduler.Load()
	store, err := destination.Open(paths, env.Now, env.Getenv)
	if err != nil { // of a single file nothing can be changed, but everything be tried
		store = &destination.Store{Layers: paths.Config, Dir: root.Config, User: paths.User, Now: env.Now, Getenv: env.Getenv}
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil)) // what matters of it is in the findings
	d := doctor.Doctor{
		Paths: paths, Config: cfg, Store: store, Scheduler: scheduler, Getenv: env.Getenv, Now: env.Now, Log: quiet,
		Restorer: &restore.Restorer{Config: cfg, Paths: paths, Getenv: env.Getenv, Now: env.Now, Log: quiet},
		IsRoot:   os.Geteuid() == 0, Timeout: c.Timeout,
	}
	findings, err := d.Examine(ctx)
	if err != nil {
		return err
	}
	problems := 0
	for _, f := range findings {
		if f.Level == doctor.Problem {
			problems++
		}
	}
	if c.JSON {
		err = cli.JSON(env.Stdout, map[string]any{"healthy": problems == 0, "findings": findings})
	} else {
		err = printFindings(env.Stdout, findings)
	}
	if err == nil && problems > 0 {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return err
}

func printFindings(w io.Writer, findings []doctor.Finding) error {
	for _, f := range findings {
		line := f.Subject + ": " + f.Text
		if f.Remedy != "" {
			line += "; " + f.Remedy
		}
		if _, err := fmt.Fprintf(w, "%-7s  %s\n", f.Level, cli.Line(line)); err != nil {
			return err
		}
	}
	return nil
}
