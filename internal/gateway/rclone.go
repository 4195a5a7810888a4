package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/atomicfile"
)

const (
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// stableAfter is how long a child must have lived for its next start not to be held back.
	stableAfter = time.Minute
	// startTimeout bounds how long rclone may take to listen.
	startTimeout = 30 * time.Second
	// stopTimeout is what rclone has from SIGTERM to SIGKILL.
	stopTimeout = 10 * time.Second
	// A server that does not answer a ping of HTTP/2 is dead, however long its storage takes.
	pingAfter   = 30 * time.Second
	pingTimeout = 30 * time.Second
	maxLogLine  = 4 << 10
	pipeBytes   = 1 << 20
	// receiveBytes is how much of a download is taken from rclone before its client has taken it; by default 4 MiB.
	receiveBytes = 128 << 10
)

// rclone is the rclone of one destination: what it needs to run, and its two children, each started when it is asked for. One serves
// restic's REST protocol over its pipes, as restic itself would run it; the other serves WebDAV to a port of the loopback.
type rclone struct {
	id     string // of the destination
	remote string // REMOTE:FOLDER
	config string // its rclone.conf, private to it: rclone writes refreshed tokens there
	env    []string
	dir    string // private to this destination, for sockets and passwords
	log    *slog.Logger

	rest, dav child
}

// child is a process that serves HTTP. It is started when it is needed, begun again with growing pauses when it died, and stopped when
// nobody has needed it for a time.
type child struct {
	start func() (*process, error)

	mu      sync.Mutex
	running *process
	users   int
	idle    *time.Timer
	backoff time.Duration
	retryAt time.Time
	lastErr error
}

// process is a running child.
type process struct {
	transport http.RoundTripper
	base      *url.URL
	control   *url.URL // of rclone's remote control
	user      string   // for Basic authentication
	password  string
	started   time.Time
	done      chan struct{} // closed when it has ended
	stop      func()        // returns when it has ended
	lastLine  func() string // of its standard error
}

// unavailableError says why a destination cannot be reached now.
type unavailableError struct{ err error }

func (e *unavailableError) Error() string { return e.err.Error() }
func (e *unavailableError) Unwrap() error { return e.err }

// use returns the running process, started if need be; the caller calls release when it no longer needs it.
func (c *child) use(now time.Time) (p *process, release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running != nil {
		select {
		case <-c.running.done:
			c.ended(now)
		default:
		}
	}
	if c.running == nil {
		if now.Before(c.retryAt) {
			return nil, nil, &unavailableError{c.lastErr}
		}
		p, err := c.start()
		if err != nil {
			c.failed(now, err)
			return nil, nil, &unavailableError{err}
		}
		c.running = p
	}
	if c.idle != nil {
		c.idle.Stop()
		c.idle = nil
	}
	c.users++
	return c.running, sync.OnceFunc(c.release), nil
}

// ended notes that the process died.
func (c *child) ended(now time.Time) {
	err := errors.New("rclone ended: " + c.running.lastLine())
	if now.Sub(c.running.started) >= stableAfter {
		c.backoff = 0
	}
	c.running = nil
	if c.backoff == 0 { // the first time it is begun again at once
		c.backoff, c.lastErr = firstBackoff, err
		return
	}
	c.failed(now, err)
}

func (c *child) failed(now time.Time, err error) {
	c.lastErr = err
	c.backoff = min(max(2*c.backoff, firstBackoff), maxBackoff)
	c.retryAt = now.Add(c.backoff)
}

func (c *child) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.users--; c.users == 0 && c.running != nil {
		c.idle = time.AfterFunc(childIdle, c.stopIdle)
	}
}

// childIdle is how long a child waits for its next request before it is stopped.
const childIdle = 5 * time.Minute

func (c *child) stopIdle() {
	c.mu.Lock()
	p := c.running
	if c.users > 0 || p == nil {
		c.mu.Unlock()
		return
	}
	c.running, c.backoff = nil, 0
	c.mu.Unlock()
	p.stop()
}

// close stops the process, whoever uses it.
func (c *child) close() {
	c.mu.Lock()
	p := c.running
	c.running = nil
	c.mu.Unlock()
	if p != nil {
		p.stop()
	}
}

// newRclone prepares the rclone of a destination. Nothing is started.
func newRclone(id, remote, source string, env []string, dir string, log *slog.Logger) (*rclone, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make rclone's folder: %w", err)
	}
	r := &rclone{id: id, remote: remote, config: filepath.Join(dir, "rclone.conf"), env: env, dir: dir, log: log}
	if err := r.adopt(source); err != nil {
		return nil, err
	}
	r.rest.start, r.dav.start = r.startREST, r.startWebDAV
	return r, nil
}

