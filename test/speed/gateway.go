//go:build linux

package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"sdbackup/internal/token"
)

const (
	large        = 16 << 20 // what restic makes of packs
	small        = 4 << 10
	clients      = 8
	crowd        = 64
	listed       = 20_000
	memoryLimit  = 64 << 10 // KiB
	hashOnlyArg  = "receive-and-hash"
	gatewayArea  = "archive"
	gatewayTurns = 3
)

// gateways measures the gateway beside what else serves restic's protocol on this machine. What they store is in memory, so that it is
// they that are measured, not a disk; each of them is asked by the same clients in turn. The gateway asks who it is; the others are left
// to serve anybody.
func gateways() error {
	dir, err := os.MkdirTemp("", "speed")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{dir: dir, root: filepath.Join(dir, "root")}
	defer b.stop()
	if err := b.start(); err != nil {
		return err
	}
	for _, part := range []func() error{b.largeUploads, b.unverifiedUploads, b.smallUploads, b.downloads, b.lists, b.throughRclone, b.memory} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

// bench has the servers, all of which store below one folder.
type bench struct {
	dir, root string
	turn      int
	login     string // USER:TOKEN, for the gateway
	running   []*server

	hashOnly, gateway, viaRclone, unverified *server
	rclone                                   *server
	viaS3, rcloneS3                          *server // the same with an S3 server behind them; nil where that is not on this machine
	restServer, restServerUnverified         *server // nil where it is not on this machine
}

// server is one process that serves restic's protocol.
type server struct {
	name string
	cmd  *exec.Cmd
	base string // URL of the folder of all repositories
	auth string
	root string // where they are stored, to be removed again; "" for nowhere
}

func (b *bench) start() (err error) {
	for _, name := range []string{"root", "config", "xdg", "s3/root", "s3/meta"} {
		if err := os.MkdirAll(filepath.Join(b.dir, name), 0o700); err != nil {
			return err
		}
	}
	files := map[string]string{
		"password": "a password\n", "rclone.conf": "[alias]\ntype = alias\nremote = " + b.root + "\n" +
			"[s3]\ntype = s3\nprovider = Other\nforce_path_style = true\naccess_key_id = speed\nsecret_access_key = speedspeed\nendpoint = http://" + s3Address + "\n",
		"config/speed.toml": fmt.Sprintf("[node]\nname = \"speed\"\n[destination.%[1]s]\nrepository = %[2]q\npassword-file = \"%[3]s/password\"\ngateway = true\n"+
			"[destination.rclone]\nrepository = \"rclone:alias:\"\npassword-file = \"%[3]s/password\"\nrclone-config = \"%[3]s/rclone.conf\"\n"+
			"[destination.s3]\nrepository = \"rclone:s3:speed\"\npassword-file = \"%[3]s/password\"\nrclone-config = \"%[3]s/rclone.conf\"\n", gatewayArea, b.root, b.dir),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	made, err := token.Store{Dir: filepath.Join(b.dir, "xdg/sdbackup/tokens")}.New(token.Principal{Name: "speed", Node: true}, time.Now().Add(time.Hour))
	if err != nil {
		return err
	}
	b.login = "speed:" + made.Text

	self, err := os.Executable()
	if err != nil {
		return err
	}
	if b.hashOnly, err = b.run("receive and hash only", "", self, hashOnlyArg); err != nil {
		return err
	}
	if b.gateway, err = b.startGateway(); err != nil {
		return err
	}
	through := *b.gateway
	through.name, through.base = "gateway to rclone", strings.Replace(through.base, gatewayArea, "rclone", 1)
	b.viaRclone = &through
	ours := filepath.Join(os.Getenv("SDBACKUP_BIN"), "backup-gateway")
	if b.unverified, err = b.run("backup-gateway rest-server", b.root, ours, "rest-server", "--path", b.root, "--listen", "127.0.0.1:0", "--no-auth", "--no-verify-upload"); err != nil {
		return err
	}
	if b.rclone, err = b.run("rclone serve restic", b.root, "rclone", "serve", "restic", "--addr", "127.0.0.1:0", b.root); err != nil {
		return err
	}
	if err := b.startS3(); err != nil {
		return err
	}
	theirs, err := exec.LookPath("rest-server")
	if err != nil {
		return nil //nolint:nilerr // it is measured where it is
	}
	if b.restServer, err = b.run("rest-server", b.root, theirs, "--path", b.root, "--listen", "127.0.0.1:0", "--no-auth"); err != nil {
		return err
	}
	b.restServerUnverified, err = b.run("rest-server", b.root, theirs, "--path", b.root, "--listen", "127.0.0.1:0", "--no-auth", "--no-verify-upload")
	return err
}

// s3Address is free: a private systemd has a network of its own.
const s3Address = "127.0.0.1:7070"

// startS3 starts an S3 server, and the two ways to it.
func (b *bench) startS3() error {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		return nil //nolint:nilerr // it is measured where it is
	}
	dir := filepath.Join(b.dir, "s3")
	if _, err := b.run("versitygw", "", program, "--access", "speed", "--secret", "speedspeed", "--port", s3Address,
		"posix", "--sidecar", filepath.Join(dir, "meta"), filepath.Join(dir, "root")); err != nil {
		return err
	}
	through := *b.gateway
	through.name, through.base, through.root = "gateway to rclone to S3", strings.Replace(through.base, gatewayArea, "s3", 1), filepath.Join(dir, "root/speed")
	b.viaS3 = &through
	b.rcloneS3, err = b.run("rclone serve restic to S3", through.root, "rclone", "serve", "restic", "--config", filepath.Join(b.dir, "rclone.conf"), "--addr", "127.0.0.1:0", "s3:speed")
	return err
}

func (b *bench) startGateway() (*server, error) {
	s, err := b.run("gateway", b.root, filepath.Join(os.Getenv("SDBACKUP_BIN"), "backup-gateway"), "serve", "--user", "--config", filepath.Join(b.dir, "config"), "--listen", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.auth = b.login
	s.base += gatewayArea + "/"
	return s, nil
}

// listensAt finds where a server says that it listens, before which none of them speaks of an address.
var listensAt = regexp.MustCompile(`(127\.0\.0\.1:[1-9][0-9]*)`)

// run starts a server and waits until it says where it listens.
func (b *bench) run(name, root string, argv ...string) (*server, error) {
	s := &server{name: name, root: root, cmd: exec.Command(argv[0], argv[1:]...)}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	xdg := filepath.Join(b.dir, "xdg")
	s.cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_RUNTIME_DIR="+xdg, "XDG_STATE_HOME="+xdg, "XDG_CACHE_HOME="+xdg, "XDG_CONFIG_HOME="+xdg)
	log, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	s.cmd.Stdout = s.cmd.Stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	b.running = append(b.running, s)
	var said strings.Builder
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if m := listensAt.FindStringSubmatch(line); m != nil {
			s.base = "http://" + m[1] + "/"
			go func() { _, _ = io.Copy(io.Discard, lines) }()
			return s, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s did not start: %s", name, said.String())
		}
	}
}

func (b *bench) stop() {
	for _, s := range b.running {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// receiveAndHash is the least that a server of verified uploads does.
func receiveAndHash() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "serving at %s\n", l.Addr())
	buffers := sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}
	return http.Serve(l, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		buffer := buffers.Get().(*[]byte)
		defer buffers.Put(buffer)
		_, _ = io.CopyBuffer(struct{ io.Writer }{sha256.New()}, r.Body, *buffer)
	}))
}

