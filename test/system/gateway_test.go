//go:build systemd

package system

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/status"
)

const (
	vault  = "/srv/vault" // of destination vault, a folder behind the gateway
	cloud  = "/srv/cloud" // of destination cloud, reached through rclone
	rootAt = "/etc/sdbackup/secret/cloud.rclone.conf"
	// A secret of the storage that only the gateway may know.
	storageSecret = "planted-storage-secret-4Hw"
)

// behindGateway writes a configuration with two destinations behind the gateway, and what is given.
func (h *host) behindGateway(toml string) {
	h.Helper()
	for _, dir := range []string{vault, cloud} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			h.Fatal(err)
		}
		h.Cleanup(func() { os.RemoveAll(dir) })
	}
	h.write(rootAt, fmt.Sprintf("[cloud]\ntype = alias\nremote = %s\ndescription = %s\n", cloud, storageSecret), 0o600)
	h.configure(fmt.Sprintf(`[destination.vault]
repository = %q
gateway = true
password-file = %[3]q

[destination.cloud]
repository = "rclone:cloud:backups"
rclone-config = %[2]q
password-file = %[3]q

`, vault, rootAt, passwordFile) + toml)
	h.Cleanup(func() {
		for _, dir := range []string{"tokens", "attempts"} {
			if names, err := os.ReadDir("/run/sdbackup/" + dir); err == nil && len(names) > 0 {
				h.Errorf("/run/sdbackup/%s still holds %v", dir, names)
			}
		}
	})
}

// to is a backup of modules to a destination.
func (h *host) to(destination, id, modules, more string) string {
	return strings.Replace(h.backup(id, modules, more), `"archive"`, fmt.Sprintf("%q", destination), 1)
}

// at is restic on a repository, as root and without a lock.
func (h *host) at(repository string, args ...string) string {
	h.Helper()
	return h.must(append([]string{"restic", "--no-lock", "--no-cache", "-r", repository, "--password-file", passwordFile}, args...)...)
}

func (h *host) count(repository string) int {
	h.Helper()
	var list []any
	if err := json.Unmarshal([]byte(h.at(repository, "snapshots", "--json")), &list); err != nil {
		h.Fatal(err)
	}
	return len(list)
}

// Modules back up through a gateway that nobody has started, to a folder and through rclone; retention, which they may not do, is done.
func TestGateway(t *testing.T) {
	h := newHost(t)
	h.behindGateway(h.module("gated", "gated", "ui-name = \"The gated one\"\n") + h.module("rooted", "", "") +
		h.to("vault", "folder", `"gated", "rooted"`, "[backup.folder.retention]\nkeep-last = 1\n") +
		h.to("cloud", "remote", `"gated"`, "[backup.remote.retention]\nkeep-last = 1\n"))
	for id, top := range map[string]string{"folder": vault, "remote": cloud + "/backups"} {
		h.must("systemctl", "start", "backup@"+id+".service")
		h.must("systemctl", "start", "backup@"+id+".service")
		repository := top + "/wiki/" + uuid("gated")
		if n := h.count(repository); n != 1 {
			t.Errorf("backup %s: %d snapshots, want the 1 that retention keeps", id, n)
		}
		h.at(repository, "check", "--read-data")
		target := t.TempDir()
		h.at(repository, "restore", "latest", "--target", target)
		h.sameFile(h.dir("gated")+"/data/sub/random.bin", target+h.dir("gated")+"/data/sub/random.bin")
		if owner := fileOwner(t, repository+"/config"); owner != 0 {
			t.Errorf("%s belongs to uid %d, want it out of the module's reach", repository, owner)
		}
		var about struct {
			Module, Node, UUID string
			UIName             string `json:"ui_name"`
			Success            bool
			Time               time.Time
		}
		h.json(repository+".json", &about)
		if about.Module != "gated" || about.UIName != "The gated one" || about.UUID != uuid("gated") || !about.Success || about.Node == "" || time.Since(about.Time) > time.Minute {
			t.Errorf("%s.json = %+v", repository, about)
		}
		rec := h.record(id, "gated")
		if rec.LastSuccess.IsZero() || h.metric(id, "node_backup_module_retention_status", `module="gated"`) == "0" {
			t.Errorf("the record of %s says %+v", id, rec)
		}
	}
	if !h.unitActive("backup-gateway.service") {
		t.Error("the gateway was not started by its socket")
	}
	h.must("run-backup", "--no-units", "folder")
	out := h.must("module-backup", "gated", "remote")
	var r status.Result
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Outcome != status.Success || r.RetentionDue || r.Retention == nil {
		t.Errorf("module-backup printed %s, %v; want a success with its retention", out, err)
	}
	if n := h.count(cloud + "/backups/wiki/" + uuid("gated")); n != 1 {
		t.Errorf("%d snapshots, want 1", n)
	}
}

