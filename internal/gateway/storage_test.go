package gateway

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/webdav"
	"golang.org/x/sys/unix"

	"sdbackup/internal/token"
)

// A disk that is full says so to restic, which waits, and goes on when there is room again. Nothing is broken by it.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]struct{ answer, log string }{
		"local":  {"507 Insufficient Storage", "no space left on device"},
		"rclone": {"500 Internal Server Error", "too big for remaining disk space"}, // it says why in its log only
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, kind, "")
			disk := filepath.Join(f.dir, "repo")
			if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=24m"); err != nil {
				if errors.Is(err, unix.EPERM) && os.Getenv("CI") != "true" {
					t.Skip("mounting is for root")
				}
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
			module := f.as("wiki1", token.Add, own)
			f.mustRestic(module, own, "init")
			content := make([]byte, 40<<20)
			_, _ = rand.Read(content) // never fails
			f.write("files/big", string(content))

			cmd := f.command(module, own, "backup", f.dir+"/files")
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd.Stderr = cmd.Stdout
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			full := false
			for lines := bufio.NewScanner(out); lines.Scan(); {
				said.WriteString(lines.Text() + "\n")
				if full || !strings.Contains(lines.Text(), want.answer) {
					continue
				}
				full = true
				if err := unix.Mount("tmpfs", disk, "tmpfs", unix.MS_REMOUNT, "size=128m"); err != nil {
					t.Error(err)
				}
			}
			if err := cmd.Wait(); err != nil || !full {
				t.Fatalf("restic: %v; want that it is told %s, and goes on when there is room\n%s", err, want.answer, said.Bytes())
			}
			if !strings.Contains(f.log.String(), want.log) {
				t.Errorf("the log does not say %q", want.log)
			}
			f.mustRestic(module, own, "check", "--read-data")
			f.mustRestic(module, own, "restore", "latest", "--target", f.dir+"/restored")
			if got := read(t, filepath.Join(f.dir, "restored", f.dir, "files/big")); !bytes.Equal(got, content) {
				t.Error("what was restored is something else")
			}
		})
	}
}

// However long a storage takes, for a list or for an upload of which it has all, nobody is cut off: a client is silent for too long only
// where it is its turn.
func TestSlowStorage(t *testing.T) {
	t.Parallel()
	delay := 20 * time.Second
	if testing.Short() {
		delay = 3 * time.Second
	}
	var slow sync.Map // "METHOD of a part of a path", each once
	files := webdav.Handler{FileSystem: webdav.NewMemFS(), LockSystem: webdav.NewMemLS()}
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		slow.Range(func(key, _ any) bool {
			method, part, _ := strings.Cut(key.(string), " ")
			if _, mine := slow.Load(key); r.Method == method && strings.Contains(r.URL.Path, part) && mine {
				slow.Delete(key)
				time.Sleep(delay) // that it takes long is what this is about
			}
			return true
		})
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(storage.Close)

	f := newFixture(t, "rclone", "")
	f.write("rclone.conf", "[archive]\ntype = webdav\nvendor = other\nurl = "+storage.URL+"\n")
	f.server.StallTimeout = time.Second
	f.server.fresh()
	module := f.as("wiki1", token.Add, own)
	top := "/archive/" + own
	f.rest(200, module, "POST", top+"/?create=true", "")
	f.rest(200, module, "POST", top+"/data/"+name("first"), "first")

	var wg sync.WaitGroup
	took := func(what string, f func()) {
		slow.Store(what, true)
		wg.Go(func() {
			start := time.Now()
			f()
			if d := time.Since(start); d < delay {
				t.Errorf("%s took %s: the storage was not slow", what, d)
			}
		})
	}
	took("PROPFIND "+own+"/snapshots", func() { f.rest(200, module, "GET", top+"/snapshots/", "") })
	took("PUT "+name("second"), func() { f.rest(200, module, "POST", top+"/data/"+name("second"), "second") })
	took("GET "+name("first"), func() {
		if got := f.rest(200, module, "GET", top+"/data/"+name("first"), ""); got != "first" {
			t.Errorf("got %q", got)
		}
	})
	wg.Wait()
	if got := f.rest(200, module, "GET", top+"/data/"+name("second"), ""); got != "second" {
		t.Errorf("got %q", got)
	}
}
