package gateway

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/token"
)

// children returns the processes of rclone that this one has started.
func children(t *testing.T) []int {
	t.Helper()
	var list []int
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		data, err := os.ReadFile(task)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(name)) == "rclone" {
				list = append(list, pid)
			}
		}
	}
	return list
}

// slowBody gives a part of a body, then waits until it may give the rest.
type slowBody struct {
	first, rest io.Reader
	begun       chan struct{}
	goOn        chan struct{}
}

func (b *slowBody) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); err == nil {
		return n, nil
	}
	if b.begun != nil {
		close(b.begun)
		b.begun = nil
	}
	<-b.goOn
	return b.rest.Read(p)
}

// rclone dies in the middle of an upload: that fails, nothing of it is left, and the next one finds a new rclone.
func TestRcloneKilled(t *testing.T) {
	f := newFixture(t, "rclone", "")
	module := f.as("wiki1", token.Add, own)
	top := "/archive/" + own
	f.rest(200, module, "POST", top+"/?create=true", "")
	pids := children(t)
	if len(pids) != 1 {
		t.Fatalf("children = %v; want one rclone", pids)
	}
	text := strings.Repeat("x", 4<<20)
	body := &slowBody{strings.NewReader(text[:3<<20]), strings.NewReader(text[3<<20:]), make(chan struct{}), make(chan struct{})}
	begun := body.begun
	req, err := http.NewRequest("POST", f.http.URL+top+"/data/"+name(text), body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(text))
	req.Header.Set("Accept", v2)
	user, secret, _ := strings.Cut(module, ":")
	req.SetBasicAuth(user, secret)
	code := make(chan int, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			code <- 0
			return
		}
		resp.Body.Close()
		code <- resp.StatusCode
	}()
	<-begun
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	close(body.goOn)
	if got := <-code; got != 503 && got != 0 {
		t.Errorf("the upload that was under way: %d; want 503, or no answer", got)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		status, _ := f.ask(module, "POST", top+"/data/"+name(text), text, "Accept", v2)
		if status == 200 {
			break
		}
		if status != 503 || time.Now().After(end) {
			t.Fatalf("the next upload: %d", status)
		}
	}
	if got := f.rest(200, module, "GET", top+"/data/"+name(text), ""); got != text {
		t.Errorf("got %d bytes; want %d", len(got), len(text))
	}
	if again := children(t); len(again) == 0 || slices.Contains(again, pids[0]) {
		t.Errorf("children = %v; want another rclone", again)
	}
}

// A beginning that a storage has kept is mended by the next upload of the whole, and by nothing else.
func TestMend(t *testing.T) {
	f := newFixture(t, "rclone", "")
	module := f.as("wiki1", token.Add, own)
	top := "/archive/" + own
	f.rest(200, module, "POST", top+"/?create=true", "")
	path := filepath.Join(f.dir, "repo", own, "data", name("all of it")[:2], name("all of it"))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("all"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.rest(403, module, "POST", top+"/data/"+name("all of it"), "all of something else")
	if data, err := os.ReadFile(path); err != nil || string(data) != "all" {
		t.Errorf("content = %q, %v; want what was there", data, err)
	}
	f.rest(200, module, "POST", top+"/data/"+name("all of it"), "all of it")
	if data, err := os.ReadFile(path); err != nil || string(data) != "all of it" {
		t.Errorf("content = %q, %v", data, err)
	}
}

// Requests that come all at once to a rclone that is not running yet are all served.
func TestFirstRequests(t *testing.T) {
	f := newFixture(t, "rclone", "")
	node := f.as("web1", "")
	f.rest(200, node, "POST", "/archive/"+own+"/?create=true", "")
	for range 10 {
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				if code, text := f.ask(node, "GET", "/archive/"+own+"/keys/", "", "Accept", v2); code != 200 {
					t.Errorf("GET: %d %s; want 200", code, text)
				}
			})
		}
		all.Wait()
		f.server.current().destinations["archive"].rclone.close()
	}
}

