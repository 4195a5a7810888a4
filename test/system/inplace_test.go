//go:build systemd

package system

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// application is a module with a unit that uses its files.
func (h *host) application(more string) (data string, archive func() string) {
	h.Helper()
	h.configure(h.module("app", "app", "units = [\"test-app.service\"]\nexclude = [\"*.log\"]\n"+more) + h.backup("1", `"app"`, ""))
	data = h.dir("app") + "/data"
	h.write("/etc/systemd/system/test-app.service", "[Service]\nUser=app\nExecStart=/bin/sh -c 'test -e "+data+"/page.txt && exec sleep infinity'\n", 0o644)
	h.Cleanup(func() {
		exec.Command("systemctl", "stop", "test-app.service").Run()
		os.Remove("/etc/systemd/system/test-app.service")
		exec.Command("systemctl", "daemon-reload").Run()
	})
	for i := range 200 {
		h.write(fmt.Sprintf("%s/many/%d", data, i), strings.Repeat("old", i), 0o640)
	}
	h.must("chown", "-R", "app:", h.dir("app"))
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "start", "test-app.service")
	h.must("systemctl", "start", "backup@1.service")
	return data, func() string {
		return h.must("tar", "-C", h.dir("app"), "--sort=name", "--exclude=./data/*.log", "--pax-option=delete=atime,delete=ctime", "--format=pax", "-c", "data")
	}
}

// left tells of what a restore in place should not leave.
func (h *host) left() {
	h.Helper()
	for _, pattern := range []string{h.dir("app") + "/.sdbackup*", h.dir("app") + "/data/.sdbackup*", state + "/restore/*.journal"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			h.Errorf("%v are left", found)
		}
	}
}

// In place, the application is stopped, gets its data back, and runs again.
func TestRestoreInPlace(t *testing.T) {
	h := newHost(t)
	data, archive := h.application("restore-state = [\"sh\", \"-c\", \"test $(id -un) = app && test -e data/page.txt\"]\n")
	want := archive()
	h.write(data+"/page.txt", "changed\n", 0o640)
	h.write(data+"/app.log", "log\n", 0o640)
	h.write(data+"/added", "", 0o600)
	h.must("chown", "app:", h.dir("app"))
	pid := h.property("test-app.service", "MainPID")
	dry := h.exits(0, "restore-backup", "app", "--in-place", "--dry-run")
	for _, want := range []string{"would be stopped meanwhile: test-app.service", "1 gone", "1 kept"} {
		if !strings.Contains(dry, want) {
			t.Errorf("the dry run does not say %q:\n%s", want, dry)
		}
	}
	out := h.must("restore-backup", "app", "--in-place", "--verify")
	var result struct {
		InPlace  bool `json:"in_place"`
		Verified bool
		Units    []string
		Kept     int
	}
	if err := json.Unmarshal([]byte(out), &result); err != nil || !result.InPlace || !result.Verified || len(result.Units) != 1 || result.Kept != 1 {
		t.Errorf("restore in place says %s, %v", out, err)
	}
	h.left()
	if now := h.property("test-app.service", "MainPID"); now == pid || now == "0" {
		t.Errorf("the application's process is %s, before it was %s", now, pid)
	}
	if _, err := os.Stat(data + "/app.log"); err != nil {
		t.Error(err)
	}
	os.Remove(data + "/app.log")
	os.Chtimes(data, time.Time{}, modified(t, h, data))
	if archive() != want {
		t.Error("what came back differs")
	}
	// Whatever fails, the application goes on with what it had.
	h.write(data+"/page.txt", "changed\n", 0o640)
	changed := archive()
	config := h.read(h.config())
	h.write(h.config(), strings.Replace(config, "test -e data/page.txt", "exit 5", 1), 0o644)
	if out := h.exits(1, "restore-backup", "app", "--in-place"); !strings.Contains(out, "exit status 5") || !strings.Contains(out, "as it was before") || !strings.Contains(out, `"rolled_back": true`) {
		t.Errorf("a hook that failed is told as %s", out)
	}
	h.write(h.config(), config, 0o644)
	if archive() != changed || !h.unitActive("test-app.service") {
		t.Error("after a hook that failed it is not as it was")
	}
	h.left()
	// Where it cannot even be put back, nothing is saved until it was: a journal that is damaged is no journal.
	h.write(state+"/restore/app.journal", "torn", 0o600)
	h.exits(1, "run-backup", "1")
	if out := h.lastRun("1").Modules[0].Error; !strings.Contains(out, "was interrupted, and is not put right yet") {
		t.Errorf("a backup meanwhile says %q", out)
	}
	os.Remove(state + "/restore/app.journal")
	// Its service cannot be started: nothing is touched, and nothing stays.
	h.must("systemctl", "mask", "--runtime", "restore-backup-app.service")
	if out := h.exits(1, "restore-backup", "app", "--in-place"); !strings.Contains(out, "start restore-backup-app.service") || !strings.Contains(out, "what is live was not touched\n") {
		t.Errorf("a service that cannot be started is told as %s", out)
	}
	h.must("systemctl", "unmask", "--runtime", "restore-backup-app.service")
	if archive() != changed || !h.unitActive("test-app.service") {
		t.Error("after a service that cannot be started it is not as it was")
	}
	h.left()
	// At boot, before services start, that is done by itself.
	h.must("systemctl", "is-enabled", "backup-restore-recover.service")
}

