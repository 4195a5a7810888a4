//go:build systemd

package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/status"
)

// drillFolder is where the drill of a module restores to.
func drillFolder(module string) string { return "/var/cache/sdbackup/drill@" + module }

// probe writes a module's command, and returns the drill table with it.
func (h *host) probe(module, script, more string) string {
	h.Helper()
	path := "/usr/local/bin/probe-" + module
	h.write(path, "#!/bin/sh\n"+script, 0o755)
	h.Cleanup(func() { os.Remove(path) })
	return fmt.Sprintf("[module.%s.drill]\nschedule = \"2099-01-01\"\ncommand = [%q, \"an argument\"]\n%s\n", module, path, more)
}

// gone fails the test when anything of a drill is left.
func (h *host) gone(module string) {
	h.Helper()
	if _, err := os.Lstat(drillFolder(module)); !errors.Is(err, os.ErrNotExist) {
		h.Errorf("%s is left behind: %v", drillFolder(module), err)
	}
	if out := h.must("systemctl", "list-units", "--no-legend", "--all", `module-backup-drill*`); strings.TrimSpace(out) != "" {
		h.Errorf("units are left behind: %s", out)
	}
	if left := h.locks(module); len(left) > 0 {
		h.Errorf("locks are left behind: %v", left)
	}
}

// A drill has a timer of its own, restores what each backup has saved in turn, directly and through the gateway, and finds a byte that was
// flipped. The verdicts of the backups stay what they are.
func TestDrill(t *testing.T) {
	h := newHost(t)
	drill := h.probe("tried", `set -eu
cmp "$DRILL_DIRECTORY/data/page.txt" - <<END
page of tried
END
test "$1" = "an argument"
test "$DRILL_SAMPLE" = 0
grep -q page.txt "$DRILL_DUMPS/list.txt"
`, "")
	h.behindGateway(h.module("tried", "tried", "[[module.tried.dump]]\nfilename = \"list.txt\"\ncommand = [\"ls\", \"data\"]\n") + drill +
		h.backup("near", `"tried"`, "") + h.to("cloud", "remote", `"tried"`, ""))
	h.must("schedule-backup", "start-timers")
	if out := h.must("schedule-backup", "list-timers"); !strings.Contains(out, "drill@tried") {
		t.Errorf("list-timers prints %s, want drill@tried", out)
	}
	if !h.unitActive("backup-drill@tried.timer") {
		t.Error("backup-drill@tried.timer is not active")
	}
	for _, id := range []string{"near", "remote"} {
		h.must("systemctl", "start", "backup@"+id+".service")
		if got := h.metric(id, "node_backup_module_drill_status", `module="tried"`); got != "-1" {
			t.Errorf("before the first drill with %s its status is %q, want -1", id, got)
		}
	}
	repositories := map[string]string{"near": h.repository("tried"), "remote": cloud + "/backups/wiki/" + uuid("tried")}
	for _, id := range []string{"near", "remote"} {
		h.must("systemctl", "start", "backup-drill@tried.service")
		rec := h.record("drill@tried", "tried")
		if rec.Drill == nil || rec.Drill.Backup != id || !rec.Drill.Probed || rec.Outcome != status.Success || rec.Files != 3 {
			t.Errorf("the record says %+v, drill %+v; want 3 files of backup %s", rec.Result, rec.Drill, id)
		}
		if got := h.metric(id, "node_backup_module_drill_status", `module="tried"`); got != "1" {
			t.Errorf("after a drill with %s its status is %q, want 1", id, got)
		}
		for _, name := range []string{"timestamp_seconds", "due_timestamp_seconds", "files", "size_bytes", "duration_seconds"} {
			if h.metric(id, "node_backup_module_drill_"+name, `module="tried"`) == "" {
				t.Errorf("there is no node_backup_module_drill_%s of %s", name, id)
			}
		}
		h.gone("tried")
	}
	for _, id := range []string{"near", "remote"} {
		flip(t, repositories[id]+"/data")
		out := h.exits(1, "restore-backup", "drill", "tried", "--sample", "all", "--json")
		var result status.Result
		if err := json.Unmarshal([]byte(out[:strings.LastIndex(out, "\n}")+2]), &result); err != nil || result.Outcome != status.Failed || result.Error == "" || result.Drill.Backup != id {
			t.Errorf("the drill with %s prints %s, %v", id, out, err)
		}
		for name, want := range map[string]string{"node_backup_module_drill_status": "0", "node_backup_status": "1"} {
			if got := h.metric(id, name, ""); got != want {
				t.Errorf("%s of %s = %q, want %s", name, id, got, want)
			}
		}
		h.gone("tried")
	}
	if _, _, code := h.run("systemctl", "start", "backup-drill@tried.service"); code == 0 {
		t.Error("a drill that fails ends its service well")
	}
	if out := h.exits(2, "restore-backup", "drill", "none"); !strings.Contains(out, "no module none") {
		t.Errorf("a drill of no module says %q", out)
	}
	if out := h.exits(2, "run-backup", "drill@tried"); !strings.Contains(out, "restore-backup drill tried") {
		t.Errorf("run-backup says %q", out)
	}
	h.configure(h.module("tried", "tried", "") + h.backup("near", `"tried"`, ""))
	h.must("schedule-backup", "start-timers")
	if h.unitActive("backup-drill@tried.timer") {
		t.Error("backup-drill@tried.timer is still active without its table")
	}
}

