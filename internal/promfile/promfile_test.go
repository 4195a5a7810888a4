package promfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/status"

	"golang.org/x/sys/unix"
)

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func write(t testing.TB, dir string, s Sample) os.FileInfo {
	t.Helper()
	if err := Write(dir, s); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, fileName(s.ID)))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// node_exporter runs as a user of its own: a file that it cannot read is a backup that nobody watches.
func TestModeIsForEverybody(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	sample := samples()["success"]
	if got := write(t, dir, sample).Mode(); got != 0o644 {
		t.Errorf("mode of a new file is %o; want 644", got)
	}
	if err := os.Chmod(filepath.Join(dir, "backup1.prom"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := write(t, dir, sample).Mode(); got != 0o644 {
		t.Errorf("mode of a file that someone changed is %o; want 644 again", got)
	}
}

func TestWriteOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	sample := samples()["success"]
	first := write(t, dir, sample)
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(dir, "backup1.prom"), long, long); err != nil {
		t.Fatal(err)
	}
	again := write(t, dir, sample)
	if !os.SameFile(first, again) {
		t.Error("what was there already was written again")
	}
	if time.Since(again.ModTime()) > time.Minute {
		t.Errorf("time stamp %v does not say that it is still true", again.ModTime())
	}
	sample.Running = true
	if os.SameFile(again, write(t, dir, sample)) {
		t.Error("the file was changed in place: a reader may find half of it")
	}
	if got := names(t, dir); !slices.Equal(got, []string{"backup1.prom"}) {
		t.Errorf("in the folder: %v", got)
	}
}

func TestFolderThatIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "missing")
	if err := Write(dir, samples()["success"]); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("Write = %v; want an error that names the folder", err)
	}
	if ids, err := IDs(dir); len(ids) != 0 || err != nil {
		t.Errorf("IDs = %v, %v; want none", ids, err)
	}
	if err := Remove(dir, "1"); err != nil {
		t.Errorf("Remove = %v", err)
	}
}

func TestOnlyOursAreListedAndRemoved(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a [folder]*") // no pattern
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "web.2-a", "10", "prom"} {
		write(t, dir, FromRecords(id, "Backup "+id, nil, nil, false, time.Time{}))
	}
	others := map[string]string{
		"backup9.prom":   "# HELP node_backup_status Another program's.\n# TYPE node_backup_status gauge\nnode_backup_status{id=\"9\",name=\"Other\"} 1\n",
		"backup8.prom":   "",
		"backup7.prom":   header[:10],
		"node.prom":      header,
		"backup6.prom.1": header,
	}
	for name, content := range others {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "backup5.prom"), 0o755); err != nil {
		t.Fatal(err)
	}
	ids, err := IDs(dir)
	slices.Sort(ids)
	if want := []string{"1", "10", "prom", "web.2-a"}; err != nil || !slices.Equal(ids, want) {
		t.Errorf("IDs = %v, %v; want %v", ids, err, want)
	}
	if err := os.WriteFile(filepath.Join(dir, ".backup1.prom42"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"1", "1", "10", "prom", "web.2-a", "5", "7", "8", "9"} {
		if err := Remove(dir, id); err != nil {
			t.Errorf("Remove(%s) = %v", id, err)
		}
	}
	if got, want := names(t, dir), []string{"backup5.prom", "backup6.prom.1", "backup7.prom", "backup8.prom", "backup9.prom", "node.prom"}; !slices.Equal(got, want) {
		t.Errorf("left are %v; want %v", got, want)
	}
}

// The records are all that a file needs: one that got lost with its folder comes back as it was.
func TestMadeAnewFromRecords(t *testing.T) {
	store := status.Store{Dir: t.TempDir()}
	run := status.Run{ID: "r1", Backup: "1", Name: "Nightly", Start: night, End: night.Add(time.Minute), Outcome: status.Failed}
	result := status.Result{Module: "wiki1", Outcome: status.Failed, Start: night, End: night.Add(time.Minute)}
	if err := store.SaveModule("1", "wiki1", &status.Module{Result: result, Attempts: 3}); err != nil {
		t.Fatal(err)
	}
	if err := store.End(run); err != nil {
		t.Fatal(err)
	}
	make := func(dir string) string {
		rec, err := store.Backup("1")
		if err != nil {
			t.Fatal(err)
		}
		m, err := store.Module("1", "wiki1")
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, FromRecords("1", rec.LastRun.Name, rec, map[string]*status.Module{"wiki1": m}, false, night.Add(time.Hour)))
		text, err := os.ReadFile(filepath.Join(dir, "backup1.prom"))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	before, after := make(t.TempDir()), make(t.TempDir())
	if before != after || !strings.Contains(before, `node_backup_status{id="1",name="Nightly"} 0`) {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
}
