package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sdbackup/internal/exchange"
	"sdbackup/internal/restic"
)

// Result is what a restore came to.
type Result struct {
	Module      string      `json:"module,omitempty"`
	Repository  string      `json:"repository"` // TYPE/UUID
	Destination string      `json:"destination"`
	Backup      string      `json:"backup,omitempty"`
	Run         string      `json:"run_id,omitempty"`
	Time        time.Time   `json:"time"` // of the snapshot
	Snapshots   []string    `json:"snapshots"`
	Target      string      `json:"target,omitempty"`
	InPlace     bool        `json:"in_place,omitempty"`
	Places      []string    `json:"places,omitempty"`      // what was put in place
	Units       []string    `json:"units,omitempty"`       // that were stopped meanwhile, or would be
	Kept        uint64      `json:"kept,omitempty"`        // files and folders that were taken over, because the backup leaves them out
	Replaced    []string    `json:"replaced,omitempty"`    // where what was replaced is kept
	RolledBack  bool        `json:"rolled_back,omitempty"` // the live data was touched, and is as it was
	Warnings    []string    `json:"warnings,omitempty"`
	As          string      `json:"as,omitempty"`
	Added       string      `json:"added,omitempty"` // the file that was made for a new module
	Dumps       string      `json:"dumps,omitempty"` // the folder of the dumps
	Files       uint64      `json:"files"`
	Bytes       uint64      `json:"bytes"`
	Seconds     float64     `json:"seconds"`
	Verified    bool        `json:"verified"`
	DryRun      bool        `json:"dry_run,omitempty"`
	Live        *Comparison `json:"live,omitempty"` // of a dry run: what would change where the module lives
	Complete    bool        `json:"complete"`
	Errors      []string    `json:"errors"` // the first of them
	ErrorCount  int         `json:"error_count"`
}

// Progress is how far a restore is.
type Progress struct {
	Phase      string // "restore", "finish", "verify"
	Percent    float64
	BytesDone  uint64
	BytesTotal uint64
	Estimated  bool // this restic does not tell: from what it has written
}

// result is that of a plan, before anything is done.
func (p *Plan) result() Result {
	r := Result{
		Repository: p.Name(), Destination: p.Destination.ID, Backup: p.Point.Backup, Run: p.Point.Run, Time: p.Point.Time,
		Module: p.Point.Module, Target: p.Target, Files: p.Files, Bytes: p.Bytes, Snapshots: []string{}, Errors: []string{},
	}
	if p.Module != nil {
		r.Module = p.Module.ID
	}
	r.As, r.InPlace = p.As, p.Request.InPlace
	for _, at := range p.places {
		r.Places = append(r.Places, at.Live)
	}
	for _, one := range p.parts {
		if !slices.Contains(r.Snapshots, one.ID) {
			r.Snapshots = append(r.Snapshots, one.ID)
		}
		if !r.InPlace && one.Dump != "" {
			r.Dumps = dumpsIn(p.Target, p.parts)
		}
	}
	return r
}

// DryRun tells what a restore would write, and of an installed module how that differs from what it has now.
func (r *Restorer) DryRun(ctx context.Context, p *Plan) (Result, error) {
	result := p.result()
	result.DryRun = true
	if p.into == nil || p.As != "" && !p.Request.InPlace {
		return result, nil
	}
	if p.Request.InPlace && len(p.into.Units) > 0 {
		var err error
		if result.Units, _, err = r.Units.Running(ctx, p.into.Units); err != nil {
			return result, err
		}
	}
	for _, one := range p.parts {
		if one.Dump != "" {
			continue
		}
		live, err := p.compareLive(ctx, one)
		if ctx.Err() != nil {
			return result, context.Cause(ctx)
		}
		if err != nil {
			return result, err
		}
		result.Live = &live
	}
	return result, nil
}

// Restore carries a plan out. With an error the result says what is there all the same; nothing is removed, but what a restore in place made.
func (r *Restorer) Restore(ctx context.Context, p *Plan, progress func(Progress)) (Result, error) {
	if p.Request.InPlace {
		return r.restoreInPlace(ctx, p, progress)
	}
	start := time.Now()
	result := p.result()
	unlock := r.lockModule(p)
	defer unlock()
	err := p.target.make()
	if err == nil {
		err = p.restore(ctx, &result, progress)
	}
	if err == nil {
		err = p.target.open()
	}
	if err == nil && p.added != "" {
		err = r.addModule(p, &result)
	}
	result.Seconds = time.Since(start).Seconds()
	result.Complete = err == nil
	if err == nil {
		return result, nil
	}
	result.Verified = false
	result.Files, result.Bytes = present(p.Target)
	if result.ErrorCount == 0 {
		result.Errors, result.ErrorCount = append(result.Errors, err.Error()), 1
	}
	advice := Remedy(err)
	if advice != "" {
		advice = "; " + advice
	}
	if result.Files == 0 {
		return result, remedy(fmt.Errorf("restore %s: %w", p.Label(), err), fmt.Sprintf("nothing was restored into %s%s", p.Target, advice))
	}
	return result, remedy(fmt.Errorf("restore %s: %w", p.Label(), err),
		fmt.Sprintf("%s holds %d files (%s) of it, for you alone, and is not complete: remove it before you try again%s", p.Target, result.Files, size(result.Bytes), advice))
}

// lockModule keeps backups of the module from removing what is being read, where nothing else does.
func (r *Restorer) lockModule(p *Plan) (unlock func()) {
	if p.source.guarded() || p.Module == nil || p.held {
		return func() {}
	}
	held, err := exchange.Take(r.Paths, p.Module.ID, p.Module.User, p.Module.Group, "restore")
	if err != nil {
		r.Log.Warn(fmt.Sprintf("module %s is not kept from being backed up meanwhile, which may remove what is being restored: %v", p.Module.ID, err))
		return func() {}
	}
	return func() { held.Release() }
}

