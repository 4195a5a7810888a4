package token

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	now    = time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)
	module = Principal{Name: "wiki1", Grants: []Grant{{"archive", "dokuwiki/3792c7db-9450-4bd3-84a3-034cd0087839", Add}}}
)

func TestToken(t *testing.T) {
	s := Store{filepath.Join(t.TempDir(), "sdbackup/tokens")}
	made, err := s.New(module, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	text := made.Text
	if p, ok := s.Lookup(text, now); !ok || !reflect.DeepEqual(p, module) {
		t.Errorf("Lookup = %+v, %v; want %+v", p, ok, module)
	}
	for what, bad := range map[string]string{
		"another": prefix + strings.Repeat("A", 43), "cut": text[:len(text)-1], "no prefix": strings.TrimPrefix(text, prefix), "empty": "",
		"a path": prefix + "/../../../etc/passwd",
	} {
		if p, ok := s.Lookup(bad, now); ok {
			t.Errorf("Lookup of %s token = %+v; want none", what, p)
		}
	}
	if _, ok := s.Lookup(text, now.Add(time.Hour)); ok {
		t.Error("an expired token is good")
	}
	if err := made.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Lookup(text, now); ok {
		t.Error("a token that was removed is good")
	}
}

// Whoever can read the folder learns no token, and nobody but its owner can.
func TestNothingOfTheTokenIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sdbackup/tokens")
	s := Store{dir}
	made, err := s.New(module, now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	text := made.Text
	for path, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, dir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v; want mode %o", path, info.Mode(), err, mode)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Fatalf("files = %v, %v; want one", entries, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, entries[0].Name()))
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.TrimPrefix(text, prefix)
	if strings.Contains(string(data), secret) || strings.Contains(entries[0].Name(), secret) {
		t.Error("the token is in its file")
	}
	if info, err := entries[0].Info(); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", info.Mode(), err)
	}
}

func TestTokensDiffer(t *testing.T) {
	s := Store{t.TempDir()}
	seen := map[string]bool{}
	for range 100 {
		made, err := s.New(module, now)
		if err != nil || seen[made.Text] || len(made.Text) != len(prefix)+43 {
			t.Fatalf("New = %q, %v", made.Text, err)
		}
		seen[made.Text] = true
	}
}

// What killed runs have left is good for nothing, and goes with the next token.
func TestKilled(t *testing.T) {
	s := Store{t.TempDir()}
	old, err := s.New(module, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	killed, err := s.New(module, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Lookup(killed.Text, time.Now()); !ok {
		t.Fatal("a token of a living process is not good")
	}
	unix.Close(killed.fd) // as the kernel does when its process ends
	if _, ok := s.Lookup(killed.Text, time.Now()); ok {
		t.Error("a token of a dead process is good")
	}
	alive, err := s.New(module, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for what, dead := range map[string]Token{"expired": old, "dead process's": killed} {
		if _, err := os.Stat(dead.path); !os.IsNotExist(err) {
			t.Errorf("the %s token's file is there: %v", what, err)
		}
	}
	if _, ok := s.Lookup(alive.Text, time.Now()); !ok {
		t.Error("a token that is good was swept")
	}
}

func TestBrokenFiles(t *testing.T) {
	s := Store{t.TempDir()}
	text := prefix + strings.Repeat("A", 43)
	for _, data := range []string{"", "{", `{"principal":7}`, `[]`, `{"node":true}`, strings.Repeat(" ", maxFileBytes+1) + `{"node":true,"expires":"2999-01-01T00:00:00Z"}`} {
		f, err := os.Create(s.path(text))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(data); err != nil || unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
			t.Fatal(err)
		}
		if p, ok := s.Lookup(text, now); ok {
			t.Errorf("Lookup of %.20q = %+v; want none", data, p)
		}
		f.Close()
	}
}
