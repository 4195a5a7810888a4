package schedule

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
	"sdbackup/internal/units"
)

// TimerEntry is one line of list-timers: what the manager says of a timer, and the records of its backup.
type TimerEntry struct {
	Backup  string         `json:"backup"`
	Name    string         `json:"name"`
	Unit    string         `json:"unit"`
	Next    time.Time      `json:"next,omitzero"` // zero: none, or a run is under way
	Last    time.Time      `json:"last,omitzero"` // when the last run began; zero: never
	Result  string         `json:"result"`        // of the last run, "" before the first; see result
	Verdict status.Outcome `json:"verdict,omitempty"`
	Service string         `json:"service_result,omitempty"` // of the service, systemd.service(5)
	Running bool           `json:"running"`
	Loaded  bool           `json:"loaded"`
	Problem string         `json:"problem,omitempty"` // why an enabled backup has no next elapse
}

// TimerList is what list-timers shows.
type TimerList struct {
	Timers   []TimerEntry
	Problems []config.Problem // errors of the configuration
}

// Timers lists the timers of all enabled backups, and those that are loaded without being asked for, by their next elapse.
func (s *Scheduler) Timers(ctx context.Context) (TimerList, error) {
	cfg := s.Load()
	manager, err := s.Dial(ctx)
	if err != nil {
		return TimerList{}, err
	}
	defer manager.Close()
	loaded, err := manager.Timers(ctx)
	if err != nil {
		return TimerList{}, fmt.Errorf("list the timers: %w", err)
	}

	list := TimerList{Problems: cfg.Errors()}
	seen := make(map[string]bool, len(loaded))
	for _, t := range loaded {
		b := cfg.Job(t.ID)
		if !t.Ours && b == nil {
			continue
		}
		seen[t.ID] = true
		list.Timers = append(list.Timers, s.entry(t, b))
	}
	for _, id := range cfg.JobIDs() {
		b := cfg.Job(id)
		if seen[id] || !b.Enabled {
			continue
		}
		verdict, rec := s.verdict(id)
		e := TimerEntry{
			Backup: id, Name: b.Name, Unit: units.TimerName(id), Verdict: verdict, Result: result(verdict, ""),
			Problem: "its timer is not loaded: run schedule-backup start-timers",
		}
		if rec != nil {
			e.Last = rec.LastRun.Start
		}
		list.Timers = append(list.Timers, e)
	}
	order := map[string]int{} // those that are gone come last
	ids := cfg.JobIDs()
	for i, id := range ids {
		order[id] = i - len(ids)
	}
	slices.SortStableFunc(list.Timers, func(a, b TimerEntry) int {
		if a.Next.IsZero() != b.Next.IsZero() {
			if a.Next.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(a.Next.Compare(b.Next), cmp.Compare(order[a.Backup], order[b.Backup]))
	})
	return list, nil
}

// entry describes a loaded timer; b is nil when the configuration does not know it.
func (s *Scheduler) entry(t units.LoadedTimer, b *config.Backup) TimerEntry {
	e := TimerEntry{
		Backup: t.ID, Name: t.Description, Unit: units.TimerName(t.ID), Next: t.Next, Last: t.Last,
		Service: t.ServiceResult, Running: t.ServiceActive, Loaded: true,
	}
	var rec *status.Backup
	e.Verdict, rec = s.verdict(t.ID)
	service := t.ServiceResult
	switch {
	case t.ServiceActive:
		service = "" // it is that of no run
	case service == "success" || rec != nil && rec.LastRun.Start.After(t.Last):
		// Either the records are as good, or a person ran it since, and what the service came to before no longer matters.
		// The manager makes up when a timer elapsed that never did, and calls a service successful that never ran.
		service = ""
		switch {
		case rec != nil:
			e.Last = rec.LastRun.Start
		case e.Verdict == status.Unknown:
			e.Last = time.Time{}
		}
	}
	e.Result = result(e.Verdict, service)
	if b == nil {
		return e
	}
	e.Name = b.Name
	switch {
	case !b.Enabled:
	case !t.Ours:
		e.Problem = "its timer is a unit of somebody else's"
	case !t.Active:
		e.Problem = "its timer is not active: run schedule-backup start-timers"
	case t.Next.IsZero() && !t.ServiceActive:
		e.Problem = "its timer never elapses again: see its schedule"
	}
	return e
}

// result joins the verdict on record with what the manager says of the service, and lets the worse one count: a service can
// fail without a verdict, say when it could not be started. It is "" where nothing has run, or nothing is known.
func result(verdict status.Outcome, service string) string {
	if service == "exit-code" && verdict == status.Conflict {
		return string(verdict) // it is how a conflict exits
	}
	if service != "" && verdict != status.Failed {
		return fmt.Sprintf("%s (%s)", status.Failed, service)
	}
	if verdict == status.Unknown {
		return ""
	}
	return string(verdict)
}
