package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
	"sdbackup/internal/schedule"
	"sdbackup/internal/setup"
	"sdbackup/internal/units"
)

type initialize struct {
	Folders  []string `arg:"" optional:"" name:"folder" predictor:"file" help:"Folders, or files, to save."`
	To       string   `placeholder:"PLACE" predictor:"destination" help:"Where backups go: a folder, or the ID of a destination that backup-destination has made."`
	Schedule string   `placeholder:"WHEN" help:"When to run, as in systemd.time(7); default: daily."`
	RunNow   bool     `name:"run" help:"Run the backup at once."`
	DryRun   bool     `short:"n" help:"Print what would be written, and change nothing."`
	JSON     bool     `help:"Print the result as JSON, and ask nothing."`
}

// defaultSchedule is when a first backup runs.
const defaultSchedule = "daily"

// Help implements kong.HelpProvider.
func (*initialize) Help() string {
	return `On a terminal it asks for what is not given; elsewhere folders and --to must be. It makes the destination with a password of its
own, and a file with the module and the backup. Nothing that is there is replaced, and when something is wrong nothing is written.

Examples:

  schedule-backup init

  schedule-backup init /etc /home --to /srv/backup --schedule "*-*-* 02:30" --run`
}

// Run writes the configuration, starts its timer, and runs the backup where that is wanted.
func (c *initialize) Run(ctx context.Context, env *cli.Env, root *command) error {
	if c.JSON && c.RunNow {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New(`--run: what it prints is no JSON; run "run-backup --json" afterwards`)}
	}
	paths := root.Paths(env)
	if !paths.User && root.Config == "" && os.Geteuid() != 0 && !c.DryRun {
		return cli.Hint(errors.New("only root may write the system's configuration"), "run it as root, or with --user for backups of your own")
	}
	store, err := destination.Open(paths, env.Now, env.Getenv)
	if err != nil {
		return mistaken(err)
	}
	scheduler := root.scheduler(env)
	s := &setup.Setup{Paths: paths, Store: store, Scheduler: scheduler, Home: env.Getenv("HOME")}
	if err := s.Fresh(); err != nil {
		return mistaken(err)
	}
	talk := c.interview(env)
	if talk != nil {
		if err := talk.ask(ctx, c, s); err != nil {
			return err
		}
	}
	if c.Schedule == "" {
		c.Schedule = defaultSchedule
	}
	plan, err := s.Plan(ctx, setup.Request{Folders: c.Folders, Destination: c.To, Schedule: c.Schedule})
	if err != nil {
		return mistaken(err)
	}
	for _, note := range plan.Notes {
		fmt.Fprintf(env.Stderr, "schedule-backup: warning: %s\n", note)
	}
	if plan.Unjudged {
		fmt.Fprintln(env.Stderr, "schedule-backup: warning: the schedule was not looked at: systemd-analyze is not installed")
	}
	switch {
	case c.DryRun && c.JSON:
		return printPlan(env, plan)
	case c.DryRun:
		fmt.Fprintf(env.Stdout, "==> %s <==\n%s", plan.File, plan.Text)
		return nil
	}
	result, err := s.Apply(ctx, plan)
	if err != nil {
		return mistaken(err)
	}
	unscheduled := c.start(ctx, scheduler, root, plan.Backup)
	if err := c.print(env, plan, result, unscheduled); err != nil {
		return err
	}
	run := c.RunNow
	if talk != nil && !run {
		if run, err = talk.yes(ctx, "Run the backup now? [Y/n] "); err != nil {
			return err
		}
	}
	if unscheduled != nil && !errors.Is(unscheduled, units.ErrNoManager) && !errors.Is(unscheduled, errDraft) {
		return cli.Hint(fmt.Errorf("the configuration is written, but nothing runs by itself yet: %w", unscheduled),
			`"schedule-backup doctor" tells what is missing`)
	}
	if run {
		return c.runFirst(root, plan.Backup, errors.Is(unscheduled, units.ErrNoManager))
	}
	return nil
}

// mistaken gives what the caller can mend its exit code.
func mistaken(err error) error {
	var usage *setup.UsageError
	var request *destination.UsageError
	switch {
	case errors.As(err, &usage), errors.As(err, &request):
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return cli.Hint(err, "run it as root, or with --user for backups of your own")
	}
	return err
}

// errDraft says that no timer is made: a configuration in another place is somebody's draft.
var errDraft = errors.New("the timers are those of another configuration")

// start makes the timer of the new backup.
func (c *initialize) start(ctx context.Context, scheduler *schedule.Scheduler, root *command, backup string) error {
	if root.Config != "" {
		manager, err := scheduler.Dial(ctx)
		if err != nil {
			return err
		}
		manager.Close()
		return errDraft
	}
	report, err := scheduler.Start(ctx, false)
	return errors.Join(err, report.Refused[backup])
}

// printPlan tells what would be made. Keys are those of what was made, as far as it is known.
func printPlan(env *cli.Env, plan setup.Plan) error {
	return cli.JSON(env.Stdout, struct {
		DryRun      bool      `json:"dry_run"`
		Files       []string  `json:"files"`
		Text        string    `json:"text"` // of the file
		Backup      string    `json:"backup"`
		Module      string    `json:"module"`
		Destination string    `json:"destination"`
		Folder      string    `json:"folder,omitempty"` // of a destination that is to be made
		Next        time.Time `json:"next,omitzero"`
		Notes       []string  `json:"notes"`
	}{true, []string{plan.File}, plan.Text, plan.Backup, plan.Module, plan.Destination, plan.Folder, plan.Next, append([]string{}, plan.Notes...)})
}

