package restserver

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// blob returns a content and its name.
func blob(text string) (name string, content []byte) {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:]), []byte(text)
}

// answered is what came of a request.
type answered struct {
	code   int
	body   string
	header http.Header
}

// do makes a request; headers are "Name: value".
func do(tb testing.TB, server *httptest.Server, method, path string, body any, headers ...string) answered {
	tb.Helper()
	var r io.Reader
	switch b := body.(type) {
	case []byte:
		r = bytes.NewReader(b)
	case string:
		r = strings.NewReader(b)
	case io.Reader:
		r = b
	}
	req, err := http.NewRequest(method, server.URL+path, r)
	if err != nil {
		tb.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if req.Header.Set(name, value); name == "Host" {
			req.Host = value
		}
	}
	resp, err := server.Client().Do(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	return answered{resp.StatusCode, string(text), resp.Header}
}

// files returns what there is in a folder, but folders.
func files(tb testing.TB, dir string) (names []string) {
	tb.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

func TestStatusCodes(t *testing.T) {
	name, content := blob("content")
	other, _ := blob("other")
	huge := strings.Repeat("x", 3*smallBytes)
	hugeName, _ := blob(huge)
	type step struct {
		method, path string
		body         any
		code         int
	}
	for test, c := range map[string]struct {
		store *Store
		steps []step
	}{
		"missing repository": {&Store{}, []step{
			{"HEAD", "/config", nil, 404},
			{"GET", "/config", nil, 404},
			{"GET", "/data/", nil, 404},
			{"GET", "/keys/", nil, 404},
			{"GET", "/data/" + name, nil, 404},
			{"HEAD", "/data/" + name, nil, 404},
			{"DELETE", "/data/" + name, nil, 200},
			{"DELETE", "/config", nil, 200},
			{"DELETE", "/", nil, 200},
		}},
		"repository": {&Store{}, []step{
			{"POST", "/", nil, 400},
			{"POST", "/?create=false", nil, 400},
			{"POST", "/?create=true", nil, 200},
			{"POST", "/?create=true", nil, 200},
			{"GET", "/", nil, 405},
			{"PUT", "/?create=true", nil, 405},
			{"GET", "/data/", nil, 200},
			{"HEAD", "/data/", nil, 405},
			{"DELETE", "/data/", nil, 405},
			{"POST", "/locks/", nil, 405},
			{"DELETE", "/", nil, 200},
			{"GET", "/data/", nil, 404},
		}},
		"config": {&Store{}, []step{
			{"HEAD", "/config", nil, 404},
			{"POST", "/config", "any content", 200},
			{"POST", "/config", "any content", 403},
			{"HEAD", "/config", nil, 200},
			{"GET", "/config", nil, 200},
			{"PUT", "/config", "any content", 405},
			{"DELETE", "/config", nil, 200},
			{"DELETE", "/config", nil, 200},
			{"GET", "/config", nil, 404},
		}},
		"object": {&Store{}, []step{
			{"POST", "/data/" + name, content, 200},
			{"POST", "/data/" + name, content, 403},
			{"POST", "/data/" + other, content, 400},
			{"POST", "/data/" + other, huge, 400},
			{"POST", "/keys/" + hugeName, huge, 200},
			{"POST", "/keys/" + hugeName, huge, 403},
			{"HEAD", "/data/" + name, nil, 200},
			{"GET", "/data/" + name, nil, 200},
			{"GET", "/keys/" + name, nil, 404},
			{"PUT", "/data/" + name, content, 405},
			{"MKCOL", "/data/" + name, nil, 405},
			{"DELETE", "/data/" + name, nil, 200},
			{"DELETE", "/data/" + name, nil, 200},
			{"HEAD", "/data/" + name, nil, 404},
			{"POST", "/data/" + name, content, 200},
		}},
		"append-only": {&Store{AppendOnly: true}, []step{
			{"POST", "/config", "config", 200},
			{"POST", "/data/" + name, content, 200},
			{"POST", "/locks/" + name, content, 200},
			{"DELETE", "/config", nil, 403},
			{"DELETE", "/data/" + name, nil, 403},
			{"DELETE", "/data/" + other, nil, 403},
			{"DELETE", "/", nil, 403},
			{"DELETE", "/locks/" + name, nil, 200},
			{"GET", "/locks/" + name, nil, 404},
			{"GET", "/data/" + name, nil, 200},
		}},
		"no removal": {&Store{NoRemove: true}, []step{
			{"POST", "/?create=true", nil, 200},
			{"DELETE", "/", nil, 405},
		}},
		"no verification": {&Store{NoVerify: true}, []step{
			{"POST", "/data/" + name, huge, 200},
			{"POST", "/data/" + other, content, 200},
			{"POST", "/data/" + other, content, 403},
		}},
		"identical": {&Store{Identical: true}, []step{
			{"POST", "/data/" + name, content, 200},
			{"POST", "/data/" + name, content, 200},
			{"POST", "/data/" + name, huge, 403},
			{"POST", "/data/" + hugeName, huge, 200},
			{"POST", "/data/" + hugeName, huge, 200},
			{"POST", "/data/" + hugeName, content, 403},
			{"POST", "/config", "config", 200},
			{"POST", "/config", "config", 200},
			{"POST", "/config", "another", 403},
		}},
		"identical, no verification": {&Store{Identical: true, NoVerify: true}, []step{
			{"POST", "/data/" + name, "something else", 200},
			{"POST", "/data/" + name, "something else", 200},
			{"POST", "/data/" + name, content, 403},
		}},
		"quota": {&Store{Quota: &Limit{max: 20}}, []step{
			{"POST", "/data/" + hugeName, huge, 507},
			{"POST", "/data/" + name, content, 200},
			{"POST", "/data/" + name, content, 403},
			{"POST", "/data/" + other, content, 400},
			{"POST", "/config", "0123456789", 200},
			{"POST", "/locks/" + name, content, 507},
			{"POST", "/locks/" + name, struct{ io.Reader }{bytes.NewReader(content)}, 411},
			{"DELETE", "/data/" + name, nil, 200},
			{"DELETE", "/data/" + name, nil, 200},
			{"POST", "/locks/" + name, content, 200},
			{"DELETE", "/", nil, 200},
			{"POST", "/config", "01234567890123456789", 200},
			{"POST", "/data/" + name, content, 507},
		}},
		"quota of unknown lengths": {&Store{Quota: &Limit{max: 1 << 20}, CountUnknown: true}, []step{
			{"POST", "/locks/" + name, struct{ io.Reader }{bytes.NewReader(content)}, 200},
			{"POST", "/data/" + name, io.LimitReader(zeros{}, 2<<20), 500},
			{"POST", "/data/" + hugeName, struct{ io.Reader }{strings.NewReader(huge)}, 200},
		}},
		"identical and quota": {&Store{Identical: true, Quota: &Limit{max: 10}}, []step{
			{"POST", "/data/" + name, content, 200},
			{"POST", "/data/" + name, content, 200},
			{"POST", "/config", "012", 200},
		}},
	} {
		t.Run(test, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			store := c.store
			store.Dir = dir
			server := serveStore(t, store)
			for i, s := range c.steps {
				got := do(t, server, s.method, s.path, s.body)
				if got.code != s.code {
					t.Errorf("step %d: %s %s: %d %q; want %d", i+1, s.method, s.path, got.code, got.body, s.code)
				}
				if got.code == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
					t.Errorf("step %d: %s %s: 405 without Allow", i+1, s.method, s.path)
				}
			}
			if _, err := os.Stat(dir); err != nil {
				return
			}
			var used int64
			for _, name := range files(t, dir) {
				if strings.Contains(name, tempMark) {
					t.Errorf("%s is left", name)
				}
				info, _ := os.Stat(filepath.Join(dir, name))
				used += info.Size()
			}
			if l, ok := store.Quota.(*Limit); ok && l.Used() != used {
				t.Errorf("the quota has %d bytes of %d", l.Used(), used)
			}
		})
	}
}

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestSub(t *testing.T) {
	dir := t.TempDir()
	server := serveStore(t, &Store{Dir: dir, Sub: "a/b"})
	name, content := blob("content")
	if got := do(t, server, "POST", "/data/"+name, content); got.code != 200 {
		t.Fatal(got)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "a/b/data", name[:2], name)); err != nil || !bytes.Equal(data, content) {
		t.Errorf("stored %q, %v", data, err)
	}
	if got := do(t, server, "DELETE", "/", nil); got.code != 200 {
		t.Error(got)
	}
	if entries, _ := os.ReadDir(filepath.Join(dir, "a")); len(entries) != 0 {
		t.Errorf("%v is left of the repository", entries)
	}
	missing := serveStore(t, &Store{Dir: filepath.Join(dir, "unmounted"), Sub: "a"})
	if got := do(t, missing, "POST", "/data/"+name, content); got.code != 404 {
		t.Errorf("stored where the folder is missing: %v", got)
	}
}

