//go:build systemd

package system

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/remote/remotetest"
	"sdbackup/internal/status"
)

// The remotes of these tests are systemds of their own, each in a network of its own, with a real sshd. The machine that the tests run on
// is the one that sends.

const farPassword = "planted-far-password-9Kd"

// prepareSSH installs the SSH server, and makes the keys, once.
var prepareSSH = sync.OnceValue(func() error {
	script := `set -e
IFS=:
for dir in $PATH; do [ -x /usr/sbin/sshd ] || [ ! -d $dir/sshd-tree ] || tar -C $dir/sshd-tree -c . | tar -C / -x --keep-directory-symlink; done
unset IFS
id sshd >/dev/null 2>&1 || useradd --system --home /run/sshd sshd
mkdir -p /root/.ssh /srv/remote /etc/ssh
chmod 700 /root/.ssh
for key in /etc/ssh/ssh_host_ed25519_key /srv/remote/id /srv/remote/other /srv/remote/restricted; do
	[ -e $key ] || ssh-keygen -q -t ed25519 -N '' -f $key
done
{ cat /srv/remote/id.pub; echo "restrict,command=\"/usr/bin/remote-backup receive\" $(cat /srv/remote/restricted.pub)"; } > /root/.ssh/authorized_keys
`
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
})

// far is a host that is sent to.
type far struct {
	*host
	name, ip, link string
	init           int // its pid 1
}

var farCount int

// far boots a host.
func (h *host) far(name string) *far {
	h.Helper()
	if err := prepareSSH(); err != nil {
		h.Fatal(err)
	}
	farCount++
	f := &far{host: h, name: name, ip: fmt.Sprintf("10.99.%d.2", farCount), link: fmt.Sprintf("far%d", farCount)}
	machine := exec.Command(filepath.Join(os.Getenv("SDBACKUP_BIN"), "test/private-systemd"), "--journal", "0", "--", "sleep", "infinity")
	var said bytes.Buffer
	machine.Stderr = &said
	if err := machine.Start(); err != nil {
		h.Fatal(err)
	}
	h.Cleanup(func() {
		machine.Process.Signal(syscall.SIGTERM)
		machine.Wait()
	})
	h.eventually(2*time.Minute, "the far host is up", func() bool {
		for _, pid := range processes("sleep") {
			if parent := f.initOf(pid); parent != 0 && f.ownedBy(parent, machine.Process.Pid) {
				f.init = parent
				return true
			}
		}
		return false
	})
	h.must("ip", "link", "add", f.link, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(f.init))
	h.must("ip", "addr", "add", fmt.Sprintf("10.99.%d.1/24", farCount), "dev", f.link)
	h.must("ip", "link", "set", f.link, "up")
	h.Cleanup(func() { exec.Command("ip", "link", "del", f.link).Run() })
	f.in("sh", "-c", `ip addr add `+f.ip+`/24 dev eth0 && ip link set eth0 up && touch /run/booted && mkdir -p /run/sshd /srv/backup && hostname `+name+` &&
schedule-backup install-units >/dev/null && set -- -f /dev/null -o UsePAM=no -o HostKey=/etc/ssh/ssh_host_ed25519_key &&
if /usr/sbin/sshd -t "$@" -o PerSourcePenalties=no 2>/dev/null; then set -- "$@" -o PerSourcePenalties=no; fi
systemd-run --quiet --unit=sshd -p KillMode=process /usr/sbin/sshd -D -e "$@"`)
	h.eventually(30*time.Second, "the far sshd listens", func() bool {
		return exec.Command("ssh-keyscan", "-T", "2", f.ip).Run() == nil && strings.Contains(string(first(exec.Command("ssh-keyscan", "-T", "2", f.ip).Output())), "ed25519")
	})
	return f
}

func first(out []byte, _ error) []byte { return out }

// initOf returns the pid 1 of the systemd that a process is a service of, if it is its child.
func (f *far) initOf(pid int) int {
	var parent int
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndexByte(data, ')'); i > 0 {
		var state string
		fmt.Sscanf(string(data[i+1:]), " %s %d", &state, &parent)
	}
	return parent
}

func (f *far) ownedBy(pid, owner int) bool { return f.initOf(pid) == owner }

