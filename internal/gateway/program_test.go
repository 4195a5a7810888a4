package gateway

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"sdbackup/internal/token"
)

// program is the gateway as a process of its own: it can be killed, and its memory is nobody else's.
type program struct {
	*fixture
	path     string
	address  string
	cmd      *exec.Cmd
	requests func(line string) // is given every line of the access log; may be nil
	read     sync.WaitGroup
}

// newProgram builds and starts the gateway, as `make build` does: without the race detector, which takes memory. The fixture's
// clients then speak to it.
func newProgram(t *testing.T, kind string) *program {
	t.Helper()
	p := &program{fixture: newFixture(t, kind, ""), address: "127.0.0.1:0"}
	if bin := os.Getenv("SDBACKUP_BIN"); bin != "" { // in a machine without Go
		p.path = filepath.Join(bin, "backup-gateway")
	} else {
		p.path = filepath.Join(p.dir, "backup-gateway")
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", p.path, "sdbackup/cmd/backup-gateway")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("build the gateway: %v\n%s", err, out)
		}
	}
	if err := os.Mkdir(filepath.Join(p.dir, "xdg"), 0o700); err != nil {
		t.Fatal(err)
	}
	p.server.Paths.Tokens = filepath.Join(p.dir, "xdg/sdbackup/tokens")
	t.Cleanup(p.kill)
	p.start()
	return p
}

var serving = regexp.MustCompile(`serving at (127\.0\.0\.1:[0-9]+)`)

// start starts the process, the second time at the address of the first.
func (p *program) start() {
	p.Helper()
	p.cmd = exec.Command(p.path, "serve", "--user", "--config", p.dir+"/config", "--listen", p.address, "--access-log", "-")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	xdg := p.dir + "/xdg"
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + p.dir, "XDG_RUNTIME_DIR=" + xdg, "XDG_STATE_HOME=" + xdg, "XDG_CACHE_HOME=" + xdg, "XDG_CONFIG_HOME=" + xdg}
	access, err := p.cmd.StdoutPipe()
	if err != nil {
		p.Fatal(err)
	}
	log, err := p.cmd.StderrPipe()
	if err != nil {
		p.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		p.Fatal(err)
	}
	p.read.Go(func() {
		for lines := bufio.NewScanner(access); lines.Scan(); {
			if p.requests != nil {
				p.requests(lines.Text())
			}
		}
	})
	var said bytes.Buffer
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadString('\n')
		said.WriteString(line)
		if m := serving.FindStringSubmatch(line); m != nil {
			p.address = m[1]
			break
		}
		if err != nil {
			p.Fatalf("the gateway did not start: %s", said.Bytes())
		}
	}
	p.read.Go(func() { _, _ = io.Copy(io.Discard, lines) })
	p.http.URL = "http://" + p.address
}

// kill kills the process; rclone goes with it.
func (p *program) kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	p.read.Wait()
	_ = p.cmd.Wait()
	p.cmd = nil
}

// peakKiB is the most memory that the process ever had.
func (p *program) peakKiB() int {
	p.Helper()
	status := read(p.T, fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				p.Fatal(err)
			}
			return n
		}
	}
	p.Fatalf("no VmHWM in %s", status)
	return 0
}

// atEOF calls a function at the end of a body.
type atEOF struct {
	io.Reader
	f func()
}

func (r *atEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF && r.f != nil {
		r.f()
		r.f = nil
	}
	return n, err
}

