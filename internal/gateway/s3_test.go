package gateway

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/s3test"
	"sdbackup/internal/token"
)

// startS3 starts an S3 server without buckets and returns its URL. It listens at a unix socket, and what comes to a port of
// this process is passed on: it could not tell which port it found free.
func startS3(t *testing.T, access, secret string) string {
	t.Helper()
	program := s3test.Program(t)
	dir, err := os.MkdirTemp("", "s3") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, name := range []string{"root", "meta"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(dir, "socket")
	// Not every folder for temporary files has extended attributes.
	cmd := exec.Command(program, "--port", socket, "posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "root"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that takes too long cleans nothing up
	cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + access, "ROOT_SECRET_ACCESS_KEY=" + secret}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	drained := make(chan struct{})
	ready := make(chan struct{})
	go func() {
		defer close(drained)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.Contains(lines.Text(), "listening on") {
				break
			}
		}
		close(ready)
		for lines.Scan() { // every request
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	<-ready
	for end := time.Now().Add(10 * time.Second); ; { // it says so a moment before it does
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			break
		}
		select {
		case <-drained:
			t.Fatalf("the S3 server ended: %s", said.Bytes())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go passOn(c, socket)
		}
	}()
	return "http://" + l.Addr().String()
}

// passOn connects a connection with a unix socket until either ends.
func passOn(c net.Conn, socket string) {
	defer c.Close()
	server, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, c)
		_ = server.(*net.UnixConn).CloseWrite()
	}()
	_, _ = io.Copy(c, server)
}

// newS3 starts a gateway whose destination is a bucket of a real S3 server; rclone makes it when it is first used.
func newS3(t *testing.T) *fixture {
	t.Helper()
	access, secret := rand.Text(), rand.Text()
	url := startS3(t, access, secret)
	f := newFixture(t, "rclone", "")
	f.write("rclone.conf", "[archive]\ntype = s3\nprovider = Other\nenv_auth = false\nforce_path_style = true\nregion = us-east-1\n"+
		"access_key_id = "+access+"\nsecret_access_key = "+secret+"\nendpoint = "+url+"\n")
	f.reconfigure(`"rclone:archive:"`, `"rclone:archive:backups/hosts"`)
	return f
}

// The whole life of a repository in a bucket.
func TestS3(t *testing.T) {
	t.Parallel()
	f := newS3(t)
	module, prune := f.as("wiki1", token.Add, own), f.as("wiki1", token.All, own)
	big := make([]byte, 20<<20)
	_, _ = rand.Read(big) // never fails
	f.write("files/a", "one\n")
	f.write("files/big", string(big))
	top := "/archive/" + own
	f.mustRestic(module, own, "init")
	f.mustRestic(module, own, "backup", f.dir+"/files")
	f.write("files/a", "two\n")
	f.write("files/big", string(big[:16<<20]))
	f.mustRestic(module, own, "backup", f.dir+"/files")

	// What a module may not, it may not here, either. A second key is there to be removed.
	f.write("second", "battery staple\n")
	before := f.rest(200, module, "GET", top+"/keys/", "")
	f.mustRestic(prune, own, "key", "add", "--new-password-file", f.dir+"/second")
	var second string
	for _, part := range strings.Split(f.rest(200, module, "GET", top+"/keys/", ""), `"`) {
		if len(part) == len(blob) && !strings.Contains(before, part) {
			second = part
		}
	}
	for _, args := range [][]string{
		{"forget", "--keep-last", "1", "--prune"},
		{"key", "add", "--new-password-file", f.dir + "/password"},
		{"key", "remove", second},
	} {
		f.refused(module, own, args...)
	}
	f.rest(403, module, "POST", top+"/keys/"+second, "another")
	f.rest(403, module, "POST", top+"/config", "another")
	f.rest(403, f.as("web1", ""), "POST", top+"/config", "another")
	snapshot := strings.Split(f.rest(200, module, "GET", top+"/snapshots/", ""), `"`)[3]
	f.rest(403, module, "DELETE", top+"/snapshots/"+snapshot, "")
	f.rest(403, module, "POST", top+"/snapshots/"+snapshot, "another")
	f.rest(403, module, "GET", "/archive/"+other+"/config", "")
	f.rest(400, module, "POST", top+"/data/"+name("new"), "not it")
	f.rest(404, module, "HEAD", top+"/data/"+name("new"), "")
	if list := f.rest(200, module, "GET", top+"/snapshots/", ""); strings.Count(list, `"name"`) != 2 {
		t.Errorf("snapshots = %s; want both", list)
	}

	// Retention may.
	f.rest(200, prune, "DELETE", top+"/keys/"+second, "")
	if after := f.rest(200, module, "GET", top+"/keys/", ""); after != before {
		t.Errorf("keys = %s; want %s", after, before)
	}
	f.mustRestic(prune, own, "forget", "--keep-last", "1", "--prune")
	f.mustRestic(module, own, "check", "--read-data")
	f.mustRestic(module, own, "restore", "latest", "--target", f.dir+"/restored")
	for file, want := range map[string][]byte{"a": []byte("two\n"), "big": big[:16<<20]} {
		if got := read(t, filepath.Join(f.dir, "restored", f.dir, "files", file)); !bytes.Equal(got, want) {
			t.Errorf("restored %s: %d bytes; want %d", file, len(got), len(want))
		}
	}
}

// An upload that is cut off leaves nothing in a bucket, and limits and the holding area work there, too.
func TestS3Limits(t *testing.T) {
	t.Parallel()
	f := newS3(t)
	f.reconfigure("type = \"dokuwiki\"", "type = \"dokuwiki\"\nmax-size = 1000")
	f.reconfigure("gateway = true\n", "gateway = true\nkeep-deleted = \"14d\"\n")
	module, all := f.as("wiki1", token.Add, own), f.as("wiki1", token.All, own)
	top := "/archive/" + own
	f.rest(200, module, "POST", top+"/?create=true", "")
	a, b, c := strings.Repeat("a", 400), strings.Repeat("b", 400), strings.Repeat("c", 400)
	f.rest(200, module, "POST", top+"/data/"+name(a), a)
	f.rest(200, module, "POST", top+"/data/"+name(a), a)
	f.rest(200, module, "POST", top+"/data/"+name(b), b)
	f.rest(507, module, "POST", top+"/data/"+name(c), c)
	f.rest(404, module, "HEAD", top+"/data/"+name(c), "")
	f.rest(200, all, "DELETE", top+"/data/"+name(a), "")
	f.rest(404, module, "HEAD", top+"/data/"+name(a), "")
	f.rest(200, module, "POST", top+"/data/"+name(c), c)
	held := "/archive/" + path.Join(config.HoldingArea, time.Now().UTC().Format(time.DateOnly), own, "data", name(a)[:2], name(a))
	if code, text := f.ask(f.as("web1", ""), "GET", held, ""); code != 200 || text != a {
		t.Errorf("%s in the holding area: %d, %q", held, code, text)
	}
	d := f.server.current().destinations["archive"]
	if err := d.purge(t.Context(), time.Now().Add(16*24*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if code, _ := f.ask(f.as("web1", ""), "GET", held, ""); code != 404 {
		t.Errorf("after its time it is still in the holding area: %d", code)
	}
	f.server.Close()
	f.rest(507, module, "POST", top+"/data/"+name(a), a) // measured anew
}