// print tells what was made, and that the password is all that opens the backups.
func (c *initialize) print(env *cli.Env, plan setup.Plan, result setup.Result, unscheduled error) error {
	if c.JSON {
		object := struct {
			Files        []string  `json:"files"`
			Backup       string    `json:"backup"`
			Module       string    `json:"module"`
			Destination  string    `json:"destination"`
			PasswordFile string    `json:"password_file,omitempty"`
			PasswordMade bool      `json:"password_made"`
			Next         time.Time `json:"next,omitzero"`
			Scheduled    bool      `json:"scheduled"`
			Notes        []string  `json:"notes"`
		}{
			result.Files, plan.Backup, plan.Module, plan.Destination, result.PasswordFile, result.PasswordMade, plan.Next,
			unscheduled == nil, append([]string{}, plan.Notes...),
		}
		return cli.JSON(env.Stdout, object)
	}
	for _, path := range result.Files {
		fmt.Fprintf(env.Stdout, "wrote %s\n", path)
	}
	if result.PasswordFile != "" {
		fmt.Fprintf(env.Stdout, "\nThe password of your backups is in %s.\nWithout it nobody can restore them, you included. Keep a copy of it elsewhere, now.\n\n", result.PasswordFile)
	}
	switch {
	case errors.Is(unscheduled, units.ErrNoManager):
		fmt.Fprintf(env.Stdout, "No service manager is running here: backup %s runs only by hand, with run-backup.\n", plan.Backup)
	case errors.Is(unscheduled, errDraft):
		fmt.Fprintf(env.Stdout, "No timer is made of it: backup %s runs only by hand, with run-backup --config.\n", plan.Backup)
	case unscheduled == nil && !plan.Next.IsZero():
		fmt.Fprintf(env.Stdout, "Backup %s runs at %s, and by hand with run-backup.\n", plan.Backup, moment(plan.Next, longTime))
	}
	return nil
}

// runFirst becomes run-backup.
func (c *initialize) runFirst(root *command, backup string, withoutUnits bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	program := filepath.Join(filepath.Dir(self), "run-backup")
	argv := []string{program}
	if root.Config != "" {
		argv = append(argv, "--config="+root.Config)
	}
	if root.User {
		argv = append(argv, "--user")
	}
	if withoutUnits {
		argv = append(argv, "--no-units")
	}
	err = syscall.Exec(program, append(argv, backup), os.Environ())
	return fmt.Errorf("the configuration is written; run the backup with %s: %w", program, err)
}

// interview asks the questions.
type interview struct {
	out   io.Writer
	lines chan string // closed where input ends
}

// interview returns who asks; nil where there is no terminal, or nothing to ask.
func (c *initialize) interview(env *cli.Env) *interview {
	tty := cli.Terminal(env)
	if c.JSON || tty == nil || len(c.Folders) > 0 && c.To != "" {
		return nil
	}
	t := &interview{out: env.Stderr, lines: make(chan string)}
	go func() {
		defer close(t.lines)
		for s := bufio.NewScanner(tty); s.Scan(); {
			t.lines <- s.Text()
		}
	}()
	return t
}

// ask fills in what was not given. An answer that will not do is told and asked for again.
func (t *interview) ask(ctx context.Context, c *initialize, s *setup.Setup) error {
	if len(c.Folders) == 0 {
		fmt.Fprintln(t.out, "Which folders are to be saved? One a line; an empty line ends the list.")
		for {
			answer, err := t.line(ctx, "folder: ")
			if err != nil {
				return err
			}
			if answer == "" && len(c.Folders) > 0 {
				break
			}
			if answer == "" {
				continue
			}
			if path, err := s.Check(answer); err != nil {
				fmt.Fprintln(t.out, err)
			} else {
				c.Folders = append(c.Folders, path)
			}
		}
	}
	for c.To == "" {
		answer, err := t.line(ctx, "Where do backups go? A folder, best on another disk, or the ID of a destination: ")
		if err != nil {
			return err
		}
		if answer == "" {
			continue
		}
		if err := s.CheckDestination(ctx, answer); err != nil {
			fmt.Fprintln(t.out, err)
		} else {
			c.To = answer
		}
	}
	for c.Schedule == "" {
		answer, err := t.line(ctx, "When? As in systemd.time(7), say Mon..Fri 22:30 [daily] ")
		if err != nil {
			return err
		}
		if answer == "" {
			answer = defaultSchedule
		}
		if err := s.CheckSchedule(ctx, answer); err != nil {
			fmt.Fprintln(t.out, err)
		} else {
			c.Schedule = answer
		}
	}
	return nil
}

// yes asks a question whose answer is yes unless it is no.
func (t *interview) yes(ctx context.Context, question string) (bool, error) {
	answer, err := t.line(ctx, question)
	return answer == "" || strings.HasPrefix(strings.ToLower(answer), "y"), err
}

func (t *interview) line(ctx context.Context, question string) (string, error) {
	fmt.Fprint(t.out, question)
	select {
	case line, ok := <-t.lines:
		if !ok {
			fmt.Fprintln(t.out)
			return "", errors.New("the input ended before all was answered; nothing more was done")
		}
		return strings.TrimSpace(line), nil
	case <-ctx.Done():
		fmt.Fprintln(t.out)
		return "", context.Cause(ctx)
	}
}
