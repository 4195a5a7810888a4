package setup

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/destination"
	"sdbackup/internal/schedule"
)

// begin returns a Setup in folders of this test's own, a folder to save and one for backups.
func begin(t *testing.T) (s *Setup, source, archive string) {
	t.Helper()
	dir := t.TempDir()
	source, archive = filepath.Join(dir, "so*urce"), filepath.Join(dir, "archive")
	for _, folder := range []string{source, archive} {
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	paths := config.Paths{User: true, Config: []string{filepath.Join(dir, "etc")}, Cache: filepath.Join(dir, "cache")}
	store, err := destination.Open(paths, time.Now, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	return &Setup{Paths: paths, Store: store, Scheduler: schedule.New(paths, slog.New(slog.DiscardHandler)), Home: dir}, source, archive
}

func (s *Setup) must(t *testing.T, r Request) Plan {
	t.Helper()
	plan, err := s.Plan(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// When the file cannot be written, the destination goes again, and its password with it.
func TestAllOrNothing(t *testing.T) {
	s, source, archive := begin(t)
	plan := s.must(t, Request{[]string{source}, archive, "daily"})
	obstacle := plan.File + ".new/obstacle"
	if err := os.MkdirAll(obstacle, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), plan); err == nil {
		t.Fatal("Apply wrote through an obstacle")
	}
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(s.dir(), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := s.Apply(t.Context(), plan); err != nil {
		t.Errorf("then it cannot be done again: %v", err)
	}
}

// Whoever wrote the same file in the meantime keeps it.
func TestNothingIsReplaced(t *testing.T) {
	s, source, archive := begin(t)
	plan := s.must(t, Request{[]string{source}, archive, "daily"})
	if err := os.MkdirAll(s.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	const theirs = "# theirs\n"
	if err := os.WriteFile(plan.File, []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), plan); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Apply = %v; want that the file is there", err)
	}
	if data, err := os.ReadFile(plan.File); err != nil || string(data) != theirs {
		t.Errorf("the file is %q, %v now", data, err)
	}
	var mistake *UsageError
	if err := s.Fresh(); !errors.As(err, &mistake) {
		t.Errorf("Fresh = %v; want that there is a configuration", err)
	}
}

// IDs that are taken are not used again, and what others have broken stops nothing.
func TestBesideOthers(t *testing.T) {
	s, source, archive := begin(t)
	if err := os.MkdirAll(s.dir(), 0o755); err != nil {
		t.Fatal(err)
	}
	other := "[destination.archive]\nrepository = \"/elsewhere\"\npassword-credential = \"x\"\n[module.files]\ntype = 7\n[backup.first]\nschedule = \"daily\"\n"
	if err := os.WriteFile(s.dir()+"/other.toml", []byte(other), 0o644); err != nil {
		t.Fatal(err)
	}
	plan := s.must(t, Request{[]string{source}, archive, "daily"})
	if plan.Destination != "archive2" || plan.Module != "files2" || plan.Backup != "first2" {
		t.Errorf("IDs %s, %s, %s; want the next that are free", plan.Destination, plan.Module, plan.Backup)
	}
	if _, err := s.Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	cfg := config.Load(s.Paths.Config, nil)
	if errs := cfg.BackupErrors("first2"); len(errs) > 0 || cfg.Modules["files2"] == nil || cfg.Modules["files2"].Include[0] != source {
		t.Errorf("errors %v; module %v", errs, cfg.Modules["files2"])
	}
}

// A password without a destination may be the only key to something.
func TestPasswordIsKept(t *testing.T) {
	s, source, archive := begin(t)
	old := filepath.Join(s.Store.SecretDir(), "archive.password")
	if err := os.MkdirAll(filepath.Dir(old), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(old, []byte("old\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	result, err := s.Apply(t.Context(), s.must(t, Request{[]string{source}, archive, "daily"}))
	if err != nil || result.PasswordFile != filepath.Join(filepath.Dir(old), "archive2.password") {
		t.Errorf("Apply = %+v, %v; want a password of its own", result, err)
	}
	if data, err := os.ReadFile(old); err != nil || string(data) != "old\n" {
		t.Errorf("the old password is %q, %v now", data, err)
	}
}

func TestExcluded(t *testing.T) {
	s, source, _ := begin(t)
	inside := filepath.Join(source, "back[up")
	if err := os.Mkdir(inside, 0o755); err != nil {
		t.Fatal(err)
	}
	got := excluded([]string{source}, inside, s.Paths.Cache)
	if len(got) != 1 {
		t.Fatalf("excluded = %q; want the destination alone", got)
	}
	if ok, err := filepath.Match(got[0], inside); !ok || err != nil {
		t.Errorf("pattern %q does not match %q: %v", got[0], inside, err)
	}
	all := strings.Join(excluded([]string{"/"}, "/srv/backup", "/var/cache/sdbackup"), " ")
	if want := "/srv/backup /var/cache/sdbackup /dev /proc /run /sys /tmp /var/tmp"; all != want {
		t.Errorf("of / excluded = %q; want %q", all, want)
	}
}