// TestRemoveOnlyTheRepository removes a repository from among other things.
func TestRemoveOnlyTheRepository(t *testing.T) {
	dir := t.TempDir()
	var events atomic.Int32
	server := serveStore(t, &Store{Dir: dir, Count: func(e Event) {
		if e.Kind == Delete {
			events.Add(1)
		}
	}})
	post(t, server, "/?create=true")
	name, content := blob("content")
	for _, path := range []string{"/data/" + name, "/keys/" + name, "/config"} {
		do(t, server, "POST", path, content)
	}
	for _, path := range []string{".htpasswd", "nested/config", "data/00/strange"} {
		_ = os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700)
		if err := os.WriteFile(filepath.Join(dir, path), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := do(t, server, "DELETE", "/", nil); got.code != 200 {
		t.Error(got)
	}
	if got := files(t, dir); !slices.Equal(got, []string{".htpasswd", "nested/config"}) || events.Load() != 4 {
		t.Errorf("%q remain, %d events; want what does not belong to the repository, and 4", got, events.Load())
	}
}

func TestCreateMakesTheLayout(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for _, c := range []struct {
		store     *Store
		dir, file fs.FileMode
	}{{&Store{}, 0o700, 0o600}, {&Store{GroupAccessible: true}, 0o770, 0o660}} {
		c.store.Dir = filepath.Join(t.TempDir(), "repository")
		server := serveStore(t, c.store)
		post(t, server, "/?create=true")
		name, content := blob("content")
		do(t, server, "POST", "/data/"+name, content)
		n := 0
		err := filepath.WalkDir(c.store.Dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if want := c.dir; d.IsDir() && info.Mode().Perm() != want {
				t.Errorf("folder %s: %v; want %v", path, info.Mode(), want)
			}
			if want := c.file; !d.IsDir() && info.Mode().Perm() != want {
				t.Errorf("file %s: %v; want %v", path, info.Mode(), want)
			}
			n++
			return nil
		})
		if err != nil || n != 1+5+256+1 {
			t.Errorf("%d folders and files, %v; want the repository, 5 types, 256 of data, 1 file", n, err)
		}
	}
}