// in runs a command on the far host.
func (f *far) in(argv ...string) string { f.Helper(); return f.must(f.enter(argv...)...) }

func (f *far) enter(argv ...string) []string {
	return append([]string{"nsenter", "--target", fmt.Sprint(f.init), "--all", "--root", "--wd", "--"}, argv...)
}

// path is where this machine sees a file of the far host.
func (f *far) path(name string) string { return fmt.Sprintf("/proc/%d/root%s", f.init, name) }

// send writes the configuration of the far host, and of a remote of that name, and returns the arguments that send it.
func (f *far) configure(modules, backups string) {
	f.Helper()
	f.write("/etc/sdbackup/far/"+f.name+".toml", fmt.Sprintf(`[destination.archive]
repository = "/srv/backup"
password-file = "far.password"

%s
%s`, modules, backups), 0o644)
	f.write("/etc/sdbackup/far/far.password", farPassword+"\n", 0o600)
	f.remote("")
	f.Cleanup(func() { os.RemoveAll("/etc/sdbackup/far") })
}

// remote writes the table of the remote, with more in it, in place of what is made otherwise.
func (f *far) remote(more string) {
	f.Helper()
	f.write("/etc/sdbackup/far/known_hosts", f.ip+" "+f.read("/etc/ssh/ssh_host_ed25519_key.pub"), 0o644)
	table := fmt.Sprintf("[remote.%s]\nhost = %q\nusername = \"root\"\nconfiguration = %q\nsend-files = [\"far.password\"]\n", f.name, f.ip, f.name+".toml")
	for key, value := range map[string]string{"private-keys": `["/srv/remote/id"]`, "known-hosts": `"known_hosts"`, "keepalive": `"3s"`} {
		if !strings.Contains(more, key+" =") {
			table += key + " = " + value + "\n"
		}
	}
	f.write("/etc/sdbackup/far/remotes-"+f.name+".toml", table+more, 0o644)
}

func (f *far) send(argv ...string) []string {
	return append([]string{"remote-backup", "--config", "/etc/sdbackup/far/remotes-" + f.name + ".toml", "send", f.name}, argv...)
}

// module makes files on the far host and returns the module's table.
func (f *far) module(id, more string) string {
	f.Helper()
	dir := "/var/lib/test-" + id
	f.write(f.path(dir)+"/data/page.txt", "page of "+id+"\n", 0o640)
	f.write(f.path(dir)+"/data/random.bin", string(pseudoRandom(1<<20, id)), 0o640)
	return fmt.Sprintf("[module.%s]\ntype = \"wiki\"\nuuid = %q\ndirectory = %q\ninclude = [\"data\"]\n%s\n", id, uuid(id), dir, more)
}

// farGate makes a FIFO that the module waits at.
func (f *far) farGate(id string) (*gate, string) {
	f.Helper()
	dir := "/var/lib/test-" + id
	if err := os.MkdirAll(f.path(dir), 0o755); err != nil {
		f.Fatal(err)
	}
	g := &gate{path: f.path(dir + "/gate")}
	if err := syscall.Mkfifo(g.path, 0o666); err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if g.file != nil {
			g.file.Close()
		}
	})
	return g, fmt.Sprintf("dump-state = [\"cat\", %q]\n", dir+"/gate")
}

func (f *far) runs(name string) bool {
	out, _ := exec.Command(f.enter("pgrep", "-x", name)[0], f.enter("pgrep", "-x", name)[1:]...).Output()
	return len(bytes.TrimSpace(out)) > 0
}

// nothingStays waits until nothing of a sent run is left on the far host, and looks whether the repository is whole.
func (f *far) nothingStays(module string, repository bool) {
	f.Helper()
	f.eventually(time.Minute, "the far run is over", func() bool {
		return !f.runs("run-backup") && !f.runs("module-backup") && !f.runs("restic") && !f.runs("remote-backup")
	})
	if out := f.in("sh", "-c", "flock -n /run/lock/sdbackup/"+module+".lock echo free"); out != "free\n" {
		f.Errorf("the module's lock is held")
	}
	f.leak()
	if repository {
		key := f.path("/run/test-password")
		f.write(key, farPassword, 0o600)
		f.in("restic", "--no-cache", "-r", "/srv/backup/wiki/"+uuid(module), "--password-file", "/run/test-password", "check")
		os.Remove(key)
	}
}

