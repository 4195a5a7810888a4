package schedule

import (
	"context"
	"errors"
	"slices"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/units"
)

// Judgement is what Check says of a configuration.
type Judgement struct {
	Problems []config.Problem // errors and warnings, by file and line
	Elapses  []Elapses        // of the enabled backups whose schedule can be read; only where asked for
	Unjudged bool             // systemd-analyze is missing: expressions were not looked at
}

// Elapses is when a backup's timer elapses next.
type Elapses struct {
	Backup          string        `json:"backup"`
	Name            string        `json:"name"`
	OnCalendar      []string      `json:"on_calendar"` // normalized, with the backup's offset
	RandomizedDelay time.Duration `json:"-"`
	Next            []time.Time   `json:"next"`
}

// Valid tells whether there are no errors.
func (j Judgement) Valid() bool { return !hasError(j.Problems) }

// Check validates the whole configuration, without a manager, a network or root, and computes the next elapses of every
// backup, n of each.
func (s *Scheduler) Check(ctx context.Context, n int) (Judgement, error) {
	cfg := s.Load()
	wanted, err := s.want(ctx, cfg)
	if errors.Is(err, units.ErrNoAnalyze) {
		return Judgement{Problems: cfg.Problems, Unjudged: true}, nil
	}
	if err != nil {
		return Judgement{}, err
	}
	cfg.Add(wanted.Problems...)
	for _, t := range wanted.Timers {
		cfg.Add(s.skipped(cfg, t)...)
	}
	j := Judgement{Problems: cfg.Problems}
	if n > 0 {
		j.Elapses, err = s.elapses(ctx, wanted.Timers, n)
	}
	return j, err
}

// skipped warns of a timer's local times that do not exist in the night when daylight saving begins.
func (s *Scheduler) skipped(cfg *config.Config, t units.Timer) []config.Problem {
	for _, e := range t.OnCalendar {
		zone, risky := skippedByDST(e, s.Zone, s.Now())
		if !risky {
			continue
		}
		p := problemOf(cfg, cfg.Job(t.ID), "schedule",
			"%q is between 01:00 and 03:00, which daylight saving time can skip or repeat in %s: use another hour, or append UTC", e, zone)
		p.Warning = true
		return []config.Problem{p}
	}
	return nil
}

// elapses asks systemd for the next n elapses of each timer.
func (s *Scheduler) elapses(ctx context.Context, timers []units.Timer, n int) ([]Elapses, error) {
	var all []string
	seen := map[string]bool{}
	for _, t := range timers {
		for _, e := range t.OnCalendar {
			if !seen[e] {
				seen[e] = true
				all = append(all, e)
			}
		}
	}
	calendars, err := s.judge(ctx, all, n)
	if err != nil {
		return nil, err
	}
	list := make([]Elapses, 0, len(timers))
	for _, t := range timers {
		e := Elapses{Backup: t.ID, Name: t.Description, OnCalendar: t.OnCalendar, RandomizedDelay: t.RandomizedDelay}
		for _, expression := range t.OnCalendar {
			e.Next = append(e.Next, calendars[expression].Next...)
		}
		slices.SortFunc(e.Next, time.Time.Compare)
		e.Next = slices.CompactFunc(e.Next, time.Time.Equal)
		e.Next = e.Next[:min(n, len(e.Next))]
		list = append(list, e)
	}
	return list, nil
}
