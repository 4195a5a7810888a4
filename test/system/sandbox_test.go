//go:build systemd

package system

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// exposed fails the test when systemd finds a unit, as it is loaded, more exposed than that many tenths; systemd-analyze(1), security.
func (h *host) exposed(unit, tenths string) {
	h.Helper()
	out, errOut, code := h.run("systemd-analyze", "security", "--no-pager", "--threshold="+tenths, unit)
	if code != 0 {
		h.Errorf("systemd-analyze security %s: want no more than %s tenths\n%s%s", unit, tenths, out, errOut)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	h.Log(strings.TrimSpace(lines[len(lines)-1]))
}

// What hooks may do, and what nothing in a unit of ours may do, as a hook that tries it all.
const trials = `#!/bin/sh
exec >/var/lib/hooks/result 2>/dev/null
cd /var/lib/hooks
try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "may $name"; else echo "may not $name"; fi; }
try write-tmp touch /tmp/of-a-hook
try write-home touch /home/of-a-hook
try mount mount -t tmpfs tmpfs /mnt
try unshare unshare --mount true
[ "$(./whoami -g)" = 8 ] && echo "may set-group-id" || echo "may not set-group-id"
try write-usr touch /usr/of-a-hook
try set-clock date -s '2030-01-01'
try make-device mknod device c 1 3
try make-set-user-id chmod u+s plain
try load-module modprobe dummy
try read-kernel-log dmesg
try tune-kernel sh -c 'echo 1 >/proc/sys/vm/overcommit_memory'
try rename-host hostname elsewhere
`

// Every unit that we ship does its work in its sandbox, which is as tight as its comments say, and hooks can do no more than those.
func TestUnitsInTheirSandbox(t *testing.T) {
	h := newHost(t)
	h.write("/var/lib/hooks/try", trials, 0o755)
	h.write("/var/lib/hooks/plain", "", 0o644)
	if err := os.MkdirAll("/home", 0o755); err != nil {
		t.Fatal(err)
	}
	h.must("install", "-g", "mail", "-m", "2755", "/usr/bin/id", "/var/lib/hooks/whoami")
	t.Cleanup(func() {
		for _, path := range []string{"/var/lib/hooks", "/tmp/of-a-hook", "/home/of-a-hook"} {
			os.RemoveAll(path)
		}
	})
	gate, wait := h.gate("boxed")
	hook := "on-success = [\"/var/lib/hooks/try\"]\n[backup.boxed.check]\nschedule = \"2099-01-01\"\n"
	h.behindGateway(h.module("boxed", "boxed", wait) + h.module("reader", "reader", "read-all = true\n") + h.to("cloud", "boxed", `"boxed", "reader"`, hook))

	h.must("systemctl", "start", "--no-block", "backup@boxed.service")
	h.reached(gate)
	const unit = "module-backup-boxed-boxed.service"
	for name, want := range map[string]string{"User": "boxed", "CapabilityBoundingSet": "", "AmbientCapabilities": "", "NoNewPrivileges": "yes"} {
		if got := h.property(unit, name); got != want {
			t.Errorf("%s of a module's service is %q, want %q", name, got, want)
		}
	}
	h.exposed(unit, "45")
	h.exposed("backup@boxed.service", "60")
	gate.open()
	h.eventually(time.Minute, "the run ends", func() bool { return h.metric("boxed", "node_backup_running", "") == "0" })
	h.eventually(time.Minute, "its service ends", func() bool { return h.property("backup@boxed.service", "ActiveState") == "inactive" })
	if got := h.metric("boxed", "node_backup_status", ""); got != "1" {
		t.Errorf("node_backup_status = %q, want 1", got)
	}
	allowed := []string{"write-tmp", "write-home", "mount", "unshare", "set-group-id"}
	result := strings.Fields(strings.ReplaceAll(h.read("/var/lib/hooks/result"), "may not ", "not:"))
	result = slices.DeleteFunc(result, func(word string) bool { return word == "may" })
	for _, word := range result {
		name, denied := strings.CutPrefix(word, "not:")
		if denied == slices.Contains(allowed, name) {
			t.Errorf("a hook of a backup: may do %s is %t, want %t", name, !denied, denied)
		}
	}
	if len(result) != strings.Count(trials, "\ntry ")+1 {
		t.Errorf("the hook tried %v, not all", result)
	}
	h.exposed("backup-gateway.service", "29")

	h.must("systemctl", "start", "backup-check@boxed.service")
	h.exposed("backup-check@boxed.service", "60")

	// Timers are made, a change is noticed, and looked at twice; then all of them go.
	h.must("systemctl", "restart", "backup-timers.service", "backup-timers.path")
	h.eventually(30*time.Second, "the timer is made", func() bool { return h.unitActive("backup@boxed.timer") })
	h.write("/etc/sdbackup/late.toml", h.backup("late", `"boxed"`, ""), 0o644)
	t.Cleanup(func() { os.Remove("/etc/sdbackup/late.toml") })
	h.eventually(30*time.Second, "the change is noticed", func() bool { return h.unitActive("backup@late.timer") })
	for _, unit := range []string{"backup-timers.service", "backup-timers-reconcile.service", "backup-timers-settled.service"} {
		h.exposed(unit, "60")
		if result := h.property(unit, "Result"); result != "success" {
			t.Errorf("%s ended with %s", unit, result)
		}
	}
	h.must("systemctl", "stop", "backup-timers.path", "backup-timers.service")
	if h.unitActive("backup@boxed.timer") {
		t.Error("a timer is left")
	}
}

// A run that died is recorded, and its hook runs, in the sandbox of the service that makes timers at boot.
func TestRecoveryInTheSandbox(t *testing.T) {
	h := newHost(t)
	gate, wait := h.gate("dying")
	h.configure(h.module("dying", "", wait) + h.backup("dying", `"dying"`, "on-failure = [\"touch\", \"/var/lib/told\"]\n"))
	t.Cleanup(func() { os.Remove("/var/lib/told") })
	run := h.start("run-backup", "dying")
	h.reached(gate)
	if err := run.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-run.ended
	gate.open()
	h.must("systemctl", "restart", "backup-timers.service")
	if _, err := os.Stat("/var/lib/told"); err != nil {
		t.Errorf("on-failure was not run: %v", err)
	}
	exec.Command("systemctl", "stop", "backup-timers.service").Run()
}