// adopt makes rclone's own copy of its configuration, or keeps the one that is there while it was made from the same original: rclone
// writes refreshed tokens into it, and they must not be lost.
func (r *rclone) adopt(source string) error {
	var data []byte
	if source != "" {
		var err error
		if data, err = os.ReadFile(source); err != nil {
			return fmt.Errorf("read rclone's configuration: %w", err)
		}
	}
	sum := sha256.Sum256(data)
	mark, origin := hex.EncodeToString(sum[:])+"\n", r.config+".origin"
	if old, err := os.ReadFile(origin); err == nil && string(old) == mark {
		if _, err := os.Stat(r.config); err == nil {
			return nil
		}
	}
	// The mark last: without it the copy is made again.
	if err := os.Remove(origin); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("adopt rclone's configuration: %w", err)
	}
	for _, f := range []struct {
		path string
		data []byte
	}{{r.config, data}, {origin, []byte(mark)}} {
		if err := atomicfile.Write(f.path, f.data, 0o600); err != nil {
			return fmt.Errorf("adopt rclone's configuration: %w", err)
		}
	}
	return nil
}

func (r *rclone) close() {
	r.rest.close()
	r.dav.close()
}

// command prepares a child. It ends with this process; it gets nothing of our environment that it does not need.
func (r *rclone) command(args ...string) (*exec.Cmd, *logTail) {
	// Of its ten attempts the last few take minutes, and restic tries again by itself.
	cmd := exec.Command("rclone", append(args, "--low-level-retries=5")...)
	cmd.Dir = r.dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.dir, "XDG_CACHE_HOME=" + filepath.Join(r.dir, "cache"), "LC_ALL=C",
		"RCLONE_CONFIG=" + r.config, "RCLONE_ASK_PASSWORD=false",
	}, r.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = stopTimeout // should it leave a process that holds its standard error open
	tail := &logTail{log: r.log}
	cmd.Stderr = tail
	return cmd, tail
}

// startREST starts rclone as restic does: HTTP/2 over standard input and output. It answers for no cached object: whether one is there is
// asked of the storage, or a stale answer would pass for a blob that is gone.
func (r *rclone) startREST() (*process, error) {
	cmd, tail := r.command("serve", "restic", "--stdio", "--cache-objects=false", "--b2-hard-delete", r.remote)
	theirStdin, ourOutput, err := pipe()
	if err != nil {
		return nil, fmt.Errorf("start rclone: %w", err)
	}
	ourInput, theirStdout, err := pipe()
	if err != nil {
		theirStdin.Close()
		ourOutput.Close()
		return nil, fmt.Errorf("start rclone: %w", err)
	}
	cmd.Stdin, cmd.Stdout = theirStdin, theirStdout
	err = cmd.Start()
	theirStdin.Close()
	theirStdout.Close()
	conn := &pipes{in: ourInput, out: ourOutput, closed: make(chan struct{})}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("start rclone: %w", err)
	}
	p := watch(cmd, tail, conn.Close)
	p.transport = &oneConn{process: p, Transport: newHTTP2(conn)}
	p.base = &url.URL{Scheme: "http", Host: "rclone", Path: "/"}
	return p, nil
}

// pipe makes a pipe for a child that is written in Go. os.Pipe would do, at a third of the speed: os/exec makes the child's end of it
// blocking, so that each read or write stops one of the child's processors; and it holds less than one piece of an upload.
func pipe() (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, nil, err
	}
	_, _ = unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeBytes) // a user may have no room for it
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

// newHTTP2 speaks HTTP/2 over one connection. Whoever asks for another one, because the first is not ready yet, waits until it is: then it
// is shared.
func newHTTP2(conn *pipes) *http.Transport {
	only := make(chan net.Conn, 1)
	only <- conn
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case c := <-only:
				return c, nil
			case <-conn.closed:
				return nil, net.ErrClosed
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		DisableCompression: true, Protocols: new(http.Protocols),
		// Of more requests than rclone wants at a time, the others wait.
		HTTP2: &http.HTTP2Config{
			StrictMaxConcurrentRequests: true, SendPingTimeout: pingAfter, PingTimeout: pingTimeout, MaxReceiveBufferPerStream: receiveBytes,
		},
	}
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// oneConn is the transport to a process. When that has ended, it says what it died of.
type oneConn struct {
	*http.Transport
	process *process
}

// RoundTrip implements http.RoundTripper.
func (t *oneConn) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := t.Transport.RoundTrip(r)
	if err == nil || r.Context().Err() != nil {
		return resp, err
	}
	timer := time.NewTimer(endTimeout)
	defer timer.Stop()
	select {
	case <-t.process.done:
		return nil, fmt.Errorf("rclone ended: %s", t.process.lastLine())
	case <-timer.C:
		return nil, err
	}
}

