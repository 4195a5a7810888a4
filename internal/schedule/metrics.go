package schedule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/promfile"
	"sdbackup/internal/units"
)

// refreshMetrics brings node_exporter's textfiles in line with the configuration: those of backups that are gone or
// disabled are removed, and those that are missing, say because their folder does not survive a reboot, or older than what
// they are made from, are made anew from the records. Runs write them too; a file that is as it should be is only looked at.
func (s *Scheduler) refreshMetrics(
	ctx context.Context, manager Manager, cfg *config.Config, wanted Wanted, report Report, changed time.Time,
) error {
	dir := cfg.Metrics.TextfileDir
	if dir == "" || len(cfg.ErrorsOf(config.KindMetrics, "")) > 0 {
		return nil
	}
	errs := []error{s.removeOrphans(ctx, manager, cfg, wanted, dir)}

	rescheduled := map[string]bool{}
	for _, t := range report.Started {
		rescheduled[t.ID] = true
	}
	for _, c := range report.Replaced {
		rescheduled[c.ID] = true
	}
	var stale []string
	for _, id := range cfg.BackupIDs() {
		if !wanted.Disabled[id] && s.isStale(dir, id, changed, rescheduled[id]) {
			stale = append(stale, id)
		}
	}
	if len(stale) == 0 {
		return errors.Join(errs...)
	}
	// Not what the manager says, which adds the random delay, and says nothing while a run is under way.
	var timers []units.Timer
	for _, t := range wanted.Timers {
		if slices.Contains(stale, t.ID) {
			timers = append(timers, t)
		}
	}
	elapses, err := s.elapses(ctx, timers, 1)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	next := make(map[string]time.Time, len(elapses))
	for _, e := range elapses {
		if len(e.Next) > 0 {
			next[e.Backup] = e.Next[0]
		}
	}
	for _, id := range stale {
		if err := promfile.Update(dir, s.store(), cfg, cfg.Backups[id], next[id], s.Log); err != nil {
			errs = append(errs, fmt.Errorf("backup %s: write its metrics: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// removeOrphans removes the textfiles of backups that are gone or disabled, and what is left of their services.
func (s *Scheduler) removeOrphans(ctx context.Context, manager Manager, cfg *config.Config, wanted Wanted, dir string) error {
	belongs := func(id string) bool {
		return wanted.keeps(cfg, id) || cfg.Backups[id] != nil && !wanted.Disabled[id]
	}
	if !anyOrphan(dir, belongs) { // spares reading every file, to see whose it is
		return nil
	}
	ids, err := promfile.IDs(dir)
	if err != nil {
		return fmt.Errorf("list the metrics of backups: %w", err)
	}
	var errs []error
	for _, id := range ids {
		if belongs(id) {
			continue
		}
		if err := promfile.Remove(dir, id); err != nil {
			errs = append(errs, fmt.Errorf("backup %s is gone: remove its metrics: %w", id, err))
		}
		if err := manager.ResetFailed(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("backup %s is gone: reset its failed units: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// anyOrphan tells whether a file in dir is named like the textfile of a backup that does not belong there.
func anyOrphan(dir string, belongs func(id string) bool) bool {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		id, isProm := strings.CutSuffix(e.Name(), ".prom")
		id, isBackup := strings.CutPrefix(id, "backup")
		if isProm && isBackup && !belongs(id) {
			return true
		}
	}
	return false
}

// isStale tells whether the textfile of a backup is to be made anew. One that is not there is missed only where a run has
// ended: the first run writes it when it starts.
func (s *Scheduler) isStale(dir, id string, changed time.Time, rescheduled bool) bool {
	record, err := os.Stat(s.recordFile(id))
	if err != nil {
		return false
	}
	file, err := os.Stat(textfile(dir, id))
	if err != nil || rescheduled {
		return true
	}
	written := file.ModTime()
	return written.Before(record.ModTime()) || written.Before(changed)
}

func textfile(dir, id string) string { return filepath.Join(dir, "backup"+id+".prom") }