// blob is a body of which no two are the same and which takes no memory of its own: only its beginning differs.
type blob struct {
	name string
	head []byte
	tail []byte
}

func (b blob) body() io.Reader {
	return io.MultiReader(bytes.NewReader(b.head), bytes.NewReader(b.tail))
}
func (b blob) size() int64 { return int64(len(b.head) + len(b.tail)) }

func blobs(n, size int) []blob {
	tail := make([]byte, size-8)
	_, _ = rand.Read(tail) // never fails
	list := make([]blob, n)
	for i := range list {
		list[i] = blob{head: binary.BigEndian.AppendUint64(nil, uint64(i)), tail: tail}
		h := sha256.New()
		h.Write(list[i].head)
		h.Write(tail)
		list[i].name = hex.EncodeToString(h.Sum(nil))
	}
	return list
}

// ask makes a request; what is answered is read and thrown away.
func (s *server) ask(client *http.Client, method, path string, body io.Reader, length int64) error {
	req, err := http.NewRequest(method, s.base+path, body)
	if err != nil {
		return err
	}
	req.ContentLength = length
	req.Header.Set("Accept", "application/vnd.x.restic.rest.v2")
	if user, secret, ok := strings.Cut(s.auth, ":"); ok {
		req.SetBasicAuth(user, secret)
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	buffer := readers.Get().(*[]byte)
	defer readers.Put(buffer)
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, *buffer); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s %s: %s %s", s.name, method, path, resp.Status, text)
	}
	return nil
}

var readers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// parallel does all jobs, so many at a time, and tells how long they took together.
func parallel(jobs, workers int, do func(i int) error) (time.Duration, error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make([]error, workers)
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= jobs || errs[w] != nil {
					return
				}
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return time.Since(start), errors.Join(errs...)
}

