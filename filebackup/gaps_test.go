package filebackup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A change that leaves size, time and inode alone is seen by --checksum only.
func TestChecksum(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "one")
	f.write("b", "two")
	f.backup()
	path := filepath.Join(f.dir, "a")
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("ono"), 0o644), os.Chtimes(path, time.Time{}, info.ModTime())); err != nil {
		t.Fatal(err)
	}
	if s := f.backup(); len(s.Versions) != 0 {
		t.Errorf("without --checksum: %+v", s)
	}
	s, err := f.open().Backup(t.Context(), BackupOptions{Checksum: true})
	if err != nil || len(s.Versions) != 1 || s.Changed != 1 || s.Uploaded != 1 || s.Unchanged != 1 {
		t.Errorf("with it: %+v, %v", s, err)
	}
	f.same(f.dir, f.download("latest"))
}

// What vanishes after it was found is not in the version, or not any more.
func TestVanishing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("old", "old")
	f.write("stays", "stays")
	f.backup()
	f.write("old", "old, changed")
	f.write("new", "new")
	f.write("folder/below", "below")
	var once sync.Once
	f.c.Fault = func(step string) error {
		if step == "put gc_log" { // everything was found, and nothing was read
			once.Do(func() {
				f.remove("old")
				f.remove("new")
				f.remove("folder")
			})
		}
		return nil
	}
	s := f.backup()
	f.c.Fault = nil
	if s.New != 0 || s.Changed != 0 || s.Deleted != 1 {
		t.Errorf("%+v", s)
	}
	f.same(f.dir, f.download("latest"))
	if s := f.backup(); len(s.Versions) != 0 {
		t.Errorf("nothing changed: %+v", s)
	}
}

// Files that are compressed by bzip2 can be read.
func TestBzip2(t *testing.T) {
	t.Parallel()
	program, err := exec.LookPath("bzip2")
	if err != nil {
		t.Skip(err)
	}
	text := strings.Repeat("text that is compressed\n", 10000)
	cmd := exec.Command(program)
	cmd.Stdin = strings.NewReader(text)
	compressed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	h, err := parseHeader(bytes.Replace(fileHeader(1<<20, []string{"compress"}, nil).raw, []byte("zstd"), []byte("bz2"), 1))
	if err != nil {
		t.Fatal(err)
	}
	object := append(appendFrame(nil, h), compressed...)
	if binary.BigEndian.Uint32(object) != uint32(len(h.raw)) {
		t.Fatal("the frame is another one")
	}
	r, done, err := contentReader(bytes.NewReader(object), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if got, err := io.ReadAll(r); err != nil || string(got) != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	r, done, err = contentReader(bytes.NewReader(object[:len(object)-20]), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a cut object was taken for a whole one")
	}
}

// An expiry while a backup elsewhere is about to commit takes nothing away that its version needs.
func TestExpireBesideBackup(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i, text := range []string{"one", "two", "three"} {
		f.write("a", text)
		f.write("kept", "kept")
		f.write("gone", strings.Repeat("x", 1+i))
		f.backup()
	}
	elsewhere := f.c
	elsewhere.LocalLockFile, elsewhere.LocalManifestFile = filepath.Join(t.TempDir(), "lock"), filepath.Join(t.TempDir(), "manifest")
	f.write("a", "one") // content of a version that is about to expire
	f.write("copy", "kept")
	var once sync.Once
	f.c.Fault = func(step string) error {
		if step == "put manifest_diffs" {
			once.Do(func() {
				other, err := Open(&elsewhere)
				if err != nil {
					t.Error(err)
					return
				}
				x, err := other.Expire(t.Context(), Keep{Last: 1}, false)
				if err != nil || len(x.Dropped) != 2 {
					t.Errorf("expire: %+v, %v", x, err)
				}
				if g, err := other.GarbageCollect(t.Context(), false); err != nil || len(g.Objects) > 0 {
					t.Errorf("garbage: %+v, %v", g, err)
				}
			})
		}
		return nil
	}
	s := f.backup()
	f.c.Fault = nil
	if len(s.Versions) != 1 {
		t.Errorf("%+v", s)
	}
	f.same(f.dir, f.download("latest"))
	if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 || v.Versions != 2 {
		t.Errorf("%+v, %v", v, err)
	}
}

func TestVisitMountpoints(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "one")
	mounted := filepath.Join(f.dir, "mounted")
	if err := os.Mkdir(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("test", mounted, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mounted, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f.write("mounted/b", "two")
	no := false
	f.c.VisitMountpoints = &no
	f.backup()
	if got := f.listed(); got != "/a /mounted" {
		t.Errorf("not visited: %s", got)
	}
	f.c.VisitMountpoints = nil
	f.backup()
	if got := f.listed(); got != "/a /mounted /mounted/b" {
		t.Errorf("visited: %s", got)
	}
}
