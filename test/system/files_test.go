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
	if out := h.exits(1, "module-backup", "shell", "photos", "--", "snapshots"); !strings.Contains(out, "file-backup --module photos") {
		t.Errorf("the shell says %q", out)
	}
	if out := h.must("schedule-backup", "doctor"); !strings.Contains(out, "bucket") {
		t.Errorf("the doctor says %s", out)
	}
}
