package restore

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// between stands between a world and its bucket. What it is told of are requests for the contents of files.
type between struct {
	mu     sync.Mutex
	begun  int                                            // since it was asked last
	handle func(n int, w http.ResponseWriter) (done bool) // of the n-th, from 1 on
	change func(n int, body []byte)                       // what is answered to it
}

func (w *world) between() *between {
	w.t.Helper()
	real, err := url.Parse(w.Config.Destinations["bucket"].Bucket.Endpoint)
	w.check(err)
	b := new(between)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(real)
		r.Out.Host = r.In.Host // which is signed
	}}
	server := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		if in.Method != http.MethodGet || !strings.Contains(in.URL.Path, photosUUID+"/files/") || strings.Contains(in.URL.Path, ".sdbackup-saved") {
			proxy.ServeHTTP(out, in)
			return
		}
		b.mu.Lock()
		b.begun++
		n, handle, change := b.begun, b.handle, b.change
		b.mu.Unlock()
		if handle != nil && handle(n, out) {
			return
		}
		if change == nil {
			proxy.ServeHTTP(out, in)
			return
		}
		answer := httptest.NewRecorder()
		proxy.ServeHTTP(answer, in)
		for name, values := range answer.Header() {
			out.Header()[name] = values
		}
		out.WriteHeader(answer.Code)
		body := answer.Body.Bytes()
		change(n, body)
		_, _ = out.Write(body)
	}))
	w.t.Cleanup(server.Close)
	w.edit("photos.toml", real.String(), server.URL)
	return b
}

func (b *between) set(handle func(int, http.ResponseWriter) bool, change func(int, []byte)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.begun, b.handle, b.change = 0, handle, change
}

func (w *world) photos(change func(*Request)) Request {
	w.t.Helper()
	at, err := w.Find(w.t.Context(), "photos", "", "")
	w.check(err)
	req := Request{Repository: at, InPlace: true, Verify: true}
	if change != nil {
		change(&req)
	}
	return req
}

func (w *world) photosPlan(change func(*Request)) *Plan {
	w.t.Helper()
	p, err := w.Check(w.t.Context(), w.photos(change))
	w.check(err)
	w.t.Cleanup(p.Close)
	if blocked := p.Blocked(); len(blocked) > 0 {
		w.t.Fatalf("problems: %+v", blocked)
	}
	return p
}

