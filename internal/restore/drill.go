package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/exchange"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

// Drills makes the attempts of runs that are drills: each restores a sample of a module's latest snapshot into a folder that nobody else
// gets into, compares it with the snapshot, has the module's command look at it, and removes it. It is a run.Starter.
type Drills struct {
	*Restorer
	Sample *int64                                                              // in place of the module's; 0 is everything
	Probe  func(ctx context.Context, job run.ProbeJob, log *slog.Logger) error // runs a module's command
	Ready  func() error                                                        // nil unless no command can be run at all
}

// errBusy is why a drill cannot begin now.
type errBusy struct{ error }

// Attempt implements run.Starter.
func (d *Drills) Attempt(ctx context.Context, job run.Job, log *slog.Logger, progress func(module.Progress)) run.Attempt {
	sample := job.Module.Drill.Sample
	if d.Sample != nil {
		sample = *d.Sample
	}
	r := status.Result{
		Module: job.Module.ID, Backup: job.Plan.Backup, Run: job.Plan.Run, Outcome: status.Failed, Start: d.Now(), Repository: job.Plan.Repository,
		Drill: &status.Drill{Backup: job.Backup.Of, Destination: job.Backup.Destination, Sample: sample},
	}
	if limit := job.Plan.Timeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("the drill took longer than %s (timeout of backup %s)", limit, job.Backup.Of))
		defer cancel()
	}
	err := d.attempt(ctx, job, log, progress, &r)
	r.End = d.Now()
	if err == nil {
		r.Outcome = status.Success
		return run.Attempt{Result: r}
	}
	r.Error, r.Hint = strings.ReplaceAll(err.Error(), "\n", "; "), Remedy(err)
	var locked *restic.LockedError
	r.Retry = ctx.Err() == nil &&
		(errors.As(err, new(errBusy)) || errors.As(err, &locked) || errors.Is(err, restic.ErrTransient) || errors.Is(err, filebackup.ErrTransient) || run.Unreachable(err))
	return run.Attempt{Result: r}
}

// attempt is the story of a drill.
func (d *Drills) attempt(ctx context.Context, job run.Job, log *slog.Logger, progress func(module.Progress), r *status.Result) (err error) {
	m := job.Module
	probe := run.ProbeJob{Backup: job.Plan.Backup, Run: job.Plan.Run, Module: m, Sample: r.Drill.Sample, Timeout: job.Plan.Timeout}
	if m.Drill.Command != nil { // before anything is fetched that nobody can look at
		if err := d.Ready(); err != nil {
			return err
		}
		if probe.Program, err = run.FindProbe(m); err != nil {
			return remedy(err, fmt.Sprintf("see command in [module.%s.drill]", m.ID))
		}
	}
	free, err := d.keep(job)
	if err != nil {
		return err
	}
	defer free()
	folder, err := run.MakeDrillFolder(d.Paths, m.ID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.RemoveDrillFolder(d.Paths, m.ID)) }()

	plan, err := d.plan(ctx, job, r.Drill, folder)
	if err != nil {
		return err
	}
	defer plan.Close()
	restored, err := plan.restorer.Restore(ctx, plan.Plan, func(p Progress) {
		progress(module.Progress{Phase: p.Phase, Percent: p.Percent, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal})
	})
	if err != nil {
		return damaged(ctx, err, plan.Repository)
	}
	r.Snapshot, r.Files, r.SizeBytes = restored.Snapshots[0], restored.Files, restored.Bytes
	if m.Drill.Command == nil {
		return nil
	}
	progress(module.Progress{Phase: "probe", Percent: 100, BytesDone: restored.Bytes, BytesTotal: restored.Bytes})
	probe.Folder, probe.Dumps = restored.Target, restored.Dumps
	if err := (run.Probe{}).OwnFiles(probe); err != nil {
		return err
	}
	if err := d.Probe(ctx, probe, log); err != nil {
		return err
	}
	r.Drill.Probed = true
	return nil
}

// keep keeps backups of the module from removing what is being restored, where restic cannot do that by a lock of its own.
func (d *Drills) keep(job run.Job) (free func(), err error) {
	if _, local := job.Destination.Local(); job.Module.Engine != config.EngineFiles && (!local || job.Destination.Gateway) {
		return func() {}, nil
	}
	held, err := exchange.Take(d.Paths, job.Module.ID, job.Module.User, job.Module.Group, job.Plan.Backup)
	if busy := (*lock.HeldError)(nil); errors.As(err, &busy) {
		return nil, errBusy{err}
	}
	if err != nil {
		return nil, err
	}
	return func() { held.Release() }, nil
}

// drillPlan is a plan, and who carries it out.
type drillPlan struct {
	*Plan
	restorer *Restorer
}

// plan looks into the drill: the latest snapshot of the backup whose turn it is, and a sample of it.
func (d *Drills) plan(ctx context.Context, job run.Job, drill *status.Drill, folder string) (*drillPlan, error) {
	// With a cache of its own: what is proven is what the destination has.
	r := *d.Restorer
	r.Paths.Cache = filepath.Join(folder, "cache")
	req := Request{
		Repository: Repository{Destination: job.Destination, Type: job.Module.Type, UUID: job.Module.UUID, Module: job.Module},
		Choice:     Choice{Backup: drill.Backup},
		Target:     filepath.Join(folder, "restored"),
		Verify:     true,
		held:       true,
	}
	if drill.Sample > 0 {
		req.pick = func(ctx context.Context, from source, p Point) ([]part, error) {
			return sample(ctx, from, p, job.Module, drill.Sample)
		}
	}
	plan := &Plan{Request: req}
	if err := r.look(ctx, plan); err != nil {
		plan.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	drill.Saved = plan.Point.Time
	return &drillPlan{plan, &r}, nil
}

// look looks into a drill's restore as Check does, but any problem is an error, and that of the repository is kept as it is.
func (r *Restorer) look(ctx context.Context, p *Plan) error {
	if err := r.checkRepository(ctx, p); err != nil {
		return err
	}
	if err := r.checkTarget(ctx, p); err != nil {
		return err
	}
	var texts, remedies []string
	for _, q := range p.Problems {
		texts = append(texts, q.Text)
		if q.Remedy != "" && !strings.Contains(q.Remedy, "--target") {
			remedies = append(remedies, q.Remedy)
		}
	}
	switch {
	case len(texts) > 0:
		return remedy(errors.New(strings.Join(texts, "; ")), strings.Join(remedies, "; "))
	case p.Files == 0:
		return fmt.Errorf("the snapshot of %s holds no file: nothing is proven", p.Point.Time.Local().Format(time.DateTime))
	}
	return nil
}

// damaged is the error of a restore that failed, without advice about a folder that is not there any more.
func damaged(ctx context.Context, err error, at Repository) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	inner := errors.Unwrap(err) // what Restore advises is around it
	advice := Remedy(inner)
	if advice == "" {
		advice = `see what a check of the repository says: "module-backup shell MODULE -- check --read-data"`
		if at.InBucket() {
			advice = fmt.Sprintf(`see what a check of the bucket says: "file-backup --module %s verify --read-data"`, at.Label())
		}
	}
	return remedy(inner, advice)
}