// A module's token is good for adding to its own repository, and for nothing after the run. The storage's secret is not within its reach.
func TestGatewayConfines(t *testing.T) {
	h := newHost(t)
	probe := `#!/bin/sh
cd ` + h.dir("thief") + `
repository=$(cat /run/credentials/module-backup-hunting-thief.service/restic-repository)
echo "$repository" > repository
own=${repository#rest:}; own=${own%/}
top=${own%%/cloud/*}
ask() { echo "$1 $(curl -s -o body -w '%{http_code}' "$@")"; }
rest='Accept: application/vnd.x.restic.rest.v2'
{
echo own $(ask -H "$rest" "$own/config")
echo victim $(ask -H "$rest" "$top/cloud/wiki/` + uuid("prey") + `/config")
echo victim-dav $(ask "$top/cloud/wiki/` + uuid("prey") + `/config")
echo vault $(ask -H "$rest" "$top/vault/wiki/` + uuid("thief") + `/config")
echo dotdot $(ask --path-as-is -H "$rest" "$own/../` + uuid("prey") + `/config")
echo remove $(ask -H "$rest" -X DELETE "$own/config")
echo remove-all $(ask -H "$rest" -X DELETE "$own/")
echo put $(ask -T "$0" "$own/config")
echo move $(ask -X MOVE -H "Destination: $own/config2" "$own/config")
echo metrics $(ask "$top/metrics")
echo peer $(ask --unix-socket /run/sdbackup/gateway.sock -H "$rest" http://x/cloud/wiki/` + uuid("prey") + `/config)
echo nobody $(ask -H "$rest" "http://127.0.0.1:4694/cloud/wiki/` + uuid("thief") + `/config")
} | sed 's,http[^ ]*,,' > answers
cat ` + rootAt + ` /var/lib/sdbackup/gateway/cloud/rclone.conf /run/sdbackup/tokens/* /run/sdbackup/attempts/* ` + passwordFile + ` > found 2>/dev/null
ls -R ` + cloud + ` >> found 2>/dev/null
tr '\0' '\n' < /proc/$(pidof -s rclone)/environ >> found 2>/dev/null
exit 0
`
	h.write("/usr/lib/test-thief", probe, 0o755)
	h.behindGateway(h.module("prey", "prey", "") + h.module("thief", "thief", "cleanup-state = [\"/usr/lib/test-thief\"]\n") +
		h.to("cloud", "hunted", `"prey"`, "") + h.to("cloud", "hunting", `"thief"`, ""))
	h.must("systemctl", "start", "backup@hunted.service", "backup@hunting.service")
	want := `own  200
victim  403
victim-dav  403
vault  403
dotdot  404
remove  403
remove-all  403
put  403
move  403
metrics  403
peer  403
nobody  401
`
	answers := strings.ReplaceAll(h.read(h.dir("thief")+"/answers"), "-H ", " ")
	for line := range strings.Lines(want) {
		name, code, _ := strings.Cut(strings.TrimSpace(line), "  ")
		found := ""
		for got := range strings.Lines(answers) {
			if fields := strings.Fields(got); len(fields) > 1 && fields[0] == name {
				found = fields[len(fields)-1]
			}
		}
		if found != code {
			t.Errorf("%s was answered with %q, want %s", name, found, code)
		}
	}
	if found := h.read(h.dir("thief") + "/found"); found != "" {
		t.Errorf("the module could read:\n%s", found)
	}
	repository := strings.TrimPrefix(strings.TrimSpace(h.read(h.dir("thief")+"/repository")), "rest:")
	code := h.must("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", "Accept: application/vnd.x.restic.rest.v2", repository+"/config")
	if code != "401" {
		t.Errorf("after the run its token is answered with %s, want 401", code)
	}
	h.at(cloud+"/backups/wiki/"+uuid("thief"), "check")
}

