package schedule

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/units"
)

func TestCheck(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base +
		backup("1", `schedule = ["daily", "02:30"]`) +
		backup("2", `schedule = "sometimes"`) +
		backup("3", `schedule = "2020-1-1"`)})
	s.Zone = zone(t, "Europe/Berlin")
	j, err := s.Check(t.Context(), 0)
	if err != nil || j.Valid() {
		t.Fatalf("valid %v, error %v; want invalid", j.Valid(), err)
	}
	for _, want := range []struct {
		text    string
		warning bool
	}{
		{`backup.1.schedule: "*-*-* 02:30:00" is between 01:00 and 03:00`, true},
		{`backup.2.schedule: "sometimes" is no OnCalendar expression: invalid argument`, false},
		{`backup.3.schedule: "2020-1-1" never elapses again`, true},
	} {
		found := false
		for _, p := range j.Problems {
			if strings.Contains(p.Key+": "+p.Message, want.text) {
				found = true
				if p.Warning != want.warning || p.Line == 0 {
					t.Errorf("%+v; want warning = %v, and a line", p, want.warning)
				}
			}
		}
		if !found {
			t.Errorf("no problem %q in %v", want.text, j.Problems)
		}
	}
}

func TestCheckElapses(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base +
		backup("1", `schedule = ["daily", "hourly"]`) + backup("2", `schedule = "daily"`, `randomized-offset = "1h"`)})
	midnight := time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)
	s.Calendars = func(_ context.Context, expressions []string, n int) ([]units.Calendar, error) {
		var list []units.Calendar
		for _, c := range judged(expressions) {
			step, first := 24*time.Hour, midnight
			if strings.Contains(c.Normalized, " *:") {
				step = time.Hour
			}
			if strings.Contains(c.Normalized, "00:10") {
				first = first.Add(10 * time.Minute)
			}
			c.Next = nil
			for i := range n {
				c.Next = append(c.Next, first.Add(time.Duration(i)*step))
			}
			list = append(list, c)
		}
		return list, nil
	}
	j, err := s.Check(t.Context(), 3)
	if err != nil || len(j.Elapses) != 2 {
		t.Fatalf("%+v, %v; want the elapses of two backups", j.Elapses, err)
	}
	for i, want := range []string{"[00:00 01:00 02:00]", "[00:10 00:10 00:10]"} {
		var got []string
		for _, next := range j.Elapses[i].Next {
			got = append(got, next.UTC().Format("15:04"))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("backup %s elapses at %v; want %s", j.Elapses[i].Backup, got, want)
		}
	}
}

func TestCheckWithoutAnalyze(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1")})
	s.Calendars = func(context.Context, []string, int) ([]units.Calendar, error) {
		return nil, fmt.Errorf("look for it: %w", units.ErrNoAnalyze)
	}
	j, err := s.Check(t.Context(), 5)
	if err != nil || !j.Unjudged {
		t.Errorf("unjudged %v, error %v; want a judgement without schedules", j.Unjudged, err)
	}
	if _, err := s.Start(t.Context(), false); err == nil {
		t.Error("Start went on without knowing what the expressions mean")
	}
}
