package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

	if err := r.Store.End(run); err != nil {
		// The marker stays: whoever comes next records this run as failed, which is what a verdict that is not kept is.
		return fmt.Errorf("backup %s: write the verdict: %w", run.Backup, err)
	}
	metricsErr := r.writeMetrics(ctx, log, b, false)
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
	line := fmt.Sprintf("backup %s %s: %d of %d modules saved", run.Backup, verb(run.Outcome),
		count[status.Success]+count[status.Partial], len(run.Modules))
	for _, part := range []struct {
		outcome status.Outcome
		words   string
	}{{status.Failed, "failed"}, {status.Conflict, "locked to the end"}, {status.Partial, "with unreadable files"}} {
		if n := count[part.outcome]; n > 0 {
			line += fmt.Sprintf(", %d %s", n, part.words)
		}
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
func (r *Runner) writeMetrics(ctx context.Context, log *slog.Logger, b *config.Backup, running bool) error {
	dir := r.Config.Metrics.TextfileDir
	if dir == "" {
		return nil
	}
	rec, err := r.Store.Backup(b.ID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error("read the record of the backup", "error", err)
	}
	modules := map[string]*status.Module{}
	for _, id := range b.Modules {
		m, err := r.Store.Module(b.ID, id)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				log.Error("read the record of the module", "module", id, "error", err)
			}
			continue
		}
		modules[id] = m
	}
	var next time.Time
	if r.Next != nil {
		next = r.Next(ctx, b)
	}
	if err := promfile.Write(dir, promfile.FromRecords(b.ID, b.Name, rec, modules, running, next)); err != nil {
		log.Error("write the metrics", "error", err)
		return fmt.Errorf("backup %s: write the metrics: %w", b.ID, err)
	}
	return nil
}
