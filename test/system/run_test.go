//go:build systemd

package system

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/status"
)

// A timer fires a run within its accuracy, and what it saved restores byte for byte.
func TestTimerFiresRunThatRestores(t *testing.T) {
	h := newHost(t)
	wiki := h.module("fired1", "fired1", "")
	at := time.Now().Add(3 * time.Second).Truncate(time.Second)
	h.configure(wiki + fmt.Sprintf(`[backup.fired]
name = "Fired by its timer"
schedule = %q
accuracy = "1s"
destination = "archive"
modules = ["fired1"]
`, at.Format("2006-01-02 15:04:05")))
	h.must("schedule-backup", "start-timers")
	h.eventually(30*time.Second, "the run has a verdict", func() bool {
		return h.metric("fired", "node_backup_status", "") == "1"
	})
	run := h.lastRun("fired")
	if late := run.Start.Sub(at); late < 0 || late > 2*time.Second {
		t.Errorf("the run began %s after its time %s, want at most the accuracy of 1 s and a start", late, at)
	}
	if run.InvocationID == "" || run.Outcome != status.Success {
		t.Errorf("run = %+v, want a success with an invocation ID", run)
	}
	target := t.TempDir()
	h.restic("fired1", "restore", "latest", "--target", target)
	for _, name := range []string{"/data/page.txt", "/data/sub/random.bin"} {
		h.sameFile(h.dir("fired1")+name, target+h.dir("fired1")+name)
	}
	if owner := fileOwner(t, h.repository("fired1")+"/config"); owner == 0 {
		t.Error("the repository belongs to root, want the module's user: it could not write to it next time")
	}
}

// A run that was missed while the machine was off is made up for exactly once.
func TestPersistentCatchUp(t *testing.T) {
	h := newHost(t)
	stamp := "/var/lib/systemd/timers/stamp-backup@missed.timer"
	h.write(stamp, "", 0o644)
	old := time.Now().Add(-72 * time.Hour)
	if err := os.Chtimes(stamp, old, old); err != nil {
		t.Fatal(err)
	}
	h.configure(h.module("missed1", "", "") + `[backup.missed]
schedule = "daily"
accuracy = "1s"
destination = "archive"
modules = ["missed1"]
`)
	h.must("schedule-backup", "start-timers")
	h.eventually(30*time.Second, "the missed run is made up for", func() bool {
		return h.metric("missed", "node_backup_status", "") == "1" && !h.unitActive("backup@missed.service")
	})
	h.must("schedule-backup", "start-timers")
	h.must("schedule-backup", "stop-timers")
	h.must("schedule-backup", "start-timers")
	if h.unitActive("backup@missed.service") || strings.Count(h.read(state+"/runs/missed.jsonl"), "\n") != 1 {
		t.Error("the missed run was made up for more than once")
	}
}

// One broken module stops neither the others nor hides among them.
func TestSecondOfThreeFails(t *testing.T) {
	h := newHost(t)
	h.configure(h.module("one", "", "") + h.module("two", "", "dump-state = [\"false\"]\n") + h.module("three", "three", "") +
		h.backup("trio", `"one", "two", "three"`, ""))
	out := h.exits(1, "run-backup", "trio")
	if !strings.Contains(out, "two") {
		t.Errorf("run-backup says %q, want it to name module two", out)
	}
	for module, want := range map[string]string{"one": "1", "two": "0", "three": "1"} {
		if got := h.metric("trio", "node_backup_module_status", `module="`+module+`"`); got != want {
			t.Errorf("node_backup_module_status of %s = %q, want %s", module, got, want)
		}
	}
	if got := h.metric("trio", "node_backup_status", ""); got != "0" {
		t.Errorf("node_backup_status = %q, want 0", got)
	}
	if h.snapshots("one") != 1 || h.snapshots("three") != 1 {
		t.Error("modules one and three are not saved")
	}
	if _, err := os.Stat(h.repository("two") + "/snapshots"); err == nil && h.snapshots("two") != 0 {
		t.Error("module two has a snapshot although its dump failed")
	}
}