// As with restic, what lives is replaced by what was saved in every respect, but for what no version holds: that two names are one file, holes, and pipes.
func TestInPlaceVersions(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	w.fill()
	data := filepath.Join(w.data, "data")
	for _, name := range []string{"second", "sparse", "pipe"} {
		w.check(os.Remove(filepath.Join(data, name)))
	}
	w.check(unix.Lsetxattr(data, "user.top", []byte("x"), 0))
	w.check(unix.Lsetxattr(filepath.Join(data, "first"), "user.colour", []byte("blue"), 0))
	if os.Geteuid() == 0 {
		w.check(unix.Lsetxattr(filepath.Join(data, "first"), "security.planted", []byte("x"), 0))
	}
	old := time.Date(2003, 2, 3, 4, 5, 6, 0, time.UTC)
	w.check(os.Chmod(data, 0o751))
	w.check(os.Chtimes(data, old, old))
	want, top := tree(t, data), tree(t, w.data)["/data"]
	w.saveVersion()
	w.edit("photos.toml", `restore-state = ["true"]`, `exclude = ["cache", "*.log"]
restore-state = ["sh", "-c", "cat \"$RESTORE_DUMPS/db.sql\" > ../hook; pwd >> ../hook; echo $MODULE_ID $RESTORE_TIME >> ../hook; test ! -e data/added"]`)
	w.write("photos/data/added", "new")
	w.write("photos/data/first", "changed")
	w.check(os.RemoveAll(filepath.Join(data, "sticky")))
	w.check(os.Mkdir(filepath.Join(data, "cache"), 0o755))
	w.write("photos/data/cache/x", "kept")
	w.write("photos/data/a.log", "kept")
	result, err := w.Restore(t.Context(), w.photosPlan(nil), quietly)
	if err != nil || !result.Complete || !result.Verified || result.Kept != 2 || result.RolledBack || len(result.Places) != 1 || len(result.Snapshots) != 1 {
		t.Fatalf("Restore = %+v, %v\n%s", result, err, w.log)
	}
	got := tree(t, data)
	for _, name := range []string{"/cache", "/cache/x", "/a.log"} {
		if got[name] == "" {
			t.Errorf("%s was not kept", name)
		}
		delete(got, name)
	}
	sameTree(t, got, want)
	if got := tree(t, w.data)["/data"]; got != top {
		t.Errorf("the folder itself is\n%s; want\n%s", got, top)
	}
	if n, err := unix.Lgetxattr(filepath.Join(data, "first"), "security.planted", make([]byte, 9)); err == nil {
		t.Errorf("security.planted came back, %d bytes", n)
	}
	hook, _ := os.ReadFile(filepath.Join(w.dir, "hook"))
	if lines := strings.Split(string(hook), "\n"); len(lines) < 3 || lines[0] != "a dump" || lines[1] != w.data || !strings.HasPrefix(lines[2], "photos 20") {
		t.Errorf("the hook saw %q", hook)
	}
	w.nothingLeft()

	// Only what was asked for.
	w.write("photos/data/first", "changed")
	w.write("photos/data/sub\xff/deep/page", "changed")
	w.edit("photos.toml", "test ! -e data/added", "true")
	_, err = w.Restore(t.Context(), w.photosPlan(func(r *Request) { r.Only = []string{"data/sub\xff"} }), quietly)
	w.check(err)
	for name, want := range map[string]string{"first": "changed", "sub\xff/deep/page": "deep"} {
		if got, err := os.ReadFile(filepath.Join(data, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	w.nothingLeft()

	// What is put in place is what was saved, and not the folder above that only leads to it.
	w.edit("photos.toml", `include = ["data"]`, `include = ["."]`)
	w.write("photos/beside", "stays")
	result, err = w.Restore(t.Context(), w.photosPlan(nil), quietly)
	if err != nil || len(result.Places) != 1 || result.Places[0] != data {
		t.Errorf("Restore = %+v, %v", result, err)
	}
	if got, err := os.ReadFile(filepath.Join(w.data, "beside")); err != nil || string(got) != "stays" {
		t.Errorf("beside is %q, %v", got, err)
	}
	// And nothing that include does not name.
	w.edit("photos.toml", `include = ["."]`, `include = ["beside"]`)
	p, err := w.Check(t.Context(), w.photos(nil))
	w.check(err)
	if blocked := p.Blocked(); len(blocked) != 1 || !strings.Contains(blocked[0].Text, "which include does not name") {
		t.Errorf("problems = %+v", blocked)
	}
}

// A dry run says the same as of restic.
func TestDryRunVersions(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	w.fill()
	w.check(os.Remove(filepath.Join(w.data, "data/pipe")))
	w.write("photos/data/page", "old")
	w.saveVersion()
	w.compares("photos", func(only ...string) *Plan {
		return w.photosPlan(func(r *Request) { r.InPlace, r.Target, r.Only = false, filepath.Join(w.dir, "out/new"), only })
	})
}

// A version is looked into as a snapshot is.
func TestBrowseVersions(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	w.fill()
	w.edit("photos.toml", `{filename = "db.sql", command = ["echo", "a dump"]}`, `{filename = "all.sql", command = ["echo", "CREATE"]}`)
	w.saveVersion()
	w.browses("photos")
}

// A version becomes a new module of engine files, which nothing of the old one is known to but its files.
func TestAsVersions(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	w.edit("photos.toml", `engine = "files"`, "engine = \"files\"\npipeline = [\"hash_names\", \"encrypt\"]")
	w.saveVersion()
	as := func(r *Request) { r.InPlace, r.As, r.Target = false, "photos2", filepath.Join(w.dir, "out/new") }
	result, err := w.Restore(t.Context(), w.photosPlan(as), quietly)
	if err != nil || result.Added != filepath.Join(w.dir, "etc/photos2.toml") || result.As != "photos2" || !result.Verified {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	w.edit("photos.toml", "", "")
	m := w.Config.Modules["photos2"]
	if m == nil || m.Engine != "files" || strings.Join(m.Pipeline, " ") != "hash_names encrypt" || m.Type != "photos" || m.UUID == photosUUID || m.Directory != result.Target || len(m.Include) != 1 {
		t.Fatalf("the new module is %+v", m)
	}
	top := filepath.Join(m.Directory, m.Include[0])
	sameTree(t, tree(t, top), tree(t, filepath.Join(w.data, "data")))

	// In place of the new one.
	w.edit("photos2.toml", "ui-name", "restore-state = [\"true\"]\nui-name")
	before := tree(t, w.data)
	w.check(os.WriteFile(filepath.Join(top, "more"), nil, 0o600))
	result, err = w.Restore(t.Context(), w.photosPlan(func(r *Request) { r.As = "photos2" }), quietly)
	if err != nil || !result.Verified {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	sameTree(t, tree(t, top), tree(t, filepath.Join(w.data, "data")))
	sameTree(t, tree(t, w.data), before)
}

// A module's user can put anything into its bucket.
func TestInPlaceVersionsPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	t.Parallel()
	w := newBucketWorld(t)
	w.write("photos/data/setuid", "#!")
	w.check(os.Chmod(filepath.Join(w.data, "data/setuid"), 0o755|os.ModeSetuid))
	w.saveVersion()
	w.edit("photos.toml", `include = ["data"]`, "include = [\"data\"]\nuser = \"nobody\"")
	p, err := w.Check(t.Context(), w.photos(nil))
	w.check(err)
	if blocked := p.Blocked(); len(blocked) != 1 || !strings.Contains(blocked[0].Text, "with the rights of another user than nobody") {
		t.Errorf("a setuid file of root's would come to nobody: %+v", blocked)
	}
}

// Whatever fails, what is live is as it was, and one sentence says why.
func TestInPlaceVersionsFails(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	b := w.between()
	for i := range 4 {
		w.write(fmt.Sprintf("photos/data/page%d", i), fmt.Sprint("page ", i))
	}
	w.saveVersion()
	w.write("photos/data/a", "changed")
	w.write("photos/data/added", "new")
	before := tree(t, w.data)
	config, err := os.ReadFile(filepath.Join(w.dir, "etc/photos.toml"))
	w.check(err)
	for name, c := range map[string]struct {
		break_ func()
		want   string
		remedy string
	}{
		"a damaged object": {func() {
			b.set(nil, func(n int, body []byte) {
				if n == 3 {
					body[len(body)-1] ^= 1
				}
			})
		}, "restore photos in place: 1 files or folders could not be restored, the first: /", "what is live was not touched"},
		"an object that is gone": {func() {
			b.set(func(n int, out http.ResponseWriter) bool {
				if n == 3 {
					http.Error(out, "", http.StatusNotFound)
				}
				return n == 3
			}, nil)
		}, "could not be restored, the first: /", "what is live was not touched"},
		"no right to read": {func() {
			b.set(func(n int, out http.ResponseWriter) bool {
				if n == 3 {
					http.Error(out, "", http.StatusForbidden)
				}
				return n == 3
			}, nil)
		}, "the access key is not allowed to do that", "what is live was not touched"},
		"a wrong password": {func() { w.write("password", "another\n") }, "repository photos/" + photosUUID + " at destination bucket", "compare the destination's password-file"},
		"wrong keys": {func() {
			w.write("keys", "AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY=another\n")
		}, "the secret key is not that of the access key", ""},
		"no bucket": {func() { w.edit("photos.toml", `bucket = "files"`, `bucket = "elsewhere"`) }, `the bucket "elsewhere" is not there`, ""},
		"a hook that fails": {func() {
			w.edit("photos.toml", `["true"]`, `["sh", "-c", "test ! -e data/added && echo no database; exit 1"]`)
		}, "no database", "as it was before"},
	} {
		keys, err := os.ReadFile(filepath.Join(w.dir, "keys"))
		w.check(err)
		c.break_()
		text, advice := w.fails()
		if !strings.Contains(text, c.want) || !strings.Contains(advice, c.remedy) || strings.Contains(text, "\n") || strings.Contains(text, "/proc/") {
			t.Errorf("%s: %s (%s); want %q (%q)", name, text, advice, c.want, c.remedy)
		}
		t.Logf("%s: %s; hint: %s", name, text, advice)
		sameTree(t, tree(t, w.data), before)
		w.nothingLeft()
		b.set(nil, nil)
		w.write("password", password+"\n")
		w.write("keys", string(keys))
		w.check(os.WriteFile(filepath.Join(w.dir, "etc/photos.toml"), config, 0o600))
		w.edit("photos.toml", "", "")
	}
	p := w.photosPlan(nil)
	for _, e := range p.source.(*versions).entries(p.Point.Snapshots[0]) {
		e.Xattrs = map[string][]byte{"bogus.x": nil}
	}
	if _, err := w.Restore(t.Context(), p, quietly); err == nil || !strings.Contains(err.Error(), "could not be given their mode, owner or attributes") {
		t.Errorf("an attribute that cannot be set: %v", err)
	}
	sameTree(t, tree(t, w.data), before)
	_, err = w.Restore(t.Context(), w.photosPlan(nil), quietly)
	w.check(err)
}

// fails restores in place, and returns what is said of the failure.
func (w *world) fails() (text, advice string) {
	w.t.Helper()
	p, err := w.Check(w.t.Context(), w.photos(nil))
	w.check(err)
	defer p.Close()
	for _, q := range p.Blocked() {
		return q.Text, q.Remedy
	}
	result, err := w.Restore(w.t.Context(), p, quietly)
	if err == nil || result.Complete {
		w.t.Fatalf("Restore = %+v, %v", result, err)
	}
	return err.Error(), Remedy(err)
}

// A bucket that is away is waited for, and then told of.
func TestInPlaceVersionsAway(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	w.saveVersion()
	w.write("photos/data/a", "changed")
	before := tree(t, w.data)
	w.edit("photos.toml", w.Config.Destinations["bucket"].Bucket.Endpoint, "http://127.0.0.1:1")
	if text, advice := w.fails(); !strings.Contains(text, "connection refused") || !strings.Contains(advice, "try again later") {
		t.Errorf("%s (%s)", text, advice)
	}
	sameTree(t, tree(t, w.data), before)
	w.nothingLeft()
}

// child restores in place, until it is killed.
func child(dir string) int {
	r := restorer(dir, os.Stderr)
	at, err := r.Find(context.Background(), "photos", "", "")
	if err == nil {
		var p *Plan
		if p, err = r.Check(context.Background(), Request{Repository: at, InPlace: true}); err == nil {
			_, err = r.Restore(context.Background(), p, quietly)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// Killed while it fetches any of the files, or after that, what is live is as it was, and recovery leaves nothing.
func TestInPlaceVersionsKilled(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	b := w.between()
	for i := range 3 {
		w.write(fmt.Sprintf("photos/data/page%d", i), fmt.Sprint("page ", i))
	}
	w.saveVersion()
	saved := tree(t, w.data)
	w.write("photos/data/a", "changed")
	w.write("photos/data/added", "new")
	before := tree(t, w.data)
	const objects = 6 // with the dump
	w.edit("photos.toml", `["true"]`, `["sh", "-c", "test ! -e data/added && kill -KILL $PPID"]`)
	for n := 1; n <= objects+1; n++ {
		reached := make(chan bool)
		gone := make(chan bool)
		b.set(func(i int, _ http.ResponseWriter) bool {
			if i == n {
				close(reached)
			}
			if i >= n {
				<-gone
			}
			return i >= n
		}, nil)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "RESTORE_IN_PLACE="+w.dir)
		cmd.Stderr = w.log
		w.check(cmd.Start())
		ended := make(chan bool)
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-reached:
			if n > objects {
				t.Errorf("there are more than %d objects", objects)
			}
			_ = cmd.Process.Kill()
		case <-ended:
		}
		<-ended
		close(gone)
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%d: %v\n%s", n, cmd.ProcessState, w.log)
		}
		if n <= objects { // the live data was not touched
			for name, text := range before {
				if got := tree(t, w.data)[name]; got != text && name != "" {
					t.Errorf("killed at object %d: %s is %s; want %s", n, name, got, text)
				}
			}
		}
		if _, err := w.Recover(t.Context(), "photos"); err != nil {
			t.Errorf("killed at object %d: %v", n, err)
		}
		sameTree(t, tree(t, w.data), before)
		w.nothingLeft()
	}
	b.set(nil, nil)
	w.edit("photos.toml", "kill -KILL $PPID", "true")
	_, err := w.Restore(t.Context(), w.photosPlan(nil), quietly)
	w.check(err)
	delete(saved, "")
	sameTree(t, tree(t, w.data), saved)
}
