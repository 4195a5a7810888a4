package schedule

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/promfile"
	"sdbackup/internal/status"
)

// ran puts an ended run of a backup on record.
func (s *site) ran(t testing.TB, id string, outcome status.Outcome) {
	t.Helper()
	end := s.Now().Add(-time.Hour)
	run := status.Run{ID: "run-of-" + id, Backup: id, Name: "Backup " + id, Start: end.Add(-time.Minute), End: end, Outcome: outcome}
	if err := s.store().End(run); err != nil {
		t.Fatal(err)
	}
}

func (s *site) textfile(t testing.TB, id string) string {
	t.Helper()
	text, err := os.ReadFile(textfile(s.metrics, id))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (s *site) textfiles(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(s.metrics)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestMetricsAreMadeAnew(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1") + backup("2") + backup("3")})
	s.ran(t, "1", status.Failed)
	s.ran(t, "2", status.Success)
	s.start(t, false)
	if got, want := s.textfiles(t), []string{"backup1.prom", "backup2.prom"}; !slices.Equal(got, want) {
		t.Fatalf("textfiles %v; want %v: the third backup never ran", got, want)
	}
	for id, line := range map[string]string{
		"1": `node_backup_status{id="1",name="Backup 1"} 0`,
		"2": `node_backup_status{id="2",name="Backup 2"} 1`,
	} {
		if text := s.textfile(t, id); !strings.Contains(text, line) {
			t.Errorf("backup %s: no %s in\n%s", id, line, text)
		}
	}
	if text := s.textfile(t, "1"); !strings.Contains(text, "node_backup_next_run_timestamp_seconds{") {
		t.Errorf("no next run in\n%s", text)
	}

	// A folder on a tmpfs is empty after a reboot, while the timers may be there already.
	if err := os.Remove(textfile(s.metrics, "1")); err != nil {
		t.Fatal(err)
	}
	before := s.stat(t, "2")
	s.start(t, false)
	if text := s.textfile(t, "1"); !strings.Contains(text, `node_backup_status{id="1",name="Backup 1"} 0`) {
		t.Errorf("made anew is\n%s", text)
	}
	if !os.SameFile(before, s.stat(t, "2")) {
		t.Error("an unchanged textfile was written again")
	}

	// A backup's name is a label.
	write(t, s.dir, map[string]string{"a.toml": base + backup("1", `name = "Nightly"`) + backup("2") + backup("3")})
	s.start(t, false)
	if text := s.textfile(t, "1"); !strings.Contains(text, `name="Nightly"`) || strings.Contains(text, `name="Backup 1"`) {
		t.Errorf("renamed is\n%s", text)
	}
	if !os.SameFile(before, s.stat(t, "2")) {
		t.Error("a textfile whose content is unchanged was written again")
	}
}

func (s *site) stat(t testing.TB, id string) os.FileInfo {
	t.Helper()
	info, err := os.Stat(textfile(s.metrics, id))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestMetricsOfGoneBackups(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1") + backup("2") + backup("3"), "b.toml": backup("4")})
	for _, id := range []string{"1", "2", "3", "4"} {
		s.ran(t, id, status.Success)
	}
	write(t, s.metrics, map[string]string{"backupjob.prom": "# HELP other other\n# TYPE other gauge\nother 1\n", "node.prom": ""})
	s.start(t, false)

	write(t, s.dir, map[string]string{
		"a.toml": base + backup("1", "enabled = false") + backup("3", `schedule = "sometimes"`), "b.toml": "[backup.4\n",
	})
	s.start(t, false)
	// 2 may stand in the file that cannot be read.
	kept := []string{"backup2.prom", "backup3.prom", "backup4.prom", "backupjob.prom", "node.prom"}
	if got := s.textfiles(t); !slices.Equal(got, kept) {
		t.Errorf("textfiles %v; want %v", got, kept)
	}

	write(t, s.dir, map[string]string{"b.toml": ""})
	s.start(t, false)
	if got, want := s.textfiles(t), []string{"backup3.prom", "backupjob.prom", "node.prom"}; !slices.Equal(got, want) {
		t.Errorf("textfiles %v; want %v", got, want)
	}
	slices.Sort(s.manager.reset)
	if want := []string{"1", "2", "4"}; !slices.Equal(s.manager.reset, want) {
		t.Errorf("failed units reset of %v; want %v", s.manager.reset, want)
	}
}

// TestMetricsDuringRun: a run is under way from its marker on, until its verdict is on record; not while it calls hooks.
func TestMetricsDuringRun(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1")})
	s.ran(t, "1", status.Failed)
	begin := func(run string) {
		if err := s.store().Begin(status.Running{ID: run, Backup: "1", Name: "Backup 1", Start: s.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	for run, want := range map[string]string{
		"another":  `node_backup_running{id="1",name="Backup 1"} 1`,
		"run-of-1": `node_backup_running{id="1",name="Backup 1"} 0`,
	} {
		begin(run)
		os.Remove(textfile(s.metrics, "1"))
		s.start(t, false)
		if text := s.textfile(t, "1"); !strings.Contains(text, want) || !strings.Contains(text, `node_backup_status{id="1",name="Backup 1"} 0`) {
			t.Errorf("run %s: no %s, or another verdict, in\n%s", run, want, text)
		}
	}
}

func TestMetricsFolderMissing(t *testing.T) {
	s := newSite(t, map[string]string{"a.toml": base + backup("1")})
	s.ran(t, "1", status.Success)
	if err := os.Remove(s.metrics); err != nil {
		t.Fatal(err)
	}
	report, err := s.Start(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "backup 1: write its metrics") {
		t.Errorf("error %v; want the metrics told that cannot be written", err)
	}
	if len(report.Started) != 1 {
		t.Errorf("%s; want the timer started all the same", report)
	}
}

func TestTextfileName(t *testing.T) {
	dir := t.TempDir()
	sample := promfile.FromRecords("a-1", "A", nil, nil, false, time.Time{})
	if err := promfile.Write(dir, sample); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(textfile(dir, "a-1")); err != nil {
		t.Errorf("promfile writes to another name: %v", err)
	}
}