// Two backups that share a module both end well, and the second goes on the moment the first lets go.
func TestOverlappingBackupsShareModule(t *testing.T) {
	h := newHost(t)
	gate, wait := h.gate("shared")
	h.configure(h.module("shared", "shared", wait) + h.backup("first", `"shared"`, "") + h.backup("second", `"shared"`, "retry-interval = \"10min\""))
	first := h.start("run-backup", "first")
	h.reached(gate)
	second := h.start("run-backup", "second")
	h.eventually(20*time.Second, "the second run waits", func() bool {
		return strings.Contains(second.output.String(), "waits")
	})
	// The hook is a plain file for the second attempt: no gate to wait at.
	os.Remove(gate.path)
	h.write(gate.path, "", 0o666)
	gate.open()
	h.wait(first, 0)
	h.wait(second, 0)
	freed, began := h.record("first", "shared").End, h.record("second", "shared").Start
	if waited := began.Sub(freed); waited > time.Second {
		t.Errorf("the second attempt began %s after the lock was freed, want less than 1 s", waited)
	}
	if got := h.record("second", "shared"); got.Attempts != 2 || got.LockWaitSeconds <= 0 {
		t.Errorf("attempts = %d, lock wait = %g s; want 2 and more than 0", got.Attempts, got.LockWaitSeconds)
	}
}

// A lock that is never freed ends in a conflict, not in a failure and not in a success.
func TestLockNeverFreed(t *testing.T) {
	h := newHost(t)
	gate, wait := h.gate("stuck")
	h.configure(h.module("stuck", "", wait) + h.module("free", "", "") + h.backup("holder", `"stuck"`, "") +
		h.backup("loser", `"stuck", "free"`, "retry-interval = \"1s\"\nretry-timeout = \"2s\"\n"))
	holder := h.start("run-backup", "holder")
	h.reached(gate)
	out := h.exits(3, "run-backup", "loser")
	if !strings.Contains(out, "stuck") {
		t.Errorf("run-backup says %q, want it to name the module", out)
	}
	if got := h.metric("loser", "node_backup_status", ""); got != "2" {
		t.Errorf("node_backup_status = %q, want 2", got)
	}
	if h.snapshots("free") != 1 {
		t.Error("the module that was free is not saved")
	}
	// And a second run of the same backup is refused at once, without touching the verdict of the first.
	h.exits(3, "run-backup", "holder")
	gate.open()
	h.wait(holder, 0)
}