// A destination that is dead says so, and the others serve.
func TestDeadDestinations(t *testing.T) {
	f := newFixture(t, "local", "")
	f.write("broken.conf", "[broken]\ntype = nosuchtype\n")
	f.write("dead.conf", "[dead]\ntype = s3\nprovider = Other\nendpoint = http://127.0.0.1:1\naccess_key_id = a\nsecret_access_key = b\n")
	f.reconfigure("node.name", fmt.Sprintf(`
[destination.unmounted]
repository = "/nowhere/backup"
password-credential = "x"
gateway = true
[destination.broken]
repository = "rclone:broken:"
password-credential = "x"
rclone-config = "%[1]s/broken.conf"
[destination.lost]
repository = "rclone:lost:"
password-credential = "x"
rclone-config = "%[1]s/nowhere.conf"
[destination.dead]
repository = "rclone:dead:bucket"
password-credential = "x"
rclone-config = "%[1]s/dead.conf"
[destination.away]
repository = "rest:http://127.0.0.1:1/"
password-credential = "x"
gateway = true
[node]
name`, f.dir))
	node := f.as("web1", "")
	for id, reason := range map[string]string{
		"unmounted": "is its disk mounted?", "broken": "nosuchtype", "lost": "does not exist", "away": "refused", "dead": "refused",
	} {
		code, text := f.ask(node, "GET", "/"+id+"/"+own+"/config", "", "Accept", v2)
		if code != 503 || !strings.Contains(text, reason) {
			t.Errorf("%s: %d %q; want 503 and %q", id, code, text, reason)
		}
	}
	f.rest(200, node, "POST", "/archive/"+own+"/?create=true", "")
	_, metrics := f.ask(node, "GET", "/metrics", "")
	for id, up := range map[string]int{"unmounted": 0, "broken": 0, "lost": 0, "away": 0, "dead": 0, "archive": 1} {
		if want := fmt.Sprintf("backup_gateway_destination_up{destination=%q} %d\n", id, up); !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	// Without end it is not tried again: a child that cannot start is left alone for a while.
	for range 2 {
		f.ask(node, "GET", "/broken/"+own+"/config", "", "Accept", v2)
	}
	d := f.server.current().destinations["broken"]
	if d.rclone.rest.retryAt.IsZero() || d.rclone.rest.backoff < firstBackoff {
		t.Error("a rclone that cannot start is started again and again")
	}
}

// rclone writes refreshed tokens into its own copy; they are kept until the administrator gives another original.
func TestRcloneConfigIsKept(t *testing.T) {
	f := newFixture(t, "rclone", "")
	node := f.as("web1", "")
	f.rest(200, node, "POST", "/archive/"+own+"/?create=true", "")
	kept := filepath.Join(f.dir, "state/gateway/archive/rclone.conf")
	info, err := os.Stat(kept)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%s: %v, %v; want mode 0600", kept, info, err)
	}
	data, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	refreshed := append(data, "token = refreshed\n"...)
	if err := os.WriteFile(kept, refreshed, 0o600); err != nil {
		t.Fatal(err)
	}
	f.server.Close()
	f.rest(200, node, "POST", "/archive/"+own+"/?create=true", "")
	if data, err = os.ReadFile(kept); err != nil || !bytes.Equal(data, refreshed) {
		t.Errorf("after a restart: %q, %v; want what rclone wrote", data, err)
	}
	f.write("rclone.conf", "[archive]\ntype = alias\nremote = "+f.dir+"/repo\n# new\n")
	f.server.fresh()
	f.rest(200, node, "POST", "/archive/"+own+"/?create=true", "")
	if data, err = os.ReadFile(kept); err != nil || !bytes.Contains(data, []byte("# new")) || bytes.Contains(data, []byte("refreshed")) {
		t.Errorf("after a change: %q, %v; want the new original", data, err)
	}
}

// No secret of a destination is in a command line, or in an environment that others could read.
func TestRcloneSecrets(t *testing.T) {
	f := newFixture(t, "rclone", "")
	f.write("rclone.conf", "[archive]\ntype = alias\nremote = "+f.dir+"/repo\npass = planted-secret\n")
	f.server.fresh()
	node := f.as("web1", "")
	f.rest(200, node, "POST", "/archive/"+own+"/?create=true", "")
	if code, _ := f.ask(node, "PROPFIND", "/archive/", "", "Depth", "1"); code != 207 {
		t.Fatalf("PROPFIND: %d", code)
	}
	pids := children(t)
	if len(pids) != 2 {
		t.Fatalf("children = %v; want two", pids)
	}
	for _, pid := range pids {
		for _, file := range []string{"cmdline", "environ"} {
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil {
				t.Fatal(err)
			}
			for _, secret := range []string{"planted-secret", strings.Split(node, ":")[1], "gateway:{SHA}"} {
				if bytes.Contains(data, []byte(secret)) {
					t.Errorf("%s of rclone holds a secret: %q", file, data)
				}
			}
		}
	}
	if strings.Contains(f.log.String(), "planted-secret") {
		t.Error("the log holds a secret")
	}
}

// A child that nobody needs is stopped.
func TestIdleChild(t *testing.T) {
	f := newFixture(t, "rclone", "")
	f.rest(200, f.as("web1", ""), "POST", "/archive/"+own+"/?create=true", "")
	c := &f.server.current().destinations["archive"].rclone.rest
	c.stopIdle()
	if pids := children(t); len(pids) != 0 {
		t.Errorf("children = %v; want none", pids)
	}
	f.rest(200, f.as("web1", ""), "POST", "/archive/"+own+"/?create=true", "")
}