// leak looks for the password in everything that the far host has stored, and in what it tells of processes.
func (f *far) leak() {
	f.Helper()
	// Whatever is written there is on the disk of that machine, an overlay, or in its file systems in memory. The mounts of services are
	// under /run/credentials, and for them.
	for name := range strings.Lines(f.in("sh", "-c", `{ find / -xdev -maxdepth 3 \( -path /usr -o -path /proc \) -prune -o -type f -cnewer /run/booted -print
for dir in /etc /var /srv /home /opt /mnt /media /run /tmp /dev/shm; do [ ! -d $dir ] || find $dir -xdev -path /run/credentials -prune -o -type f -cnewer /run/booted -print; done; } 2>/dev/null; true`)) {
		name = strings.TrimSuffix(name, "\n")
		if data, err := os.ReadFile(f.path(name)); err == nil && bytes.Contains(data, []byte(farPassword)) {
			f.Errorf("the password is in %s", name)
		}
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if data, err := os.ReadFile(name); err == nil && bytes.Contains(data, []byte(farPassword)) {
				f.Errorf("the password is in %s", name)
			}
		}
	}
	if strings.Contains(f.in("journalctl", "--no-pager", "--output=export"), farPassword) {
		f.Errorf("the password is in the journal")
	}
}

func TestRemoteSend(t *testing.T) {
	h := newHost(t)
	f := h.far("web2")
	gate, wait := f.farGate("remote1")
	f.configure(f.module("remote1", wait), h.backup("far", `"remote1"`, "retention = 3\n[backup.far.check]\nschedule = \"weekly\""))

	sending := h.start(f.send()...)
	h.reached(gate)
	f.leak() // the run is under way: whatever it needs is there
	h.exits(3, f.send("--", "run-backup", "far")...)
	gate.open()
	if out := h.wait(sending, 0); !strings.Contains(out, "1 of 1 modules saved") {
		t.Fatalf("what the far command prints does not come back:\n%s", out)
	}
	f.nothingStays("remote1", true)
	if entries := f.in("sh", "-c", "find /etc/sdbackup /run/sdbackup || true"); strings.Contains(entries, "toml") || strings.Contains(entries, "handover/") {
		t.Errorf("left behind:\n%s", entries)
	}
	var rec status.Backup
	h.json(f.path(state+"/status/far.json"), &rec)
	if rec.LastRun.Outcome != status.Success {
		t.Errorf("the far record says %q", rec.LastRun.Outcome)
	}

	f.remote("connection = \"openssh\"\n")
	h.exits(0, f.send("--", "restore-backup", "remote1", "--target", "/srv/restored")...)
	for _, name := range []string{"page.txt", "random.bin"} {
		found := strings.Fields(f.in("find", "/srv/restored", "-name", name))
		if len(found) != 1 {
			t.Fatalf("restored: %q", found)
		}
		h.sameFile(f.path("/var/lib/test-remote1/data/"+name), f.path(found[0]))
	}
	f.nothingStays("remote1", false)

	for _, connection := range []string{"ssh", "openssh"} {
		f.remote("connection = \"" + connection + "\"\n")
		if out := h.exits(0, f.send("--", "schedule-backup", "--version")...); !strings.HasPrefix(out, "schedule-backup") {
			t.Errorf("%s: %q", connection, out)
		}
		h.exits(2, f.send("--", "run-backup", "nothing")...)
		h.exits(2, f.send("--", "run-backup", "--no-such-flag")...)
		h.exits(1, f.send("--", "sh", "-c", "exit 3")...) // no program of sdbackup
	}
	f.in("rm", "-r", "/var/lib/test-remote1/data", "/var/lib/test-remote1/gate")
	f.remote("")
	h.exits(1, f.send("--", "run-backup", "far")...)

	out := h.exits(0, append([]string{"remote-backup", "--config", "/etc/sdbackup/far/remotes-web2.toml"}, "status", "--all")...)
	if !strings.Contains(out, "Test far") || !strings.Contains(out, "failed") {
		t.Errorf("status:\n%s", out)
	}
}

