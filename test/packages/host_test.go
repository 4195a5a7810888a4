//go:build packages

// Package packages tests the packages on a clean tree of Debian under a systemd of its own: what they hold, and a life of each from the
// installation to the purge. It installs and removes packages, so it runs only in a machine that is thrown away; `make test-packages` boots
// one for every release.
package packages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	archive      = "/srv/backup"
	passwordFile = "/etc/sdbackup/secret/archive.password"
	site         = "/etc/sdbackup/site.toml"
	example      = "/etc/sdbackup/sdbackup.toml.example"
	textfiles    = "/var/lib/prometheus/node-exporter"
	state        = "/var/lib/sdbackup"
	patience     = 30 * time.Second
)

// The folders of packages: those of this commit, and those of the same with another version.
var current, next string

func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv("SDBACKUP_DISPOSABLE") != "1" {
		fmt.Fprintln(os.Stderr, "SDBACKUP_DISPOSABLE=1 is not set: run these tests with `make test-packages`")
		os.Exit(1)
	}
	current = filepath.Join(os.Getenv("SDBACKUP_BIN"), "packages")
	next = filepath.Join(current, "next")
	// Programs come from the packages and from nowhere else.
	os.Setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	os.Setenv("DEBIAN_FRONTEND", "noninteractive")
	os.Exit(m.Run())
}

// run runs a command and returns all that it prints, and its exit code.
func run(t *testing.T, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 2*time.Minute) // also what cleans up calls it
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v", argv, err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func must(t *testing.T, argv ...string) string {
	t.Helper()
	out, code := run(t, argv...)
	if code != 0 {
		t.Fatalf("%q: exit code %d\n%s", argv, code, out)
	}
	return out
}

// pkg is the one package of this machine's architecture in a folder.
func pkg(t *testing.T, folder, format string) string {
	t.Helper()
	arch := map[string]string{"deb": runtime.GOARCH, "rpm": map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]}[format]
	return only(t, filepath.Join(folder, "sdbackup*"+arch+"."+format))
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	paths, err := filepath.Glob(pattern)
	if err != nil || len(paths) != 1 {
		t.Fatalf("%s: %v, %v; want one file", pattern, paths, err)
	}
	return paths[0]
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", patience, what)
		}
	}
}

func property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(must(t, "systemctl", "show", "--value", "-p", name, unit))
}

func active(t *testing.T, unit string) bool {
	t.Helper()
	_, code := run(t, "systemctl", "is-active", "--quiet", unit)
	return code == 0
}

// loaded lists the units of ours that the manager has, or had and remembers; a name that something mentions is no unit.
func loaded(t *testing.T) string {
	t.Helper()
	var list strings.Builder
	for line := range strings.Lines(must(t, "systemctl", "list-units", "--all", "--plain", "--legend=no", "backup@*", "backup-*", "module-backup-*")) {
		if fields := strings.Fields(line); len(fields) > 2 && (fields[1] != "not-found" || fields[2] != "inactive") {
			list.WriteString(line)
		}
	}
	return list.String()
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// stays fails the test for what is not there, gone for what is.
func stays(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if !exists(path) {
			t.Errorf("%s is gone; want it to stay", path)
		}
	}
}

func gone(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if exists(path) {
			t.Errorf("%s is still there", path)
		}
	}
}

// gate is a FIFO that a module's hook waits at, until the test opens it.
type gate struct {
	path string
	file *os.File
}

func newGate(t *testing.T, path string) *gate {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	return &gate{path: path}
}

// reached waits until the hook is there: a FIFO can be opened for writing when somebody reads.
func (g *gate) reached(t *testing.T) {
	t.Helper()
	eventually(t, "somebody stands at "+g.path, func() bool {
		f, err := os.OpenFile(g.path, os.O_WRONLY|syscall.O_NONBLOCK, 0)
		if err == nil {
			g.file = f
		}
		return err == nil
	})
}

func (g *gate) open() {
	if g.file != nil {
		g.file.Close()
		g.file = nil
	}
}
