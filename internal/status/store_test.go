package status

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var t0 = time.Date(2026, 3, 1, 2, 0, 0, 0, time.UTC)

// ended returns the n-th run of backup 1, an hour after the one before.
func ended(n int, id string, o Outcome) Run {
	start := t0.Add(time.Duration(n) * time.Hour)
	return Run{ID: id, Backup: "1", Name: "Nightly", Start: start, End: start.Add(time.Minute), Outcome: o}
}

func end(t testing.TB, s Store, runs ...Run) {
	t.Helper()
	for _, r := range runs {
		if err := s.End(r); err != nil {
			t.Fatal(err)
		}
	}
}

func put(t testing.TB, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestRecordsComeBack(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	marker := Running{ID: "r1", Backup: "1", Name: "Nightly\n\"äö\"", PID: 7, Start: t0}
	if err := s.Begin(marker); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Running("1"); err != nil || *got != marker {
		t.Errorf("Running = %+v, %v; want %+v", got, err, marker)
	}
	if err := s.Announce("1"); err != nil {
		t.Fatal(err)
	}
	marker.Announced = true
	if got, err := s.Running("1"); err != nil || *got != marker {
		t.Errorf("Running, announced = %+v, %v; want %+v", got, err, marker)
	}

	peak := uint64(1 << 40)
	module := Module{
		Result: Result{
			Module: "wiki1", Backup: "1", Run: "r1", Outcome: Partial, Start: t0, End: t0.Add(time.Minute),
			Partial: true, Unreadable: []string{"/srv/\"x\ny"}, UnreadableCount: 1,
			Retention: &Retention{Outcome: Success, Called: true, Removed: 1, Kept: 7},
			Snapshots: []Snapshot{{ID: "5afe", Time: t0, Dump: "db.sql"}}, LastPrune: t0,
		},
		Attempts: 2, LockWaitSeconds: 1.5, MemoryPeakBytes: &peak, LastSuccess: t0, CPUSecondsTotal: 3.25, Unclean: true,
	}
	if err := s.SaveModule("1", "wiki1", &module); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Module("1", "wiki1"); err != nil || !reflect.DeepEqual(*got, module) {
		t.Errorf("Module = %+v, %v; want %+v", got, err, module)
	}

	run := ended(0, "r1", Partial)
	run.Modules = []Brief{{Module: "wiki1", Outcome: Partial, Snapshot: "5afe", Attempts: 2}}
	end(t, s, run)
	if got, err := s.Backup("1"); err != nil || !reflect.DeepEqual(*got, Backup{LastRun: run, LastSuccess: run.End}) {
		t.Errorf("Backup = %+v, %v", got, err)
	}
	for range 2 {
		if err := s.RemoveRunning("1"); err != nil {
			t.Errorf("RemoveRunning, also of none: %v", err)
		}
	}
	if _, err := s.Running("1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Running = %v; want fs.ErrNotExist", err)
	}
	if err := s.Announce("1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Announce without a marker = %v; want fs.ErrNotExist", err)
	}
}

func TestNothingOnRecord(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "missing")}
	if b, err := s.Backup("1"); b != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Backup = %v, %v; want fs.ErrNotExist", b, err)
	}
	if m, err := s.Module("1", "wiki1"); m != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Module = %v, %v; want fs.ErrNotExist", m, err)
	}
	if runs, err := s.Runs("1", 5); len(runs) != 0 || err != nil {
		t.Errorf("Runs = %v, %v; want none", runs, err)
	}
	for _, list := range []func() ([]string, error){s.Backups, s.RunningIDs} {
		if ids, err := list(); len(ids) != 0 || err != nil {
			t.Errorf("list = %v, %v; want none", ids, err)
		}
	}
	if err := s.RemoveRunning("1"); err != nil {
		t.Error(err)
	}
}