func TestLists(t *testing.T) {
	dir := t.TempDir()
	server := serveStore(t, &Store{Dir: dir})
	post(t, server, "/?create=true")
	if got := do(t, server, "GET", "/data/", nil); got.body != "[]" || got.header.Get("Content-Type") != listMimeV1 {
		t.Errorf("the empty list is %q of type %s", got.body, got.header.Get("Content-Type"))
	}
	for _, n := range []int{1, 2, 3000} { // the last is longer than a buffer
		sizes := make(map[string]int64)
		for i := range n {
			name, content := blob(fmt.Sprint(strings.Repeat("x", i%17), i))
			sizes[name] = int64(len(content))
			for _, path := range []string{"data/" + name[:2], "snapshots"} {
				if err := os.WriteFile(filepath.Join(dir, path, name), content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, path := range []string{"data/00/" + someID + tempMark + "123", "snapshots/readme", "data/" + someID, "data/ff/" + someID[1:]} {
			if err := os.WriteFile(filepath.Join(dir, path), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_ = os.Mkdir(filepath.Join(dir, "data/01", "01"+someID[2:]), 0o700)
		_ = os.Mkdir(filepath.Join(dir, "data/more"), 0o700)
		for _, objectType := range []string{"data", "snapshots"} {
			var names []string
			v1 := do(t, server, "GET", "/"+objectType+"/", nil, "Accept: application/vnd.x.restic.rest.v1")
			if err := json.Unmarshal([]byte(v1.body), &names); err != nil || v1.header.Get("Content-Type") != listMimeV1 {
				t.Fatalf("list %s: %v, type %s", objectType, err, v1.header.Get("Content-Type"))
			}
			var blobs []struct {
				Name string
				Size int64
			}
			v2 := do(t, server, "GET", "/"+objectType+"/", nil, "Accept: "+listMimeV2)
			if err := json.Unmarshal([]byte(v2.body), &blobs); err != nil || v2.header.Get("Content-Type") != listMimeV2 {
				t.Fatalf("list %s: %v, type %s", objectType, err, v2.header.Get("Content-Type"))
			}
			for _, b := range blobs {
				if size, ok := sizes[b.Name]; !ok || size != b.Size || !slices.Contains(names, b.Name) {
					t.Errorf("list of %s has %v; want size %d; in version 1: %v", objectType, b, size, slices.Contains(names, b.Name))
				}
			}
			if len(blobs) != len(sizes) || len(names) != len(sizes) {
				t.Errorf("list of %s has %d in version 1, %d in version 2; want %d", objectType, len(names), len(blobs), len(sizes))
			}
		}
	}
	if got := do(t, server, "GET", "/keys/", nil, "Accept: "+listMimeV2+", text/plain"); got.header.Get("Content-Type") != listMimeV1 {
		t.Errorf("Accept that is not exactly version 2 gets %s", got.header.Get("Content-Type"))
	}
}

// TestListEnds cuts lists in their midst: by the client, and by a link that leads out.
func TestListEnds(t *testing.T) {
	dir := t.TempDir()
	store := &Store{Dir: dir, StallTimeout: -1}
	server := serveStore(t, store)
	post(t, server, "/?create=true")
	for i := range 5000 {
		name, _ := blob(fmt.Sprint(i))
		if err := os.WriteFile(filepath.Join(dir, "data", name[:2], name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := &failingWriter{header: make(http.Header), left: 1}
	err := store.Serve(w, httptest.NewRequest("GET", "/data/", nil), Object{Type: "data"})
	if e := (*Error)(nil); !errors.As(err, &e) || !e.Late {
		t.Errorf("a client that is gone: %v; want a late error", err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "data/ff", "ff"+someID[2:])); err != nil {
		t.Fatal(err)
	}
	resp, err := server.Client().Get(server.URL + "/data/")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		if resp.StatusCode == 500 {
			err = errors.New("500")
		}
		resp.Body.Close()
	}
	if err == nil {
		t.Error("a list that could not be ended looks whole")
	}
}

// failingWriter is a client that goes away.
type failingWriter struct {
	header http.Header
	left   int
}

func (w *failingWriter) Header() http.Header { return w.header }
func (w *failingWriter) WriteHeader(int)     {}
func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left--; w.left < 0 {
		return 0, unix.EPIPE
	}
	return len(p), nil
}

// TestNothingOutsideIsReached has symbolic links at every level.
func TestNothingOutsideIsReached(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	name, content := blob("secret")
	for _, d := range []string{"", "data", "data/" + name[:2]} {
		if err := os.MkdirAll(filepath.Join(outside, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"config", name, "data/" + name[:2] + "/" + name} {
		if err := os.WriteFile(filepath.Join(outside, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := files(t, outside)
	link := func(target, path string) {
		t.Helper()
		path = filepath.Join(dir, path)
		_ = os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
	}
	link(outside, "folder")
	link(filepath.Join(outside, "config"), "files/config")
	link(outside, "files/keys")
	link(outside, "files/data/"+name[:2])
	link("../../../../../../../../"+outside, "files/index")
	link(filepath.Join(outside, name), "files/locks/"+name)
	for _, sub := range []string{"folder", "files"} {
		server := serveStore(t, &Store{Dir: dir, Sub: sub, Identical: true})
		for _, path := range []string{"/config", "/keys/" + name, "/data/" + name, "/index/" + name, "/locks/" + name} {
			for _, method := range []string{"GET", "HEAD", "POST"} {
				got := do(t, server, method, path, content)
				if strings.Contains(got.body, "secret") || got.code < 400 {
					t.Errorf("%s %s in %s: %d %q", method, path, sub, got.code, got.body)
				}
			}
		}
		for _, path := range []string{"/keys/", "/data/", "/index/", "/locks/"} {
			if got := do(t, server, "GET", path, nil, "Accept: "+listMimeV2); strings.Contains(got.body, name) {
				t.Errorf("GET %s in %s: %s", path, sub, got.body)
			}
		}
		for _, path := range []string{"/config", "/keys/" + name, "/data/" + name, "/"} {
			do(t, server, "DELETE", path, nil)
		}
		if after := files(t, outside); !slices.Equal(before, after) {
			t.Errorf("by way of %s, there is %q outside; want %q", sub, after, before)
		}
	}
}

// TestConcurrentUploads sends the same object many times at once.
func TestConcurrentUploads(t *testing.T) {
	const clients = 64
	for _, identical := range []bool{false, true} {
		for _, size := range []int{100, 1 << 20} {
			t.Run(fmt.Sprintf("identical=%v/%d", identical, size), func(t *testing.T) {
				dir := t.TempDir()
				limit := &Limit{max: 1 << 40}
				server := serveStore(t, &Store{Dir: dir, Identical: identical, Quota: limit})
				name, content := blob(strings.Repeat("x", size))
				var codes [600]atomic.Int32
				var wg sync.WaitGroup
				for range clients {
					wg.Go(func() {
						// A client that is refused early may find its connection closed while it sends; restic tries again, then.
						for {
							resp, err := server.Client().Post(server.URL+"/data/"+name, "", bytes.NewReader(content))
							if err != nil {
								continue
							}
							resp.Body.Close()
							codes[resp.StatusCode].Add(1)
							return
						}
					})
				}
				wg.Wait()
				if ok, no := codes[200].Load(), codes[403].Load(); ok+no != clients || identical && ok != clients || !identical && ok > 1 {
					t.Errorf("%d times 200, %d times 403 of %d", ok, no, clients)
				}
				if got := files(t, dir); !slices.Equal(got, []string{"data/" + name[:2] + "/" + name}) {
					t.Errorf("%q are stored; want one file", got)
				}
				if limit.Used() != int64(size) {
					t.Errorf("the quota has %d bytes; want %d", limit.Used(), size)
				}
			})
		}
	}
}

// brokenBody fails in its midst.
type brokenBody struct {
	left int
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, b.err
	}
	n := min(b.left, len(p))
	b.left -= n
	return n, nil
}

func TestCutUploadsLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	limit := &Limit{max: 1 << 30}
	store := &Store{Dir: dir, Quota: limit, CountUnknown: true}
	name, _ := blob("x")
	for _, length := range []int64{-1, 100, 10 << 20} {
		for _, sent := range []int{0, 50, bufferBytes, bufferBytes + 1, 3 << 20} {
			for _, err := range []error{io.ErrUnexpectedEOF, io.EOF, errors.New("malformed chunk"), os.ErrDeadlineExceeded} {
				if length >= 0 && int64(sent) > length {
					continue
				}
				r := httptest.NewRequest("POST", "/", &brokenBody{sent, err})
				r.ContentLength = length
				w := httptest.NewRecorder()
				got := store.Serve(w, r, Object{"data", name})
				if e := (*Error)(nil); !errors.As(got, &e) || e.Code != 400 {
					t.Errorf("%d of %d bytes, then %v: %v; want 400", sent, length, err, got)
				}
				if left := files(t, dir); len(left) > 0 || limit.Used() != 0 {
					t.Fatalf("%d of %d bytes, then %v: %q are left, and %d bytes of the quota", sent, length, err, left, limit.Used())
				}
			}
		}
	}
	// And by a real connection.
	server := serveStore(t, store)
	req, _ := http.NewRequest("POST", server.URL+"/data/"+name, io.MultiReader(io.LimitReader(zeros{}, 1<<20), &brokenBody{0, errors.New("gone")}))
	req.ContentLength = 2 << 20
	if _, err := server.Client().Do(req); err == nil {
		t.Error("the cut upload has an answer")
	}
	server.Close() // waits for the request
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("%q are left of a connection that was cut", left)
	}
}

// TestFullDisk stores on a small tmpfs.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		if errors.Is(err, unix.EPERM) && os.Getenv("CI") == "" {
			t.Skip("mounting is for root")
		}
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	server := serveStore(t, &Store{Dir: dir})
	post(t, server, "/?create=true")
	name, content := blob(strings.Repeat("x", 2<<20))
	got := do(t, server, "POST", "/data/"+name, content)
	if got.code != 507 || !strings.Contains(got.body, "no space") {
		t.Errorf("POST to a full disk: %d %q; want 507 and why", got.code, got.body)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
	// Also for what is small, when there is nothing left at all.
	small, content := blob("small")
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
	if got := do(t, server, "POST", "/data/"+small, content); got.code != 507 {
		t.Errorf("POST of %d bytes to a full disk: %d %q; want 507", len(content), got.code, got.body)
	}
	if left := files(t, dir); !slices.Equal(left, []string{"filler"}) {
		t.Errorf("%q are left", left)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if got := do(t, server, "POST", "/data/"+small, content); got.code != 200 {
		t.Errorf("after that: %v", got)
	}
}

func TestClean(t *testing.T) {
	dir := t.TempDir()
	store := &Store{Dir: dir}
	if n, err := (&Store{Dir: dir, Sub: "missing"}).Clean(0); n != 0 || err != nil {
		t.Errorf("Clean of nothing = %d, %v", n, err)
	}
	server := serveStore(t, store)
	post(t, server, "/?create=true")
	old := time.Now().Add(-25 * time.Hour)
	keep := []string{"config", "data/00/" + someID, "data/00/" + someID + tempMark + "new", "keys/readme" + tempMark}
	for _, path := range append([]string{"config" + tempMark + "1", "data/01/" + someID + tempMark + "2", "locks/" + someID + tempMark}, keep...) {
		path := filepath.Join(dir, path)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(path, "new") {
			_ = os.Chtimes(path, old, old)
		}
	}
	n, err := store.Clean(24 * time.Hour)
	if got := files(t, dir); n != 3 || err != nil || !slices.Equal(got, keep) {
		t.Errorf("Clean = %d, %v, and %q are left; want 3, and %q", n, err, got, keep)
	}
}

func TestPlaceReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	_ = os.WriteFile(filepath.Join(dir, "new"), []byte("new"), 0o600)
	_ = os.WriteFile(filepath.Join(dir, "there"), []byte("there"), 0o600)
	s := new(Store)
	if err := s.place(int(folder.Fd()), "new", "there"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("place over what is there: %v; want that it exists", err)
	}
	if err := s.place(int(folder.Fd()), "new", "name"); err != nil {
		t.Error(err)
	}
	if got := files(t, dir); !slices.Equal(got, []string{"name", "there"}) {
		t.Errorf("there are %q", got)
	}
}

func TestSyncUnsupportedIsSaidOnce(t *testing.T) {
	var text bytes.Buffer
	s := &Store{Log: slog.New(slog.NewTextHandler(&text, nil))}
	pipe, other, err := os.Pipe() // fsync(2) of a pipe is EINVAL
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer other.Close()
	for range 3 {
		if err := s.fsync(pipe); err != nil {
			t.Errorf("fsync = %v", err)
		}
	}
	if n := strings.Count(text.String(), "cannot sync"); n != 1 {
		t.Errorf("it is said %d times; want once:\n%s", n, text.String())
	}
}