// repository makes one; the next call makes another one.
func (b *bench) repository(s *server, client *http.Client) (path string, remove func(), err error) {
	b.turn++
	path = fmt.Sprintf("wiki/%s", uuid(b.turn))
	return path + "/", func() {
		if s.root != "" {
			_ = os.RemoveAll(filepath.Join(s.root, path))
		}
	}, s.ask(client, http.MethodPost, path+"/?create=true", nil, 0)
}

func newClient() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: crowd, DisableCompression: true}}
}

// uploads measures how long each server takes for all of the blobs: the median of some turns, in which they take turns.
func (b *bench) uploads(list []blob, servers []*server) (map[*server]time.Duration, error) {
	return b.inTurns(servers, func(s *server, client *http.Client, repository string) (time.Duration, error) {
		return parallel(len(list), clients, func(i int) error {
			return s.ask(client, http.MethodPost, repository+"data/"+list[i].name, list[i].body(), list[i].size())
		})
	})
}

func (b *bench) inTurns(servers []*server, measure func(*server, *http.Client, string) (time.Duration, error)) (map[*server]time.Duration, error) {
	took := map[*server][]time.Duration{}
	for range gatewayTurns {
		for _, s := range servers {
			if s == nil {
				continue
			}
			client := newClient()
			repository, remove, err := b.repository(s, client)
			if err != nil {
				return nil, err
			}
			d, err := measure(s, client, repository)
			remove()
			client.CloseIdleConnections()
			if err != nil {
				return nil, err
			}
			took[s] = append(took[s], d)
		}
	}
	medians := map[*server]time.Duration{}
	for s, d := range took {
		medians[s] = median(d)
	}
	return medians, nil
}

// compare prints the ratio of two servers' speeds.
func compare(took map[*server]time.Duration, ours, theirs *server, name, meant string) {
	if theirs == nil {
		row("  to "+name, "not here", meant)
		return
	}
	row("  to "+name, times(took[theirs], took[ours]), meant)
}

// perSecond prints the speeds of all servers, with the unit's amount that was moved.
func perSecond(took map[*server]time.Duration, servers []*server, amount int64, unit string) {
	for _, s := range servers {
		if s != nil {
			row("  "+s.name, fmt.Sprintf("%.0f %s", float64(amount)/took[s].Seconds(), unit), "")
		}
	}
}

const largeCount = 48 // of blobs of 16 MiB in a turn

func (b *bench) largeUploads() error {
	servers := []*server{b.hashOnly, b.gateway, b.restServer, b.rclone}
	took, err := b.uploads(blobs(largeCount, large), servers)
	if err != nil {
		return err
	}
	row("uploads of 16 MiB, 8 clients", "", "")
	perSecond(took, servers, largeCount*large>>20, "MiB/s")
	compare(took, b.gateway, b.hashOnly, "receive and hash only", "0.9 or more")
	compare(took, b.gateway, b.restServer, "rest-server", "1.25 or more")
	compare(took, b.gateway, b.rclone, "rclone serve restic, which verifies nothing", "")
	return nil
}

func (b *bench) unverifiedUploads() error {
	servers := []*server{b.unverified, b.restServerUnverified, b.rclone}
	took, err := b.uploads(blobs(largeCount, large), servers)
	if err != nil {
		return err
	}
	row("the same, not verified", "", "")
	perSecond(took, servers, largeCount*large>>20, "MiB/s")
	compare(took, b.unverified, b.restServerUnverified, "rest-server", "1 or more")
	compare(took, b.unverified, b.rclone, "rclone serve restic", "1 or more")
	return nil
}

func (b *bench) smallUploads() error {
	const n = 4000
	servers := []*server{b.hashOnly, b.gateway, b.restServer, b.rclone}
	took, err := b.uploads(blobs(n, small), servers)
	if err != nil {
		return err
	}
	row("uploads of 4 KiB, 8 clients", "", "")
	perSecond(took, servers, n, "/s")
	compare(took, b.gateway, b.restServer, "rest-server", "1.3 or more")
	compare(took, b.gateway, b.rclone, "rclone serve restic", "")
	return nil
}

func (b *bench) downloads() error {
	const n = 8
	list := blobs(n, large)
	servers := []*server{b.gateway, b.restServer, b.rclone}
	took, err := b.inTurns(servers, b.download(list))
	if err != nil {
		return err
	}
	row("downloads of 16 MiB, 8 clients", "", "")
	perSecond(took, servers, largeCount*large>>20, "MiB/s")
	compare(took, b.gateway, b.restServer, "rest-server", "1 or more")
	compare(took, b.gateway, b.rclone, "rclone serve restic", "1 or more")
	return nil
}

// download uploads the list and measures how long it takes to get it again and again.
func (b *bench) download(list []blob) func(*server, *http.Client, string) (time.Duration, error) {
	return func(s *server, client *http.Client, repository string) (time.Duration, error) {
		for _, o := range list {
			if err := s.ask(client, http.MethodPost, repository+"data/"+o.name, o.body(), o.size()); err != nil {
				return 0, err
			}
		}
		return parallel(largeCount, clients, func(i int) error {
			return s.ask(client, http.MethodGet, repository+"data/"+list[i%len(list)].name, nil, 0)
		})
	}
}

