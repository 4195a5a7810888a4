package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sdbackup/filebackup"
	"sdbackup/internal/cli"
)

type backup struct {
	Checksum bool `help:"Read every file, also where size, time and inode say that it is unchanged."`
	DryRun   bool `help:"Print what would be done, and change nothing."`
	Accept   bool `name:"accept-bucket" help:"Take the bucket as it is where it is not as the last backup left it."`
	JSON     bool `help:"Print JSON."`
}

// Run backs up the folder.
func (c *backup) Run(ctx context.Context, root *command, env *cli.Env) error {
	if root.Module != "" {
		return &cli.ExitError{Code: cli.ExitUsage, Err: cli.Hint(errors.New("a module is saved as its own user and under its lock"), "run-backup BACKUP, or module-backup save "+root.Module)}
	}
	r, unlock, err := root.openToChange(ctx, env)
	if err != nil {
		return err
	}
	defer unlock()
	bar := newBar(env)
	sum, err := r.Backup(ctx, filebackup.BackupOptions{Checksum: c.Checksum, DryRun: c.DryRun, Accept: c.Accept, Progress: bar.show})
	bar.done()
	if sum == nil {
		return explain(err)
	}
	if c.JSON {
		if err := cli.JSON(env.Stdout, sum); err != nil {
			return err
		}
	} else {
		c.print(env, sum)
	}
	return explain(err)
}

func (c *backup) print(env *cli.Env, s *filebackup.Summary) {
	switch {
	case c.DryRun:
		fmt.Fprintf(env.Stdout, "would save: %s\n", counts(s))
		return
	case len(s.Versions) == 0:
		fmt.Fprintf(env.Stdout, "nothing has changed, %d unchanged, %s\n", s.Unchanged, cli.Duration(s.Duration))
	default:
		fmt.Fprintf(env.Stdout, "version %s: %s\n", strings.Join(s.Versions, ", "), counts(s))
		fmt.Fprintf(env.Stdout, "stored %s of %s in %s; %s, %d found from a backup that was cut off\n", cli.Count(s.Uploaded, "object"), cli.Bytes(uint64(s.Bytes)), cli.Duration(s.Duration), cli.Count(s.Duplicates, "duplicate"), s.Resumed)
	}
	if s.Garbage > 0 {
		fmt.Fprintf(env.Stdout, "garbage of a backup that was cut off: %s\n", cli.Count(s.Garbage, "object"))
	}
	for _, path := range s.Unstable {
		fmt.Fprintf(env.Stdout, "changed while it was read: %s\n", printable(path))
	}
}

func counts(s *filebackup.Summary) string {
	return fmt.Sprintf("%d new, %d changed, %d with other metadata, %d deleted, %d unchanged; folders and links: %d", s.New, s.Changed, s.Metadata, s.Deleted, s.Unchanged, s.Others)
}

// bar shows files, bytes, rate and the time that is left on a terminal.
type bar struct {
	p     *cli.Progress
	start time.Time
	label string
}

func newBar(env *cli.Env) *bar { return &bar{p: cli.NewProgress(env), start: time.Now()} }

func (b *bar) show(p filebackup.Progress) {
	percent := 100.0
	if p.TotalBytes > 0 {
		percent = min(100, 100*float64(p.Bytes)/float64(p.TotalBytes))
	}
	elapsed := time.Since(b.start)
	label := fmt.Sprintf("%d/%d files", p.Files, p.TotalFiles)
	if s := elapsed.Seconds(); s > 1 {
		label += fmt.Sprintf(", %s/s", cli.Bytes(uint64(float64(p.Bytes)/s)))
		if left := p.TotalBytes - p.Bytes; p.Bytes > 0 && left > 0 {
			label += ", " + cli.Duration(time.Duration(float64(elapsed)*float64(left)/float64(p.Bytes)).Round(time.Second)) + " left"
		}
	}
	if b.label != "" {
		b.p.Remove(b.label)
	}
	b.label = label
	b.p.Update(label, percent, uint64(p.Bytes), uint64(p.TotalBytes))
}

