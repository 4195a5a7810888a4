package run

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/promfile"
	"sdbackup/internal/status"
)

// conclude ends a run: its verdict goes to disk, into the metrics and to whoever is to be told, in this order; the marker
// goes last, so that a run that is killed in between is found and concluded by the next one.
func (r *Runner) conclude(ctx context.Context, log *slog.Logger, b *config.Backup, run status.Run) error {
	level := slog.LevelInfo
	if run.Outcome != status.Success {
		level = slog.LevelWarn
	}
	if run.Outcome == status.Failed {
		level = slog.LevelError
	}
	log.Log(ctx, level, summary(run), journal.Message(journal.RunFinished),
		"outcome", string(run.Outcome), "duration_seconds", run.End.Sub(run.Start).Seconds())

	if b.IsDrill() && r.Next != nil {
		run.Due = r.Next(ctx, b)
	}
	if err := r.Store.End(run); err != nil {
		// The marker stays: whoever comes next records this run as failed, which is what a verdict that is not kept is.
		return fmt.Errorf("backup %s: write the verdict: %w", run.Backup, err)
	}
	metricsErr := r.writeMetrics(ctx, log, b)
	err := r.announce(ctx, log, b, run)
	return errors.Join(metricsErr, err, r.Store.RemoveRunning(run.Backup))
}

// summary is the one line that tells how a run ended.
func summary(run status.Run) string {
	if run.Error != "" {
		return fmt.Sprintf("backup %s %s: %s", run.Backup, verb(run.Outcome), run.Error)
	}
	count := map[status.Outcome]int{}
	for _, m := range run.Modules {
		count[m.Outcome]++
	}
	done := "saved"
	if _, isCheck := config.JobOf(run.Backup); isCheck {
		done = "found good"
	}
	if _, isDrill := config.DrillOf(run.Backup); isDrill {
		done = "restored and found good"
	}
	line := fmt.Sprintf("backup %s %s: %d of %d modules %s", run.Backup, verb(run.Outcome),
		count[status.Success]+count[status.Partial], len(run.Modules), done)
	for _, part := range []struct {
		outcome status.Outcome
		words   string
	}{{status.Failed, "failed"}, {status.Conflict, "locked to the end"}, {status.Partial, "with unreadable files"}} {
		if n := count[part.outcome]; n > 0 {
			line += fmt.Sprintf(", %d %s", n, part.words)
		}
	}
	if run.NodeCopy != nil && run.NodeCopy.Outcome == status.Failed {
		line += "; the copy of the node's configuration was not written"
	}
	return line
}

func verb(o status.Outcome) string {
	switch o {
	case status.Failed:
		return "failed"
	case status.Conflict:
		return "could not save all"
	default:
		return "ended"
	}
}

// writeMetrics writes the backup's .prom from the records. The verdict in it is the last one on record, also while the next
// run is under way.
func (r *Runner) writeMetrics(ctx context.Context, log *slog.Logger, b *config.Backup) error {
	dir := r.Config.Metrics.TextfileDir
	if dir == "" {
		return nil
	}
	if module, isDrill := config.DrillOf(b.ID); isDrill { // it is told of in the files of the backups that save the module
		var errs []error
		for _, id := range r.Config.DrillTurns(module) {
			errs = append(errs, r.writeMetrics(ctx, log, r.Config.Backups[id]))
		}
		return errors.Join(errs...)
	}
	id, isCheck := config.JobOf(b.ID)
	if isCheck { // it is told of in the file of its backup
		if b = r.Config.Backups[id]; b == nil {
			return nil
		}
	}
	var next time.Time
	if r.Next != nil {
		next = r.Next(ctx, b)
	}
	if err := promfile.Update(dir, r.Store, r.Config, b, next, log); err != nil {
		log.Error("write the metrics", "error", err)
		return fmt.Errorf("backup %s: write the metrics: %w", b.ID, err)
	}
	return nil
}
