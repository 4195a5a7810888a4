//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	sshd       = "/usr/sbin/sshd"
	remoteDir  = "/etc/sdbackup/remote"
	manyHosts  = 50
	atOnce     = 16
	bundleSize = 32 << 20
)

// remotes measures remote-backup over loopback beside ssh with the same keys.
func remotes() error {
	if err := prepareRemotes(); err != nil {
		return err
	}
	ssh := append([]string{"ssh"}, sshOptions("127.0.0.1")...)
	send := []string{"remote-backup", "--config", remoteDir + "/remotes.toml", "send", "r1", "--", "schedule-backup", "--version"}
	bare, err := medianOf(20, append(ssh, "true")...)
	if err != nil {
		return err
	}
	version, err := medianOf(20, "schedule-backup", "--version")
	if err != nil {
		return err
	}
	ours, err := medianOf(20, send...)
	if err != nil {
		return err
	}
	row("ssh 127.0.0.1 true", millis(bare), "")
	row("schedule-backup --version", millis(version), "")
	row("remote-backup send, to the end of that command", millis(ours), "under 1.5 times ssh, 20 ms and the command: "+millis(bare*3/2+20*time.Millisecond+version))

	if err := many(); err != nil {
		return err
	}
	return receiverMemory()
}

// many compares sending to many hosts with logging in to them.
func many() error {
	var hosts strings.Builder
	for i := range manyHosts {
		fmt.Fprintf(&hosts, "127.0.0.%d\n", i+1)
	}
	if err := os.WriteFile(remoteDir+"/hosts", []byte(hosts.String()), 0o644); err != nil {
		return err
	}
	bare, err := timed("sh", "-c", fmt.Sprintf("xargs -P %d -I HOST ssh %s true < %s/hosts", atOnce, strings.Join(sshOptions("HOST"), " "), remoteDir))
	if err != nil {
		return err
	}
	ours, err := timed("remote-backup", "--config", remoteDir+"/remotes.toml", "send", "--all", "--parallel", fmt.Sprint(atOnce), "--", "schedule-backup", "--version")
	if err != nil {
		return err
	}
	row(fmt.Sprintf("ssh true, %d hosts, %d at once", manyHosts, atOnce), seconds(bare), "")
	row("remote-backup send likewise", seconds(ours), fmt.Sprintf("limited by SSH: %s", times(ours, bare)))
	return nil
}

// receiverMemory measures the peak resident memory of a receiver of a large bundle.
func receiverMemory() error {
	cmd := exec.Command("remote-backup", "--config", remoteDir+"/large.toml", "send", "large", "--", "schedule-backup", "check")
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	peak := 0
	for {
		select {
		case <-tick.C:
			out, _ := exec.Command("pgrep", "-f", "^/usr/bin/remote-backup receive").Output() // none yet, or none any more
			for _, word := range strings.Fields(string(out)) {
				var pid int
				fmt.Sscan(word, &pid)
				peak = max(peak, peakKiB(pid))
			}
		case err := <-ended:
			if err != nil {
				return fmt.Errorf("send a large bundle: %w", err)
			}
			row(fmt.Sprintf("remote-backup receive, %d MiB: memory of its own", bundleSize>>20), fmt.Sprintf("%.1f MiB", float64(peak)/1024), "under 32 MiB")
			return nil
		}
	}
}

func sshOptions(host string) []string {
	return []string{"-T", "-i", remoteDir + "/id", "-o", "UserKnownHostsFile=" + remoteDir + "/known_hosts", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "root@" + host}
}

func medianOf(n int, argv ...string) (time.Duration, error) {
	var all []time.Duration
	for range n {
		d, err := timed(argv...)
		if err != nil {
			return 0, err
		}
		all = append(all, d)
	}
	return median(all), nil
}

// prepareRemotes starts an SSH server that root can log in to, and writes the tables of remotes, all of which are this machine.
func prepareRemotes() error {
	script := `set -e
IFS=:
for dir in $PATH; do [ -x /usr/sbin/sshd ] || [ ! -d $dir/sshd-tree ] || tar -C $dir/sshd-tree -c . | tar -C / -x --keep-directory-symlink; done
unset IFS
id sshd >/dev/null 2>&1 || useradd --system --home /run/sshd sshd
mkdir -p /root/.ssh /run/sshd /etc/ssh ` + remoteDir + `
chmod 700 /root/.ssh
[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
ssh-keygen -q -t ed25519 -N '' -f ` + remoteDir + `/id
cp ` + remoteDir + `/id.pub /root/.ssh/authorized_keys
systemd-run --quiet --unit=speed-sshd ` + sshd + ` -D -f /dev/null -o UsePAM=no -o MaxStartups=200
until ssh-keyscan -T 2 127.0.0.1 2>/dev/null | grep -q ed25519; do :; done
`
	if err := run("sh", "-c", script); err != nil {
		return err
	}
	key, err := os.ReadFile("/etc/ssh/ssh_host_ed25519_key.pub")
	if err != nil {
		return err
	}
	var tables, known strings.Builder
	table := func(id, host, more string) string {
		return fmt.Sprintf("[remote.%s]\nhost = %q\nusername = \"root\"\nprivate-keys = [\"id\"]\nknown-hosts = \"known_hosts\"\nconfiguration = \"empty.toml\"\n%s\n", id, host, more)
	}
	for i := 1; i <= manyHosts; i++ {
		ip := fmt.Sprintf("127.0.0.%d", i)
		tables.WriteString(table(fmt.Sprintf("r%d", i), ip, ""))
		fmt.Fprintf(&known, "%s %s", ip, key)
	}
	for name, data := range map[string]string{
		"remotes.toml": tables.String(), "known_hosts": known.String(), "empty.toml": "[node]\n",
		"large.toml": table("large", "127.0.0.1", "send-files = [\"large\"]\n"), "large": strings.Repeat("x", bundleSize),
	} {
		if err := os.WriteFile(filepath.Join(remoteDir, name), []byte(data), 0o600); err != nil {
			return err
		}
	}
	return nil
}