func TestRemoteRefuses(t *testing.T) {
	h := newHost(t)
	f := h.far("web2")
	f.configure(f.module("remote2", ""), h.backup("far", `"remote2"`, "retention = 3"))
	version := f.send("--", "schedule-backup", "--version")
	fingerprint := strings.Fields(h.must("ssh-keygen", "-l", "-f", "/etc/ssh/ssh_host_ed25519_key.pub"))[1]

	for _, connection := range []string{"ssh", "openssh"} {
		t.Run(connection, func(t *testing.T) {
			again := "connection = \"" + connection + "\"\n"
			f.remote(again)
			h.exits(0, version...)
			h.write("/etc/sdbackup/far/known_hosts", "", 0o644)
			if out := h.exits(1, version...); connection == "ssh" && !strings.Contains(out, fingerprint) {
				t.Errorf("an unknown host key is refused without its fingerprint:\n%s", out)
			}
			h.write("/etc/sdbackup/far/known_hosts", f.ip+" "+h.read("/srv/remote/other.pub"), 0o644)
			if out := h.exits(1, version...); !strings.Contains(out, fingerprint) {
				t.Errorf("a changed host key is refused without its fingerprint:\n%s", out)
			}
			f.remote(again + "private-keys = [\"/srv/remote/other\"]\n")
			h.exits(1, version...)
			f.remote(again + "private-keys = [\"/srv/remote/restricted\"]\n")
			h.exits(0, version...)
			h.exits(0, f.send("--", "run-backup", "far")...)
		})
	}
	// With the restricted key, ssh can start nothing but the receiver, and forward nothing.
	ssh := []string{"ssh", "-o", "UserKnownHostsFile=/etc/sdbackup/far/known_hosts", "-o", "BatchMode=yes", "-i", "/srv/remote/restricted", "root@" + f.ip}
	f.remote("")
	if out, errOut, code := h.run(append(ssh, "cat", "/etc/passwd")...); code == 0 || strings.Contains(out, "root:") {
		t.Errorf("the restricted key ran a command: %d %s%s", code, out, errOut)
	}
	if _, errOut, code := h.run(append(append(ssh[:1:1], "-W", "127.0.0.1:22"), ssh[1:]...)...); code == 0 {
		t.Errorf("the restricted key forwarded a port: %s", errOut)
	}

	h.must("ip", "link", "set", f.link, "down")
	begun := time.Now()
	if out := h.exits(1, version...); time.Since(begun) > 20*time.Second {
		t.Errorf("a host that is down was waited for for %s:\n%s", time.Since(begun), out)
	}
	out := h.exits(1, "remote-backup", "--config", "/etc/sdbackup/far/remotes-web2.toml", "send", "--all")
	if !strings.Contains(out, "unreachable") {
		t.Errorf("a host that is down is not in the table as such:\n%s", out)
	}
	out = h.exits(1, "remote-backup", "--config", "/etc/sdbackup/far/remotes-web2.toml", "status", "--all")
	if !strings.Contains(out, "no answer") {
		t.Errorf("a host that is down is not in the table as such:\n%s", out)
	}
}

// TestRemoteReadOnly lets the receiver see no file system that it can write to, in memory or not: it needs none for what is sent.
func TestRemoteReadOnly(t *testing.T) {
	h := newHost(t)
	f := h.far("web2")
	f.configure(f.module("remote1", ""), h.backup("far", `"remote1"`, "retention = 3"))
	f.write(f.path("/srv/remote/read-only"), `#!/bin/sh
mount --make-rprivate /
awk '$2 !~ "^/(proc|sys)" { print $2 }' /proc/self/mounts | while read -r dir; do mount -o remount,bind,ro "$dir" 2>/dev/null; done
for dir in $(awk '$2 !~ "^/(proc|sys|dev/pts|dev/mqueue)" { print $2 }' /proc/self/mounts); do
	if [ -d "$dir" ] && touch "$dir/written" 2>/dev/null; then
		echo "$dir can be written to" >&2
		exit 1
	fi
done
exec /usr/bin/remote-backup receive
`, 0o755)
	f.write(f.path("/root/.ssh/authorized_keys"), `restrict,command="unshare --mount /srv/remote/read-only" `+h.read("/srv/remote/restricted.pub"), 0o600)
	for _, connection := range []string{"ssh", "openssh"} {
		f.remote("connection = \"" + connection + "\"\nprivate-keys = [\"/srv/remote/restricted\"]\n")
		if out := h.exits(0, f.send("--", "schedule-backup", "list-backups")...); !strings.Contains(out, "Test far") {
			t.Errorf("%s: the far command does not know of what was sent:\n%s", connection, out)
		}
	}
	f.leak()
}

