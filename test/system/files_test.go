//go:build systemd

package system

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sdbackup/internal/s3test"
	"sdbackup/internal/status"
)

// A module of engine files is saved by its own user in a service of its own, retained, checked, measured and restored; the keys of its bucket
// are seen by nobody else.
func TestEngineFiles(t *testing.T) {
	h := newHost(t)
	address, secret := s3test.Start(t)
	keys := "/etc/sdbackup/secret/bucket.env"
	h.write(keys, "AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY="+secret+"\n", 0o600)
	table := h.module("photos", "photos", "engine = \"files\"\non-partial = \"warn\"\n"+
		"dump = [{filename = \"who\", command = [\"sh\", \"-c\", \"id -un; cat /proc/self/environ | tr '\\\\0' '\\\\n'; echo; ls $CREDENTIALS_DIRECTORY 2>&1\"]}]\n")
	h.configure(fmt.Sprintf(`[destination.bucket]
bucket = "files"
endpoint = "http://%s"
password-file = %q
environment-file = %q
`, address, passwordFile, keys) + table + "[backup.snaps]\nschedule = \"2099-01-01\"\ndestination = \"bucket\"\nmodules = [\"photos\"]\nretention = 2\n" +
		"[module.photos.drill]\nschedule = \"2099-01-01\"\ncommand = [\"sh\", \"-c\", \"grep -q ^photos $DRILL_DUMPS/who && test -e $DRILL_DIRECTORY/data/new\"]\n" +
		"[backup.snaps.check]\nschedule = \"2099-01-01\"\nread-data-subset = 2\n")
	// A folder on the way that the user cannot look into.
	if err := os.Chmod("/var/lib", 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod("/var/lib", 0o755) })
	h.must("schedule-backup", "start-timers")
	for i := range 3 {
		h.write(h.dir("photos")+"/data/new", fmt.Sprint("version ", i), 0o644)
		h.must("systemctl", "start", "backup@snaps.service")
	}
	for name, want := range map[string]string{"node_backup_status": "1", "node_backup_module_snapshots": "2"} {
		if got := h.metric("snaps", name, ""); got != want {
			t.Errorf("%s = %q, want %s", name, got, want)
		}
	}
	for range 2 {
		h.must("systemctl", "start", "backup-check@snaps.service")
	}
	if got := h.metric("snaps", "node_backup_check_status", ""); got != "1" {
		t.Errorf("the check's status is %q", got)
	}
	if out := h.must("restore-backup", "list", "photos"); strings.Count(out, "snaps") != 2 {
		t.Errorf("list prints %s", out)
	}
	target := filepath.Join(t.TempDir(), "restored")
	h.must("restore-backup", "photos", "--target", target, "--verify")
	if got := h.read(target + h.dir("photos") + "/data/new"); got != "version 2" {
		t.Errorf("restored %q", got)
	}
	h.must("systemctl", "start", "backup-drill@photos.service")
	if r := h.record("drill@photos", "photos"); r.Outcome != status.Success || !r.Drill.Probed {
		t.Errorf("the drill came to %+v", r)
	}
	who := h.read(target + "/dumps/who")
	if !strings.HasPrefix(who, "photos\n") || strings.Contains(who, secret) {
		t.Errorf("the dump's program found\n%s", who)
	}
	out, _ := exec.Command("journalctl", "--no-pager", "-o", "cat").CombinedOutput()
	if strings.Contains(string(out), secret) || strings.Contains(string(out), password) {
		t.Error("the journal has a secret")
	}
	// What its user cannot read makes it partial, and stays as it was.
	if err := os.Chmod(h.dir("photos")+"/data/new", 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(h.dir("photos")+"/data/new", 0, 0); err != nil {
		t.Fatal(err)
	}
	h.write(h.dir("photos")+"/data/newer", "x", 0o644)
	h.must("systemctl", "start", "backup@snaps.service")
	if r := h.record("snaps", "photos"); !r.Partial || r.UnreadableCount != 1 {
		t.Errorf("%+v", r)
	}
	target = filepath.Join(t.TempDir(), "again")
	h.must("restore-backup", "photos", "--target", target, "--verify")
	if got := h.read(target + h.dir("photos") + "/data/new"); got != "version 2" {
		t.Errorf("restored %q", got)
	}
	// In place, its unit is stopped, its user takes the dump, and what is there is the version, with the owners that it had.
	unit := "/etc/systemd/system/test-photos.service"
	h.write(unit, "[Service]\nUser=photos\nExecStart=sleep infinity\n", 0o644)
	t.Cleanup(func() {
		exec.Command("systemctl", "stop", "test-photos.service").Run()
		os.Remove(unit)
		exec.Command("systemctl", "daemon-reload").Run()
	})
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "start", "test-photos.service")
	pid := h.property("test-photos.service", "MainPID")
	h.write(h.config(), strings.Replace(h.read(h.config()), "engine = \"files\"\n", "engine = \"files\"\nunits = [\"test-photos.service\"]\n"+
		"restore-state = [\"sh\", \"-c\", \"test $(id -un) = photos && grep -q ^photos $RESTORE_DUMPS/who\"]\n", 1), 0o644)
	h.write(h.dir("photos")+"/data/newer", "changed", 0o644)
	h.write(h.dir("photos")+"/data/added", "", 0o644)
	out = []byte(h.must("restore-backup", "photos", "--in-place", "--verify"))
	if !strings.Contains(string(out), `"verified": true`) || !strings.Contains(string(out), `"test-photos.service"`) {
		t.Errorf("restore in place says %s", out)
	}
	if got := h.read(h.dir("photos")+"/data/new") + h.read(h.dir("photos")+"/data/newer"); got != "version 2x" {
		t.Errorf("restored %q", got)
	}
	if _, err := os.Stat(h.dir("photos") + "/data/added"); err == nil {
		t.Error("what the version does not have is there")
	}
	if out := h.must("stat", "-c", "%U", h.dir("photos")+"/data/new", h.dir("photos")+"/data/page.txt"); out != "root\nphotos\n" {
		t.Errorf("the files belong to %q", out)
	}
	if now := h.property("test-photos.service", "MainPID"); now == pid || now == "0" {
		t.Errorf("the unit's process is %s, before it was %s", now, pid)
	}
	// What fails puts everything back.
	h.write(h.config(), strings.Replace(h.read(h.config()), "grep -q ^photos", "grep -q ^nobody", 1), 0o644)
	h.write(h.dir("photos")+"/data/newer", "changed", 0o644)
	if out := h.exits(1, "restore-backup", "photos", "--in-place"); !strings.Contains(out, "what is live is as it was before") {
		t.Errorf("a hook that fails is told as %s", out)
	}
	if got := h.read(h.dir("photos") + "/data/newer"); got != "changed" || !h.unitActive("test-photos.service") {
		t.Errorf("after a hook that failed it is %q", got)
	}
	if out := h.exits(1, "module-backup", "shell", "photos", "--", "snapshots"); !strings.Contains(out, "file-backup --module photos") {
		t.Errorf("the shell says %q", out)
	}
	if out := h.must("schedule-backup", "doctor"); !strings.Contains(out, "bucket") {
		t.Errorf("the doctor says %s", out)
	}
}
