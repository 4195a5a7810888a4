package atomicfile

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

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

func TestModeIsExact(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	path := filepath.Join(t.TempDir(), "backup1.prom")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, []byte("new"), 0o644); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode(); got != 0o644 {
		t.Errorf("mode %o; want 644, whatever the umask and the older file", got)
	}
	if data, _ := os.ReadFile(path); string(data) != "new" {
		t.Errorf("content %q", data)
	}
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestWriteSaysWhatIsWrong(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	if err := Write(filepath.Join(missing, "f"), nil, 0o644); !os.IsNotExist(err) || !strings.Contains(err.Error(), missing) {
		t.Errorf("into a folder that is not there: %v", err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "f"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Write(filepath.Join(dir, "f"), nil, 0o644); err == nil {
		t.Error("a folder was replaced")
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("a write that failed left %v", got)
	}
}

func TestSweep(t *testing.T) {
	for _, test := range []struct {
		name  string
		only  []string
		swept bool
	}{
		{".1.json123", nil, true},
		{".1.json123", []string{"1.json"}, true},
		{".1.json123", []string{"2.json", "1.json"}, true},
		{".1.json123", []string{"2.json"}, false},
		{".11.json123", []string{"1.json"}, false},
		{".1.jsonl123", []string{"1.json"}, false},
		{".1.json.bak123", []string{"1.json"}, false},
		{".1.json", nil, false},
		{".1.json", []string{"1.json"}, false},
		{"1.json123", nil, false},
		{".123", nil, false},
		{".hidden", nil, false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, test.name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		Sweep(dir, test.only...)
		if got := len(names(t, dir)) == 0; got != test.swept {
			t.Errorf("%s, of %v: swept %t; want %t", test.name, test.only, got, test.swept)
		}
	}
}

func TestSweepSparesWhatIsNotOurs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".1.json1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, ".1.json2")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, ".1.json3"), 0o600); err != nil {
		t.Fatal(err)
	}
	living, err := os.Create(filepath.Join(dir, ".1.json4"))
	if err != nil {
		t.Fatal(err)
	}
	defer living.Close()
	if err := unix.Flock(int(living.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	Sweep(dir)
	if got := names(t, dir); len(got) != 4 {
		t.Errorf("left are %v; want all four", got)
	}
	living.Close()
	Sweep(dir)
	if got := names(t, dir); len(got) != 3 {
		t.Errorf("left are %v; want all but the file whose writer is gone", got)
	}
}

// Writers of one file and sweepers at once: no write fails, and readers find whole contents only.
func TestSweepNeverHurtsTheLiving(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	contents := [][]byte{bytes.Repeat([]byte("a"), 10_000), bytes.Repeat([]byte("b"), 20_000)}
	if err := Write(path, contents[0], 0o644); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var others, writers sync.WaitGroup
	until := func(act func()) {
		others.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					act()
				}
			}
		})
	}
	until(func() { Sweep(dir, "f") })
	until(func() {
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(data, contents[0]) && !bytes.Equal(data, contents[1]) {
			t.Errorf("read %d bytes, %v", len(data), err)
		}
	})
	for _, content := range contents {
		writers.Go(func() {
			for range 200 {
				if err := Write(path, content, 0o644); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	others.Wait()
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestMakeDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a/b/c")
	for range 2 {
		if err := MakeDir(dir, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := MakeDir(filepath.Join(dir, "f/g"), 0o750); err == nil {
		t.Error("a folder was made in a file")
	}
}