// TestRemoteDeath ends a connection in every way while the far module is being saved: the far run must end, and be on record as failed.
func TestRemoteDeath(t *testing.T) {
	h := newHost(t)
	f := h.far("web2")
	gate, wait := f.farGate("remote3")
	f.configure(f.module("remote3", wait), h.backup("far", `"remote3"`, "retention = 3"))
	first := h.start(f.send()...) // so that there is a repository
	h.reached(gate)
	gate.open()
	h.wait(first, 0)

	type way struct {
		name string
		do   func(sending *background)
	}
	ofSender := []way{
		{"SIGTERM of the sender", func(b *background) { b.cmd.Process.Signal(syscall.SIGTERM) }},
		{"SIGINT of the sender", func(b *background) { b.cmd.Process.Signal(syscall.SIGINT) }},
		{"SIGKILL of the sender", func(b *background) { b.cmd.Process.Kill() }},
	}
	die := func(c way) {
		t.Helper()
		t.Run(c.name, func(t *testing.T) {
			var before status.Backup
			h.json(f.path(state+"/status/far.json"), &before)
			sending := h.start(f.send()...)
			h.reached(gate)
			c.do(sending)
			select {
			case <-sending.ended:
			case <-time.After(30 * time.Second):
				t.Fatal("the sender does not end")
			}
			if sending.cmd.ProcessState.ExitCode() == 0 {
				t.Errorf("the sender ended with exit code 0:\n%s", sending.output.String())
			}
			f.nothingStays("remote3", true)
			var rec status.Backup
			h.json(f.path(state+"/status/far.json"), &rec)
			if rec.LastRun.ID == before.LastRun.ID || rec.LastRun.Outcome != status.Failed {
				t.Errorf("the far record says %+v", rec.LastRun)
			}
			h.must("ip", "link", "set", f.link, "up")
			gate.file.Close()
			gate.file = nil
		})
	}
	for _, c := range append(ofSender,
		way{"SIGKILL of sshd", func(*background) { f.in("sh", "-c", "pkill -KILL -f '^sshd[-a-z]*: root@notty'") }},
		way{"SIGKILL of the receiver", func(*background) { f.in("pkill", "-KILL", "-x", "remote-backup") }},
		way{"a network that is cut", func(*background) { h.must("ip", "link", "set", f.link, "down") }},
	) {
		die(c)
	}
	f.remote("connection = \"openssh\"\n")
	for _, c := range ofSender {
		c.name += ", with openssh"
		die(c)
	}
}

