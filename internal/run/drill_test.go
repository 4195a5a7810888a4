package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

func TestFate(t *testing.T) {
	for want, vars := range map[string]map[string]string{
		"":                           {"SERVICE_RESULT": "success"},
		"result signal, killed KILL": {"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"},
	} {
		if got := Fate(func(key string) string { return vars[key] }); got != want {
			t.Errorf("Fate(%v) = %q; want %q", vars, got, want)
		}
	}
}

// Every backup that saves the module has its turn, whatever its last one came to, and tells by its own hook and metrics of it alone.
func TestDrillTurns(t *testing.T) {
	dir := t.TempDir()
	good, bad := status.Result{Outcome: status.Success, Files: 3, SizeBytes: 30}, broken
	s := &script{results: map[string][]status.Result{"a": {good, bad, good, good}}}
	r, b := newRunner(t, s, "a")
	other := *b
	other.ID, other.Name = "2", "Weekly"
	b.OnFailure, other.OnFailure = []string{"touch", dir + "/1"}, []string{"sh", "-c", "echo $BACKUP_ID >> " + dir + "/2"}
	b.OnSuccess, b.Retention = []string{"touch", dir + "/1"}, config.Retention{KeepLast: 1}
	disabled := *b
	disabled.ID, disabled.Enabled = "3", false
	b.Enabled, other.Enabled = true, true
	r.Config.Backups["2"], r.Config.Backups["3"] = &other, &disabled
	r.Config.Modules["a"].Drill = config.Drill{Schedule: []string{"monthly"}, Sample: 100}
	due := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	r.Next = func(_ context.Context, b *config.Backup) time.Time {
		if b.ID != "drill@a" {
			return time.Time{}
		}
		return due
	}
	for i, want := range []struct{ of, status1, status2 string }{{"1", "1", "-1"}, {"2", "1", "0"}, {"1", "1", "0"}, {"2", "1", "1"}} {
		run, err := r.Backup(t.Context(), "drill@a")
		if err != nil || run.Backup != "drill@a" {
			t.Fatalf("drill %d: %+v, %v", i, run, err)
		}
		if plan := s.plans[i]; plan.Check != nil || !plan.Retention.IsZero() {
			t.Errorf("drill %d: plan %+v", i, plan)
		}
		rec, err := r.Store.Module("drill@a", "a")
		if err != nil || rec.Drill == nil || rec.Drill.Backup != want.of {
			t.Fatalf("drill %d is of %+v, %v; want backup %s", i, rec.Drill, err, want.of)
		}
		for id, value := range map[string]string{"1": want.status1, "2": want.status2} {
			data, err := os.ReadFile(filepath.Join(r.Config.Metrics.TextfileDir, "backup"+id+".prom"))
			if err != nil {
				t.Fatal(err)
			}
			line := fmt.Sprintf("node_backup_module_drill_status{id=%q,module=\"a\",name=%q} %s\n", id, r.Config.Backups[id].Name, value)
			if !strings.Contains(string(data), line) || !strings.Contains(string(data), `node_backup_module_drill_due_timestamp_seconds{id="`+id) {
				t.Errorf("drill %d: no %s in\n%s", i, line, data)
			}
		}
	}
	if _, err := os.Stat(dir + "/1"); err == nil {
		t.Error("the hook of a backup was run whose turn it was not, or that of a success")
	}
	if told, _ := os.ReadFile(dir + "/2"); string(told) != "drill@a\n" {
		t.Errorf("the hook of the backup whose snapshots are bad was told %q", told)
	}
	if files, _ := filepath.Glob(filepath.Join(r.Config.Metrics.TextfileDir, "*")); len(files) != 2 {
		t.Errorf("textfiles %v; want those of the two backups", files)
	}
	if _, err := r.Backup(t.Context(), "drill@b"); !errors.Is(err, ErrConfiguration) || !strings.Contains(err.Error(), "there is no module b") {
		t.Errorf("a drill of no module: %v", err)
	}

	// A mistake that keeps it from restoring anything is not taken for the last success.
	r.Config.Problems = []config.Problem{{Kind: config.KindBackup, ID: "1", Key: "backup.1.destination", Message: "is missing"}}
	if run, err := r.Backup(t.Context(), "drill@a"); !errors.Is(err, ErrConfiguration) || run.Outcome != status.Failed {
		t.Errorf("with a mistake in the configuration: %+v, %v", run, err)
	}
	data, _ := os.ReadFile(filepath.Join(r.Config.Metrics.TextfileDir, "backup2.prom"))
	if !strings.Contains(string(data), `node_backup_module_drill_status{id="2",module="a",name="Weekly"} 0`) {
		t.Errorf("after a mistake in the configuration:\n%s", data)
	}
}

// A drill that was killed is recorded as a failure of the backup whose turn it was, and what it restored is removed.
func TestDrillRecovered(t *testing.T) {
	r, b := newRunner(t, &script{}, "a")
	b.Enabled = true
	r.Config.Modules["a"].Drill = config.Drill{Schedule: []string{"monthly"}}
	folder, err := MakeDrillFolder(r.Paths, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(folder+"/restored/locked/x", 0o700), os.Chmod(folder+"/restored/locked", 0)); err != nil {
		t.Fatal(err)
	}
	if err := r.Store.Begin(status.Running{ID: "dead", Backup: "drill@a", Name: "Drill", Start: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := r.RecoverAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(folder); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was restored is still there: %v", err)
	}
	rec, err := r.Store.Module("drill@a", "a")
	if err != nil || rec.Outcome != status.Failed || rec.Drills["1"].Outcome != status.Failed || rec.Run != "dead" {
		t.Errorf("the record is %+v, %v", rec, err)
	}
}

func TestFindProbe(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"good": 0o755, "plain": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for program, want := range map[string]string{
		dir + "/good": dir + "/good", "./good": dir + "/good", dir + "/plain": "cannot be executed", dir + "/none": "is not there", "no-such-program": "is not there",
	} {
		m := &config.Module{ID: "a", Directory: dir, Drill: config.Drill{Command: []string{program}}}
		got, err := FindProbe(m)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasSuffix(got, want) {
			t.Errorf("FindProbe(%s) = %s; want %s", program, got, want)
		}
	}
	if _, err := FindProbe(&config.Module{Drill: config.Drill{Command: []string{"sh"}}}); err != nil {
		t.Error(err)
	}
}