// The run token and the storage's secret show up nowhere while a run is under way.
func TestGatewaySecretsStaySecret(t *testing.T) {
	h := newHost(t)
	gate, wait := h.gate("discreet")
	h.behindGateway(h.module("discreet", "discreet", wait) + h.to("cloud", "closed", `"discreet"`, ""))
	h.must("systemctl", "start", "--no-block", "backup@closed.service")
	h.reached(gate)
	unit := "module-backup-closed-discreet.service"
	repository := h.read("/run/credentials/" + unit + "/restic-repository")
	token, _, ok := strings.Cut(strings.TrimPrefix(repository, "rest:http://discreet:"), "@")
	if !ok || len(token) < 40 {
		t.Fatalf("the module's repository is %q, want one with a run token", repository)
	}
	seen := map[string]string{
		"systemctl show": h.must("systemctl", "show", "*"),
		"systemctl cat":  h.must("systemctl", "cat", "backup@*", "module-backup-*", "backup-gateway.*"),
	}
	add := func(prefix string, patterns ...string) {
		for _, pattern := range patterns {
			paths, _ := filepath.Glob(pattern)
			for _, path := range paths {
				if data, err := os.ReadFile(path); err == nil {
					seen[prefix+path] = string(data)
				}
			}
		}
	}
	add("", "/proc/[0-9]*/cmdline", "/run/systemd/transient/*", "/run/sdbackup/*", "/run/sdbackup/tokens/*", state+"/*", state+"/*/*", textfiles+"/*")
	h.must("sh", "-c", "id onlooker >/dev/null 2>&1 || useradd --system onlooker")
	out, _, _ := h.run("setpriv", "--reuid=onlooker", "--clear-groups", "sh", "-c",
		"cat /proc/[0-9]*/environ /run/credentials/*/* /proc/[0-9]*/cmdline /run/sdbackup/*/* /var/lib/sdbackup/gateway/*/* 2>/dev/null")
	seen["what another user can read"] = out
	gate.open()
	h.eventually(time.Minute, "the run ends", func() bool {
		return !h.unitActive("backup@closed.service") && h.metric("closed", "node_backup_running", "") == "0"
	})
	seen["journal"] = h.must("journalctl", "--no-pager", "-o", "export")
	add("after the run: ", state+"/*", state+"/*/*", state+"/status/*/*", textfiles+"/*", "/run/sdbackup/*/*", "/var/cache/sdbackup/*/*/*")
	for where, text := range seen {
		for _, secret := range []string{password, storageSecret, token} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds the secret %q", where, secret)
			}
		}
	}
	if got := h.metric("closed", "node_backup_status", ""); got != "1" {
		t.Errorf("node_backup_status = %q, want 1", got)
	}
}

