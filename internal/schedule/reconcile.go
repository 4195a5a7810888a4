package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/units"
)

// maxRounds bounds how often one Start reads a configuration again that changes while it is at work.
const maxRounds = 5

// lockName is that of the lock on the timers. "@" is in no ID, so that it is never a module's.
const lockName = "@timers.lock"

// Report is what a reconcile did, or with DryRun would do.
type Report struct {
	DryRun    bool
	Started   []units.Timer
	Replaced  []Replacement
	Stopped   []string // backup IDs
	Unchanged int
	Undecided []string // backups whose loaded timer stayed as it was, because their table has errors
	Kept      []string // timers that no file names, and that stayed because a file could not be read
	Problems  []config.Problem
	Refused   map[string]error // by backup ID: what the manager refused
}

// Replacement is a timer that is loaded otherwise than wanted.
type Replacement struct {
	ID          string
	Differences []string // one a property, as in "OnCalendar: *-*-* 01:00:00 -> *-*-* 02:00:00"
}

// Start makes the manager's timers those of the configuration: it starts, replaces and stops what differs, and leaves the
// rest untouched. A configuration that changes meanwhile is read again, because the path unit that watches it tells
// nothing of changes while its service is at work.
//
// The error is of what was not done at all; what the manager refused for single backups is in the Report.
func (s *Scheduler) Start(ctx context.Context, dryRun bool) (Report, error) {
	if !dryRun {
		if err := s.mayChange(); err != nil {
			return Report{}, err
		}
	}
	manager, err := s.Dial(ctx)
	if err != nil {
		return Report{}, err
	}
	defer manager.Close()
	if !dryRun {
		held, err := s.lock(ctx)
		if err != nil {
			return Report{}, err
		}
		defer held.Release()
	}

	total := Report{DryRun: dryRun}
	var errs []error
	for round := 1; ; round++ {
		before := takeFingerprint(s.Paths.Config)
		cfg := s.Load()
		if s.Recover != nil && !dryRun && round == 1 {
			if err := s.Recover(ctx, cfg); err != nil {
				errs = append(errs, fmt.Errorf("record the runs that died: %w", err))
			}
		}
		report, err := s.reconcile(ctx, manager, cfg, before.newest, dryRun)
		total.add(report)
		if err != nil {
			return total, errors.Join(append(errs, err)...)
		}
		if dryRun || takeFingerprint(s.Paths.Config).files == before.files {
			break
		}
		if round == maxRounds {
			errs = append(errs, fmt.Errorf("the configuration was changed %d times meanwhile: run start-timers again", round))
			break
		}
	}
	return total, errors.Join(errs...)
}

// lock waits until nobody else changes timers: what one has read of the manager, another must not change.
func (s *Scheduler) lock(ctx context.Context) (*lock.Lock, error) {
	if err := lock.EnsureDir(s.Paths.Lock); err != nil {
		return nil, err
	}
	path := filepath.Join(s.Paths.Lock, lockName)
	for {
		held, err := lock.TryExclusive(path, "timers")
		if busy := (*lock.HeldError)(nil); !errors.As(err, &busy) {
			return held, err
		}
		if err := lock.Wait(ctx, path); err != nil {
			return nil, fmt.Errorf("wait for another start-timers or stop-timers: %w", err)
		}
	}
}

// reconcile is one round of Start. Changed is when the configuration was last changed.
func (s *Scheduler) reconcile(
	ctx context.Context, manager Manager, cfg *config.Config, changed time.Time, dryRun bool,
) (Report, error) {
	wanted, err := s.want(ctx, cfg)
	if err != nil {
		return Report{}, err
	}
	loaded, err := manager.Timers(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("list the timers: %w", err)
	}
	cfg.Add(wanted.Problems...)
	report := Report{DryRun: dryRun, Problems: cfg.Errors()}
	have := report.setAside(cfg, wanted, loaded)
	change := units.Diff(wanted.Timers, have)
	change.RemoveStamps = true
	report.describe(change, have)
	if dryRun {
		return report, nil
	}

	maps.Copy(report.Refused, manager.Apply(ctx, change))
	report.forget(report.Refused)
	return report, s.refreshMetrics(ctx, manager, cfg, wanted, report, changed)
}

// setAside returns the loaded timers that may be judged by what is wanted, without those that are to stay as they are.
func (r *Report) setAside(cfg *config.Config, wanted Wanted, loaded []units.LoadedTimer) []units.LoadedTimer {
	var have []units.LoadedTimer
	for _, t := range loaded {
		switch {
		case !t.Ours || !wanted.keeps(cfg, t.ID):
			have = append(have, t)
		case wanted.Undecided[t.ID]:
			r.Undecided = append(r.Undecided, t.ID)
		default:
			r.Kept = append(r.Kept, t.ID)
		}
	}
	return have
}

