//go:build systemd

package system

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The power goes while a restore in place runs. At the next boot everything is put back before the application starts; where that was not
// possible then, by hand, however the application runs meanwhile.
func TestRestoreInPlaceLosesPower(t *testing.T) {
	h := newHost(t)
	at, line := h.gate("app")
	h.configure(h.module("app", "", "units = [\"test-app.service\"]\n"+strings.Replace(line, "dump-state", "restore-state", 1)) + h.backup("1", `"app"`, ""))
	data := h.dir("app") + "/data"
	h.must("systemctl", "start", "backup@1.service")
	h.write(data+"/page.txt", "live\n", 0o640)
	h.write(data+"/added", "live\n", 0o600)
	tree := func() string {
		return h.must("tar", "-C", h.dir("app"), "--sort=name", "--format=pax", "--pax-option=delete=atime,delete=ctime", "-c", "data")
	}
	live := tree()

	// Each boot has the units as packages ship them, enabled, for a new machine has nothing in /etc/systemd.
	shipped := h.ships("test-app.service", "multi-user.target", "[Service]\nExecStartPre=cp "+data+"/page.txt /run/test-app.saw\nExecStart=sleep infinity\n")
	binds := []string{"--bind-ro", "/usr/bin", "--bind-ro", shipped}
	for _, dir := range []string{"/etc/sdbackup", state, archive, h.dir("app")} {
		binds = append(binds, "--bind", dir)
	}
	lose := func() {
		t.Helper()
		lost := h.start(h.machine(binds, "restore-backup", "app", "--in-place")...)
		h.eventually(time.Minute, "the restore runs its hook", func() bool {
			select {
			case <-lost.ended:
				t.Fatal(lost.output.String())
			default:
			}
			return len(processes("cat")) > 0
		})
		h.reached(at)
		lost.cmd.Process.Kill()
		<-lost.ended
		h.eventually(time.Minute, "the machine is off", func() bool { return len(processes("restore-backup")) == 0 })
		at.open()
		if tree() == live {
			t.Fatal("the machine was off before anything was exchanged")
		}
	}
	right := func(out string, wanted ...string) {
		t.Helper()
		for _, want := range wanted {
			if !strings.Contains(out, want) {
				t.Errorf("it is told as\n%s\nwant %q", out, want)
			}
		}
		if tree() != live {
			t.Errorf("the live data is not as it was:\n%s", h.must("ls", "-lR", data))
		}
		h.left()
	}

	lose()
	booted := h.must(h.machine(binds, "sh", "-c", "echo saw $(cat /run/test-app.saw), application $(systemctl is-active test-app.service); "+
		"systemctl show -p Result backup-restore-recover.service; journalctl --no-pager -u backup-restore-recover.service")...)
	right(booted, "saw live, application active\n", "Result=success\n", "app: what is live is as it was before the restore; test-app.service ran then\n")

	lose()
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "start", "test-app.service")
	if saw := h.read("/run/test-app.saw"); saw == "live\n" {
		t.Errorf("the application saw %q", saw)
	}
	right(h.must("restore-backup", "recover", "app"), "app: what is live is as it was before the restore")
	if saw := h.read("/run/test-app.saw"); saw != "live\n" || !h.unitActive("test-app.service") {
		t.Errorf("the application saw %q when it was put right by hand, or does not run", saw)
	}
	h.must("systemctl", "stop", "test-app.service")
}

// ships puts a unit where packages have theirs, beside ours, all of them enabled, and returns that folder.
func (h *host) ships(name, wantedBy, text string) string {
	h.Helper()
	dir := "/usr/lib/systemd/system"
	units := map[string]string{name: wantedBy, "backup-restore-recover.service": "sysinit.target"}
	for unit, target := range units {
		path, link := filepath.Join(dir, unit), filepath.Join(dir, target+".wants", unit)
		if unit == name {
			h.write(path, text, 0o644)
		} else {
			h.write(path, h.read("/etc/systemd/system/"+unit), 0o644)
		}
		os.MkdirAll(filepath.Dir(link), 0o755)
		if err := os.Symlink(path, link); err != nil {
			h.Fatal(err)
		}
		h.Cleanup(func() { os.Remove(link); os.Remove(path); exec.Command("systemctl", "daemon-reload").Run() })
	}
	return dir
}
