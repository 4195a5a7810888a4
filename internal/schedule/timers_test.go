package schedule

import (
	"testing"
	"time"

	"sdbackup/internal/status"
	"sdbackup/internal/units"
)

func TestResult(t *testing.T) {
	for _, tt := range []struct {
		name    string
		verdict status.Outcome
		service string
		want    string
	}{
		{"never ran", status.Unknown, "", ""},
		{"saved", status.Success, "", "success"},
		{"failed", status.Failed, "exit-code", "failed"},
		{"failed and killed", status.Failed, "oom-kill", "failed"},
		{"conflict exits with a code", status.Conflict, "exit-code", "conflict"},
		{"conflict, then killed", status.Conflict, "signal", "failed (signal)"},
		{"saved, then could not be started", status.Success, "resources", "failed (resources)"},
		{"died without a verdict", status.Unknown, "timeout", "failed (timeout)"},
		{"partial", status.Partial, "", "partial"},
		{"records cannot be read, failed", "", "exit-code", "failed (exit-code)"},
		{"nothing is known", "", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := result(tt.verdict, tt.service); got != tt.want {
				t.Errorf("result(%q, %q) = %q; want %q", tt.verdict, tt.service, got, tt.want)
			}
		})
	}
}

func TestTimers(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1", `name = "Nightly"`) + backup("2") + backup("3") +
		backup("4", "enabled = false") + backup("5") + backup("6")})
	loaded := func(id string, change func(*units.LoadedTimer)) {
		l := ours(units.Timer{ID: id, Description: "loaded " + id})
		if change != nil {
			change(&l)
		}
		s.manager.loaded[id] = l
	}
	earlier := s.Now().Add(-2 * time.Hour)
	s.ran(t, "1", status.Success) // an hour ago
	s.ran(t, "2", status.Success)
	loaded("1", func(l *units.LoadedTimer) { l.Last, l.ServiceResult = earlier, "exit-code" })
	loaded("2", func(l *units.LoadedTimer) { // started after the verdict on record
		l.Last, l.ServiceResult, l.Next = s.Now().Add(-time.Minute), "resources", elapse.Add(-time.Hour)
	})
	loaded("3", func(l *units.LoadedTimer) { l.Next = time.Time{} })
	loaded("5", func(l *units.LoadedTimer) { l.Next, l.ServiceActive = time.Time{}, true })
	loaded("gone", func(l *units.LoadedTimer) { l.Last, l.ServiceResult = earlier, "success" }) // as the stamp has it
	loaded("foreign", func(l *units.LoadedTimer) { l.Ours = false })

	list, err := s.Timers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const notLoaded = "its timer is not loaded: run schedule-backup start-timers"
	want := []TimerEntry{
		{Backup: "2", Name: "Backup 2", Result: "failed (resources)"},
		{Backup: "1", Name: "Nightly", Result: "success"}, // run by hand since the timer's run failed
		{Backup: "gone", Name: "loaded gone", Result: ""},
		{Backup: "3", Name: "Backup 3", Problem: "its timer never elapses again: see its schedule"},
		{Backup: "5", Name: "Backup 5", Running: true},
		{Backup: "6", Name: "Backup 6", Problem: notLoaded},
	}
	if len(list.Timers) != len(want) {
		t.Fatalf("%d timers; want %d\n%+v", len(list.Timers), len(want), list.Timers)
	}
	for i, w := range want {
		got := list.Timers[i]
		if w.Backup == "gone" && !got.Last.IsZero() {
			t.Errorf("a backup without records ran at %s", got.Last)
		}
		if got.Backup != w.Backup || got.Name != w.Name || got.Result != w.Result || got.Problem != w.Problem || got.Running != w.Running {
			t.Errorf("line %d is %+v; want %+v", i, got, w)
		}
	}
}

func TestBackups(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + `
[module.mail1]
type = "mail"
uuid = "0c0b2d4e-7a0c-4e4c-9d4f-6a0e0d3c1b2a"
directory = "/var/mail"
include = ["."]
` + backup("1") + backup("2", "enabled = false")})
	s.ran(t, "1", status.Success)
	saved := s.Now().Add(-time.Hour)
	record := status.Module{LastSuccess: saved}
	record.Module, record.Backup, record.Outcome, record.SizeBytes = "wiki1", "1", status.Failed, 1<<20
	if err := s.store().SaveModule("1", "wiki1", &record); err != nil {
		t.Fatal(err)
	}
	list := s.Backups()
	if len(list.Backups) != 2 || len(list.Uncovered) != 1 || list.Uncovered[0] != "mail1" {
		t.Fatalf("%+v; want two backups, and mail1 in none", list)
	}
	one, two := list.Backups[0], list.Backups[1]
	if one.Verdict != status.Success || !one.Enabled || len(one.Modules) != 1 {
		t.Errorf("backup 1 is %+v", one)
	}
	if m := one.Modules[0]; m.Verdict != status.Failed || m.SizeBytes != 1<<20 || !m.LastSuccess.Equal(saved) || m.Type != "dokuwiki" {
		t.Errorf("its module is %+v", m)
	}
	if two.Verdict != status.Unknown || two.Enabled || two.Modules[0].Verdict != status.Unknown {
		t.Errorf("backup 2 is %+v; want nothing known of it", two)
	}
}