func TestLists(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	for _, id := range []string{"b", "a"} {
		end(t, s, Run{ID: "r", Backup: id, Outcome: Failed})
		if err := s.SaveModule(id, "wiki1", &Module{Result: Result{Outcome: Failed}}); err != nil {
			t.Fatal(err)
		}
		if err := s.Begin(Running{ID: "r", Backup: id}); err != nil {
			t.Fatal(err)
		}
	}
	for _, folder := range []string{"status", "running"} {
		put(t, filepath.Join(s.Dir, folder, ".a.json123"), "")
		put(t, filepath.Join(s.Dir, folder, "notes.txt"), "")
	}
	for _, list := range []func() ([]string, error){s.Backups, s.RunningIDs} {
		if got, err := list(); err != nil || !slices.Equal(got, []string{"a", "b"}) {
			t.Errorf("list = %v, %v; want a and b", got, err)
		}
	}
}

func TestLastSuccessOutlivesFailures(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	saved := ended(0, "a", Success)
	end(t, s, saved, ended(1, "b", Failed), ended(2, "c", Conflict))
	if b, err := s.Backup("1"); err != nil || !b.LastSuccess.Equal(saved.End) || b.LastRun.ID != "c" {
		t.Errorf("Backup = %+v, %v; want the success of %v", b, err, saved.End)
	}
}

func TestDamagedRecords(t *testing.T) {
	for _, content := range []string{"", "{", "null", "{}", "[]", "\x00\x00\x00\x00", `{"run_id": 5}`, `{"run_id":"a"}{"run_id":"a"}`, `{"run_id":"a"`} {
		s := Store{Dir: t.TempDir()}
		put(t, filepath.Join(s.Dir, "running/1.json"), content)
		put(t, filepath.Join(s.Dir, "status/1.json"), content)
		put(t, filepath.Join(s.Dir, "status/1/wiki1.json"), content)
		_, running := s.Running("1")
		_, backup := s.Backup("1")
		_, module := s.Module("1", "wiki1")
		for what, err := range map[string]error{"Running": running, "Backup": backup, "Module": module} {
			if damaged := (*CorruptError)(nil); !errors.As(err, &damaged) {
				t.Errorf("%s of %q: %v; want a CorruptError", what, content, err)
			} else if _, statErr := os.Stat(damaged.Path); statErr != nil {
				t.Errorf("%s of %q: named is %q", what, content, damaged.Path)
			}
		}
		// All goes on.
		if err := s.Begin(Running{ID: "b", Backup: "1"}); err != nil {
			t.Error(err)
		}
		end(t, s, ended(0, "b", Failed))
		if b, err := s.Backup("1"); err != nil || b.LastRun.ID != "b" {
			t.Errorf("after the next run: %+v, %v", b, err)
		}
	}
}

// A verdict that is forgotten would end the alert about it.
func TestVerdictIsMadeUpForFromHistory(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"missing": os.Remove,
		"damaged": func(path string) error { return os.WriteFile(path, []byte(`{"last_`), 0o640) },
		"empty":   func(path string) error { return os.Truncate(path, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			s := Store{Dir: t.TempDir()}
			saved := ended(1, "b", Partial)
			end(t, s, ended(0, "a", Success), saved, ended(2, "c", Failed))
			if err := damage(filepath.Join(s.Dir, "status/1.json")); err != nil {
				t.Fatal(err)
			}
			if b, err := s.Backup("1"); err != nil || b.LastRun.ID != "c" || !b.LastSuccess.Equal(saved.End) {
				t.Errorf("Backup = %+v, %v; want run c, and the success of b", b, err)
			}
			end(t, s, ended(3, "d", Conflict))
			if b, err := s.Backup("1"); err != nil || b.LastRun.ID != "d" || !b.LastSuccess.Equal(saved.End) {
				t.Errorf("after another run: %+v, %v; want run d, and the success of b", b, err)
			}
		})
	}
}

