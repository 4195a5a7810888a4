package filebackup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Whatever is done to a folder, and in however many parts it is saved: the local manifest is that of the bucket, and nothing is left to do.
func TestLocalManifestIsTheBuckets(t *testing.T) {
	for _, split := range []int{0, 1, 3} {
		t.Run(fmt.Sprint(split), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.c.SplitChunkSize, f.c.SnapshotInterval = split, 4
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			name := func() string {
				n := string(rune('a' + r.IntN(4)))
				for range r.IntN(3) {
					n += "/" + string(rune('a'+r.IntN(4)))
				}
				return filepath.Join(f.dir, n)
			}
			for round := range 6 {
				for range 1 + r.IntN(12) {
					path := name()
					switch r.IntN(6) {
					case 0:
						_ = os.RemoveAll(path)
					case 1: // a folder instead
						_ = os.Remove(path)
						_ = os.MkdirAll(path, 0o755)
					case 2:
						_ = os.Symlink("elsewhere", path)
					case 3:
						_ = os.Chmod(path, 0o700)
					default:
						_ = os.MkdirAll(filepath.Dir(path), 0o755)
						_ = os.WriteFile(path, fmt.Append(nil, r.IntN(30)), 0o644)
					}
				}
				content := fmt.Sprint("dump ", r.IntN(2))
				streams := []Stream{{"/b/stream", func(_ context.Context, w io.Writer) error {
					_, err := io.WriteString(w, content)
					return err
				}}, {"/a.stream", func(_ context.Context, w io.Writer) error {
					_, err := io.WriteString(w, content)
					return err
				}}}
				if r.IntN(4) == 0 {
					streams = streams[1:]
				}
				if _, err := f.open().Backup(t.Context(), BackupOptions{Streams: streams}); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				k, err := f.open().c.loadCache()
				if err != nil || k == nil {
					t.Fatalf("round %d: %v, %v", round, k, err)
				}
				m, err := f.open().Manifest(t.Context(), Version{ID: k.ID})
				if err != nil {
					t.Fatal(err)
				}
				last, n := "", 0
				k.each(func(e *Entry) {
					n++
					if last != "" && comparePaths(last, e.Path) >= 0 {
						t.Errorf("round %d: %q comes after %q", round, e.Path, last)
					}
					last = e.Path
					if want := m.Entry(e.Path); want == nil || want.Kind != e.Kind || want.Object != e.Object || want.ID != e.ID || want.Target != e.Target || !equalMeta(e, want) && e.Kind == File {
						t.Errorf("round %d: the local manifest has %+v, the bucket %+v", round, e, want)
					}
				})
				if n != m.Len() {
					t.Errorf("round %d: the local manifest has %d entries, the bucket %d", round, n, m.Len())
				}
				if s, err := f.open().Backup(t.Context(), BackupOptions{Streams: streams}); err != nil || len(s.Versions) > 0 || s.Uploaded > 0 {
					t.Fatalf("round %d, again: %+v, %v", round, s, err)
				}
			}
		})
	}
}

// A file that is empty when it is found and has grown when it is read is stored as any other, with word of it before.
func TestGrownFromNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "a")
	f.backup()
	f.write("log", "")
	var steps []string
	f.c.Fault = func(step string) error {
		steps = append(steps, step)
		return nil
	}
	r := f.open()
	b := &backup{Repository: r, run: randomID(), runs: map[string]bool{}, storing: map[string]chan struct{}{}, sizes: map[int64]int{}}
	b.jobs.path, b.known.list.path, b.stored.list.path = r.c.spoolPath("jobs"), r.c.spoolPath("known"), r.c.spoolPath("stored")
	defer b.close()
	var err error
	if b.cache, _, err = r.current(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.compare(t.Context(), b.add); err != nil {
		t.Fatal(err)
	}
	f.write("log", "the first line")
	if err := b.commitPart(t.Context(), b.parts[0]); err != nil {
		t.Fatal(err)
	}
	if len(steps) == 0 || steps[0] != "put gc_log" {
		t.Errorf("the steps are %q; want the log first", steps)
	}
	f.same(f.dir, f.download("latest"))
}

