package restic

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What is saved is listed, measured, printed and restored, whatever its name is.
func TestReadBack(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	dir := t.TempDir()
	names := []string{"-flag", "sp ace", "new\nline", "star*", "[b]", "not-utf8-\xff", "empty"}
	for _, name := range names {
		text := name
		if name == "empty" {
			text = ""
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	sum, err := r.Backup(t.Context(), Source{Host: "web1", Tags: []string{"module=wiki", "run=1", "files"}, Dir: filepath.Dir(dir), Paths: []string{filepath.Base(dir)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	top := "/" + filepath.Base(dir)
	list, err := r.AllSnapshots(t.Context())
	if err != nil || len(list) != 1 || !strings.HasPrefix(list[0].ID, sum.Snapshot) || list[0].Host != "web1" || list[0].Tag("run") != "1" || list[0].Tag("none") != "" || !slices.Equal(list[0].Paths, []string{dir}) {
		t.Fatalf("AllSnapshots = %+v, %v", list, err)
	}
	id := list[0].ID
	if size, err := r.Stats(t.Context(), id); err != nil || size.Bytes != sum.Bytes {
		t.Errorf("Stats = %+v, %v; want %d bytes", size, err, sum.Bytes)
	}
	var got []string
	err = r.Ls(t.Context(), id, nil, func(n Node) error {
		if n.Type == "file" && (n.Mode.Perm() != 0o640 || n.MTime.IsZero()) {
			t.Errorf("%q = %+v", n.Path, n)
		}
		got = append(got, n.Name)
		return nil
	})
	if err != nil || len(got) != len(names)+1 || !slices.Contains(got, "not-utf8-\ufffd") || !slices.Contains(got, "new\nline") {
		t.Errorf("Ls = %q, %v", got, err)
	}
	enough := errors.New("enough")
	if err := r.Ls(t.Context(), id, nil, func(Node) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("Ls = %v; want what stopped it", err)
	}
	var out bytes.Buffer
	if err := r.Dump(t.Context(), id, top+"/not-utf8-\xff", &out); err != nil || out.String() != "not-utf8-\xff" {
		t.Errorf("Dump = %q, %v", out.String(), err)
	}
	version, err := r.Version(t.Context())
	if err != nil || !version.AtLeast(0, 14) || version.AtLeast(99, 0) {
		t.Fatalf("Version = %+v, %v", version, err)
	}
	target := filepath.Join(t.TempDir(), "new")
	done, err := r.Restore(t.Context(), RestoreOptions{
		Snapshot: id, Target: target, Version: version, NoLock: true, Verify: true, Paths: []string{top + "/star*", top + "/not-utf8-\xff", top + "/[b]"},
	}, nil)
	entries, _ := os.ReadDir(target + top)
	if err != nil || done.ErrorCount != 0 || len(entries) != 3 {
		t.Errorf("Restore = %+v, %v: %v", done, err, entries)
	}
}

// What cannot be restored is named.
func TestRestoreFails(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	sum, err := r.Backup(t.Context(), stdin("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	version, err := r.Version(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	if err := os.Mkdir(filepath.Join(target, "file"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, "file", "in the way"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := r.Restore(t.Context(), RestoreOptions{Snapshot: sum.Snapshot, Target: target, Version: version}, nil)
	if err == nil || done.ErrorCount == 0 || len(done.Errors) == 0 || !strings.Contains(done.Errors[0], "file") {
		t.Errorf("Restore = %+v, %v; want what failed", done, err)
	}
	if _, err := r.Stats(t.Context(), "0123456789"); err == nil {
		t.Error("Stats of nothing did not fail")
	}
}

func TestLiteral(t *testing.T) {
	if got, want := literal(`/a*b?[c]\d`), `/a\*b\?\[c]\\d`; got != want {
		t.Errorf("literal = %s; want %s", got, want)
	}
	if ok, err := filepath.Match(literal(`/a*b?[c]\d`), `/a*b?[c]\d`); err != nil || !ok {
		t.Errorf("the path does not match its own pattern: %v", err)
	}
}

func TestWrittenBytes(t *testing.T) {
	if got := writtenBytes("rchar: 1\nwchar: 42\nsyscr: 3\n"); got != 42 {
		t.Errorf("writtenBytes = %d; want 42", got)
	}
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		t.Skip("this kernel does not account for it")
	}
	if writtenBytes(string(data)) == 0 {
		t.Errorf("/proc/self/io is not understood:\n%s", data)
	}
}

func FuzzParseNode(f *testing.F) {
	f.Add([]byte(`{"name":"a","type":"file","path":"/src/a","uid":0,"gid":0,"size":3,"mode":8389101,"mtime":"2026-11-21T12:47:20.037087382Z","struct_type":"node"}`))
	f.Add([]byte(`{"id":"bdff2d22","struct_type":"snapshot"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if n, ok, err := parseNode(line); ok && (err != nil || !strings.HasPrefix(n.Path, "/")) {
			t.Errorf("parseNode(%q) = %+v, %v", line, n, err)
		}
	})
}
