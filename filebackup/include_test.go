package filebackup

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbackup/internal/roottest"
)

func (f *fixture) listed() string {
	f.Helper()
	v, err := f.open().Find(f.Context(), "latest")
	if err != nil {
		f.Fatal(err)
	}
	list, err := f.open().Files(f.Context(), v)
	if err != nil {
		f.Fatal(err)
	}
	var paths []string
	for _, e := range list {
		paths = append(paths, e.Path)
	}
	return strings.Join(paths, " ")
}

// What is included is saved with the folders above it, and nothing else that is in those.
func TestInclude(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, name := range []string{"a/b/c/1", "a/b/c/2.tmp", "a/b/c2/1", "a/b/other/1", "a/b-sibling", "single", "beside", "z"} {
		f.write(name, name)
	}
	f.c.Include = []string{"/a/b/c", "/a/b/c2/1", "/single", "/missing", "/a/b/c/1"}
	f.c.Ignore = func(path string) bool { return strings.HasSuffix(path, ".tmp") }
	s := f.backup()
	if got := f.listed(); got != "/a /a/b /a/b/c /a/b/c/1 /a/b/c2 /a/b/c2/1 /single" || s.Files != 3 || s.Latest.ID != s.Versions[0] {
		t.Errorf("saved %s, %+v", got, s)
	}
	if s := f.backup(); len(s.Versions) > 0 || s.Latest.ID == "" || s.Files != 3 {
		t.Errorf("nothing changed: %+v", s)
	}
	f.c.Include = []string{"/a/b/c"}
	f.backup()
	if got := f.listed(); got != "/a /a/b /a/b/c /a/b/c/1" {
		t.Errorf("saved %s", got)
	}
	f.c.Include = []string{"/"}
	f.c.Ignore = nil
	f.backup()
	f.same(f.dir, f.download("latest"))
	f.c.Include = []string{"a"}
	if _, err := Open(&f.c); err == nil {
		t.Error("a relative path was taken")
	}
}

// A folder on the way need not be readable.
func TestIncludeBelowClosedFolder(t *testing.T) {
	t.Parallel()
	if !roottest.ModesApply(t) {
		return
	}
	f := newFixture(t)
	f.write("closed/data/file", "x")
	if err := os.Chmod(filepath.Join(f.dir, "closed"), 0o111); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(f.dir, "closed"), 0o755)
	f.c.Include = []string{"/closed/data"}
	f.backup()
}

// A stream is a file of the version, stored when its content is another one; its error leaves no version.
func TestStreams(t *testing.T) {
	for name := range pipelines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.pipelines(name)
			f.write("file", "same as the stream")
			big := make([]byte, 23<<20+17) // several parts' worth, and more than is buffered at first
			_, _ = rand.Read(big)
			contents := map[string][]byte{"/dumps/big": big, "/dumps/same": []byte("same as the stream"), "/dumps/empty": nil}
			var failure error
			backup := func() (*Summary, error) {
				var streams []Stream
				for _, path := range []string{"/dumps/big", "/dumps/same", "/dumps/empty"} {
					content, there := contents[path]
					if !there {
						continue
					}
					streams = append(streams, Stream{path, func(_ context.Context, w io.Writer) error {
						_, err := io.Copy(w, bytes.NewReader(content))
						return errors.Join(err, failure)
					}})
				}
				return f.open().Backup(t.Context(), BackupOptions{Streams: streams})
			}
			s, err := backup()
			if err != nil || len(s.Versions) != 1 || s.New != 4 || s.Files != 4 || s.Duplicates != 1 || s.Size != int64(len(big)+36) {
				t.Fatalf("%+v, %v", s, err)
			}
			restored := f.download("latest")
			for path, content := range contents {
				if got, err := os.ReadFile(filepath.Join(restored, path)); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: %d bytes, %v", path, len(got), err)
				}
			}
			f.write("hollow/passing", "")
			if s, err := backup(); err != nil || len(s.Versions) != 1 {
				t.Errorf("%+v, %v", s, err)
			}
			f.write("hollow/another", "")
			f.remove("hollow/another") // a folder's time is no reason for a version
			if s, err := backup(); err != nil || len(s.Versions) != 0 || s.Uploaded != 0 {
				t.Errorf("nothing changed: %+v, %v", s, err)
			}
			contents["/dumps/same"] = []byte("another")
			failure = errors.New("the database is gone")
			if s, err := backup(); !errors.Is(err, failure) {
				t.Errorf("a stream failed: %+v, %v", s, err)
			}
			if n := len(f.versions()); n != 2 {
				t.Errorf("%d versions", n)
			}
			failure = nil
			delete(contents, "/dumps/empty")
			if s, err := backup(); err != nil || s.Changed != 1 || s.Deleted != 1 {
				t.Errorf("%+v, %v", s, err)
			}
			v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true})
			if err != nil || len(v.Problems) > 0 {
				t.Errorf("%+v, %v", v, err)
			}
			var parts int64
			for part := 1; part <= 3; part++ {
				p, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true, Part: part, Of: 3})
				if err != nil || len(p.Problems) > 0 {
					t.Errorf("%+v, %v", p, err)
				}
				parts += p.Bytes
			}
			if parts != v.Bytes {
				t.Errorf("the parts have %d bytes, all have %d", parts, v.Bytes)
			}
			if g, err := f.open().GarbageCollect(t.Context(), false); err != nil || len(g.Objects) > 0 {
				t.Errorf("garbage: %+v, %v", g, err)
			}
		})
	}
}

// A backup with a stream that is killed at any step leaves the version before it, and the next one is whole.
func TestKillWithStream(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		f := newFixture(t)
		f.pipelines("encrypted")
		content := "first"
		backup := func() error {
			_, err := f.open().Backup(t.Context(), BackupOptions{Streams: []Stream{{"/dump", func(_ context.Context, w io.Writer) error {
				_, err := io.WriteString(w, content)
				return err
			}}}})
			return err
		}
		f.write("a", "one")
		if err := backup(); err != nil {
			t.Fatal(err)
		}
		before := f.download("latest")
		id := f.versions()[0].ID
		f.write("a", "two")
		content = strings.Repeat("0123456789abcdef", 6<<16)
		steps := f.dieAt(n)
		died := errors.Is(backup(), errKilled)
		f.c.Fault = nil
		f.same(before, f.download(id))
		if err := backup(); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(filepath.Join(f.download("latest"), "dump")); err != nil || string(got) != content {
			t.Errorf("killed after %q: %d bytes, %v", *steps, len(got), err)
		}
		if g, err := f.open().GarbageCollect(t.Context(), true); err != nil || len(g.Objects)+len(g.Missing) > 0 {
			t.Errorf("killed after %q: garbage %+v, %v", *steps, g, err)
		}
		if !died {
			if n < 6 {
				t.Errorf("there are only %d steps", n)
			}
			return
		}
	}
}