// goal is where parts go.
type goal struct {
	parts []part
	dir   string   // of the files
	dumps string   // the folder of the dumps
	held  *os.File // or: what both are below, so that restic, too, finds that folder whatever its path leads to
}

// below lets restic inherit the goal, and is a path in it as restic then finds it.
func (g goal) below(path string, repository *restic.Repository) string {
	if g.held == nil {
		return path
	}
	repository.Inherit = append(slices.Clone(repository.Inherit), g.held)
	return fmt.Sprintf("/proc/self/fd/%d", 2+len(repository.Inherit)) + strings.TrimPrefix(path, self(g.held))
}

// self is a path of an open file.
func self(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// restore restores all parts.
func (p *Plan) restore(ctx context.Context, result *Result, progress func(Progress)) error {
	g := goal{parts: p.parts, dir: p.Target, dumps: result.Dumps}
	before := uint64(0)
	if err := p.restoreTo(ctx, g, result, &before, progress); err != nil {
		return err
	}
	verified, err := p.after(ctx, g, result, progress)
	result.Verified = verified
	return err
}

// restoreTo restores parts to where they go. Before is how many bytes have been restored, of all.
func (p *Plan) restoreTo(ctx context.Context, g goal, result *Result, before *uint64, progress func(Progress)) error {
	for _, one := range g.parts {
		to := g.dir
		if one.Dump != "" {
			to = g.dumps
			if err := os.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("make the folder of the dumps: %w", err)
			}
		}
		done, err := p.source.fill(ctx, filling{part: one, to: to, goal: g, verify: p.Verify}, func(q restic.RestoreProgress) {
			progress(overall(*before, one.has.Bytes, p.Bytes, q))
		})
		result.Warnings = append(result.Warnings, done.Warnings...)
		result.Errors, result.ErrorCount = append(result.Errors, done.Errors...), result.ErrorCount+done.ErrorCount
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case done.ErrorCount > 0:
			return fmt.Errorf("%d files or folders could not be restored%s", done.ErrorCount, first(done.Errors))
		case err != nil:
			return err
		case p.Request.InPlace && len(done.Warnings) > 0: // nobody would look at what is live with another owner
			return fmt.Errorf("%d files or folders could not be given their mode, owner or attributes%s", len(done.Warnings), first(done.Warnings))
		}
		*before += one.has.Bytes
	}
	return nil
}

func first(errs []string) string {
	if len(errs) == 0 {
		return ""
	}
	return ", the first: " + errs[0]
}

// overall makes the progress of one part that of all of them.
func overall(before, part, all uint64, q restic.RestoreProgress) Progress {
	done := before + min(q.BytesDone, part)
	percent := q.Percent
	if all > 0 {
		percent = 100 * (float64(before) + float64(part)*q.Percent/100) / float64(all)
	}
	return Progress{Phase: "restore", Percent: percent, BytesDone: done, BytesTotal: all, Estimated: q.Estimated}
}

// after does what the source has not done, and looks at everything again; true if that was wanted and all is right.
func (p *Plan) after(ctx context.Context, g goal, result *Result, progress func(Progress)) (bool, error) {
	if security, zeros := p.source.leaves(); security || zeros {
		progress(Progress{Phase: "finish", Percent: 100, BytesDone: p.Bytes, BytesTotal: p.Bytes})
		failed := finish(ctx, g.top(), security, zeros)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if len(failed) > 0 {
			result.Errors, result.ErrorCount = append(result.Errors, failed...), result.ErrorCount+len(failed)
			return false, fmt.Errorf("%d restored files could not be finished%s", len(failed), first(failed))
		}
	}
	if !p.Verify {
		return false, nil
	}
	progress(Progress{Phase: "verify", Percent: 100, BytesDone: p.Bytes, BytesTotal: p.Bytes})
	var wrong []string
	count := uint64(0)
	for _, one := range g.parts {
		beside := []string{"lost+found"}
		if one.Dump != "" {
			continue // its content was compared, and nothing else of it was the module's
		}
		if filepath.Dir(g.dumps) == g.dir {
			beside = append(beside, filepath.Base(g.dumps))
		}
		c, err := compareTarget(ctx, p.source, one, g.dir, beside)
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		if err != nil {
			return false, err
		}
		count += c.New.Count + c.Changed.Count + c.Gone.Count
		for _, class := range []struct {
			names []string
			what  string
		}{{c.New.First, "is missing"}, {c.Changed.First, "differs in type, size, time, mode or owner"}, {c.Gone.First, "is not in the snapshot"}} {
			for _, name := range class.names {
				if len(wrong) < maxNamed {
					wrong = append(wrong, name+": "+class.what)
				}
			}
		}
	}
	if count > 0 {
		result.Errors, result.ErrorCount = append(result.Errors, wrong...), result.ErrorCount+int(count)
		return false, fmt.Errorf("%d files or folders are not as they are in the snapshot%s", count, first(wrong))
	}
	return true, nil
}

// top is what all parts are below.
func (g goal) top() string {
	if g.held != nil {
		return self(g.held) + "/."
	}
	return g.dir
}

// present counts the files below a folder and their bytes, of those that are not written wholly what is on disk.
func present(top string) (files, bytes uint64) {
	_ = filepath.WalkDir(top, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // what cannot be looked at is not counted
		}
		files++
		if info, err := d.Info(); err == nil {
			n := info.Size()
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				n = min(n, st.Blocks*512)
			}
			bytes += uint64(n)
		}
		return nil
	})
	return files, bytes
}
