package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is backup-gateway, built as it is shipped: without the race detector, which takes most of the memory that a test measures.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "backup-gateway")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "backup-gateway")
		if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build backup-gateway: %v: %s\n", err, out)
			return 1
		}
		return m.Run()
	}())
}

// running is a rest-server that a test has started.
type running struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string // where it serves
	ended   chan struct{}

	mu   sync.Mutex
	text strings.Builder // of standard error
	more chan struct{}   // a line has come
}

// start runs backup-gateway rest-server until it serves, and stops it after the test. Folders for temporary files are another one.
func start(t *testing.T, args ...string) *running {
	t.Helper()
	cmd := exec.Command(program, append([]string{"rest-server", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	return await(t, cmd)
}

func await(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{t: t, cmd: cmd, ended: make(chan struct{}), more: make(chan struct{}, 1)}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			r.mu.Lock()
			r.text.WriteString(lines.Text() + "\n")
			r.mu.Unlock()
			select {
			case r.more <- struct{}{}:
			default:
			}
		}
		_ = cmd.Wait() // its code is looked at
		close(r.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-r.ended
	})
	_, r.address, _ = strings.Cut(r.line("serving at "), "serving at ")
	return r
}

// line waits for a line that has the text.
func (r *running) line(text string) string {
	r.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		all := r.stderr()
		for line := range strings.Lines(all) {
			if strings.Contains(line, text) {
				return strings.TrimSpace(line)
			}
		}
		select {
		case <-r.more:
		case <-r.ended:
			r.t.Fatalf("%v ended without saying %q:\n%s", r.cmd.Args, text, r.stderr())
		case <-timeout:
			r.t.Fatalf("%v does not say %q:\n%s", r.cmd.Args, text, all)
		}
	}
}

func (r *running) stderr() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

func (r *running) signal(s syscall.Signal) {
	r.t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		r.t.Fatal(err)
	}
}

// stop ends it with SIGTERM and expects that all is well.
func (r *running) stop() {
	r.t.Helper()
	r.signal(syscall.SIGTERM)
	select {
	case <-r.ended:
	case <-time.After(30 * time.Second):
		r.t.Fatalf("%v does not end", r.cmd.Args)
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		r.t.Errorf("%v ended with %d; want 0:\n%s", r.cmd.Args, code, r.stderr())
	}
}

