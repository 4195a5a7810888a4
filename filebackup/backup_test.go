package filebackup

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var pipelines = map[string]struct{ meta, file []string }{
	"plain":     {nil, nil},
	"encrypted": {[]string{"encrypt"}, []string{"encrypt"}},
	"all":       {[]string{"compress", "encrypt"}, []string{"encrypt", "hash_names", "compress"}},
	"compress":  {[]string{"compress"}, []string{"compress"}},
}

func (f *fixture) pipelines(name string) {
	p := pipelines[name]
	f.c.MetaPipeline, f.c.FilePipeline = p.meta, []Pipeline{{"*", p.file}}
	f.c.Crypto.Password = "correct horse"
}

// The whole life of a bucket.
func TestLife(t *testing.T) {
	for name := range pipelines {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.pipelines(name)
			big := make([]byte, 11<<20+123)
			_, _ = rand.Read(big)
			f.write("big", string(big))
			f.write("exactly", string(big[:5<<20]))
			f.write("a", "one")
			f.write("dir/b", "two")
			f.write("dir/copy", "two")
			f.write("empty", "")
			f.write("dir/new\nline \xff\u00e9☃", "unusual")
			f.write(strings.Repeat("x", 200), "long")
			if err := os.MkdirAll(filepath.Join(f.dir, "hollow/folder"), 0o750); err != nil {
				t.Fatal(err)
			}
			for link, target := range map[string]string{"link": "dir/b", "dangling": "/nowhere/\xfe", "dir/folder": ".."} {
				if err := os.Symlink(target, filepath.Join(f.dir, link)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(filepath.Join(f.dir, "a"), 0o4711); err != nil {
				t.Fatal(err)
			}
			if err := unix.Setxattr(filepath.Join(f.dir, "a"), "user.note", []byte("\x00v"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
				t.Fatal(err)
			}
			s := f.backup()
			if len(s.Versions) != 1 || s.New != 8 || s.Uploaded != 6 || s.Duplicates != 1 {
				t.Errorf("first backup: %+v", s)
			}
			f.same(f.dir, f.download("latest"))
			first := f.download(s.Versions[0])

			if s := f.backup(); len(s.Versions) != 0 || s.Unchanged < 8 || s.Uploaded != 0 {
				t.Errorf("nothing changed: %+v", s)
			}
			f.write("a", "one again")
			f.write("dir/c", "two") // known content
			f.remove("empty")
			f.remove("link")
			f.remove("hollow/folder")
			f.write("link", "a file now")
			if err := os.Chmod(filepath.Join(f.dir, "dir/b"), 0o600); err != nil {
				t.Fatal(err)
			}
			s = f.backup()
			if len(s.Versions) != 1 || s.Uploaded != 2 || s.Duplicates != 1 || s.Deleted != 1 {
				t.Errorf("second backup: %+v", s)
			}
			f.same(f.dir, f.download("latest"))
			f.same(first, f.download(f.versions()[0].ID))

			// The local manifest is a copy.
			for _, damage := range []func(string) error{
				os.Remove,
				func(p string) error { return os.Truncate(p, 100) },
				func(p string) error { return os.WriteFile(p, []byte("{}"), 0o600) },
			} {
				if err := damage(f.c.cachePath()); err != nil {
					t.Fatal(err)
				}
				if s := f.backup(); len(s.Versions) != 0 || s.Uploaded != 0 {
					t.Errorf("with a local manifest made again: %+v", s)
				}
			}
			v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true})
			if err != nil || len(v.Problems) > 0 || v.Versions != 2 {
				t.Errorf("verify: %+v, %v", v, err)
			}
			g, err := f.open().GarbageCollect(t.Context(), false)
			if err != nil || len(g.Objects) > 0 {
				t.Errorf("garbage: %+v, %v", g, err)
			}
			f.same(f.dir, f.download("latest"))
			d, err := f.open().Diff(t.Context(), f.versions()[0], f.versions()[1])
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range d {
				if x.Kind != Folder {
					got = append(got, x.Status+" "+x.Path)
				}
			}
			if want := "changed /a, metadata /dir/b, new /dir/c, deleted /empty, changed /link"; strings.Join(got, ", ") != want {
				t.Errorf("diff = %q; want %s", got, want)
			}
		})
	}
}