func TestIDsStayInTheFolder(t *testing.T) {
	dir := t.TempDir()
	s := Store{Dir: filepath.Join(dir, "state")}
	end(t, s, ended(0, "a", Success))
	for _, id := range []string{"", ".", "..", "../../outside", "/etc/passwd", "a/b", ".hidden", "nul\x00"} {
		for what, err := range map[string]error{
			"Begin":         s.Begin(Running{ID: "r", Backup: id}),
			"End":           s.End(Run{ID: "r", Backup: id}),
			"SaveModule":    s.SaveModule("1", id, &Module{}),
			"RemoveRunning": s.RemoveRunning(id),
			"Running":       second(s.Running(id)),
			"Backup":        second(s.Backup(id)),
			"Module":        second(s.Module(id, "wiki1")),
		} {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s(%q) = %v; want fs.ErrNotExist", what, id, err)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("beside the folder: %v, %v", entries, err)
	}
}

func second[T any](_ T, err error) error { return err }

// Error texts and paths are not for everybody.
func TestModes(t *testing.T) {
	defer unix.Umask(unix.Umask(0o022))
	s := Store{Dir: filepath.Join(t.TempDir(), "state")}
	if err := s.Begin(Running{ID: "a", Backup: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveModule("1", "wiki1", &Module{Result: Result{Outcome: Failed}}); err != nil {
		t.Fatal(err)
	}
	end(t, s, ended(0, "a", Failed))
	files := 0
	err := filepath.WalkDir(s.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o750)
		if !d.IsDir() {
			files++
			want = 0o640
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o; want %o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || files != 4 {
		t.Errorf("%d files, %v; want 4", files, err)
	}
}

func TestBeginClearsLitter(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	ours := []string{"running/.1.json1", "runs/.1.jsonl2", "status/.1.json3", "status/1/.wiki1.json4"}
	others := []string{"running/.2.json1", "status/2/.wiki1.json4", "status/1/.gitignore", "runs/.11.jsonl5"}
	for _, name := range slices.Concat(ours, others) {
		put(t, filepath.Join(s.Dir, name), "half")
	}
	if err := s.Begin(Running{ID: "a", Backup: "1"}); err != nil {
		t.Fatal(err)
	}
	for _, name := range ours {
		if _, err := os.Lstat(filepath.Join(s.Dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
	for _, name := range others {
		if _, err := os.Lstat(filepath.Join(s.Dir, name)); err != nil {
			t.Errorf("%s is gone, though it is not of this backup: %v", name, err)
		}
	}
}

func TestWorst(t *testing.T) {
	for _, test := range []struct {
		outcomes []Outcome
		want     Outcome
	}{
		{nil, Failed},
		{[]Outcome{Success, Success}, Success},
		{[]Outcome{Success, Partial}, Partial},
		{[]Outcome{Partial, Conflict, Success}, Conflict},
		{[]Outcome{Conflict, Failed, Success}, Failed},
		{[]Outcome{Success, Unknown}, Failed},
		{[]Outcome{Success, "strange"}, Failed},
		{[]Outcome{Success, ""}, Failed},
	} {
		if got := Worst(test.outcomes...); got != test.want {
			t.Errorf("Worst(%q) = %s; want %s", test.outcomes, got, test.want)
		}
	}
}

// What is known of the node's copy outlives a run that did not get that far, and ends with one that was to write none.
func TestNodeCopyOnRecord(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	at := func(n int64) time.Time { return time.Unix(n, 0).UTC() }
	good := &NodeCopy{Outcome: Success, Time: at(1)}
	bad := &NodeCopy{Outcome: Failed, Error: "no space", Time: at(2)}
	for i, step := range []struct {
		run    Run
		status Outcome // "": none is known
		last   time.Time
	}{
		{Run{ID: "1", Outcome: Success, NodeCopy: good}, Success, at(1)},
		{Run{ID: "2", Outcome: Partial, NodeCopy: bad}, Failed, at(1)},
		{Run{ID: "3", Outcome: Failed, Error: "killed"}, Failed, at(1)},
		{Run{ID: "4", Outcome: Success}, "", time.Time{}},
		{Run{ID: "5", Outcome: Partial, NodeCopy: bad}, Failed, time.Time{}},
	} {
		step.run.Backup = "b"
		if err := s.End(step.run); err != nil {
			t.Fatal(err)
		}
		rec, err := s.Backup("b")
		if err != nil {
			t.Fatal(err)
		}
		var got Outcome
		if rec.NodeCopy != nil {
			got = rec.NodeCopy.Outcome
		}
		if got != step.status || !rec.LastNodeCopy.Equal(step.last) {
			t.Errorf("after run %d the copy is %q, last there at %v; want %q, %v", i+1, got, rec.LastNodeCopy, step.status, step.last)
		}
	}
}