// The timer starts the drill, and what of it fails is told by the backup's hook.
func TestDrillByTimer(t *testing.T) {
	h := newHost(t)
	told := t.TempDir() + "/told"
	h.configure(h.module("timed", "timed", "") + strings.Replace(h.probe("timed", "echo it is rotten\nexit 3\n", ""), "2099-01-01", "*:*:0/2", 1) +
		h.backup("1", `"timed"`, fmt.Sprintf("on-failure = [\"sh\", \"-c\", \"echo $BACKUP_ID: $BACKUP_OUTCOME > %s\"]\n", told)))
	h.must("systemctl", "start", "backup@1.service")
	h.must("schedule-backup", "start-timers")
	// A timer is accurate to a minute.
	h.eventually(2*time.Minute, "the timer starts the drill and its failure is told", func() bool {
		data, _ := os.ReadFile(told)
		return string(data) == "drill@timed: failed\n"
	})
	if rec := h.record("drill@timed", "timed"); !strings.HasSuffix(rec.Error, "ended with exit code 3: it is rotten") {
		t.Errorf("the record says %q", rec.Error)
	}
	h.must("schedule-backup", "stop-timers")
}

// What a drill runs has nothing but what was restored: no network, no sockets of services, no folder to write to, no rights.
func TestDrillSandbox(t *testing.T) {
	h := newHost(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	h.must("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port) // so it can be reached from outside
	for _, user := range []string{"", "boxed"} {
		id := "boxed" + user
		script := `exec 2>&1
fail() { echo "$@"; exit 1; }
test "$(id -un)" = "` + map[string]string{"": "root", "boxed": "boxed"}[user] + `" || fail "it runs as $(id -un)"
test -r "$DRILL_DIRECTORY/data/page.txt" || fail "it cannot read what was restored: $(ls -laR $DRILL_FOLDER)"
echo x > "$DRILL_DIRECTORY/data/new" || fail "it cannot write to its folder"
test "$(pwd)" = "$DRILL_FOLDER" || fail "it is in $(pwd)"
bash -c 'exec 3<>/dev/tcp/127.0.0.1/` + port + `' && fail "it reaches the network"
test "$(ls /sys/class/net)" = lo || fail "it sees $(ls /sys/class/net)"
for dir in /etc /usr /var /var/lib /var/cache /srv /root /home /opt /run /run/lock ` + h.dir(id) + ` /var/lib/sdbackup; do
	( echo x > $dir/planted ) && fail "it writes to $dir"
done
test -S /run/systemd/private && fail "it sees the manager's socket"
test -S /run/dbus/system_bus_socket && fail "it sees the bus"
ls /var/lib/sdbackup/status && fail "it sees the records"
cat ` + passwordFile + ` | grep -q planted && test "$(id -u)" != 0 && fail "it reads the password"
echo x > /dev/shm/planted
mount -t tmpfs none /mnt && fail "it mounts"
mount -o remount,rw / && fail "it mounts anew"
unshare -U true && fail "it makes namespaces"
mknod /tmp/disk b 8 0 && fail "it makes devices"
test "$(id -u)" != 0 && kill -0 1 && fail "it may send signals to the manager"
exit 0
`
		h.configure(h.module(id, user, "") + h.probe(id, script, "sample = 100\n") + h.backup("1", fmt.Sprintf("%q", id), ""))
		h.must("systemctl", "start", "backup@1.service")
		if out := h.must("restore-backup", "drill", id); !strings.Contains(out, "1 files") {
			t.Errorf("as %q: the drill prints %s; want the one file that fits", user, out)
		}
		h.must("systemctl", "start", "backup-drill@"+id+".service")
		if _, err := os.Lstat("/dev/shm/planted"); err == nil {
			t.Error("/dev/shm/planted is there")
		}
		for _, dir := range []string{"/etc", "/usr", "/var", "/srv", "/tmp", "/run", h.dir(id)} {
			if _, err := os.Lstat(dir + "/planted"); err == nil {
				t.Errorf("%s/planted is there", dir)
			}
		}
		h.gone(id)
	}
}

// However a drill ends, nothing of what it restored stays.
func TestDrillIsEnded(t *testing.T) {
	h := newHost(t)

	h.configure(h.module("ended", "ended", "") + h.probe("ended", "sleep 1000\n", "") + h.backup("1", `"ended"`, ""))
	h.must("systemctl", "start", "backup@1.service")
	looked := func() bool {
		names, _ := filepath.Glob(drillFolder("ended") + "/restored/var")
		return len(names) == 1 && h.unitActive(`module-backup-drill\x40ended-ended.service`) ||
			strings.TrimSpace(h.must("systemctl", "show", "-P", "ActiveState", `module-backup-drill\x40ended-ended.service`)) == "activating"
	}
	h.must("systemctl", "start", "--no-block", "backup-drill@ended.service")
	h.eventually(time.Minute, "the drill's command runs", looked)
	if out := h.exits(3, "restore-backup", "drill", "ended"); !strings.Contains(out, "already running") {
		t.Errorf("a second one says %q", out)
	}
	h.must("systemctl", "kill", "--kill-whom=main", "-s", "KILL", "backup-drill@ended.service")
	h.eventually(time.Minute, "the service has ended", func() bool { return h.property("backup-drill@ended.service", "ActiveState") == "failed" })
	h.gone("ended")
	if run := h.lastRun("drill@ended"); run.Outcome != status.Failed || !strings.Contains(run.Error, "killed") {
		t.Errorf("the verdict is %+v", run)
	}
	if got := h.metric("1", "node_backup_module_drill_status", `module="ended"`); got != "0" {
		t.Errorf("node_backup_module_drill_status = %q, want 0", got)
	}

	b := h.start("restore-backup", "drill", "ended")
	h.eventually(time.Minute, "the drill's command runs", looked)
	b.cmd.Process.Signal(syscall.SIGINT)
	h.wait(b, 1)
	h.gone("ended")

	b = h.start("restore-backup", "drill", "ended")
	h.eventually(time.Minute, "the drill's command runs", looked)
	b.cmd.Process.Kill()
	<-b.ended
	h.must("schedule-backup", "start-timers") // as at boot
	h.eventually(time.Minute, "what it restored is removed", func() bool {
		_, err := os.Lstat(drillFolder("ended"))
		return errors.Is(err, os.ErrNotExist)
	})
	h.configure(h.module("ended", "ended", "") + h.probe("ended", "sleep 1000\n", "") + h.backup("1", `"ended"`, "timeout = \"5s\"\n"))
	out := h.exits(1, "restore-backup", "drill", "ended")
	if !strings.Contains(out, "within 5s") && !strings.Contains(out, "longer than 5s") {
		t.Errorf("a command that hangs: %s", out)
	}
	h.gone("ended")
}