// TestRemoteSchedule makes timers on a far host whose runs fetch their configuration from this one.
func TestRemoteSchedule(t *testing.T) {
	h := newHost(t)
	f := h.far("web2")
	f.configure(f.module("remote4", ""), h.backup("far", `"remote4"`, "retention = 3"))
	start := f.send("--", "schedule-backup", "start-timers")
	if out := h.exits(2, start...); !strings.Contains(out, "url =") {
		t.Errorf("timers without a url: %s", out)
	}

	here := strings.TrimSuffix(f.ip, "2") + "1"
	ca := remotetest.New(t, "test CA")
	key, cert := ca.Issue(t, "server", time.Now().Add(time.Hour), net.ParseIP(here))
	h.write("/etc/sdbackup/far/server.key", key, 0o600)
	h.write("/etc/sdbackup/far/server.crt", cert, 0o644)
	h.write("/etc/sdbackup/far/clients.crt", ca.PEM(), 0o644)
	h.write("/etc/sdbackup/far/remotes-serve.toml", "[serve]\ncertificate-file = \"server.crt\"\nkey-file = \"server.key\"\nclient-ca-file = \"clients.crt\"\n", 0o644)
	url := "https://" + here + ":4695/configuration/web2"
	f.remote("url = \"" + url + "\"\n")
	h.must("sh", "-c", "mkdir -p /srv/served && cp -a /etc/sdbackup/far/. /srv/served/ && cat /srv/served/remotes-*.toml > /srv/served/all.toml")
	h.write("/etc/systemd/system/remote-backup.service.d/config.conf", "[Service]\nEnvironment=SDBACKUP_CONFIG=/srv/served/all.toml\n", 0o644)
	h.must("systemctl", "daemon-reload")
	h.must("systemctl", "start", "remote-backup.socket")
	h.Cleanup(func() {
		exec.Command("systemctl", "stop", "remote-backup.socket", "remote-backup.service").Run()
		os.RemoveAll("/etc/systemd/system/remote-backup.service.d")
		os.RemoveAll("/srv/served")
	})

	if out := h.exits(1, start...); !strings.Contains(out, "sdbackup.remote") {
		t.Errorf("timers without a credential: %s", out)
	}
	key, cert = ca.Issue(t, "web2", time.Now().Add(time.Hour))
	plain := f.path("/run/plain")
	h.write(plain, key+cert+ca.PEM(), 0o600)
	f.in("sh", "-c", "mkdir -p /etc/credstore.encrypted && systemd-creds encrypt --with-key=host --name=sdbackup.remote /run/plain /etc/credstore.encrypted/sdbackup.remote && rm /run/plain")
	h.exits(0, start...)
	if out := f.in("systemctl", "list-timers", "--no-pager", "--all"); !strings.Contains(out, "backup@far.timer") {
		t.Fatalf("there is no timer:\n%s", out)
	}
	if got := h.read(f.path("/etc/sdbackup/remote.url")); got != url+"\n" {
		t.Errorf("remote.url has %q", got)
	}
	f.in("systemctl", "start", "backup@far.service")
	var rec status.Backup
	h.json(f.path(state+"/status/far.json"), &rec)
	if rec.LastRun.Outcome != status.Success {
		t.Fatalf("the far record says %+v", rec.LastRun)
	}
	f.nothingStays("remote4", true)
	// As at boot, and by hand.
	f.in("systemctl", "stop", "backup@far.timer")
	f.in("systemctl", "restart", "backup-timers.service")
	if out := f.in("schedule-backup", "list-timers"); !strings.Contains(out, "Test far") {
		t.Errorf("list-timers:\n%s", out)
	}
	// A server that is gone is a failure on record.
	h.must("systemctl", "stop", "remote-backup.socket", "remote-backup.service")
	if _, _, code := h.run(f.enter("env", "-u", "INVOCATION_ID", "run-backup", "far")...); code == 0 {
		t.Error("a run without its configuration ended with exit code 0")
	}
	h.json(f.path(state+"/status/far.json"), &rec)
	if rec.LastRun.Outcome != status.Failed || !strings.Contains(rec.LastRun.Error, "fetch the configuration") {
		t.Errorf("the far record says %+v", rec.LastRun)
	}
}

