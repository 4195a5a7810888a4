package schedule

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/units"
)

// fakeManager is a manager in memory.
type fakeManager struct {
	loaded  map[string]units.LoadedTimer
	refuse  map[string]error
	applied []units.Change
	reset   []string
	onApply func()
}

func (m *fakeManager) Close() {}

func (m *fakeManager) ResetFailed(_ context.Context, id string) error {
	m.reset = append(m.reset, id)
	return nil
}

func (m *fakeManager) Timers(context.Context) ([]units.LoadedTimer, error) {
	var list []units.LoadedTimer
	for _, t := range m.loaded {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b units.LoadedTimer) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

func (m *fakeManager) Apply(_ context.Context, change units.Change) map[string]error {
	m.applied = append(m.applied, change)
	failed := map[string]error{}
	start := func(t units.Timer) {
		if err := m.refuse[t.ID]; err != nil {
			failed[t.ID] = err
			return
		}
		m.loaded[t.ID] = ours(t)
	}
	for _, t := range change.Start {
		start(t)
	}
	for _, t := range change.Replace {
		start(t)
	}
	for _, id := range change.Stop {
		delete(m.loaded, id)
	}
	if m.onApply != nil {
		m.onApply()
	}
	return failed
}

// elapse is when every timer of the fake manager elapses next.
var elapse = time.Date(2026, 11, 22, 0, 0, 0, 0, time.UTC)

func ours(t units.Timer) units.LoadedTimer {
	return units.LoadedTimer{Timer: t, Ours: true, Active: true, Next: elapse}
}

// site is a Scheduler over a fake manager, with its configuration and records in folders of its own.
type site struct {
	*Scheduler
	manager *fakeManager
	dir     string
	metrics string
}

func newSite(t testing.TB, files map[string]string) *site {
	t.Helper()
	root := t.TempDir()
	s := &site{
		manager: &fakeManager{loaded: map[string]units.LoadedTimer{}, refuse: map[string]error{}},
		dir:     filepath.Join(root, "etc"), metrics: filepath.Join(root, "textfile"),
	}
	for _, dir := range []string{s.dir, s.metrics} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, s.dir, files)
	write(t, s.dir, map[string]string{"metrics.toml": fmt.Sprintf("[metrics]\ntextfile-dir = %q\n", s.metrics)})
	s.Scheduler = &Scheduler{
		Paths:  config.Paths{Config: []string{s.dir}, State: filepath.Join(root, "state"), Lock: filepath.Join(root, "lock")},
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now:    func() time.Time { return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC) },
		Zone:   time.UTC,
		IsRoot: true,
		Load:   func() *config.Config { return config.Load([]string{s.dir}, nil) },
		Dial:   func(context.Context) (Manager, error) { return s.manager, nil },
		Calendars: func(_ context.Context, expressions []string, _ int) ([]units.Calendar, error) {
			var list []units.Calendar
			for _, c := range judged(expressions) {
				list = append(list, c)
			}
			return list, nil
		},
		Offset: tenMinutes,
	}
	return s
}

func (s *site) start(t testing.TB, dryRun bool) Report {
	t.Helper()
	report, err := s.Start(t.Context(), dryRun)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	return report
}

func TestStart(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1") + backup("2") + backup("3")})
	if got, want := s.start(t, false).String(), "3 timers started"; got != want {
		t.Errorf("first: %s; want %s", got, want)
	}
	if got, want := s.start(t, false).String(), "3 timers unchanged"; got != want {
		t.Errorf("again: %s; want %s", got, want)
	}
	last := s.manager.applied[len(s.manager.applied)-1]
	if len(last.Start)+len(last.Replace)+len(last.Stop) > 0 {
		t.Errorf("an unchanged configuration was applied as %+v", last)
	}

	write(t, s.dir, map[string]string{"a.toml": base + backup("1") + backup("2", `schedule = "hourly"`) +
		backup("4") + backup("3", "enabled = false")})
	dry := s.start(t, true)
	if n := len(s.manager.applied); n != 2 {
		t.Fatalf("a dry run was applied")
	}
	report := s.start(t, false)
	if got, want := report.String(), "1 timer started, 1 replaced, 1 stopped, 1 unchanged"; got != want || dry.String() != want {
		t.Errorf("edited: %s, dry run: %s; want %s", got, dry, want)
	}
	difference := "OnCalendar: *-*-* 00:00:00 -> *-*-* *:00:00"
	if len(report.Replaced) != 1 || !slices.Equal(report.Replaced[0].Differences, []string{difference}) {
		t.Errorf("replaced %+v; want %s", report.Replaced, difference)
	}
	change := s.manager.applied[2]
	if !slices.Equal(change.Stop, []string{"3"}) || !change.RemoveStamps {
		t.Errorf("stopped %v, stamps removed: %v; want backup 3's with its stamp", change.Stop, change.RemoveStamps)
	}
}