// endTimeout is how long a process whose connection is gone may take to be gone itself.
const endTimeout = time.Second

// servesAt finds the addresses in what `rclone serve webdav --rc` logs.
var servesAt = regexp.MustCompile(`(?i)(remote control|webdav)[^\n]*(http://127\.0\.0\.1:[0-9]+/)`)

// startWebDAV starts rclone at free ports of the loopback, one for WebDAV and one for its remote control, with a password that only this
// process knows.
func (r *rclone) startWebDAV() (*process, error) {
	password := rand.Text()
	hash := sha1.Sum([]byte(password)) // rclone computes it at every request; a random password cannot be guessed from it
	htpasswd := filepath.Join(r.dir, "webdav.htpasswd")
	if err := atomicfile.Write(htpasswd, fmt.Appendf(nil, "gateway:{SHA}%s\n", base64.StdEncoding.EncodeToString(hash[:])), 0o600); err != nil {
		return nil, fmt.Errorf("make a password for rclone: %w", err)
	}
	// No listing is kept: the other child, and other hosts, change what is there.
	cmd, tail := r.command("serve", "webdav", "--addr", "127.0.0.1:0", "--htpasswd", htpasswd, "--baseurl", "/"+r.id,
		"--dir-cache-time", "0s", "--poll-interval", "0", "--rc", "--rc-addr", "127.0.0.1:0", "--rc-htpasswd", htpasswd, r.remote)
	found := make(chan [2]string, 2)
	tail.each = func(line string) {
		if m := servesAt.FindStringSubmatch(line); m != nil {
			select {
			case found <- [2]string{strings.ToLower(m[1]), m[2]}:
			default:
			}
		}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start rclone: %w", err)
	}
	p := watch(cmd, tail, func() error { return nil })
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	for p.base == nil || p.control == nil {
		select {
		case f := <-found:
			u, err := url.Parse(f[1])
			if err != nil {
				p.stop()
				return nil, fmt.Errorf("rclone serves at %s: %w", f[1], err)
			}
			if f[0] == "webdav" {
				p.base = u
			} else {
				p.control = u
			}
		case <-p.done:
			return nil, fmt.Errorf("rclone did not start: %s", tail.last())
		case <-timer.C:
			p.stop()
			return nil, fmt.Errorf("rclone did not start within %s: %s", startTimeout, tail.last())
		}
	}
	p.transport = &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute}
	p.user, p.password = "gateway", password
	return p, nil
}

// watch waits for the process to end and returns what stops it.
func watch(cmd *exec.Cmd, tail *logTail, hangUp func() error) *process {
	p := &process{started: time.Now(), done: make(chan struct{}), lastLine: tail.last}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		_ = hangUp()
		close(p.done)
	}()
	p.stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.NewTimer(stopTimeout)
		defer timer.Stop()
		select {
		case <-p.done:
		case <-timer.C:
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-p.done
		}
	}
	return p
}

// pipes is a connection over a child's standard input and output.
type pipes struct {
	in, out *os.File
	once    sync.Once
	closed  chan struct{} // when it is
}

func (p *pipes) Read(b []byte) (int, error)         { return p.in.Read(b) }
func (p *pipes) Write(b []byte) (int, error)        { return p.out.Write(b) }
func (p *pipes) LocalAddr() net.Addr                { return pipeAddr{} }
func (p *pipes) RemoteAddr() net.Addr               { return pipeAddr{} }
func (p *pipes) SetReadDeadline(t time.Time) error  { return p.in.SetReadDeadline(t) }
func (p *pipes) SetWriteDeadline(t time.Time) error { return p.out.SetWriteDeadline(t) }
func (p *pipes) SetDeadline(t time.Time) error {
	return errors.Join(p.in.SetReadDeadline(t), p.out.SetWriteDeadline(t))
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return errors.Join(p.in.Close(), p.out.Close())
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "rclone" }

// logTail logs what a child writes to its standard error, line by line, and keeps the last line.
type logTail struct {
	log  *slog.Logger
	each func(line string) // may be nil

	mu   sync.Mutex
	rest []byte
	line string
}

func (t *logTail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	for {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			t.rest = append(t.rest, b[:min(len(b), maxLogLine-len(t.rest))]...)
			return n, nil
		}
		line := strings.TrimSpace(strings.ToValidUTF8(string(append(t.rest, b[:min(i, maxLogLine-len(t.rest))]...)), "?"))
		t.rest, b = t.rest[:0], b[i+1:]
		if line == "" {
			continue
		}
		t.line = line
		t.log.Info("rclone: " + line)
		if t.each != nil {
			t.each(line)
		}
	}
}

func (t *logTail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.line
}