// A gateway that is killed in the middle of a backup is started again, restic goes on, and the repository is whole.
func TestGatewayKilled(t *testing.T) {
	h := newHost(t)
	module := h.module("steady", "steady", "upload-limit = \"4M\"\n")
	h.write(h.dir("steady")+"/data/large.bin", string(pseudoRandom(24<<20, "large")), 0o644)
	h.behindGateway(module + h.to("vault", "long", `"steady"`, ""))
	h.must("systemctl", "start", "--no-block", "backup@long.service")
	repository := vault + "/wiki/" + uuid("steady")
	h.eventually(time.Minute, "something is stored", func() bool {
		packs, _ := filepath.Glob(repository + "/data/*/*")
		return len(packs) > 0
	})
	h.must("systemctl", "kill", "--kill-whom=main", "--signal=KILL", "backup-gateway.service")
	h.eventually(3*time.Minute, "the run ends", func() bool {
		return !h.unitActive("backup@long.service") && h.metric("long", "node_backup_running", "") == "0"
	})
	if got := h.metric("long", "node_backup_status", ""); got != "1" {
		t.Errorf("node_backup_status = %q, want 1: restic tries again", got)
	}
	h.at(repository, "check", "--read-data")
	err := filepath.WalkDir(vault, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), "tmp") {
			t.Errorf("%s was left behind", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// serving gives the gateway's service other flags for this test.
func (h *host) serving(flags string) {
	h.Helper()
	dropIn := "/etc/systemd/system/backup-gateway.service.d/test.conf"
	h.write(dropIn, "[Service]\nExecStart=\nExecStart=/usr/bin/backup-gateway serve "+flags+"\n", 0o644)
	h.must("systemctl", "daemon-reload")
	h.Cleanup(func() {
		os.RemoveAll(filepath.Dir(dropIn))
		exec.Command("systemctl", "daemon-reload").Run()
	})
}

// A gateway with a certificate of one's own is reached by modules, and by nobody who does not know the certificate.
func TestGatewayTLS(t *testing.T) {
	h := newHost(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true,
	}
	cert, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := "/etc/sdbackup/tls"
	h.write(dir+"/cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})), 0o644)
	h.write(dir+"/key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})), 0o600)
	t.Cleanup(func() { os.RemoveAll(dir) })
	h.serving("--tls --tls-cert=" + dir + "/cert.pem --tls-key=" + dir + "/key.pem --tls-min-version=1.3")
	const url = "https://127.0.0.1:4694"
	h.behindGateway("[gateway]\nurl = \"" + url + "\"\nca-file = \"" + dir + "/cert.pem\"\n\n" + h.module("sealed", "sealed", "") +
		h.to("cloud", "sealing", `"sealed"`, "[backup.sealing.retention]\nkeep-last = 1\n"))
	for range 2 {
		h.must("systemctl", "start", "backup@sealing.service")
	}
	repository := cloud + "/backups/wiki/" + uuid("sealed")
	if n := h.count(repository); n != 1 {
		t.Errorf("%d snapshots, want 1", n)
	}
	if _, err := os.Stat(repository + ".json"); err != nil {
		t.Error(err)
	}
	h.must("module-backup", "shell", "sealed", "--", "check")
	if _, _, code := h.run("curl", "-s", url); code != 60 && code != 77 { // 77: it knows no certificate at all
		t.Errorf("curl, which does not know the certificate, exits with %d, want 60 or 77", code)
	}
	if _, _, code := h.run("curl", "-s", "--cacert", dir+"/cert.pem", "--tls-max", "1.2", url); code != 35 {
		t.Errorf("curl with TLS 1.2 exits with %d, want 35", code)
	}
}

// A gateway that nobody needs exits, and the next who needs it starts it again.
func TestGatewayIdle(t *testing.T) {
	h := newHost(t)
	h.serving("--exit-idle-time=1s")
	h.behindGateway(h.module("idle", "idle", "") + h.to("cloud", "idler", `"idle"`, ""))
	for range 2 {
		h.must("systemctl", "start", "backup@idler.service")
		h.eventually(30*time.Second, "the gateway exits", func() bool { return !h.unitActive("backup-gateway.service") })
		if state := h.property("backup-gateway.service", "Result"); state != "success" {
			t.Errorf("the gateway ended with %s", state)
		}
		if pids := processes("rclone"); len(pids) > 0 {
			t.Errorf("rclone runs on: %v", pids)
		}
	}
}

// Where restic knows unix sockets, a module is known by its user and needs no token.
func TestGatewayUnixSocket(t *testing.T) {
	h := newHost(t)
	h.behindGateway("[gateway]\nurl = \"unix:/run/sdbackup/gateway.sock\"\n\n" + h.module("peer", "peer", "") + h.module("foreign", "foreign", "") +
		h.to("cloud", "peers", `"peer"`, "[backup.peers.retention]\nkeep-last = 1\n"))
	h.must("systemctl", "start", "backup-gateway.socket")
	as := func(user, path string) string {
		return h.must("setpriv", "--reuid="+user, "--clear-groups", "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", "/run/sdbackup/gateway.sock",
			"-H", "Accept: application/vnd.x.restic.rest.v2", "http://gateway/cloud/wiki/"+path+"/config")
	}
	if got := as("peer", uuid("peer")); got != "404" {
		t.Errorf("the module's user is answered with %s, want 404: it may look, and there is nothing yet", got)
	}
	if got := as("foreign", uuid("peer")); got != "401" {
		t.Errorf("another module's user, whom no backup behind the gateway saves, is answered with %s, want 401", got)
	}
	// A user that is made only now is a module's, too.
	h.write("/etc/sdbackup/late.toml", "[module.late]\ntype = \"wiki\"\nuuid = \""+uuid("late")+"\"\ninclude = [\"/etc/hostname\"]\nuser = \"late\"\n"+
		h.to("cloud", "later", `"late"`, ""), 0o644)
	defer os.Remove("/etc/sdbackup/late.toml")
	if got := as("foreign", uuid("late")); got != "401" {
		t.Errorf("before there is a user late, another one is answered with %s, want 401", got)
	}
	h.must("useradd", "--system", "late")
	h.eventually(30*time.Second, "the new user is known", func() bool { return as("late", uuid("late")) == "404" })
	var major, minor int
	if _, err := fmt.Sscanf(h.must("restic", "version"), "restic %d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	if major == 0 && minor < 17 {
		if out := h.exits(1, "run-backup", "peers"); !strings.Contains(out, "0.17") {
			t.Errorf("run-backup says %q, want it to name the restic that is needed", out)
		}
		return
	}
	for range 2 {
		h.must("run-backup", "peers")
	}
	if n := h.count(cloud + "/backups/wiki/" + uuid("peer")); n != 1 {
		t.Errorf("%d snapshots, want 1", n)
	}
}

// A gateway that is not there fails the backup with the remedy, and so does a destination that is dead; the others go on.
func TestGatewayAway(t *testing.T) {
	h := newHost(t)
	h.behindGateway(h.module("lost", "lost", "") + h.module("found", "found", "") + h.to("vault", "away", `"lost"`, "retry-timeout = \"1s\"\n") +
		h.to("cloud", "dead", `"lost"`, "timeout = \"20s\"\nretry-timeout = \"1s\"\n") + h.to("vault", "alive", `"found"`, ""))
	out := h.exits(1, "run-backup", "away")
	if !strings.Contains(out, "backup-gateway.socket") {
		t.Errorf("run-backup says %q, want it to name the socket unit", out)
	}
	h.write(rootAt, "[cloud]\ntype = nonsense\n", 0o600)
	h.must("systemctl", "start", "backup-gateway.socket")
	h.exits(1, "run-backup", "dead")
	h.must("run-backup", "alive")
	metrics := h.must("curl", "-s", "--unix-socket", "/run/sdbackup/gateway.sock", "http://gateway/metrics")
	for _, line := range []string{`backup_gateway_destination_up{destination="cloud"} 0`, `backup_gateway_destination_up{destination="vault"} 1`} {
		if !strings.Contains(metrics, line) {
			t.Errorf("the metrics have no %s:\n%s", line, metrics)
		}
	}
}

// A person runs restic on a module's repository without looking up where it is: as the module's user, and behind the gateway with the
// right to remove.
func TestShell(t *testing.T) {
	h := newHost(t)
	h.behindGateway(h.module("plain", "plain", "") + h.backup("direct", `"plain"`, "") + h.to("cloud", "shelled", `"plain"`, ""))
	h.must("systemctl", "start", "backup@direct.service", "backup@shelled.service")
	if out := h.exits(2, "module-backup", "shell", "plain", "--", "snapshots"); !strings.Contains(out, "direct, shelled") {
		t.Errorf("without --backup it says %q, want the backups that there are", out)
	}
	for _, backup := range []string{"direct", "shelled"} {
		shell := []string{"module-backup", "shell", "--backup", backup, "plain", "--"}
		var list []any
		if err := json.Unmarshal([]byte(h.must(append(shell, "snapshots", "--json")...)), &list); err != nil || len(list) != 1 {
			t.Errorf("backup %s: %v, %v; want one snapshot", backup, list, err)
		}
		h.must(append(shell, "forget", "--prune", "--keep-last", "1")...)
		h.must(append(shell, "check")...)
		if _, _, code := h.run(append(shell, "cat", "snapshot", "0123456789")...); code != 1 {
			t.Errorf("restic's exit code 1 became %d", code)
		}
	}
	h.must("systemctl", "start", "backup@direct.service", "backup@shelled.service") // nothing has become root's
	if owner := fileOwner(t, h.repository("plain")+"/index"); owner == 0 {
		t.Error("a folder of the module's repository became root's")
	}
}
