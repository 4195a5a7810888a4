package main

import (
	"context"
	"fmt"
	"os"
	"strings"
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
	Target string   `predictor:"file" xor:"where" placeholder:"FOLDER" help:"Folder to restore into: a new one, or an empty one. Default: ./restore-MODULE-SNAPSHOT."`

	InPlace bool   `xor:"where" help:"Restore to where the module lives: its units are stopped, and what is there is replaced; if anything fails, all of it is put back."`
	As      string `placeholder:"MODULE" help:"Restore as another module. One that the configuration does not have is added to it."`
}

func (w what) request(ctx context.Context, worker *restore.Restorer) (restore.Request, error) {
	req := restore.Request{Only: w.Path, Target: w.Target, InPlace: w.InPlace, As: w.As}
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

In place, everything is restored beside what is there first. Then the module's units are stopped, both are exchanged, restore-state runs, and
the units are started. What the module's exclude leaves out of backups stays. If anything fails or is interrupted up to there, everything is
put back as it was, also after a kill or a loss of power.

Examples:

  restore-backup wiki1

  restore-backup wiki1 --at "2026-11-20 03:00" --path data/pages --target /srv/restored --verify

  restore-backup dokuwiki/3792c7db --destination archive --dry-run

  restore-backup wiki1 --in-place --dry-run

  restore-backup wiki1 --as wiki2 --target /srv/wiki2`
}

// Run restores.
func (c *restoring) Run(ctx context.Context, root *command, env *cli.Env) error {
	worker, done := root.restorer(ctx, env)
	defer done()
	return cli.Mistakes(env, "restore-backup", root, worker.Config.Errors(), c.restore(ctx, worker, env))
}

func (c *restoring) restore(ctx context.Context, worker *restore.Restorer, env *cli.Env) error {
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
		warn(env, result.Warnings)
		return explain(failure)
	}
	text := fmt.Sprintf("restored %d files (%s) of %s, as of %s, %s", result.Files, cli.Bytes(result.Bytes), plan.Label(),
		result.Time.Local().Format(time.DateTime), where(result))
	if result.Verified {
		text += ", and verified"
	}
	journal.Notify("STATUS=" + text)
	fmt.Fprintln(env.Stderr, text)
	told(env, result)
	if os.Geteuid() != 0 {
		fmt.Fprintln(env.Stderr, "They belong to you: only root can give files to their owners.")
	}
	return nil
}

// where says where it went.
func where(r restore.Result) string {
	text := "into " + r.Target
	if r.InPlace {
		text = "in place: " + strings.Join(r.Places, ", ")
	}
	if r.As != "" {
		text += ", as " + r.As
	}
	return text
}

// told says what else there is to know of a restore that is done.
func told(env *cli.Env, r restore.Result) {
	if len(r.Units) > 0 {
		fmt.Fprintf(env.Stderr, "stopped meanwhile, and started again: %s\n", strings.Join(r.Units, ", "))
	}
	if r.Kept > 0 {
		fmt.Fprintf(env.Stderr, "kept, because the backup leaves it out: %d files or folders\n", r.Kept)
	}
	for _, path := range r.Replaced {
		fmt.Fprintf(env.Stderr, "What was replaced is kept in %s: both it and the snapshot have something that the backup leaves out now. Remove it when you need nothing of it.\n", path)
	}
	if r.Added != "" {
		fmt.Fprintf(env.Stderr, "%s has the new module. No backup saves it yet: add %q to modules of one.\n", r.Added, r.As)
	}
	warn(env, r.Warnings)
}

func warn(env *cli.Env, warnings []string) {
	for _, text := range warnings {
		fmt.Fprintln(env.Stderr, "warning: "+text)
	}
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
	fmt.Fprintf(env.Stderr, "would restore %d files (%s) of %s, as of %s, %s\n", result.Files, cli.Bytes(result.Bytes), plan.Label(),
		result.Time.Local().Format(time.DateTime), where(result))
	if live := result.Live; live != nil {
		fmt.Fprintf(env.Stderr, "compared with what the module has now: %d new (%s), %d changed (%s), %d gone (%s), %d kept (%s), %d the same\n",
			live.New.Count, cli.Bytes(live.New.Bytes), live.Changed.Count, cli.Bytes(live.Changed.Bytes),
			live.Gone.Count, cli.Bytes(live.Gone.Bytes), live.Kept.Count, cli.Bytes(live.Kept.Bytes), live.Same.Count)
	}
	if len(result.Units) > 0 {
		fmt.Fprintf(env.Stderr, "would be stopped meanwhile: %s\n", strings.Join(result.Units, ", "))
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
	worker, done := root.restorer(ctx, env)
	defer done()
	return cli.Mistakes(env, "restore-backup", root, worker.Config.Errors(), c.check(ctx, worker, env))
}

func (c *check) check(ctx context.Context, worker *restore.Restorer, env *cli.Env) error {
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
	to := "into " + plan.Target
	if c.InPlace {
		to = "in place"
	}
	_, err = fmt.Fprintf(env.Stdout, "%s of %s can be restored %s: %d files, %s\n", plan.Label(),
		plan.Point.Time.Local().Format(time.DateTime), to, plan.Files, cli.Bytes(plan.Bytes))
	return err
}