// SIGKILL of module-backup: no restic goes on, the lock is free, and the next run heals the repository and prunes.
func TestModuleBackupKilled(t *testing.T) {
	h := newHost(t)
	table := h.module("killed", "killed", "")
	h.configure(table + h.backup("kill", `"killed"`, "retention = 5\n"))
	h.must("run-backup", "kill")
	// Enough to be in the middle of it when the signal comes.
	for i := range 8 {
		h.write(fmt.Sprintf("%s/data/big%d", h.dir("killed"), i), string(pseudoRandom(16<<20, strconv.Itoa(i))), 0o644)
	}
	run := h.start("run-backup", "kill")
	h.eventually(20*time.Second, "restic has its lock", func() bool { return len(h.locks("killed")) > 0 })
	for _, pid := range processes("module-backup") {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	h.wait(run, 1)
	if pids := processes("restic"); len(pids) > 0 {
		t.Errorf("restic still runs: %v", pids)
	}
	if got := h.record("kill", "killed"); got.Outcome != status.Failed || !got.Unclean {
		t.Errorf("record = %+v, want failed and unclean", got)
	}
	h.must("run-backup", "kill")
	rec := h.record("kill", "killed")
	if rec.Retention == nil || !rec.Retention.Pruned || rec.Unclean {
		t.Errorf("record = %+v, want it healed and pruned", rec)
	}
	if locks := h.locks("killed"); len(locks) > 0 {
		t.Errorf("locks left in the repository: %v", locks)
	}
	h.restic("killed", "check")
}

// SIGKILL of run-backup: the run is recorded as failed, its modules are stopped in order, and the next run works.
func TestRunBackupKilled(t *testing.T) {
	for _, unit := range []bool{true, false} {
		t.Run(fmt.Sprintf("unit=%t", unit), func(t *testing.T) {
			h := newHost(t)
			gate, wait := h.gate("orphan")
			h.configure(h.module("orphan", "", wait) + h.backup("dead", `"orphan"`, "on-failure = [\"touch\", \"/run/told-of-death\"]\n"))
			os.Remove("/run/told-of-death")
			if unit {
				h.must("systemctl", "start", "--no-block", "backup@dead.service")
			} else {
				h.start("run-backup", "dead")
			}
			h.reached(gate)
			pids := processes("run-backup")
			if len(pids) != 1 {
				t.Fatalf("run-backup processes: %v, want one", pids)
			}
			syscall.Kill(pids[0], syscall.SIGKILL)
			h.eventually(20*time.Second, "the module is stopped", func() bool { return len(processes("module-backup")) == 0 })
			if !unit {
				// Nobody's ExecStopPost= runs: the next start-timers finds it.
				h.eventually(10*time.Second, "run-backup is gone", func() bool { return len(processes("run-backup")) == 0 })
				h.must("schedule-backup", "start-timers")
			}
			h.eventually(20*time.Second, "the dead run is on record", func() bool {
				return h.metric("dead", "node_backup_status", "") == "0" && h.metric("dead", "node_backup_running", "") == "0"
			})
			if run := h.lastRun("dead"); !strings.Contains(run.Error, "killed") {
				t.Errorf("run.Error = %q, want it to say that the run was killed", run.Error)
			}
			h.eventually(10*time.Second, "the failure hook ran", func() bool {
				_, err := os.Stat("/run/told-of-death")
				return err == nil
			})
			os.Remove(gate.path)
			h.write(gate.path, "", 0o666)
			h.must("run-backup", "dead")
			if got := strings.Count(h.read(state+"/runs/dead.jsonl"), "\n"); got < 2 {
				t.Errorf("%d runs in the history, want the dead one and the next", got)
			}
		})
	}
}

// `systemctl stop` in the middle of a run: restic's lock and the module's units go, the verdict is written.
func TestStopMidRun(t *testing.T) {
	h := newHost(t)
	cleaned := "/var/lib/test-halted/cleaned"
	h.configure(h.module("halted", "halted", fmt.Sprintf("cleanup-state = [\"touch\", %q]\n", cleaned)) + h.module("never", "", "") +
		h.backup("halt", `"halted", "never"`, ""))
	for i := range 8 {
		h.write(fmt.Sprintf("%s/data/big%d", h.dir("halted"), i), string(pseudoRandom(16<<20, strconv.Itoa(i))), 0o644)
	}
	h.must("systemctl", "start", "--no-block", "backup@halt.service")
	h.eventually(30*time.Second, "restic has its lock", func() bool { return len(h.locks("halted")) > 0 })
	h.must("systemctl", "stop", "backup@halt.service")
	h.eventually(10*time.Second, "no process is left", func() bool {
		return len(processes("restic"))+len(processes("module-backup"))+len(processes("run-backup")) == 0
	})
	if locks := h.locks("halted"); len(locks) > 0 {
		t.Errorf("restic's lock is left: %v", locks)
	}
	if _, err := os.Stat(cleaned); err != nil {
		t.Error("cleanup-state did not run")
	}
	run := h.lastRun("halt")
	if run.Outcome != status.Failed || !strings.Contains(run.Error, "stopped") || len(run.Modules) != 2 {
		t.Errorf("run = %+v, want failed because it was stopped, with both modules", run)
	}
	if got := h.metric("halt", "node_backup_status", ""); got != "0" {
		t.Errorf("node_backup_status = %q, want 0", got)
	}
	if _, err := os.Stat(h.repository("never")); err == nil {
		t.Error("a module was begun after the stop")
	}
}

// A module's user can read neither the destination's secret nor another module's files, and nobody can write to the system.
func TestModuleUserIsConfined(t *testing.T) {
	h := newHost(t)
	probe := `#!/bin/sh
{
cat ` + passwordFile + ` && echo READ-SECRET
cat ` + h.dir("victim") + `/data/page.txt && echo READ-VICTIM
ls ` + h.repository("victim") + ` && echo READ-REPOSITORY
touch /usr/probe /etc/probe && echo WROTE-SYSTEM
echo "restic of others:"; tr '\0' '\n' < /proc/1/environ && echo READ-ENVIRON
} > ` + h.dir("intruder") + `/found 2>&1
exit 0
`
	h.write("/usr/lib/test-probe", probe, 0o755)
	h.configure(h.module("victim", "victim", "") + h.module("intruder", "intruder", "dump-state = [\"/usr/lib/test-probe\"]\n") +
		h.backup("confined", `"victim", "intruder"`, ""))
	h.must("run-backup", "confined")
	found := h.read(h.dir("intruder") + "/found")
	for _, bad := range []string{"READ-", "WROTE-", password} {
		if strings.Contains(found, bad) {
			t.Errorf("the module's user could do what it must not:\n%s", found)
		}
	}
}

// The planted secrets show up nowhere while a run is under way.
func TestSecretsStaySecret(t *testing.T) {
	h := newHost(t)
	const key = "planted-cloud-key-9Zk"
	h.write("/etc/sdbackup/secret/archive.environment", "AWS_ACCESS_KEY_ID=id\nAWS_SECRET_ACCESS_KEY="+key+"\n", 0o600)
	gate, wait := h.gate("quiet")
	h.configure(h.module("quiet", "quiet", wait) + h.backup("discreet", `"quiet"`, ""))
	toml := strings.Replace(h.read(h.config()), "password-file", "environment-file = \"/etc/sdbackup/secret/archive.environment\"\npassword-file", 1)
	h.write(h.config(), toml, 0o644)
	h.must("systemctl", "start", "--no-block", "backup@discreet.service")
	h.reached(gate)

	seen := map[string]string{
		"systemctl show": h.must("systemctl", "show", "*"),
		"systemctl cat":  h.must("systemctl", "cat", "backup@*", "module-backup-*"),
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/run/systemd/transient/*", "/run/sdbackup/*", state + "/*", state + "/*/*", state + "/*/*/*", textfiles + "/*", "/run/lock/sdbackup/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if data, err := os.ReadFile(path); err == nil {
				seen[path] = string(data)
			}
		}
	}
	// An environment is readable to its own user and root; so what is looked at is what another user can read.
	h.must("sh", "-c", "id onlooker >/dev/null 2>&1 || useradd --system onlooker")
	out, _, _ := h.run("setpriv", "--reuid=onlooker", "--clear-groups", "sh", "-c", "cat /proc/[0-9]*/environ /run/credentials/*/* /proc/[0-9]*/cmdline 2>/dev/null")
	seen["what another user can read of processes and credentials"] = out
	// And nobody's environment at all holds the password: restic is given a file.
	gate.open()
	h.eventually(30*time.Second, "the run ends", func() bool {
		return !h.unitActive("backup@discreet.service") && h.metric("discreet", "node_backup_running", "") == "0"
	})
	seen["journal"] = h.must("journalctl", "--no-pager", "-o", "export")
	for _, pattern := range []string{state + "/*", state + "/*/*", state + "/*/*/*", textfiles + "/*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			if data, err := os.ReadFile(path); err == nil {
				seen["after the run: "+path] = string(data)
			}
		}
	}
	for where, text := range seen {
		for _, secret := range []string{password, key} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds the secret %q", where, secret)
			}
		}
	}
	if got := h.metric("discreet", "node_backup_status", ""); got != "1" {
		t.Errorf("node_backup_status = %q, want 1", got)
	}
}

