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

// One command makes a configuration that works, and the doctor finds nothing wrong with it.
func TestFirstTenMinutes(t *testing.T) {
	h := newHost(t)
	h.write("/srv/photos/one.jpg", "a picture\n", 0o644)
	const disk = "/srv/disk"
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, pattern := range []string{"/srv/photos", disk, "/etc/sdbackup/first-backup.toml", "/etc/sdbackup/destination-*.toml", "/etc/sdbackup/secret/archive2.*"} {
			paths, _ := filepath.Glob(pattern)
			for _, path := range paths {
				os.RemoveAll(path)
			}
		}
	})
	h.must("systemctl", "start", "backup-timers.path")
	out := h.must("schedule-backup", "init", "/srv/photos", "--to", disk, "--run")
	t.Logf("init:\n%s", out)
	if !strings.Contains(out, "files   success") {
		t.Errorf("init says %q; want that the first run was a success", out)
	}
	if !h.unitActive("backup@first.timer") || !h.unitActive("backup-check@first.timer") {
		t.Error("its timers are not started")
	}
	h.must("systemd-run", "--unit=test-exporter", "--collect", "prometheus-node-exporter", "--collector.disable-defaults", "--collector.textfile",
		"--collector.textfile.directory="+textfiles, "--web.listen-address=127.0.0.1:9100")
	t.Cleanup(func() { exec.Command("systemctl", "stop", "test-exporter").Run() })
	h.eventually(30*time.Second, "node_exporter answers", func() bool {
		_, _, code := h.run("curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:9100/metrics")
		return code == 0
	})
	out = h.must("schedule-backup", "doctor")
	t.Logf("doctor:\n%s", out)
	for _, line := range []string{
		"ok       units: installed",
		"ok       timers: 2 timers loaded; the next elapses at ",
		"ok       metrics: node_exporter reads /var/lib/prometheus/node-exporter and shows them",
		"ok       destination archive2: can be used, and its password opens the repository of files",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("the doctor does not say %q:\n%s", line, out)
		}
	}

	// What goes wrong later is told, each with its remedy; who is not root is told what was not looked at.
	h.must("systemctl", "stop", "backup@first.timer", "backup-timers.path")
	stamp := "/var/lib/systemd/timers/stamp-backup-check@first.timer"
	future := time.Now().Add(48 * time.Hour)
	if err := os.Chtimes(stamp, future, future); err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Glob(disk + "/files/*")
	if err != nil || len(repository) != 1 {
		t.Fatalf("repositories %v, %v", repository, err)
	}
	// restic makes its lock before it reads what is to be saved, and waits for that here until it is killed.
	never := t.TempDir() + "/fifo"
	h.must("mkfifo", never)
	writer := h.start("sh", "-c", "exec restic -q --no-cache -r "+repository[0]+" --password-file /etc/sdbackup/secret/archive2.password backup --stdin <>"+never)
	h.eventually(30*time.Second, "restic locks the repository", func() bool {
		names, _ := filepath.Glob(repository[0] + "/locks/" + strings.Repeat("?", 64))
		return len(names) > 0
	})
	writer.cmd.Process.Kill()
	<-writer.ended
	out = h.exits(1, "schedule-backup", "doctor")
	t.Logf("doctor:\n%s", out)
	for _, line := range []string{
		"problem  timers: backup first: its timer is not loaded: run schedule-backup start-timers",
		"warning  timers: backup check@first: by its time stamp it ran last in the future",
		"warning  units: backup-timers.path is inactive: changes of the configuration go unnoticed; systemctl start backup-timers.path",
		"left a lock in the repository of files; the next run removes it; by hand: module-backup shell files -- unlock",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("the doctor does not say %q:\n%s", line, out)
		}
	}
	out = h.exits(1, "setpriv", "--reuid=65534", "--clear-groups", "schedule-backup", "doctor")
	if !strings.Contains(out, "warning  destination archive2: not looked at: only root may; run it as root") ||
		!strings.Contains(out, "warning  secrets: not looked at: only root may; run it as root") {
		t.Errorf("without root it says\n%s", out)
	}
	h.must("systemctl", "start", "backup-timers.path")
	h.must("schedule-backup", "start-timers")
	h.must("systemctl", "start", "backup@first.service")
	os.Remove(stamp)
}