// TestRemoteUser receives as a user: with user namespaces, and where they are not allowed.
func TestRemoteUser(t *testing.T) {
	h := newHost(t)
	f := h.far("web2")
	f.configure(f.module("remote5", ""), h.backup("far", `"remote5"`, "retention = 3"))
	f.in("useradd", "--create-home", "--shell", "/bin/bash", "pusher")
	f.in("sh", "-c", "install -d -m 700 -o pusher /home/pusher/.ssh /run/user-pusher && chown -R pusher: /var/lib/test-remote5 /srv/backup")
	environment := "XDG_RUNTIME_DIR=/run/user-pusher"
	uid := strings.TrimSpace(f.in("id", "-u", "pusher"))
	f.in("systemctl", "start", "user@"+uid+".service")
	const ramfs, memfd = "never swapped (ramfs)", "sealed memory"
	for _, c := range []struct{ options, kind, units string }{
		{"", ramfs, "--no-units"}, {"-p RestrictNamespaces=yes", memfd, "--no-units"}, {"", ramfs, ""}, {"-p RestrictNamespaces=yes", memfd, ""},
	} {
		environment := environment
		if c.units == "" {
			environment = "XDG_RUNTIME_DIR=/run/user/" + uid
		}
		wrapper := "#!/bin/sh\nexec systemd-run --quiet --pipe --wait --collect --uid=pusher -E HOME=/home/pusher -E USER=pusher -E " + environment + " " + c.options + " /usr/bin/remote-backup \"$@\"\n"
		h.write(f.path("/usr/local/bin/as-pusher"), wrapper, 0o755)
		f.remote("binary-path = \"/usr/local/bin/as-pusher\"\n")
		out := h.exits(0, f.send(strings.Fields("-- run-backup --user far "+c.units)...)...)
		if !strings.Contains(out, c.kind) || !strings.Contains(out, "1 of 1 modules saved") {
			t.Errorf("want a line about %q:\n%s", c.kind, out)
		}
		f.leak()
		if left := f.in("sh", "-c", "find /run/user-pusher/sdbackup/memory -mindepth 1 2>/dev/null || true"); left != "" {
			t.Errorf("left behind: %s", left)
		}
	}
}

// TestRemoteMany sends to 50 hosts, 16 at a time, one of which is down.
func TestRemoteMany(t *testing.T) {
	h := newHost(t)
	if err := prepareSSH(); err != nil {
		t.Fatal(err)
	}
	const hosts = 50
	var tables, known strings.Builder
	hostKey := h.read("/etc/ssh/ssh_host_ed25519_key.pub")
	for i := 1; i <= hosts; i++ {
		ns, ip := fmt.Sprintf("many%d", i), fmt.Sprintf("10.98.%d.2", i)
		h.must("ip", "netns", "add", ns)
		h.Cleanup(func() { exec.Command("ip", "netns", "del", ns).Run() })
		h.must("ip", "link", "add", ns, "type", "veth", "peer", "name", "eth0", "netns", ns)
		h.must("ip", "addr", "add", fmt.Sprintf("10.98.%d.1/24", i), "dev", ns)
		h.must("ip", "link", "set", ns, "up")
		h.must("ip", "-n", ns, "addr", "add", ip+"/24", "dev", "eth0")
		h.must("ip", "-n", ns, "link", "set", "eth0", "up")
		if i != 7 {
			h.must("mkdir", "-p", "/run/sshd")
			h.must("ip", "netns", "exec", ns, "/usr/sbin/sshd", "-f", "/dev/null", "-o", "UsePAM=no", "-o", "HostKey=/etc/ssh/ssh_host_ed25519_key", "-o", "PidFile=/run/sshd/"+ns, "-o", "MaxStartups=100")
			h.Cleanup(func() { exec.Command("sh", "-c", "kill $(cat /run/sshd/"+ns+")").Run() })
		}
		fmt.Fprintf(&tables, "[remote.%s]\nhost = %q\nusername = \"root\"\nprivate-keys = [\"/srv/remote/id\"]\nknown-hosts = \"known_hosts\"\nconfiguration = \"many.toml\"\nkeepalive = \"20s\"\n", ns, ip)
		fmt.Fprintf(&known, "%s %s", ip, hostKey)
	}
	h.write("/etc/sdbackup/many/remotes.toml", tables.String(), 0o644)
	h.write("/etc/sdbackup/many/many.toml", "[node]\n", 0o644)
	h.write("/etc/sdbackup/many/known_hosts", known.String(), 0o644)
	h.Cleanup(func() { os.RemoveAll("/etc/sdbackup/many") })
	begun := time.Now()
	out := h.exits(1, "remote-backup", "--config", "/etc/sdbackup/many/remotes.toml", "send", "--all", "--parallel", "16", "--", "schedule-backup", "check")
	t.Logf("%d hosts took %s", hosts, time.Since(begun))
	if applied, unreachable := strings.Count(out, "applied"), strings.Count(out, "unreachable"); applied != hosts-1 || unreachable != 1 {
		t.Errorf("%d applied and %d unreachable; want %d and 1:\n%s", applied, unreachable, hosts-1, out)
	}
}