func (b *bar) done() { b.p.Done() }

type download struct {
	Version string   `arg:"" predictor:"known" help:"Version: an ID, latest, or a time."`
	Target  string   `arg:"" predictor:"file" help:"Folder to download into; made where it is missing. Files that it has already are replaced."`
	Path    []string `arg:"" optional:"" help:"Files, and folders with all that is in them. Default: everything."`
	Ignore  string   `placeholder:"FILE" predictor:"file" help:"File of patterns, one a line, of what is left out, as in /foo*."`
	DryRun  bool     `help:"Print what would be downloaded, and write nothing."`
	JSON    bool     `help:"Print JSON."`
}

// Run downloads a version.
func (c *download) Run(ctx context.Context, root *command, env *cli.Env) error {
	options := filebackup.DownloadOptions{Paths: c.Path, DryRun: c.DryRun}
	if c.Ignore != "" {
		patterns, err := filebackup.LoadFilter(c.Ignore)
		if err != nil {
			return &cli.ExitError{Code: cli.ExitUsage, Err: err}
		}
		options.Ignore = patterns
	}
	r, v, err := find(ctx, root, env, c.Version)
	if err != nil {
		return err
	}
	bar := newBar(env)
	options.Progress = bar.show
	sum, err := r.Download(ctx, v, c.Target, options)
	bar.done()
	if sum == nil {
		return explain(err)
	}
	for _, w := range sum.Warnings {
		env.Log.Warn(w)
	}
	if c.JSON {
		return errors.Join(cli.JSON(env.Stdout, sum), explain(err))
	}
	word := "downloaded"
	if c.DryRun {
		word = "would download"
	}
	fmt.Fprintf(env.Stdout, "%s version %s of %s: %s of %s, %s, %s\n", word, v.ID, v.Time.Local().Format(time.DateTime), cli.Count(sum.Files, "file"), cli.Bytes(uint64(sum.Bytes)), cli.Count(sum.Folders, "folder"), cli.Count(sum.Symlinks, "symbolic link"))
	return explain(err)
}

type verify struct {
	ReadData bool `help:"Read all objects, and compare their contents with the manifest."`
	JSON     bool `help:"Print JSON."`
}

// Run looks whether everything is there.
func (c *verify) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, err := root.open(ctx, env)
	if err != nil {
		return err
	}
	bar := newBar(env)
	v, err := r.Verify(ctx, filebackup.VerifyOptions{ReadData: c.ReadData, Progress: bar.show})
	bar.done()
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		err = cli.JSON(env.Stdout, v)
	} else {
		fmt.Fprintf(env.Stdout, "%s, %s, %s read\n", cli.Count(v.Versions, "version"), cli.Count(v.Objects, "object"), cli.Bytes(uint64(v.Bytes)))
	}
	for _, p := range v.Problems {
		err = errors.Join(err, errors.New(p))
	}
	return err
}

type expire struct {
	Last    int    `name:"keep-last" placeholder:"N" help:"Keep the last N versions."`
	Hourly  int    `name:"keep-hourly" placeholder:"N" help:"Keep the last version of each of N hours."`
	Daily   int    `name:"keep-daily" placeholder:"N" help:"Keep the last version of each of N days."`
	Weekly  int    `name:"keep-weekly" placeholder:"N" help:"Keep the last version of each of N weeks."`
	Monthly int    `name:"keep-monthly" placeholder:"N" help:"Keep the last version of each of N months."`
	Yearly  int    `name:"keep-yearly" placeholder:"N" help:"Keep the last version of each of N years."`
	Within  string `name:"keep-within" placeholder:"SPAN" help:"Keep versions that are at most so much older than the latest, as in 2y5m7d3h."`
	DryRun  bool   `help:"Print what would be dropped, and change nothing."`
	JSON    bool   `help:"Print JSON."`
}