// ask makes a request and returns what is answered.
func (r *running) ask(method, path string, body io.Reader) (code int, text string) {
	r.t.Helper()
	req, err := http.NewRequest(method, "http://"+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// restic runs restic with the repository of a URL, and returns what it prints.
func restic(t *testing.T, url string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "restic", append([]string{"--no-cache", "--repo", "rest:" + url}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=correct horse")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("restic %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// shaLine is a line of a file of users, as htpasswd -s makes it.
func shaLine(user, password string) string {
	sum := sha1.Sum([]byte(password))
	return user + ":{SHA}" + base64.StdEncoding.EncodeToString(sum[:]) + "\n"
}

// TestServesRestic is the life of a rest-server: it starts, serves restic, reads its users again, and stops.
func TestServesRestic(t *testing.T) {
	t.Parallel()
	dir, source := t.TempDir(), t.TempDir()
	users, log, prof := filepath.Join(dir, ".htpasswd"), filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "profile")
	old := time.Now().Add(-48 * time.Hour)
	dead := filepath.Join(dir, "config.rest-server-temp123")
	for path, text := range map[string]string{users: shaLine("bob", "pw"), dead: "x", filepath.Join(source, "file"): "content"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	_ = os.Chtimes(dead, old, old)
	r := start(t, "--path", dir, "--private-repos", "--append-only", "--log", log, "--prometheus", "--prometheus-no-auth", "--cpu-profile", prof, "--max-size", "10000000")
	if strings.Contains(r.stderr(), "warning") {
		t.Errorf("a warning without a reason:\n%s", r.stderr())
	}
	r.line("authentication on, append-only on, private repositories on, group access off")
	r.line("removed temporary files")
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a dead server left: %v", err)
	}

	url := "http://bob:pw@" + r.address + "/bob/"
	restic(t, url, "init")
	restic(t, url, "backup", source)
	if out := restic(t, url, "check", "--read-data"); !strings.Contains(out, "no errors") {
		t.Errorf("check: %s", out)
	}
	if code, text := r.ask("GET", r.address+"/metrics", nil); code != 200 || !strings.Contains(text, `rest_server_blob_write_total{repo="bob",type="snapshots",user="bob"} 1`) {
		t.Errorf("metrics: %d\n%s", code, text)
	}
	if data, err := os.ReadFile(log); err != nil || !regexp.MustCompile(`(?m)^127.0.0.1 - bob \[.*\] "POST /bob/snapshots/[0-9a-f]{64} HTTP/1.1" 200 0 "" ".*"$`).Match(data) {
		t.Errorf("log: %v\n%s", err, data)
	}

	if err := os.WriteFile(users, []byte(shaLine("eve", "pw")), 0o600); err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGHUP)
	r.line("read the users again")
	for user, want := range map[string]int{"bob": 401, "eve": 404} {
		if code, _ := r.ask("GET", user+":pw@"+r.address+"/"+user+"/config", nil); code != want {
			t.Errorf("after SIGHUP, %s gets %d; want %d", user, code, want)
		}
	}
	if err := os.Remove(users); err != nil {
		t.Fatal(err)
	}
	r.signal(syscall.SIGHUP)
	r.line("the users stay as they were")
	r.stop()
	if info, err := os.Stat(prof); err != nil || info.Size() == 0 {
		t.Errorf("the profile: %v, %v", info, err)
	}
}

// TestStopWaitsForUploads sends SIGTERM in the midst of one.
func TestStopWaitsForUploads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, "--path", dir, "--no-auth")
	name, content := sha256Of("content"), "content"
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The server asks for the body, so the request is under way.
	fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", name, len(content))
	answers := bufio.NewReader(c)
	if line, err := answers.ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Fatalf("%q, %v", line, err)
	}
	_, _ = answers.ReadString('\n')
	r.signal(syscall.SIGTERM)
	for { // until it has heard it
		other, err := net.Dial("tcp", r.address)
		if err != nil {
			break
		}
		other.Close()
		runtime.Gosched()
	}
	_, _ = io.WriteString(c, content)
	resp, err := http.ReadResponse(answers, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("an upload across SIGTERM: %v, %v", resp, err)
	}
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "data", name[:2], name)); err != nil || string(data) != content {
		t.Errorf("stored %q, %v", data, err)
	}
}

