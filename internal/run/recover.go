package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/status"
)

// Recover records the run of the backup that died before its verdict, if there is one, as failed. A run that is alive is
// left alone. The reason is what the service manager says of its death, "" where nobody does.
func (r *Runner) Recover(ctx context.Context, id, reason string) error {
	if _, err := r.Store.Running(id); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	held, err := r.lock(id)
	if errors.Is(err, ErrRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer held.Release()
	return r.recover(ctx, id, reason)
}

// RecoverAll does the same for every backup that has a marker.
func (r *Runner) RecoverAll(ctx context.Context) error {
	ids, err := r.Store.RunningIDs()
	for _, id := range ids {
		err = errors.Join(err, r.Recover(ctx, id, ""))
	}
	return err
}

// recover does the work of Recover under the backup's lock.
func (r *Runner) recover(ctx context.Context, id, reason string) error {
	marker, err := r.Store.Running(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if r.Leftover != nil {
		if err := r.Leftover(ctx, id); err != nil {
			r.Log.Warn("stopping what the dead run left behind", "backup", id, "error", err)
		}
	}
	if err != nil { // damaged: there was a run, and nothing more is known of it
		r.Log.Error("read the marker of a dead run", "backup", id, "error", err)
		marker = &status.Running{ID: newID(), Backup: id, Name: "Backup " + id, Start: r.Now()}
	}
	if module, isDrill := config.DrillOf(id); isDrill {
		if err := RemoveDrillFolder(r.Paths, module); err != nil {
			r.Log.Error("remove what the dead drill restored", "backup", id, "error", err)
		}
	}
	b := r.job(id, marker.ID)
	if b == nil {
		b = r.lost(id)
	}
	log := r.Log.With("backup", id, "run", marker.ID)
	run, known := r.ended(id, marker.ID)
	if !known {
		run = r.obituary(marker, b, reason)
		log.Error(fmt.Sprintf("backup %s: %s", id, run.Error), journal.Message(journal.RunDied))
	}
	if marker.Announced {
		if err := r.Store.End(run); err != nil {
			return err
		}
		return errors.Join(r.writeMetrics(ctx, log, b), r.Store.RemoveRunning(id))
	}
	return r.conclude(ctx, log, b, run)
}

// ended returns the run from the history: it may have died after that was written.
func (r *Runner) ended(backup, run string) (status.Run, bool) {
	runs, err := r.Store.Runs(backup, 1)
	if err != nil || len(runs) == 0 || runs[len(runs)-1].ID != run {
		return status.Run{}, false
	}
	return runs[len(runs)-1], true
}

// obituary is the verdict of a run that could not write its own, and the records of the modules it did not get to the end of.
func (r *Runner) obituary(marker *status.Running, b *config.Backup, reason string) status.Run {
	run := status.Run{
		ID: marker.ID, Backup: marker.Backup, Name: marker.Name, InvocationID: marker.InvocationID,
		Start: marker.Start, End: r.Now(), Outcome: status.Failed,
		Error: "the run was killed before it ended",
	}
	if reason != "" {
		run.Error += " (" + reason + ")"
	}
	for _, id := range b.Modules {
		var last status.Module
		if rec, err := r.Store.Module(run.Backup, id); err == nil {
			last = *rec
		}
		if last.Run != run.ID {
			last = remember(last, Attempt{
				Result: status.Result{
					Module: id, Backup: run.Backup, Run: run.ID, Outcome: status.Failed, Error: run.Error,
					Start: run.Start, End: run.End, Drill: turn(b),
				},
				Unclean: true, // it may have been under way
			}, last.Attempts, 0)
			if err := r.Store.SaveModule(run.Backup, id, &last); err != nil {
				r.Log.Error("write the record of the module", "backup", run.Backup, "module", id, "error", err)
			}
		}
		run.Modules = append(run.Modules, status.Brief{
			Module: id, Outcome: last.Outcome, Error: last.Error, Snapshot: last.Snapshot, Attempts: last.Attempts,
		})
	}
	return run
}