func TestSplitAndSnapshots(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SplitChunkSize, f.c.SnapshotInterval = 2, 2
	for i := range 7 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	if s := f.backup(); len(s.Versions) != 4 || s.New != 7 {
		t.Errorf("backup: %+v", s)
	}
	points, err := f.open().checkpoints(t.Context(), true)
	if err != nil || len(points.whole) != 2 || len(points.packs) != 0 {
		t.Errorf("snapshots: %+v, %v", points, err)
	}
	f.same(f.dir, f.download("latest"))
	v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true})
	if err != nil || len(v.Problems) > 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	// Opening the bucket from elsewhere reads a snapshot and what came after it.
	if err := os.Remove(f.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	r := f.open()
	k, _, err := r.current(t.Context())
	if err != nil || k.Sequence != 4 || k.Route.Base.Diffs != 4 || r.Requests() > 4 {
		t.Errorf("current: %+v, %v after %d requests", k.cacheHead, err, r.Requests())
	}
}

func TestSkipDeleteAndIgnore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("keep/a", "a")
	f.write("cache/b", "b")
	f.write("c", "c")
	f.backup()
	f.c.SkipDelete, f.c.IgnoreFiles = []string{"/keep/*"}, []string{"/cache*"}
	f.remove("keep/a")
	f.remove("c")
	if s := f.backup(); s.Deleted != 2 || len(s.Versions) != 1 {
		t.Errorf("backup: %+v", s)
	}
	if s := f.backup(); len(s.Versions) != 0 {
		t.Errorf("a deletion that is skipped makes a version: %+v", s)
	}
	target := f.download("latest")
	if _, err := os.Stat(filepath.Join(target, "keep/a")); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"c", "cache"} {
		if _, err := os.Stat(filepath.Join(target, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v; want it gone", name, err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.BasePath = filepath.Join(f.dir, "missing")
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); err == nil || len(f.versions()) != 0 {
		t.Errorf("backup of a folder that is missing: %v", err)
	}
}

func TestFollowSymlinks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.FollowSymlinks = true
	f.write("dir/a", "a")
	for link, target := range map[string]string{"dir/up": "..", "other": "dir", "file": "dir/a", "self": "self"} {
		if err := os.Symlink(target, filepath.Join(f.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	f.backup()
	target := f.download("latest")
	for _, name := range []string{"dir/a", "other/a", "file"} {
		info, err := os.Lstat(filepath.Join(target, name))
		if err != nil || !info.Mode().IsRegular() {
			t.Errorf("%s: %v, %v; want a file", name, info, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(target, "dir/up")); err == nil {
		t.Error("a link to a folder above was followed")
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "a")
	r := f.open()
	if err := r.c.local(); err != nil {
		t.Fatal(err)
	}
	lock, err := r.c.lock()
	if err != nil {
		t.Fatal(err)
	}
	var held *LockedError
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.As(err, &held) || r.Requests() > 0 {
		t.Errorf("backup: %v; want it locked", err)
	}
	inherited, err := unix.Dup(int(lock.f.Fd())) // as a program has it that is just being started
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	lock.Close()
	f.backup()
}

func TestExpire(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SnapshotInterval = 2
	var want []string
	for i := range 5 {
		f.write("changes", fmt.Sprint(i))
		f.write(fmt.Sprint("only", i), fmt.Sprint("only in ", i))
		f.remove(fmt.Sprint("only", i-1))
		f.write("stays", "stays")
		f.backup()
		want = append(want, f.download("latest"))
	}
	before := f.versions()
	x, err := f.open().Expire(t.Context(), Keep{Last: 2}, true)
	if err != nil || len(x.Dropped) != 3 || len(x.Objects) != 6 || len(f.versions()) != 5 {
		t.Fatalf("dry run: %+v, %v", x, err)
	}
	x, err = f.open().Expire(t.Context(), Keep{Last: 2}, false)
	if err != nil || len(x.Kept) != 2 || len(x.Objects) != 6 {
		t.Fatalf("expire: %+v, %v", x, err)
	}
	left := f.versions()
	if len(left) != 2 || left[0].ID != before[3].ID {
		t.Errorf("left: %+v", left)
	}
	f.same(want[3], f.download(left[0].ID))
	f.same(want[4], f.download("latest"))
	if _, err := f.open().Find(t.Context(), before[0].ID); !errors.Is(err, ErrNoVersion) {
		t.Errorf("an expired version: %v", err)
	}
	if g, err := f.open().GarbageCollect(t.Context(), false); err != nil || len(g.Objects) > 0 {
		t.Errorf("garbage: %+v, %v", g, err)
	}
	if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	f.write("changes", "on")
	f.backup()
	f.same(f.dir, f.download("latest"))
}

// A file that grows without end while it is read is saved as it was, and read again by the next backup.
func TestGrowing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("log", strings.Repeat("x", 1<<20))
	f.write("other", "x")
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		file, err := os.OpenFile(filepath.Join(f.dir, "log"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer file.Close()
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = file.WriteString("more\n")
			}
		}
	}()
	s, err := f.open().Backup(t.Context(), BackupOptions{})
	close(stop)
	<-stopped
	if err != nil || s.New != 2 {
		t.Fatalf("backup: %+v, %v", s, err)
	}
	if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	f.backup()
	f.same(f.dir, f.download("latest"))
}

func TestEscape(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("dir/a", "a")
	s := f.backup()
	// A link in the target that leads outside of it is not followed.
	outside, target := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(target, "dir")); err != nil {
		t.Fatal(err)
	}
	r := f.open()
	v, err := r.Find(t.Context(), s.Versions[0])
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Download(t.Context(), v, target, DownloadOptions{})
	if list, _ := os.ReadDir(outside); err == nil || len(list) > 0 {
		t.Errorf("download through a link: %v, %d files outside", err, len(list))
	}
	// A manifest that leads outside is refused as a whole.
	text := bytes.ReplaceAll(encodeDiff(nil, []Change{{Status: "new", Entry: Entry{Path: "/x", Hash: emptyHash, has: hasSize}}}), []byte(`"/x"`), []byte(`"/../x"`))
	if _, err := r.putMeta(t.Context(), "manifest_diffs", literal(text)); err != nil {
		t.Fatal(err)
	}
	v, err = r.Find(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	var corrupt *CorruptError
	if _, err := r.Download(t.Context(), v, t.TempDir(), DownloadOptions{}); !errors.As(err, &corrupt) {
		t.Errorf("download: %v; want the manifest refused", err)
	}
}

func TestFindByTime(t *testing.T) {
	now := time.Now()
	list := []Version{{ID: "a", Time: now.Add(-48 * time.Hour)}, {ID: "b", Time: now.Add(-24 * time.Hour)}, {ID: "c", Time: now}}
	for name, want := range map[string]string{
		"latest": "c", "a": "a", now.Add(-time.Hour).Format(time.DateTime): "b", now.Add(-24 * time.Hour).Format(time.DateOnly): "b",
		now.Add(-72 * time.Hour).Format(time.RFC3339): "", "nonsense": "",
	} {
		s := newSearch(name)
		for _, v := range slices.Backward(list) {
			if !s.at(v) {
				break
			}
		}
		if v, err := s.result(); v.ID != want || (err == nil) != (want != "") {
			t.Errorf("find %q: %q, %v; want %q", name, v.ID, err, want)
		}
	}
}
