package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/journal"
	"sdbackup/internal/restore"
)

// what is what is to be restored, and where to.
type what struct {
	repository
	choice
	Path   []string `short:"p" sep:"none" placeholder:"PATH" help:"Only this file or folder, from the module's directory or as it was on the machine; or a dump by its name. May be repeated."`
	Target string   `predictor:"file" placeholder:"FOLDER" help:"Folder to restore into: a new one, or an empty one. Default: ./restore-MODULE-SNAPSHOT."`
}

func (w what) request(ctx context.Context, worker *restore.Restorer) (restore.Request, error) {
	req := restore.Request{Only: w.Path, Target: w.Target}
	var err error
	if req.Choice, err = w.choose(w.Backup); err != nil {
		return req, err
	}
	req.Repository, err = w.find(ctx, worker)
	return req, err
}

type restoring struct {
	what
	Verify bool `help:"Read back what was restored and compare it: content, type, size, time, mode and owner."`
	DryRun bool `help:"Only say what would be restored, and what of it differs from what the module has now."`
}

// Help implements kong.HelpProvider.
func (*restoring) Help() string {
	return `The result is printed as a JSON object. Files keep their whole paths, below the new folder, and a module's dumps go to
dumps in it. A new folder stays closed to others.
Owners are kept where root restores. Extended attributes security.* stay away. With restic before 0.16 the progress is estimated.

Examples:

  restore-backup wiki1

  restore-backup wiki1 --at "2026-11-20 03:00" --path data/pages --target /srv/restored --verify

  restore-backup dokuwiki/3792c7db --destination archive --dry-run`
}

// Run restores.
func (c *restoring) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker := root.restorer(env)
	journal.Notify("READY=1\nSTATUS=Looking into " + c.Module)
	req, err := c.request(ctx, worker)
	if err != nil {
		return explain(err)
	}
	req.Verify = c.Verify
	plan, err := worker.Check(ctx, req)
	if err != nil {
		return explain(err)
	}
	defer plan.Close()
	if blocked := plan.Blocked(); len(blocked) > 0 {
		return problems(blocked)
	}
	if c.DryRun {
		return c.dryRun(ctx, worker, plan, env)
	}
	bars := cli.NewProgress(env)
	defer bars.Done()
	last := time.Time{}
	result, failure := worker.Restore(ctx, plan, func(p restore.Progress) {
		bars.Update(c.Module, p.Percent, p.BytesDone, p.BytesTotal)
		if now := env.Now(); now.Sub(last) >= time.Second {
			last = now
			journal.Notify("STATUS=" + status(c.Module, p))
		}
	})
	bars.Done()
	if err := cli.JSON(env.Stdout, result); err != nil {
		return err
	}
	if failure != nil {
		journal.Notify("STATUS=Failed: " + failure.Error())
		return explain(failure)
	}
	text := fmt.Sprintf("restored %d files (%s) of %s, as of %s, into %s", result.Files, cli.Bytes(result.Bytes), plan.Label(),
		result.Time.Local().Format(time.DateTime), result.Target)
	if result.Verified {
		text += ", and verified"
	}
	journal.Notify("STATUS=" + text)
	fmt.Fprintln(env.Stderr, text)
	if os.Geteuid() != 0 {
		fmt.Fprintln(env.Stderr, "They belong to you: only root can give files to their owners.")
	}
	return nil
}

// status is the line for the service manager.
func status(module string, p restore.Progress) string {
	text := fmt.Sprintf("%s: %s %.0f%%", module, p.Phase, p.Percent)
	if p.Estimated {
		text += " (estimated)"
	}
	return text
}

func (c *restoring) dryRun(ctx context.Context, worker *restore.Restorer, plan *restore.Plan, env *cli.Env) error {
	result, err := worker.DryRun(ctx, plan)
	if err != nil {
		return explain(err)
	}
	if err := cli.JSON(env.Stdout, result); err != nil {
		return err
	}
	fmt.Fprintf(env.Stderr, "would restore %d files (%s) of %s, as of %s, into %s\n", result.Files, cli.Bytes(result.Bytes), plan.Label(),
		result.Time.Local().Format(time.DateTime), result.Target)
	if live := result.Live; live != nil {
		fmt.Fprintf(env.Stderr, "compared with what the module has now: %d new (%s), %d changed (%s), %d gone (%s), %d the same\n",
			live.New.Count, cli.Bytes(live.New.Bytes), live.Changed.Count, cli.Bytes(live.Changed.Bytes),
			live.Gone.Count, cli.Bytes(live.Gone.Bytes), live.Same.Count)
	}
	fmt.Fprintln(env.Stderr, "Nothing was changed.")
	return nil
}

type check struct {
	what
	JSON bool `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*check) Help() string {
	return `Looked at: whether the repository is there and its password right, the snapshot, the target, its space and what its file system can hold,
and for an installed module its user and units. All problems are told at once.

Example:

  restore-backup check-eligibility wiki1 --target /srv/restored`
}

// Run looks into a restore.
func (c *check) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker := root.restorer(env)
	req, err := c.request(ctx, worker)
	if err != nil {
		return explain(err)
	}
	plan, err := worker.Check(ctx, req)
	if err != nil {
		return explain(err)
	}
	defer plan.Close()
	eligible := len(plan.Problems) == 0
	if c.JSON {
		report := map[string]any{"module": c.Module, "eligible": eligible, "problems": plan.Problems, "target": plan.Target}
		if len(plan.Point.Snapshots) > 0 {
			report["point"], report["files"], report["bytes"] = plan.Point, plan.Files, plan.Bytes
		}
		if err := cli.JSON(env.Stdout, report); err != nil {
			return err
		}
		if eligible {
			return nil
		}
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	if !eligible {
		return problems(plan.Problems)
	}
	_, err = fmt.Fprintf(env.Stdout, "%s of %s can be restored into %s: %d files, %s\n", plan.Label(),
		plan.Point.Time.Local().Format(time.DateTime), plan.Target, plan.Files, cli.Bytes(plan.Bytes))
	return err
}
