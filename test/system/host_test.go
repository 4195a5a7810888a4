//go:build systemd

// Package system tests the installed binaries as a whole: real units of a real systemd, the real restic, real users. It
// writes to /etc, /usr/bin and /srv, so it runs only in a machine that is thrown away; `make test` boots one.
package system

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/status"
)

const (
	archive      = "/srv/backup"
	passwordFile = "/etc/sdbackup/secret/archive.password"
	password     = "planted-restic-password-7Qx"
	textfiles    = "/var/lib/prometheus/node-exporter"
	state        = "/var/lib/sdbackup"
)

var binaries = []string{"schedule-backup", "run-backup", "module-backup", "backup-gateway", "backup-destination", "restore-backup", "remote-backup"}

func TestMain(m *testing.M) {
	if err := install(); err != nil {
		fmt.Fprintln(os.Stderr, "test setup:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// install does what a package would.
func install() error {
	if os.Getuid() != 0 {
		return errors.New("tests tagged systemd need root on a booted systemd")
	}
	// These tests overwrite system files: never on a machine that somebody uses.
	if os.Getenv("SDBACKUP_DISPOSABLE") != "1" {
		return errors.New("SDBACKUP_DISPOSABLE=1 is not set: run them with `make test`")
	}
	for _, name := range binaries {
		data, err := os.ReadFile(filepath.Join(os.Getenv("SDBACKUP_BIN"), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile("/usr/bin/"+name, data, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{archive, textfiles, "/etc/sdbackup"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(passwordFile), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(passwordFile, []byte(password+"\n"), 0o600); err != nil {
		return err
	}
	// Not the one that PATH finds first: units name the programs beside it, and those of a checkout in /tmp are hidden from services.
	if out, err := exec.Command("/usr/bin/schedule-backup", "install-units").CombinedOutput(); err != nil {
		return fmt.Errorf("install-units: %w\n%s", err, out)
	}
	// The tests edit the configuration often; only the one about it wants that watched.
	exec.Command("systemctl", "stop", "backup-timers.path").Run()
	return nil
}

// host is the machine, with one test's configuration on it.
type host struct {
	*testing.T
	name string // of the test's configuration file
}

// newHost begins a test: nothing of an earlier one is configured, loaded or running.
func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{T: t, name: strings.ToLower(strings.ReplaceAll(t.Name(), "/", "-"))}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-n", "150", "-o", "short-precise").CombinedOutput()
			t.Logf("journal:\n%s", out)
		}
		os.Remove(h.config())
		exec.Command("schedule-backup", "stop-timers").Run()
		exec.Command("schedule-backup", "start-timers").Run()
		exec.Command("systemctl", "stop", "backup@*.service", "backup-check@*.service", "backup-drill@*.service", "backup-gateway.socket", "backup-gateway.service").Run()
		exec.Command("systemctl", "reset-failed", "backup@*", "backup-check@*", "backup-drill@*", "backup-gateway.*").Run()
		os.RemoveAll(state)
		if out, err := exec.Command("systemctl", "list-units", "--no-legend", "--all", "backup@*", "backup-check@*", "backup-drill@*", "module-backup-*").Output(); err != nil || len(bytes.TrimSpace(out)) > 0 {
			t.Errorf("units left behind: %s %v", out, err)
		}
	})
	h.write(h.config(), "", 0o644)
	return h
}

func (h *host) config() string { return "/etc/sdbackup/" + h.name + ".toml" }

// configure writes the test's configuration: the archive destination and what is given.
func (h *host) configure(toml string) {
	h.Helper()
	h.write(h.config(), fmt.Sprintf("[metrics]\ntextfile-dir = %q\n\n[destination.archive]\nrepository = %q\npassword-file = %q\n\n%s\n",
		textfiles, archive, passwordFile, toml), 0o644)
}

func (h *host) write(path, data string, mode os.FileMode) {
	h.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), mode); err != nil {
		h.Fatal(err)
	}
}

func (h *host) read(path string) string {
	h.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		h.Fatal(err)
	}
	return string(data)
}

// module makes a module with some files, and returns its table; more is appended to it. An empty user is root.
func (h *host) module(id, user, more string) string {
	h.Helper()
	dir := h.dir(id)
	h.write(dir+"/data/page.txt", "page of "+id+"\n", 0o640)
	h.write(dir+"/data/sub/random.bin", string(pseudoRandom(1<<20, id)), 0o640)
	if user != "" {
		if exec.Command("id", user).Run() != nil {
			h.must("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", user)
		}
		h.must("chown", "-R", user+":", dir)
		more = fmt.Sprintf("user = %q\n", user) + more
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() { os.RemoveAll(dir); os.RemoveAll(h.repository(id)) })
	return fmt.Sprintf("[module.%s]\ntype = \"wiki\"\nuuid = %q\ndirectory = %q\ninclude = [\"data\"]\n%s\n", id, uuid(id), dir, more)
}

func (h *host) dir(module string) string        { return "/var/lib/test-" + module }
func (h *host) repository(module string) string { return archive + "/wiki/" + uuid(module) }

// uuid is a stable UUID for a module of a test.
func uuid(id string) string {
	b := pseudoRandom(16, "uuid"+id)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func pseudoRandom(n int, seed string) []byte {
	x := uint64(14695981039346656037)
	for _, c := range []byte(seed) {
		x = (x ^ uint64(c)) * 1099511628211
	}
	b := make([]byte, n)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// must runs a command and returns its standard output; the test fails with all its output when the command does.
func (h *host) must(argv ...string) string {
	h.Helper()
	out, errOut, code := h.run(argv...)
	if code != 0 {
		h.Fatalf("%q: exit code %d\n%s%s", argv, code, out, errOut)
	}
	return out
}

func (h *host) run(argv ...string) (stdout, stderr string, code int) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		h.Fatalf("%q: %v", argv, err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// exits runs a command that must end with that exit code.
func (h *host) exits(want int, argv ...string) string {
	h.Helper()
	out, errOut, code := h.run(argv...)
	if code != want {
		h.Fatalf("%q: exit code %d, want %d\n%s%s", argv, code, want, out, errOut)
	}
	return out + errOut
}

// start starts a command in the background.
func (h *host) start(argv ...string) *background {
	h.Helper()
	b := &background{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = &b.output, &b.output
	if err := b.cmd.Start(); err != nil {
		h.Fatal(err)
	}
	go func() { b.cmd.Wait(); close(b.ended) }()
	h.Cleanup(func() { b.cmd.Process.Kill(); <-b.ended })
	return b
}

type background struct {
	cmd    *exec.Cmd
	output output
	ended  chan struct{}
}

// output is what a command has printed so far.
type output struct {
	mu   sync.Mutex
	data bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.data.String()
}

func (h *host) wait(b *background, want int) string {
	h.Helper()
	select {
	case <-b.ended:
	case <-time.After(2 * time.Minute):
		h.Fatalf("%q does not end", b.cmd.Args)
	}
	if got := b.cmd.ProcessState.ExitCode(); got != want {
		h.Fatalf("%q: exit code %d, want %d\n%s", b.cmd.Args, got, want, b.output.String())
	}
	return b.output.String()
}

// eventually waits for the condition.
func (h *host) eventually(limit time.Duration, what string, condition func() bool) {
	h.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			h.Fatalf("not within %s: %s", limit, what)
		}
	}
}

// gate is a FIFO that a module's hook waits at: `dump-state = [cat, GATE]` ends when the test opens it.
type gate struct {
	path string
	file *os.File
}

// gate makes the FIFO in the module's folder, and the line that makes the module wait at it.
func (h *host) gate(module string) (*gate, string) {
	h.Helper()
	g := &gate{path: h.dir(module) + "/gate"}
	if err := os.MkdirAll(h.dir(module), 0o755); err != nil {
		h.Fatal(err)
	}
	os.Remove(g.path)
	if err := syscall.Mkfifo(g.path, 0o666); err != nil {
		h.Fatal(err)
	}
	os.Chmod(g.path, 0o666)
	h.Cleanup(func() {
		if g.file != nil {
			g.file.Close()
		}
	})
	return g, fmt.Sprintf("dump-state = [\"cat\", %q]\n", g.path)
}

// reached waits until the module stands at the gate: opening a FIFO for writing succeeds only when somebody reads.
func (h *host) reached(g *gate) {
	h.Helper()
	h.eventually(30*time.Second, "the module stands at its gate", func() bool {
		f, err := os.OpenFile(g.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			g.file = f
		}
		return err == nil
	})
}

// open lets the module through.
func (g *gate) open() { g.file.Close(); g.file = nil }

func (h *host) backup(id, modules, more string) string {
	return fmt.Sprintf("[backup.%s]\nname = \"Test %s\"\nschedule = \"2099-01-01\"\ndestination = \"archive\"\nmodules = [%s]\n%s\n", id, id, modules, more)
}

func (h *host) lastRun(backup string) status.Run {
	h.Helper()
	var rec status.Backup
	h.json(state+"/status/"+backup+".json", &rec)
	return rec.LastRun
}

func (h *host) record(backup, module string) status.Module {
	h.Helper()
	var rec status.Module
	h.json(state+"/status/"+backup+"/"+module+".json", &rec)
	return rec
}

func (h *host) json(path string, v any) {
	h.Helper()
	if err := json.Unmarshal([]byte(h.read(path)), v); err != nil {
		h.Fatalf("%s: %v", path, err)
	}
}

// metric returns the value of a metric of a backup's .prom, of the series whose labels hold the fragment; "" when there is none.
func (h *host) metric(backup, name, fragment string) string {
	h.Helper()
	data, err := os.ReadFile(textfiles + "/backup" + backup + ".prom")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, fragment) {
			fields := strings.Fields(line)
			return fields[len(fields)-1]
		}
	}
	return ""
}

// restic runs restic on a module's repository as root, without a lock.
func (h *host) restic(module string, args ...string) string {
	h.Helper()
	return h.must(append([]string{"restic", "--no-lock", "--no-cache", "-r", h.repository(module), "--password-file", passwordFile}, args...)...)
}

func (h *host) snapshots(module string) int {
	h.Helper()
	var list []any
	if err := json.Unmarshal([]byte(h.restic(module, "snapshots", "--json")), &list); err != nil {
		h.Fatal(err)
	}
	return len(list)
}

// locks lists the restic locks in a module's repository.
func (h *host) locks(module string) []string {
	h.Helper()
	names, err := os.ReadDir(h.repository(module) + "/locks")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		h.Fatal(err)
	}
	var out []string
	for _, n := range names {
		if len(n.Name()) == 64 { // else it is still being written
			out = append(out, n.Name())
		}
	}
	return out
}

// processes returns the pids of the processes whose command line begins with the program's name.
func processes(name string) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, path := range dirs {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if argv0, _, _ := strings.Cut(string(data), "\x00"); filepath.Base(argv0) == name {
			var pid int
			fmt.Sscanf(path, "/proc/%d/", &pid)
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *host) unitActive(name string) bool {
	return exec.Command("systemctl", "is-active", "--quiet", name).Run() == nil
}

// property is one property of a unit, as the manager has it.
func (h *host) property(unit, name string) string {
	h.Helper()
	return strings.TrimSpace(h.must("systemctl", "show", "--value", "-p", name, unit))
}

// sameFile fails the test unless both files hold the same bytes.
func (h *host) sameFile(a, b string) {
	h.Helper()
	fa, err := os.Open(a)
	if err != nil {
		h.Fatal(err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		h.Fatal(err)
	}
	defer fb.Close()
	da, _ := io.ReadAll(fa)
	db, _ := io.ReadAll(fb)
	if !bytes.Equal(da, db) {
		h.Fatalf("%s and %s differ", a, b)
	}
}