// TestTemporaryFolder has the original's default, which is unsafe, and its warning.
func TestTemporaryFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.Command(program, "rest-server", "--listen", "127.0.0.1:0", "--no-auth")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	r := await(t, cmd)
	if line := r.line("warning: the repositories are in a folder for temporary files"); !strings.Contains(line, dir+"/restic") {
		t.Errorf("the warning is %q; want that it names %s/restic", line, dir)
	}
	r.stop()
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for what, c := range map[string]struct {
		args []string
		code int
		say  string
	}{
		"no users":               {[]string{"--path", dir}, 1, ".htpasswd"},
		"argument":               {[]string{"--no-auth", dir}, 2, "unexpected argument"},
		"certificate, no TLS":    {[]string{"--path", dir, "--no-auth", "--tls-cert", "x"}, 1, "without --tls"},
		"no certificate":         {[]string{"--path", dir, "--no-auth", "--tls"}, 1, "public_key"},
		"version of TLS":         {[]string{"--path", dir, "--no-auth", "--tls", "--tls-min-ver", "1.1"}, 2, "1.2"},
		"size":                   {[]string{"--path", dir, "--no-auth", "--max-size", "1G"}, 2, "max-size"},
		"address":                {[]string{"--path", dir, "--no-auth", "--listen", "nowhere"}, 1, "listen at nowhere"},
		"socket in no folder":    {[]string{"--path", dir, "--no-auth", "--listen", "unix:" + dir + "/no/socket"}, 1, "listen at unix:"},
		"log in no folder":       {[]string{"--path", dir, "--no-auth", "--log", dir + "/no/log"}, 1, "log"},
		"profile in no folder":   {[]string{"--path", dir, "--no-auth", "--cpu-profile", dir + "/no/profile", "--listen", "127.0.0.1:0"}, 1, "profile"},
		"two sockets by systemd": {[]string{"--path", dir, "--no-auth"}, 1, "2 sockets"},
	} {
		cmd := exec.Command(program, append([]string{"rest-server"}, c.args...)...)
		if strings.HasPrefix(what, "two sockets") {
			a, b := socket(t), socket(t)
			cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" rest-server "$@"`, program}, c.args...)...)
			cmd.Env = append(os.Environ(), "LISTEN_FDS=2")
			cmd.ExtraFiles = []*os.File{a, b}
		}
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); err == nil || code != c.code || !strings.Contains(string(out), c.say) {
			t.Errorf("%s: %v ended with %d; want %d, and %q:\n%s", what, c.args, code, c.code, c.say, out)
		}
	}
}

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// socket returns one that is listened at, as systemd passes it.
func socket(t *testing.T) *os.File {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestSocketActivation(t *testing.T) {
	t.Parallel()
	f := socket(t)
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec "$0" rest-server "$@"`, program, "--path", t.TempDir(), "--no-auth", "--listen", "nowhere")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1")
	cmd.ExtraFiles = []*os.File{f}
	r := await(t, cmd)
	if code, _ := r.ask("POST", r.address+"/?create=true", nil); code != 200 {
		t.Errorf("by the socket that was passed: %d", code)
	}
	r.stop()
}

// TestUnixSocket is open to whom the umask leaves it to, and survives a server that was killed.
func TestUnixSocket(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "socket")
	run := func(umask string) *running {
		t.Helper()
		return await(t, exec.Command("sh", "-c", `umask "$1"; shift; exec "$0" rest-server "$@"`, program, umask, "--path", dir, "--no-auth", "--listen", "unix:"+path))
	}
	mode := func(want os.FileMode) {
		t.Helper()
		if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeSocket|want {
			t.Errorf("the socket is %v, %v; want %v", info.Mode(), err, os.ModeSocket|want)
		}
	}
	r := run("077")
	mode(0o700)
	r.signal(syscall.SIGKILL)
	<-r.ended
	r = run("007")
	mode(0o770)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	resp, err := client.Post("http://x/?create=true", "", nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v, %v", resp, err)
	}
	resp.Body.Close()
	second := exec.Command(program, "rest-server", "--path", dir, "--no-auth", "--listen", "unix:"+path)
	if out, err := second.CombinedOutput(); err == nil || !strings.Contains(string(out), "in use") {
		t.Errorf("a second server at the same socket: %v: %s", err, out)
	}
	client.CloseIdleConnections()
	r.stop()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestTLS has the key and the certificate where rest-server has them.
func TestTLS(t *testing.T) {
	t.Parallel()
	dir, source := t.TempDir(), t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"public_key": {Type: "CERTIFICATE", Bytes: cert}, "private_key": {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(source, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, "--path", dir, "--no-auth", "--tls", "--tls-min-ver", "1.3")
	url, ca := "https://"+r.address+"/a/b/", "--cacert="+filepath.Join(dir, "public_key")
	restic(t, url, ca, "init")
	restic(t, url, ca, "backup", source)
	if out := restic(t, url, ca, "check", "--read-data"); !strings.Contains(out, "no errors") {
		t.Errorf("check: %s", out)
	}
	r.stop()
}

// TestMemory is the most that the whole program takes: 64 clients upload 16 MiB each, and all are in the midst of it at the same time.
func TestMemory(t *testing.T) {
	const (
		clients  = 64
		size     = 16 << 20
		maxBytes = 64 << 20
	)
	dir := t.TempDir()
	r := start(t, "--path", dir, "--no-auth")
	tail := make([]byte, size-8)
	_, _ = rand.Read(tail)
	var together, gone sync.WaitGroup
	together.Add(clients)
	for i := range clients {
		gone.Go(func() {
			head := fmt.Sprintf("%08d", i)
			hash := sha256.New()
			_, _ = io.WriteString(hash, head)
			_, _ = hash.Write(tail)
			last := len(tail) - 1
			// The last byte comes when everybody has sent all others.
			body := io.MultiReader(strings.NewReader(head), bytes.NewReader(tail[:last]), onRead(func() { together.Done(); together.Wait() }), bytes.NewReader(tail[last:]))
			req, _ := http.NewRequest("POST", "http://"+r.address+"/data/"+hex.EncodeToString(hash.Sum(nil)), body)
			req.ContentLength = size
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Error(resp.Status)
			}
		})
	}
	gone.Wait()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no VmHWM:\n%s", status)
	}
	kib, _ := strconv.ParseInt(string(m[1]), 10, 64)
	t.Logf("at most %d MiB", kib>>10)
	if kib<<10 > maxBytes {
		t.Errorf("the program took %d MiB; want at most %d", kib>>10, maxBytes>>20)
	}
	r.stop()
}

// onRead is an empty body that calls a function.
type onRead func()

func (f onRead) Read([]byte) (int, error) { f(); return 0, io.EOF }