// Of many large uploads at once none fails, and no blob is ever held as a whole.
func TestManyClients(t *testing.T) {
	const (
		clients = 64
		size    = 16 << 20
		maxKiB  = 64 << 10
	)
	t.Parallel()
	tail := make([]byte, size-8)
	_, _ = rand.Read(tail) // never fails
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			p := newProgram(t, kind)
			module := p.as("wiki1", token.Add, own)
			p.rest(200, module, "POST", "/archive/"+own+"/?create=true", "")
			client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
			user, secret, _ := strings.Cut(module, ":")
			var gone, together, answered sync.WaitGroup
			together.Add(clients)
			answered.Add(clients)
			for i := range clients {
				gone.Go(func() {
					sent, got := sync.OnceFunc(together.Done), sync.OnceFunc(answered.Done)
					defer sent() // whatever happens, nobody waits for this one
					defer got()
					head := binary.BigEndian.AppendUint64(nil, uint64(i))
					h := sha256.New()
					h.Write(head)
					h.Write(tail)
					url := p.http.URL + "/archive/" + own + "/data/" + hex.EncodeToString(h.Sum(nil))
					// All have begun before one ends.
					body := &atEOF{io.MultiReader(bytes.NewReader(head), bytes.NewReader(tail)), func() { sent(); together.Wait() }}
					for _, r := range []struct {
						method string
						body   io.Reader
					}{{"POST", body}, {"GET", nil}} {
						req, err := http.NewRequest(r.method, url, r.body)
						if err != nil {
							t.Error(err)
							return
						}
						if r.body != nil {
							req.ContentLength = size
						}
						req.Header.Set("Accept", v2)
						req.SetBasicAuth(user, secret)
						resp, err := client.Do(req)
						if err != nil {
							t.Error(err)
							return
						}
						if r.body == nil { // all are answered before one takes what it has asked for
							got()
							answered.Wait()
						}
						n, err := io.Copy(io.Discard, resp.Body)
						resp.Body.Close()
						if resp.StatusCode != 200 || err != nil || r.body == nil && n != size {
							t.Errorf("%s: %s, %d bytes, %v", r.method, resp.Status, n, err)
						}
					}
				})
			}
			gone.Wait()
			peak := p.peakKiB()
			t.Logf("at most %.1f MiB", float64(peak)/1024)
			if peak > maxKiB {
				t.Errorf("%d KiB of memory; want at most %d", peak, maxKiB)
			}
		})
	}
}

// A gateway that is killed again and again in the middle of a backup loses nothing that restic takes for saved.
func TestKilled(t *testing.T) {
	const kills = 2
	t.Parallel() // restic waits before it tries again
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			p := newProgram(t, kind)
			module := p.as("wiki1", token.Add, own)
			p.mustRestic(module, own, "init")
			content := make([]byte, 48<<20)
			_, _ = rand.Read(content) // never fails

			stored := make(chan struct{}, 1)
			p.kill()
			p.requests = func(line string) {
				if strings.Contains(line, `"POST /archive/`+own+`/data/`) {
					select {
					case stored <- struct{}{}:
					default:
					}
				}
			}
			p.start()
			cmd := p.command(module, own, "backup", "--json", "--stdin", "--stdin-filename", "big")
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// The last of the content comes when the gateway was killed, so that restic cannot be done before.
			rest := make(chan struct{})
			go func() {
				defer stdin.Close()
				_, _ = stdin.Write(content[:40<<20]) // restic may have given up
				<-rest
				_, _ = stdin.Write(content[40<<20:])
			}()
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			running, killed := true, 0
			for running {
				select {
				case err = <-ended:
					running = false
				case <-stored:
					if killed < kills {
						p.kill()
						killed++
						p.start()
						if killed == 1 {
							close(rest)
						}
					}
				}
			}
			if killed == 0 {
				t.Error("the backup ended before the gateway was killed")
			}
			t.Logf("killed %d times, restic: %v", killed, err)

			// What restic says is how it is.
			p.mustRestic(module, own, "unlock", "--remove-all")
			var snapshots []struct{ ID string }
			if err := json.Unmarshal([]byte(p.mustRestic(module, own, "snapshots", "--json")), &snapshots); err != nil {
				t.Fatal(err)
			}
			if (err == nil) != (len(snapshots) == 1) {
				t.Errorf("restic: %v, and there are %d snapshots\n%s", err, len(snapshots), out.Bytes())
			}
			p.mustRestic(module, own, "check", "--read-data")
			if err == nil {
				p.mustRestic(module, own, "restore", "latest", "--target", p.dir+"/restored")
				if got := read(t, filepath.Join(p.dir, "restored/big")); !bytes.Equal(got, content) {
					t.Error("what was restored is something else")
				}
			}
			// And the next backup is a whole one.
			p.write("files/big", string(content))
			p.mustRestic(module, own, "backup", p.dir+"/files")
			p.mustRestic(module, own, "check", "--read-data")
		})
	}
}