func (b *bench) lists() error {
	servers := []*server{b.gateway, b.restServer, b.rclone}
	took, err := b.inTurns(servers, b.list)
	if err != nil {
		return err
	}
	row("list of 20,000 blobs", "", "")
	for _, s := range servers {
		if s != nil {
			row("  "+s.name, millis(took[s]), "")
		}
	}
	compare(took, b.gateway, b.restServer, "rest-server", "2 or more")
	compare(took, b.gateway, b.rclone, "rclone serve restic", "2 or more")
	return nil
}

// list measures a list of many blobs, which are put there behind the servers' backs.
func (b *bench) list(s *server, client *http.Client, repository string) (time.Duration, error) {
	for i := range listed {
		sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
		name := hex.EncodeToString(sum[:])
		dir := filepath.Join(s.root, repository, "data", name[:2])
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return 0, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			return 0, err
		}
	}
	var took []time.Duration
	for range 5 {
		d, err := parallel(1, 1, func(int) error { return s.ask(client, http.MethodGet, repository+"data/", nil, 0) })
		if err != nil {
			return 0, err
		}
		took = append(took, d)
	}
	return median(took), nil
}

// throughRclone measures what the gateway costs before rclone. To a folder in memory, that is most of what there is to do; to S3, which
// such destinations are for, rclone has the more to do.
func (b *bench) throughRclone() error {
	for _, c := range []struct {
		what          string
		ours, theirs  *server
		blobs, tinies int
	}{{"a folder", b.viaRclone, b.rclone, largeCount, 1000}, {"S3", b.viaS3, b.rcloneS3, largeCount / 2, 300}} {
		row("gateway to rclone to "+c.what, "", "")
		if c.ours == nil {
			row("  to rclone serve restic", "not here", "0.9 or more")
			continue
		}
		servers := []*server{c.ours, c.theirs}
		for _, m := range []struct {
			what    string
			measure func() (map[*server]time.Duration, error)
		}{
			{"uploads of 16 MiB", func() (map[*server]time.Duration, error) { return b.uploads(blobs(c.blobs, large), servers) }},
			{"uploads of 4 KiB", func() (map[*server]time.Duration, error) { return b.uploads(blobs(c.tinies, small), servers) }},
			{"downloads of 16 MiB", func() (map[*server]time.Duration, error) { return b.inTurns(servers, b.download(blobs(8, large))) }},
		} {
			took, err := m.measure()
			if err != nil {
				return err
			}
			compare(took, c.ours, c.theirs, "rclone serve restic, "+m.what, "0.9 or more")
		}
	}
	return nil
}

// memory measures the peak resident memory with many large uploads and downloads at once, of processes that did nothing before.
func (b *bench) memory() error {
	list := blobs(crowd, large)
	peaks := map[string]int{}
	for _, area := range []string{gatewayArea, "rclone"} {
		s, err := b.startGateway()
		if err != nil {
			return err
		}
		s.base = strings.Replace(s.base, gatewayArea, area, 1)
		if err := b.crowd(s, list); err != nil {
			return err
		}
		peaks[area] = peakKiB(s.cmd.Process.Pid)
	}
	if err := b.crowd(b.rclone, list); err != nil {
		return err
	}
	mib := func(kib int) string { return fmt.Sprintf("%.1f MiB", float64(kib)/1024) }
	row("memory with 64 clients of 16 MiB each", mib(peaks[gatewayArea]), "under 64 MiB")
	row("  where it passes on to rclone", mib(peaks["rclone"]), "under 64 MiB")
	row("  rclone serve restic", mib(peakKiB(b.rclone.cmd.Process.Pid)), "")
	if peak := slices.Max([]int{peaks[gatewayArea], peaks["rclone"]}); peak >= memoryLimit {
		return fmt.Errorf("the gateway took %s; want less than %s", mib(peak), mib(memoryLimit))
	}
	return nil
}

// crowd uploads all of the list at once, and gets it back.
func (b *bench) crowd(s *server, list []blob) error {
	client := newClient()
	defer client.CloseIdleConnections()
	repository, remove, err := b.repository(s, client)
	defer remove()
	if err != nil {
		return err
	}
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		if _, err := parallel(len(list), len(list), func(i int) error {
			if method == http.MethodGet {
				return s.ask(client, method, repository+"data/"+list[i].name, nil, 0)
			}
			return s.ask(client, method, repository+"data/"+list[i].name, list[i].body(), list[i].size())
		}); err != nil {
			return err
		}
	}
	return nil
}
