package schedule

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	layer := filepath.Join(dir, "etc")
	file := filepath.Join(layer, "a.toml")
	layers := []string{filepath.Join(dir, "usr"), layer}
	old := time.Now().Add(-time.Hour)

	steps := []struct {
		name    string
		act     func() error
		changes bool
	}{
		{"folder made", func() error { return os.Mkdir(layer, 0o755) }, true},
		{"file made", func() error { return os.WriteFile(file, []byte("a"), 0o644) }, true},
		{"nothing", func() error { return nil }, false},
		{"other content of the same size and time", func() error {
			if err := os.WriteFile(file, []byte("b"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(file, old, old)
		}, true},
		{"read", func() error { _, err := os.ReadFile(file); return err }, false},
		{"replaced by rename", func() error {
			other := filepath.Join(dir, "other")
			if err := os.WriteFile(other, []byte("b"), 0o644); err != nil {
				return err
			}
			if err := os.Chtimes(other, old, old); err != nil {
				return err
			}
			return os.Rename(other, file)
		}, true},
		{"removed", func() error { return os.Remove(file) }, true},
		{"a file of another kind", func() error { return os.WriteFile(filepath.Join(dir, "b.txt"), nil, 0o644) }, false},
	}
	last := takeFingerprint(layers)
	for _, step := range steps {
		if err := step.act(); err != nil {
			t.Fatal(err)
		}
		now := takeFingerprint(layers)
		if changed := now.files != last.files; changed != step.changes {
			t.Errorf("%s: changed = %v; want %v\n%s%s", step.name, changed, step.changes, last.files, now.files)
		}
		if now.newest.Before(last.newest) && step.name != "removed" {
			t.Errorf("%s: newest went back from %s to %s", step.name, last.newest, now.newest)
		}
		last = now
	}
}

func TestFingerprintOfOneFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.toml")
	if err := os.WriteFile(file, []byte("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := takeFingerprint([]string{file})
	if err := os.WriteFile(file, []byte("ab"), 0o644); err != nil {
		t.Fatal(err)
	}
	if after := takeFingerprint([]string{file}); after.files == before.files {
		t.Errorf("an edited file has the same fingerprint:\n%s", after.files)
	}
}