func TestStartLeavesAlone(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1") + backup("2"), "b.toml": backup("3")})
	s.start(t, false)

	t.Run("a backup with a bad schedule", func(t *testing.T) {
		write(t, s.dir, map[string]string{"a.toml": base + backup("1", `schedule = "sometimes"`)})
		report := s.start(t, false)
		if got, want := report.String(), "1 timer stopped, 1 unchanged, 1 left alone"; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		if !slices.Equal(report.Undecided, []string{"1"}) || len(errorsBut(report.Problems, config.KindDestination)) != 1 {
			t.Errorf("undecided %v, problems %v; want backup 1", report.Undecided, report.Problems)
		}
	})
	t.Run("what may stand in a broken file", func(t *testing.T) {
		write(t, s.dir, map[string]string{"b.toml": "[backup.3\n"})
		report := s.start(t, false)
		if got, want := report.String(), "2 timers left alone"; got != want {
			t.Errorf("%s; want %s", got, want)
		}
		if !slices.Equal(report.Kept, []string{"3"}) {
			t.Errorf("kept %v; want backup 3", report.Kept)
		}
	})
	t.Run("a unit of somebody else's", func(t *testing.T) {
		foreign := units.LoadedTimer{Timer: units.Timer{ID: "x", OnCalendar: []string{"*-*-* 12:00:00"}}, Active: true}
		s.manager.loaded["x"] = foreign
		write(t, s.dir, map[string]string{"a.toml": base + backup("x"), "b.toml": ""})
		report := s.start(t, false)
		if report.Refused["x"] == nil || s.manager.loaded["x"].Ours {
			t.Errorf("refused %v; want a foreign backup@x.timer named and left alone", report.Refused)
		}
		write(t, s.dir, map[string]string{"a.toml": base})
		s.start(t, false)
		if _, there := s.manager.loaded["x"]; !there {
			t.Error("a foreign backup@x.timer was stopped")
		}
	})
}

func TestStartRefused(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1") + backup("2")})
	s.manager.refuse["1"] = errors.New("job failed")
	report := s.start(t, false)
	if report.Refused["1"] == nil || report.String() != "1 timer started, 1 refused" {
		t.Errorf("%s, refused %v; want backup 1 refused", report, report.Refused)
	}
}

// TestStartWhileEdited: the path unit tells nothing of changes while start-timers is at work, so it looks itself.
func TestStartWhileEdited(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1")})
	s.manager.onApply = func() {
		if len(s.manager.applied) == 1 {
			write(t, s.dir, map[string]string{"b.toml": backup("2")})
		}
	}
	report := s.start(t, false)
	if s.manager.loaded["2"].ID != "2" || len(report.Started) != 2 {
		t.Errorf("%s; want the backup that was added meanwhile started too", report)
	}

	s.manager.onApply = func() { write(t, s.dir, map[string]string{"c.toml": fmt.Sprintf("# %d\n", len(s.manager.applied))}) }
	write(t, s.dir, map[string]string{"c.toml": "# 0\n"})
	n := len(s.manager.applied)
	if _, err := s.Start(t.Context(), false); err == nil || !strings.Contains(err.Error(), "run start-timers again") {
		t.Errorf("a configuration that never comes to rest: error %v", err)
	}
	if rounds := len(s.manager.applied) - n; rounds != maxRounds {
		t.Errorf("%d rounds; want %d", rounds, maxRounds)
	}
}

func TestStartRecovers(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1")})
	calls := 0
	s.Recover = func(_ context.Context, cfg *config.Config) error {
		calls++
		if cfg.Backups["1"] == nil {
			t.Error("Recover was not given the configuration")
		}
		return errors.New("disk full")
	}
	report, err := s.Start(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "disk full") || calls != 1 {
		t.Errorf("%d calls, error %v; want one, and its error told", calls, err)
	}
	if len(report.Started) != 1 {
		t.Errorf("%s; want the timer started all the same", report)
	}
	if s.start(t, true); calls != 1 {
		t.Error("a dry run recovered")
	}
}

func TestStop(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1") + backup("2")})
	s.start(t, false)
	s.manager.loaded["x"] = units.LoadedTimer{Timer: units.Timer{ID: "x"}, Active: true}
	report, err := s.Stop(t.Context())
	if err != nil || report.String() != "2 timers stopped" {
		t.Errorf("%s, %v; want 2 timers stopped", report, err)
	}
	if _, there := s.manager.loaded["x"]; !there || len(s.manager.loaded) != 1 {
		t.Errorf("left are %v; want only the foreign one", s.manager.loaded)
	}
	if s.manager.applied[1].RemoveStamps {
		t.Error("stamps were removed: what is missed until the next start would not be caught up")
	}
}

func TestNotRoot(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1")})
	s.IsRoot = false
	if _, err := s.Start(t.Context(), false); !errors.Is(err, ErrNotRoot) {
		t.Errorf("Start: %v; want ErrNotRoot", err)
	}
	if _, err := s.Stop(t.Context()); !errors.Is(err, ErrNotRoot) {
		t.Errorf("Stop: %v; want ErrNotRoot", err)
	}
	if report, err := s.Start(t.Context(), true); err != nil || len(report.Started) != 1 {
		t.Errorf("dry run: %s, %v; want it to work for everybody", report, err)
	}
	s.Paths.User = true
	s.start(t, false)
}