// Streams are read once, however many versions are made.
func TestStreamsAreReadOnce(t *testing.T) {
	t.Parallel()
	for _, split := range []int{1, 2, 3} {
		f := newFixture(t)
		f.c.SplitChunkSize = split
		for i := range 5 {
			f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
		}
		input := strings.NewReader("all there is")
		n := 0
		streams := []Stream{{"/dump", func(_ context.Context, w io.Writer) error {
			n++
			_, err := io.Copy(w, input)
			return err
		}}}
		s, err := f.open().Backup(t.Context(), BackupOptions{Streams: streams})
		if err != nil || n != 1 {
			t.Fatalf("split %d: read %d times, %v", split, n, err)
		}
		list := f.versions()
		m, err := f.open().Manifest(t.Context(), list[len(list)-1])
		if err != nil || m.Entry("/dump") == nil || m.Entry("/dump").Size != 12 || s.New != 6 || len(list) != (6+split-1)/split {
			t.Errorf("split %d: %+v, %v; %+v", split, m.Entry("/dump"), err, s)
		}
	}
}

// A stream that is as it was makes no version, whatever patterns say of its path.
func TestStreamThatStays(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SkipDelete = []string{"/dump*"}
	streams := []Stream{{"/dump", func(_ context.Context, w io.Writer) error {
		_, err := io.WriteString(w, "the same")
		return err
	}}}
	for i := range 3 {
		s, err := f.open().Backup(t.Context(), BackupOptions{Streams: streams})
		if err != nil || (len(s.Versions) > 0) != (i == 0) {
			t.Errorf("backup %d: %+v, %v", i, s, err)
		}
	}
}

// What stays in the backup when it is removed stays, too, when that happens while the backup runs.
func TestSkipDeleteOfWhatVanishes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SkipDelete = []string{"/stays*"}
	f.write("stays", "one")
	f.write("goes", "one")
	f.backup()
	f.write("stays", "two")
	f.write("goes", "two")
	f.write("new", "new")
	f.c.Fault = func(step string) error {
		if step == "put gc_log" { // between the scan and the reading
			f.remove("stays")
			f.remove("goes")
		}
		return nil
	}
	s := f.backup()
	f.c.Fault = nil
	m, err := f.open().Manifest(t.Context(), s.Latest)
	if err != nil || m.Entry("/stays") == nil || m.Entry("/goes") != nil || m.Entry("/new") == nil || s.Deleted != 1 {
		t.Errorf("%+v, %v; %+v", m, err, s)
	}
}

// The parts of a backup leave nothing in memory when they are done.
func TestPartsAreForgotten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SplitChunkSize = 2
	for i := range 6 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	r := f.open()
	b := &backup{Repository: r, run: randomID(), runs: map[string]bool{}, storing: map[string]chan struct{}{}, sizes: map[int64]int{}}
	b.jobs.path, b.known.list.path, b.stored.list.path = r.c.spoolPath("jobs"), r.c.spoolPath("known"), r.c.spoolPath("stored")
	defer b.close()
	if err := errors.Join(r.c.local(), b.do(t.Context())); err != nil {
		t.Fatal(err)
	}
	for i, p := range b.parts {
		if len(b.parts) != 3 || p.at != nil || p.results.ends != nil || p.results.tail != nil {
			t.Errorf("part %d of %d has %d results, %d bytes", i, len(b.parts), len(p.results.ends), len(p.results.tail))
		}
	}
}

// A file that another one with its size and time is put in place of, after the scan has found its mode changed only, is read.
func TestReplacedAfterTheScan(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "one")
	f.backup()
	a := filepath.Join(f.dir, "a")
	info, err := os.Stat(a)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := errors.Join(os.Chmod(a, 0o600), os.WriteFile(other, []byte("two"), 0o600), os.Chtimes(other, info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	f.c.Fault = func(step string) error {
		if step == "put gc_log" {
			return os.Rename(other, a)
		}
		return nil
	}
	f.backup()
	f.c.Fault = nil
	f.same(f.dir, f.download("latest"))
}