// modified is the time of the folder in the latest snapshot.
func modified(t *testing.T, h *host, path string) time.Time {
	t.Helper()
	for line := range strings.Lines(h.restic("app", "ls", "--json", "latest")) {
		var node struct {
			Path  string
			MTime time.Time
		}
		if json.Unmarshal([]byte(line), &node) == nil && node.Path == path {
			return node.MTime
		}
	}
	t.Fatal("the snapshot has no " + path)
	return time.Time{}
}

// Killed with all that could clean up but systemd, while the hook runs, everything is put back: nobody has to recover.
func TestRestoreInPlaceKilledTwice(t *testing.T) {
	h := newHost(t)
	at, line := h.gate("app")
	data, archive := h.application(strings.Replace(line, "dump-state", "restore-state", 1))
	h.write(data+"/page.txt", "changed\n", 0o640)
	h.write(data+"/added", "", 0o600)
	old := archive()
	b := h.start("restore-backup", "app", "--in-place")
	h.reached(at)
	if h.unitActive("test-app.service") || archive() == old {
		t.Error("the hook runs before the exchange")
	}
	b.cmd.Process.Kill()
	<-b.ended
	h.must("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "restore-backup-app.service")
	h.eventually(time.Minute, "the service ends", func() bool {
		state := h.property("restore-backup-app.service", "ActiveState")
		return state == "inactive" || state == "failed"
	})
	at.open()
	if archive() != old {
		t.Errorf("it is not as it was:\n%s", h.must("ls", "-lR", data))
	}
	if !h.unitActive("test-app.service") {
		t.Error("the application does not run")
	}
	h.left()
}

// Killed at any time, what is live is all old or all new, and the application runs.
func TestRestoreInPlaceKilled(t *testing.T) {
	h := newHost(t)
	data, archive := h.application("restore-state = [\"sh\", \"-c\", \"sleep 0.1\"]\n")
	saved := archive()
	h.must("restore-backup", "app", "--in-place")
	ends := map[string]int{}
	for i := range 20 {
		h.write(data+"/page.txt", fmt.Sprintf("changed %d\n", i), 0o640)
		h.write(data+"/added", "", 0o600)
		old := archive()
		b := h.start("restore-backup", "app", "--in-place")
		victim, signal := i%4, syscall.SIGKILL
		begun := func() bool { _, err := os.Stat(state + "/restore/app.journal"); return err == nil }
		h.eventually(time.Minute, "the restore begins", begun)
		if victim != 1 {
			h.eventually(time.Minute, "the exchange begins", func() bool {
				select {
				case <-b.ended:
					return true
				default:
					return h.unitActive("restore-backup-app.service") || h.property("restore-backup-app.service", "ActiveState") == "activating"
				}
			})
		}
		time.Sleep(rand.N(250 * time.Millisecond)) // the random point
		switch victim {
		case 0, 2:
			h.run("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "restore-backup-app.service")
		case 1:
			b.cmd.Process.Signal(signal)
		case 3:
			b.cmd.Process.Signal(syscall.SIGINT)
		}
		<-b.ended
		h.eventually(time.Minute, "the service ends", func() bool {
			state := h.property("restore-backup-app.service", "ActiveState")
			return state == "inactive" || state == "failed"
		})
		if victim == 1 { // it may have been killed before it had its service; then nobody knows of it until the next boot
			h.must("restore-backup", "recover")
		}
		switch archive() {
		case old:
			ends["old"]++
		case saved:
			ends["new"]++
		default:
			t.Errorf("kill %d: neither old nor new:\n%s\n%s", i, h.must("ls", "-lR", data), b.output.String())
		}
		if !h.unitActive("test-app.service") {
			t.Errorf("kill %d: the application does not run:\n%s", i, b.output.String())
		}
		h.left()
	}
	t.Logf("%v", ends)
	if ends["old"] == 0 {
		t.Error("it was never killed in time")
	}
}
