//go:build systemd

package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbackup/internal/status"
)

const (
	nodeUUID        = "0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11"
	nodeFile        = "node-backup-" + nodeUUID + ".tar.gz.gpg"
	nodePassphrase  = "planted node passphrase 9Zt"
	nodeSecret      = "/etc/sdbackup/secret/node.passphrase"
	nodeTable       = "[node]\nname = \"web1\"\nuuid = \"" + nodeUUID + "\"\npassphrase-file = \"" + nodeSecret + "\"\n\n"
	rescuePassword  = "/root/rescue.password"
	rescueSecret    = "/root/rescue.passphrase"
	otherPassphrase = "another planted passphrase 9Zt"
)

// Runs leave a copy of the configuration behind the gateway, which stock gpg opens; a bare machine becomes the node again by it, and goes
// on with the repositories as they are.
func TestNodeCopy(t *testing.T) {
	h := newHost(t)
	h.write(nodeSecret, nodePassphrase+"\n", 0o600)
	h.write(rescueSecret, nodePassphrase+"\n", 0o600)
	t.Cleanup(func() {
		os.RemoveAll("/etc/sdbackup")
		os.MkdirAll(filepath.Dir(passwordFile), 0o700)
		h.write(passwordFile, password+"\n", 0o600)
	})
	// It tries with its token to get at what the node has left.
	probe := `#!/bin/sh
repository=$(cat /run/credentials/module-backup-far-spy.service/restic-repository)
top=${repository#rest:}; top=${top%%/cloud/*}
ask() { curl -s -o /dev/null -w '%{http_code} ' "$@"; }
{ ask "$top/cloud/` + nodeFile + `"; ask -H 'Depth: 1' -X PROPFIND "$top/cloud/"; ask -T "$0" "$top/cloud/` + nodeFile + `"; } > ` + h.dir("spy") + `/answers
`
	h.write("/usr/lib/test-spy", probe, 0o755)
	tables := nodeTable + h.module("spy", "spy", "cleanup-state = [\"/usr/lib/test-spy\"]\n") + h.module("plain", "", "") +
		h.to("cloud", "far", `"spy"`, "[backup.far.retention]\nkeep-last = 9\n") + h.to("vault", "held", `"plain"`, "") + h.backup("near", `"plain"`, "")
	h.behindGateway(tables)
	tops := map[string]string{"far": cloud + "/backups", "held": vault, "near": archive}
	bytes := map[string]string{}
	run := func(id string, written bool) {
		t.Helper()
		h.must("systemctl", "start", "backup@"+id+".service")
		got := h.lastRun(id).NodeCopy
		if got == nil || got.Outcome != status.Success || got.Written != written {
			t.Fatalf("backup %s: the copy is %+v; want written = %v", id, got, written)
		}
		now := h.read(tops[id] + "/" + nodeFile)
		if (now != bytes[id]) != written {
			t.Errorf("backup %s: the file was written: %v; want %v", id, now != bytes[id], written)
		}
		bytes[id] = now
	}
	for id, top := range tops {
		t.Cleanup(func() { os.Remove(top + "/" + nodeFile) })
		run(id, true)
		run(id, false)
		if got := h.metric(id, "node_backup_node_copy_status", ""); got != "1" {
			t.Errorf("node_backup_node_copy_status of %s = %q", id, got)
		}
		if info, err := os.Stat(top + "/" + nodeFile); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: %v, %v; want it closed to others", top, info.Mode(), err)
		}
		listed := h.must("sh", "-c", "GNUPGHOME=$(mktemp -d); export GNUPGHOME; gpg --batch --quiet --pinentry-mode loopback --passphrase-file "+
			rescueSecret+" -d "+top+"/"+nodeFile+" | tar tz; gpgconf --kill all; rm -r $GNUPGHOME")
		for _, want := range []string{"manifest.json", "files" + h.config(), "files" + rootAt, "files" + passwordFile} {
			if !strings.Contains(listed, want+"\n") {
				t.Errorf("the copy of %s holds\n%s\nwant %s", id, listed, want)
			}
		}
		if strings.Contains(listed, "node.passphrase") {
			t.Errorf("the copy holds its passphrase:\n%s", listed)
		}
	}
	if got := h.read(h.dir("spy") + "/answers"); got != "403 403 403 " {
		t.Errorf("the module's questions for the copy were answered with %q; want 403 to all", got)
	}
	h.behindGateway(tables + "# changed\n")
	run("far", true)
	run("far", false)
	h.write(nodeSecret, otherPassphrase+"\n", 0o600)
	run("far", true)
	h.write(nodeSecret, nodePassphrase+"\n", 0o600)
	run("far", true)
	h.must("run-backup", "--no-units", "near")

	// A copy that cannot be written is told everywhere, and the modules are saved.
	os.Chmod(nodeSecret, 0o644)
	h.must("systemctl", "start", "backup@near.service")
	last := h.lastRun("near")
	if last.Outcome != status.Partial || last.NodeCopy.Outcome != status.Failed || last.Modules[0].Outcome != status.Success ||
		h.metric("near", "node_backup_node_copy_status", "") != "0" || h.metric("near", "node_backup_status", "") != "1" {
		t.Errorf("the run is %+v, its copy %+v", last, last.NodeCopy)
	}
	if out := h.must("journalctl", "--no-pager", "-p", "warning", "BACKUP_ID=near"); !strings.Contains(out, "the copy of this node's configuration at destination archive is not written") {
		t.Errorf("the journal says\n%s", out)
	}
	os.Chmod(nodeSecret, 0o600)
	if out := h.must("journalctl", "--no-pager", "-o", "export"); strings.Contains(out, nodePassphrase) || strings.Contains(out, otherPassphrase) {
		t.Error("the journal holds the passphrase")
	}

	// The machine is lost.
	saved := h.count(cloud + "/backups/wiki/" + uuid("spy"))
	want := h.read(h.config())
	h.must("systemctl", "stop", "backup-gateway.socket", "backup-gateway.service")
	h.must("schedule-backup", "stop-timers")
	for _, dir := range []string{"/etc/sdbackup", state, "/var/cache/sdbackup"} {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	h.write("/etc/sdbackup/rescue.rclone.conf", "[cloud]\ntype = alias\nremote = "+cloud+"\n", 0o600)
	h.write(rescuePassword, password+"\n", 0o600)
	h.must("systemctl", "start", "backup-gateway.socket")
	bare := func() string {
		return h.must("sh", "-c", "cd /etc && find sdbackup credstore -type f 2>/dev/null | sort")
	}
	before := bare()
	h.write("/root/wrong", "wrong\n", 0o600)
	h.must("sh", "-c", "head -c 300 "+cloud+"/backups/"+nodeFile+" > /root/cut; head -c 5000 /dev/urandom > /root/foreign")
	for _, argv := range [][]string{
		{cloud + "/backups/" + nodeFile, "--passphrase-file=/root/wrong"},
		{"/root/cut", "--passphrase-file=" + rescueSecret},
		{"/root/foreign", "--passphrase-file=" + rescueSecret},
	} {
		if out := h.exits(1, append([]string{"restore-backup", "node", "--yes"}, argv...)...); strings.Count(out, "\n") != 1 {
			t.Errorf("%v says %q, want one sentence", argv, out)
		}
	}
	if after := bare(); after != before {
		t.Errorf("something was written:\n%s", after)
	}

	// One destination of the copy is imported, and another ID stays as it is.
	h.write("/etc/sdbackup/mine.toml", "[destination.archive]\nrepository = \"/srv/mine\"\npassword-file = \""+rescuePassword+"\"\n", 0o644)
	out := h.exits(1, "backup-destination", "import", cloud+"/backups/"+nodeFile, "--passphrase-file="+rescueSecret, "--json")
	var imported struct {
		Imported, Skipped []string
		LeftOut           []struct{ ID, Reason string } `json:"left_out"`
	}
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&imported); err != nil || strings.Join(imported.Imported, " ") != "cloud vault" ||
		len(imported.LeftOut) != 1 || imported.LeftOut[0].ID != "archive" {
		t.Errorf("import printed %s, %v", out, err)
	}
	for _, id := range []string{"cloud", "vault"} {
		h.must("backup-destination", "validate", id)
		h.must("backup-destination", "remove", id, "--forget-password")
	}
	os.Remove("/etc/sdbackup/mine.toml")

	// With one destination by another ID the copy is found and everything comes back.
	h.must("backup-destination", "add", "rescue", "--provider=rclone", "--rclone-config=/etc/sdbackup/rescue.rclone.conf", "--path=backups",
		"--password-file="+rescuePassword)
	h.must("restore-backup", "node", "--destination=rescue", "--node=web1", "--passphrase-file="+rescueSecret, "--dry-run")
	if _, err := os.Stat(h.config()); err == nil {
		t.Error("a dry run wrote the configuration")
	}
	h.must("restore-backup", "node", "--destination=rescue", "--node=web1", "--passphrase-file="+rescueSecret, "--yes")
	if h.read(h.config()) != want || h.read(nodeSecret) != nodePassphrase+"\n" || h.read(passwordFile) != password+"\n" {
		t.Error("what came back is not what was there")
	}
	for id := range tops {
		if !h.unitActive("backup@" + id + ".timer") {
			t.Errorf("there is no timer of backup %s", id)
		}
		h.must("systemctl", "start", "backup@"+id+".service")
		if last := h.lastRun(id); last.Outcome != status.Success || last.NodeCopy == nil || last.NodeCopy.Outcome != status.Success {
			t.Errorf("the next run of %s is %+v, its copy %+v", id, last, last.NodeCopy)
		}
	}
	if n := h.count(cloud + "/backups/wiki/" + uuid("spy")); n != saved+1 {
		t.Errorf("%d snapshots; want the %d of before and one", n, saved)
	}
	h.must("backup-destination", "remove", "rescue", "--forget-password")
	target := t.TempDir() + "/restored"
	h.must("restore-backup", "spy", "--destination=cloud", "--target="+target, "--verify")
}