// describe puts the difference into the report, as it will be once it is applied.
func (r *Report) describe(change units.Change, have []units.LoadedTimer) {
	loaded := make(map[string]units.LoadedTimer, len(have))
	for _, t := range have {
		loaded[t.ID] = t
	}
	r.Started, r.Stopped = change.Start, change.Stop
	for _, t := range change.Replace {
		r.Replaced = append(r.Replaced, Replacement{ID: t.ID, Differences: differences(loaded[t.ID], t)})
	}
	r.Unchanged = len(change.Unchanged)
	r.Refused = map[string]error{}
	for _, id := range change.Foreign {
		r.Refused[id] = fmt.Errorf("%s is a unit of somebody else's: it was left alone, and the backup has no timer", units.TimerName(id))
	}
}

// forget takes back what the manager refused.
func (r *Report) forget(refused map[string]error) {
	r.Started = slices.DeleteFunc(slices.Clone(r.Started), func(t units.Timer) bool { return refused[t.ID] != nil })
	r.Replaced = slices.DeleteFunc(r.Replaced, func(c Replacement) bool { return refused[c.ID] != nil })
	r.Stopped = slices.DeleteFunc(slices.Clone(r.Stopped), func(id string) bool { return refused[id] != nil })
}

// add joins a further round to a report: what was done adds up, what is wrong is what the last round found.
func (r *Report) add(next Report) {
	next.Started = append(r.Started, next.Started...)
	next.Replaced = append(r.Replaced, next.Replaced...)
	next.Stopped = append(r.Stopped, next.Stopped...)
	*r = next
}

// String is the report in one line, as in "2 timers started, 1 replaced, 197 unchanged".
func (r Report) String() string {
	var parts []string
	for _, part := range []struct {
		count int
		word  string
	}{
		{len(r.Started), "started"},
		{len(r.Replaced), "replaced"},
		{len(r.Stopped), "stopped"},
		{r.Unchanged, "unchanged"},
		{len(r.Undecided) + len(r.Kept), "left alone"},
		{len(r.Refused), "refused"},
	} {
		switch {
		case part.count == 0:
		case len(parts) > 0:
			parts = append(parts, fmt.Sprintf("%d %s", part.count, part.word))
		case part.count == 1:
			parts = append(parts, "1 timer "+part.word)
		default:
			parts = append(parts, fmt.Sprintf("%d timers %s", part.count, part.word))
		}
	}
	if len(parts) == 0 {
		return "no timers"
	}
	return strings.Join(parts, ", ")
}

// differences tells property by property what sets the wanted timer apart from the loaded one.
func differences(loaded units.LoadedTimer, wanted units.Timer) []string {
	var list []string
	property := func(name, old, now string) {
		if old != now {
			list = append(list, fmt.Sprintf("%s: %s -> %s", name, old, now))
		}
	}
	property("Description", loaded.Description, wanted.Description)
	property("OnCalendar", expressions(loaded.Timer), expressions(wanted))
	property("RandomizedDelaySec", loaded.RandomizedDelay.String(), wanted.RandomizedDelay.String())
	property("AccuracySec", loaded.Accuracy.String(), wanted.Accuracy.String())
	property("Persistent", fmt.Sprint(loaded.Persistent), fmt.Sprint(wanted.Persistent))
	if !loaded.Active {
		list = append(list, "it is not active")
	}
	return list
}

// expressions joins the expressions of a timer; their order does not matter.
func expressions(t units.Timer) string {
	return strings.Join(slices.Sorted(slices.Values(t.OnCalendar)), ", ")
}

// Stop stops every timer of ours. Their stamps stay: when they are started again, what was missed meanwhile is caught up.
func (s *Scheduler) Stop(ctx context.Context) (Report, error) {
	if err := s.mayChange(); err != nil {
		return Report{}, err
	}
	manager, err := s.Dial(ctx)
	if err != nil {
		return Report{}, err
	}
	defer manager.Close()
	held, err := s.lock(ctx)
	if err != nil {
		return Report{}, err
	}
	defer held.Release()
	loaded, err := manager.Timers(ctx)
	if err != nil {
		return Report{}, fmt.Errorf("list the timers: %w", err)
	}
	var change units.Change
	for _, t := range loaded {
		if t.Ours {
			change.Stop = append(change.Stop, t.ID)
		}
	}
	report := Report{Stopped: change.Stop}
	report.Refused = manager.Apply(ctx, change)
	report.forget(report.Refused)
	return report, nil
}