// Run drops versions.
func (c *expire) Run(ctx context.Context, root *command, env *cli.Env) error {
	keep := filebackup.Keep{Last: c.Last, Hourly: c.Hourly, Daily: c.Daily, Weekly: c.Weekly, Monthly: c.Monthly, Yearly: c.Yearly}
	if c.Within != "" {
		var err error
		if keep.Within, err = filebackup.ParseDuration(c.Within); err != nil {
			return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf("--keep-within: %w", err)}
		}
	}
	if min(keep.Last, keep.Hourly, keep.Daily, keep.Weekly, keep.Monthly, keep.Yearly) < 0 || keep == (filebackup.Keep{}) {
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("say what to keep, as in --keep-daily 7 --keep-monthly 12")}
	}
	r, unlock, err := root.openToChange(ctx, env)
	if err != nil {
		return err
	}
	defer unlock()
	x, err := r.Expire(ctx, keep, c.DryRun)
	if x == nil {
		return explain(err)
	}
	if c.JSON {
		return errors.Join(cli.JSON(env.Stdout, x), explain(err))
	}
	word := "dropped"
	if c.DryRun {
		word = "would drop"
	}
	for _, v := range x.Dropped {
		fmt.Fprintf(env.Stdout, "%s %s of %s\n", word, v.ID, v.Time.Local().Format(time.DateTime))
	}
	fmt.Fprintf(env.Stdout, "%s %s and %s of %s; %d kept\n", word, cli.Count(len(x.Dropped), "version"), cli.Count(len(x.Objects), "object"), cli.Bytes(uint64(x.Bytes)), len(x.Kept))
	return explain(err)
}

type collect struct {
	DryRun bool `help:"Print what would be removed, and change nothing."`
	JSON   bool `help:"Print JSON."`
}

// Run removes garbage.
func (c *collect) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, unlock, err := root.openToChange(ctx, env)
	if err != nil {
		return err
	}
	defer unlock()
	g, err := r.GarbageCollect(ctx, c.DryRun)
	if g == nil {
		return explain(err)
	}
	if c.JSON {
		return errors.Join(cli.JSON(env.Stdout, g), explain(err))
	}
	for _, o := range g.Missing {
		fmt.Fprintf(env.Stdout, "missing: %s version %s\n", printable(o.Key), o.ID)
	}
	if err != nil {
		return explain(err)
	}
	word := "removed"
	switch {
	case c.DryRun:
		word = "would remove"
		for _, o := range g.Objects {
			fmt.Fprintf(env.Stdout, "%s version %s, %s\n", printable(o.Key), o.ID, cli.Bytes(uint64(o.Size)))
		}
	case g.Logged:
		word = "logged as garbage"
	}
	fmt.Fprintf(env.Stdout, "%s %s of %s\n", word, cli.Count(len(g.Objects), "object"), cli.Bytes(uint64(g.Bytes)))
	if g.Left > 0 {
		fmt.Fprintf(env.Stdout, "%s left alone, which may belong to a backup that is running elsewhere\n", cli.Count(g.Left, "object"))
	}
	return nil
}

type cleanLog struct {
	DryRun bool `help:"Print what would be removed, and change nothing."`
}

// Run removes what the garbage log names.
func (c *cleanLog) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, unlock, err := root.openToChange(ctx, env)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := r.CleanGarbageLog(ctx, c.DryRun)
	if err != nil {
		return explain(err)
	}
	word := "removed"
	if c.DryRun {
		word = "would remove"
	}
	fmt.Fprintf(env.Stdout, "%s %s of the garbage log\n", word, cli.Count(n, "object"))
	return nil
}

type undelete struct {
	DryRun bool `help:"Print what would be brought back, and change nothing."`
}

// Run brings back what was deleted.
func (c *undelete) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, unlock, err := root.openToChange(ctx, env)
	if err != nil {
		return err
	}
	defer unlock()
	keys, err := r.Undelete(ctx, c.DryRun)
	if err != nil {
		return explain(err)
	}
	for _, key := range keys {
		fmt.Fprintln(env.Stdout, printable(key))
	}
	word := "brought back"
	if c.DryRun {
		word = "would bring back"
	}
	fmt.Fprintf(env.Stdout, "%s %s\n", word, cli.Count(len(keys), "object"))
	return nil
}