// While a run is under way the last verdict stays as it is, byte for byte, and a reboot's empty /run loses nothing.
func TestVerdictStaysDuringRun(t *testing.T) {
	h := newHost(t)
	gate, wait := h.gate("steady")
	h.configure(h.module("steady", "", wait) + h.backup("stay", `"steady"`, ""))
	verdict := func() string {
		var lines []string
		for line := range strings.Lines(h.read(textfiles + "/backupstay.prom")) {
			if strings.HasPrefix(line, "node_backup_status") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
	first := h.start("run-backup", "stay")
	h.reached(gate)
	if got := h.metric("stay", "node_backup_status", ""); got != "-1" {
		t.Errorf("node_backup_status during the first run ever = %q, want -1", got)
	}
	if got := h.metric("stay", "node_backup_running", ""); got != "1" {
		t.Errorf("node_backup_running = %q, want 1", got)
	}
	gate.open()
	h.wait(first, 0)
	before := verdict()
	second := h.start("run-backup", "stay")
	h.reached(gate)
	if during := verdict(); during != before {
		t.Errorf("during the next run the verdict reads %q, before it read %q", during, before)
	}
	gate.open()
	h.wait(second, 0)
}

// Everything can be limited and is accounted for: the module's unit has its properties, and the metrics its figures.
func TestModuleUnitHasResources(t *testing.T) {
	h := newHost(t)
	gate, wait := h.gate("limited")
	h.configure(h.module("limited", "limited", wait+"[module.limited.resources]\nCPUWeight = 20\nMemoryMax = \"2G\"\n") + h.backup("limits", `"limited"`, ""))
	h.must("systemctl", "start", "--no-block", "backup@limits.service")
	h.reached(gate)
	unit := strings.Fields(h.must("systemctl", "list-units", "--no-legend", "--plain", "module-backup-*"))[0]
	for property, want := range map[string]string{
		"User": "limited", "MemoryMax": "2147483648", "CPUWeight": "20", "Slice": "backup.slice",
		"BindsTo": "backup@limits.service", "ProtectSystem": "strict", "NoNewPrivileges": "yes",
	} {
		if got := h.property(unit, property); got != want {
			t.Errorf("%s of %s = %q, want %q", property, unit, got, want)
		}
	}
	if got := h.property("backup@limits.service", "StatusText"); !strings.Contains(got, "0 of 1 modules") {
		t.Errorf("StatusText = %q, want how far the run is", got)
	}
	gate.open()
	h.eventually(30*time.Second, "the run ends", func() bool {
		return h.metric("limits", "node_backup_status", "") == "1" && !h.unitActive("backup@limits.service")
	})
	if got := h.metric("limits", "node_backup_module_cpu_seconds_total", ""); got == "" || got == "0" {
		t.Errorf("node_backup_module_cpu_seconds_total = %q, want more than 0", got)
	}
}

// require-mount is about the machine's mounts, not about those of the module's sandbox.
func TestRequireMount(t *testing.T) {
	h := newHost(t)
	h.configure(h.module("mounted", "mounted", "require-mount = true\n") + h.backup("mounts", `"mounted"`, ""))
	if out := h.exits(1, "run-backup", "mounts"); !strings.Contains(out, "nothing is mounted at "+h.dir("mounted")) {
		t.Errorf("run-backup says %q", out)
	}
	h.must("mount", "--bind", h.dir("mounted"), h.dir("mounted"))
	defer h.must("umount", h.dir("mounted"))
	h.must("run-backup", "mounts")
}

// Without units a module runs as its user all the same, and gets secrets that the user cannot read.
func TestNoUnits(t *testing.T) {
	h := newHost(t)
	h.configure(h.module("child", "child", "dump-state = [\"sh\", \"-c\", \"id -un > who; cat "+passwordFile+" >> who; true\"]\n") +
		h.backup("children", `"child"`, ""))
	h.must("run-backup", "--no-units", "children")
	if got := h.read(h.dir("child") + "/who"); got != "child\n" {
		t.Errorf("the hook ran as %q, want child, who cannot read the password", got)
	}
	// And so it does when a person saves the one module.
	out := h.must("module-backup", "child", "children")
	var r status.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Outcome != status.Success {
		t.Errorf("module-backup printed %q, %v; want one result", out, err)
	}
	if h.snapshots("child") != 2 {
		t.Errorf("%d snapshots, want 2", h.snapshots("child"))
	}
	if owner := fileOwner(t, h.repository("child")+"/config"); owner == 0 {
		t.Error("the repository belongs to root, want the module's user")
	}
}

// A user without any rights has timers and backups of its own.
func TestUserManager(t *testing.T) {
	h := newHost(t)
	h.must("sh", "-c", "id carol >/dev/null 2>&1 || useradd --create-home --home-dir /home/carol --shell /bin/sh carol")
	uid := strings.TrimSpace(h.must("id", "-u", "carol"))
	h.must("systemctl", "start", "user@"+uid+".service")
	defer h.must("systemctl", "stop", "user@"+uid+".service")
	as := func(argv ...string) []string {
		return append([]string{
			"setpriv", "--reuid=carol", "--regid=carol", "--init-groups", "env", "-i", "HOME=/home/carol", "USER=carol",
			"PATH=/usr/bin:/bin", "XDG_RUNTIME_DIR=/run/user/" + uid,
		}, argv...)
	}
	h.must(as("sh", "-c", `umask 077; mkdir -p ~/.config/sdbackup ~/notes ~/archive && echo secret > ~/password && echo note > ~/notes/one &&
cat > ~/.config/sdbackup/notes.toml <<'END'
[destination.disk]
repository = "/home/carol/archive"
password-file = "/home/carol/password"

[module.notes]
type = "files"
uuid = "6a0e2f5c-8f0b-4a55-9d8e-0f2a7a7be001"
include = ["/home/carol/notes"]

[backup.own]
schedule = "daily"
destination = "disk"
modules = ["notes"]
END`)...)
	h.must(as("schedule-backup", "--user", "install-units")...)
	h.must(as("schedule-backup", "--user", "start-timers")...)
	if out := h.must(as("schedule-backup", "--user", "list-timers")...); !strings.Contains(out, "own") {
		t.Errorf("list-timers prints %q, want backup own", out)
	}
	h.must(as("systemctl", "--user", "start", "backup@own.service")...)
	h.must(as("run-backup", "--user", "own")...)
	h.must(as("module-backup", "--user", "shell", "notes", "--", "check")...)
	var list []any
	out := h.must(as("restic", "-r", "/home/carol/archive/files/6a0e2f5c-8f0b-4a55-9d8e-0f2a7a7be001", "--password-file", "/home/carol/password",
		"--no-cache", "snapshots", "--json")...)
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 2 {
		t.Errorf("%d snapshots, %v; want 2", len(list), err)
	}
	// A gateway, too: by its socket, to carol alone.
	h.must(as("sh", "-c", `mkdir ~/held && cat >> ~/.config/sdbackup/notes.toml <<'END'

[destination.held]
repository = "/home/carol/held"
password-file = "/home/carol/password"
gateway = true
END`)...)
	h.must(as("systemctl", "--user", "start", "backup-gateway.socket")...)
	curl := []string{"curl", "-sS", "-X", "PROPFIND", "-H", "Depth: 1", "--unix-socket", "/run/user/" + uid + "/sdbackup/gateway.sock", "http://gateway/"}
	if out := h.must(as(curl...)...); !strings.Contains(out, "/held/") {
		t.Errorf("the gateway lists %s, want destination held", out)
	}
	h.must("sh", "-c", "id onlooker >/dev/null 2>&1 || useradd --system onlooker")
	if _, _, code := h.run(append([]string{"setpriv", "--reuid=onlooker", "--clear-groups"}, curl...)...); code == 0 {
		t.Error("another user can reach carol's gateway")
	}
}

// Hooks and pings tell of every end exactly once.
func TestHooksFireOnce(t *testing.T) {
	h := newHost(t)
	log := "/run/hooks.log"
	os.Remove(log)
	hook := func(name string) string {
		return fmt.Sprintf("on-%s = [\"sh\", \"-c\", \"echo %s $BACKUP_ID $(cat | grep -o 'outcome\\\":\\\"[a-z]*' | head -n 1) >> %s\"]\n", name, name, log)
	}
	all := hook("success") + hook("failure") + hook("conflict") + hook("partial")
	h.configure(h.module("good", "", "") + h.module("bad", "", "dump-state = [\"false\"]\n") +
		h.backup("hookgood", `"good"`, all) + h.backup("hookbad", `"bad"`, all))
	h.must("run-backup", "hookgood")
	h.exits(1, "run-backup", "hookbad")
	want := "success hookgood outcome\":\"success\nfailure hookbad outcome\":\"failed\n"
	if got := h.read(log); got != want {
		t.Errorf("hooks wrote %q, want %q", got, want)
	}
}

func fileOwner(t *testing.T, path string) uint32 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Uid
}
