//go:build systemd

package system

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A backup's check has a timer of its own, reads the repositories with the rights that fit, and finds a byte that was flipped. The verdict of
// the backup stays what it is.
func TestCheck(t *testing.T) {
	h := newHost(t)
	const check = "[backup.%.check]\nschedule = \"2099-01-01\"\nread-data-subset = 1\n"
	h.behindGateway(h.module("sound", "sound", "") + h.backup("kept", `"sound"`, strings.ReplaceAll(check, "%", "kept")) +
		h.to("cloud", "afar", `"sound"`, strings.ReplaceAll(check, "%", "afar")))
	h.must("schedule-backup", "start-timers")
	if out := h.must("schedule-backup", "list-timers"); !strings.Contains(out, "check@kept") {
		t.Errorf("list-timers prints %s, want check@kept", out)
	}
	for _, id := range []string{"kept", "afar"} {
		if !h.unitActive("backup-check@" + id + ".timer") {
			t.Errorf("backup-check@%s.timer is not active", id)
		}
		h.must("systemctl", "start", "backup@"+id+".service")
		if got := h.metric(id, "node_backup_check_status", ""); got != "-1" {
			t.Errorf("before the first check of %s its status is %q, want -1", id, got)
		}
		h.must("systemctl", "start", "backup-check@"+id+".service")
		if got := h.metric(id, "node_backup_check_status", ""); got != "1" {
			t.Errorf("after a check of %s its status is %q, want 1", id, got)
		}
	}
	for id, repository := range map[string]string{"kept": h.repository("sound"), "afar": cloud + "/backups/wiki/" + uuid("sound")} {
		flip(t, repository+"/data")
		if _, _, code := h.run("systemctl", "start", "backup-check@"+id+".service"); code == 0 {
			t.Errorf("the check of %s does not find the byte that was flipped", id)
		}
		for name, want := range map[string]string{"node_backup_check_status": "0", "node_backup_status": "1"} {
			if got := h.metric(id, name, ""); got != want {
				t.Errorf("%s of %s = %q, want %s", name, id, got, want)
			}
		}
		if got := h.metric(id, "node_backup_module_check_status", `module="sound"`); got != "0" {
			t.Errorf("node_backup_module_check_status of %s = %q, want 0", id, got)
		}
		if out := h.exits(1, "run-backup", "check@"+id); !strings.Contains(out, "the repository has errors") {
			t.Errorf("run-backup says %q", out)
		}
	}
	if out := h.exits(2, "run-backup", "check@none"); !strings.Contains(out, "there is no backup none") {
		t.Errorf("a check of no backup says %q", out)
	}
}

// flip flips one byte of the largest file below a folder.
func flip(t *testing.T, dir string) {
	t.Helper()
	largest, size := "", int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, size/3); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, size/3); err != nil {
		t.Fatal(err)
	}
}
