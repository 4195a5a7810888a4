package nodecopy

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
)

// marker is in every secret of the tests, and may be in no error, warning or printed value.
const marker = "hunter2"

const (
	nodeUUID   = "0a1b2c3d-0000-4000-8000-00000000abcd"
	passphrase = "correct horse " + marker
	quick      = 65536 // the least that OpenPGP has: tests decrypt often
)

// node is a machine in a temporary folder.
type node struct {
	t     *testing.T
	root  string
	paths config.Paths
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, root: t.TempDir()}
	n.paths = config.Paths{
		Config: []string{n.path("usr/lib/sdbackup"), n.path("run/sdbackup"), n.path("etc/sdbackup")},
		State:  n.path("var/lib/sdbackup"),
	}
	return n
}

func (n *node) path(p string) string { return filepath.Join(n.root, p) }

// write makes a file; ROOT in it stands for the machine's root.
func (n *node) write(name, text string, mode fs.FileMode) {
	n.t.Helper()
	path := n.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "ROOT", n.root)), 0o600); err != nil {
		n.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read(name string) string {
	n.t.Helper()
	data, err := os.ReadFile(n.path(name))
	if err != nil {
		n.t.Fatal(err)
	}
	return string(data)
}

const destinationTOML = `# Made by backup-destination, provider b2. Change it with "backup-destination alter": comments in here are lost then.
[destination.archive]
uuid = "5f9d2ac1-3f2e-5b7d-9b31-0d2a65a2d3c4"
repository = "rclone:archive:bucket"
password-file = "ROOT/etc/sdbackup/secret/archive.password"
rclone-config = "ROOT/etc/sdbackup/secret/archive.rclone.conf"
`

// fill makes the machine a node with everything that a copy has.
func (n *node) fill() {
	n.write("usr/lib/sdbackup/wiki.toml", `
[module.wiki1]
type = "dokuwiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
ui-name = "Team wiki"
directory = "ROOT/srv/wiki1"
include = ["data"]
`, 0o644)
	n.write("run/sdbackup/masked.toml", "[nonsense]\n", 0o644)
	n.write("etc/sdbackup/node.toml", `
[node]
name = "web1"
uuid = "`+nodeUUID+`"
passphrase-file = "ROOT/etc/sdbackup/secret/passphrase"
[gateway]
htpasswd-file = "ROOT/etc/sdbackup/htpasswd"
`, 0o640)
	n.write("etc/sdbackup/destination-archive.toml", destinationTOML, 0o644)
	n.write("etc/sdbackup/backups.toml", `
[destination.disk]
repository = "/srv/backup"
password-credential = "disk-password"
environment-file = "ROOT/etc/sdbackup/secret/disk.env"

[module.mail1]
type = "mail"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087840"
user = "nobody-of-this-name"
include = ["/srv/mail1"]

[backup.1]
schedule = "daily"
destination = "archive"
modules = ["wiki1", "mail1"]
retention = 7

[backup.2]
schedule = "weekly"
destination = "disk"
modules = ["wiki1"]
retention = 7
`, 0o644)
	if err := os.Symlink(os.DevNull, n.path("etc/sdbackup/masked.toml")); err != nil {
		n.t.Fatal(err)
	}
	n.write("etc/sdbackup/secret/passphrase", passphrase+"\n", 0o600)
	n.write("etc/sdbackup/secret/archive.password", "archive-"+marker+"\n", 0o600)
	n.write("etc/sdbackup/secret/archive.rclone.conf", "[archive]\ntype = b2\naccount = a\nkey = "+marker+"\n", 0o400)
	n.write("etc/sdbackup/secret/disk.env", "AWS_SECRET_ACCESS_KEY="+marker+"\n", 0o600)
	n.write("etc/sdbackup/htpasswd", "wiki1:"+marker+"\n", 0o640)
	n.write("etc/credstore/disk-password", "disk-"+marker+"\n", 0o600)
	store := status.Store{Dir: n.paths.State}
	if err := store.SaveModule("1", "wiki1", &status.Module{Result: status.Result{Module: "wiki1", Backup: "1", Outcome: status.Success}}); err != nil {
		n.t.Fatal(err)
	}
	if err := store.End(status.Run{ID: "r1", Backup: "1", Outcome: status.Success, End: time.Unix(1, 0)}); err != nil {
		n.t.Fatal(err)
	}
}

// find finds credentials on this machine.
func (n *node) find(name string) (module.Secret, error) {
	for _, s := range []module.Secret{{Path: n.path("etc/credstore/" + name)}, {Path: n.path("etc/credstore.encrypted/" + name), Encrypted: true}} {
		if exists(s.Path) {
			return s, nil
		}
	}
	return module.Secret{}, fmt.Errorf("there is no credential %s", name)
}

func (n *node) collect() Copy {
	n.t.Helper()
	c, err := collect(n.t.Context(), config.Load(n.paths.Config, nil), n.paths, "1.2.3", n.find)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

func packed(t testing.TB, c Copy) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.pack(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func encrypted(t testing.TB, c Copy) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := c.encrypt(&b, []byte(passphrase), quick); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func names(c Copy) []string {
	var all []string
	for _, e := range c.entries() {
		all = append(all, e.name)
	}
	return all
}

func TestCollect(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	under := "files" + n.root + "/"
	want := []string{
		"manifest.json",
		"credentials/disk-password",
		under + "etc/sdbackup/backups.toml",
		under + "etc/sdbackup/destination-archive.toml",
		under + "etc/sdbackup/htpasswd",
		under + "etc/sdbackup/masked.toml",
		under + "etc/sdbackup/node.toml",
		under + "etc/sdbackup/secret/archive.password",
		under + "etc/sdbackup/secret/archive.rclone.conf",
		under + "etc/sdbackup/secret/disk.env",
		under + "run/sdbackup/masked.toml",
		under + "usr/lib/sdbackup/wiki.toml",
		"status/1.json",
		"status/1/wiki1.json",
	}
	if got := names(c); !slices.Equal(got, want) {
		t.Errorf("the copy has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if w := c.Warnings(); len(w) > 0 {
		t.Errorf("warnings: %q", w)
	}
	m := Manifest{
		Format: 1, Version: "1.2.3", Node: Node{"web1", nodeUUID}, Layers: n.paths.Config,
		Modules: []Module{
			{"mail1", "mail", "3792c7db-9450-4bd3-84a3-034cd0087840", "mail1"},
			{"wiki1", "dokuwiki", "3792c7db-9450-4bd3-84a3-034cd0087839", "Team wiki"},
		},
		Destinations: []Destination{{"archive", "5f9d2ac1-3f2e-5b7d-9b31-0d2a65a2d3c4"}, {"disk", ""}},
	}
	if !reflect.DeepEqual(c.Manifest, m) {
		t.Errorf("manifest %+v; want %+v", c.Manifest, m)
	}
	if f, _ := c.file(n.path("etc/sdbackup/secret/archive.rclone.conf")); f.Mode != 0o400 {
		t.Errorf("its mode is %o", f.Mode)
	}
	for _, e := range c.entries() {
		if bytes.Contains(e.data, []byte(passphrase)) {
			t.Errorf("%s has the passphrase", e.name)
		}
	}
}

func TestCollectMissing(t *testing.T) {
	n := newNode(t)
	n.fill()
	for _, gone := range []string{"etc/sdbackup/secret/disk.env", "etc/sdbackup/htpasswd", "etc/credstore/disk-password"} {
		os.Remove(n.path(gone))
	}
	n.write("etc/credstore.encrypted/disk-password", "sealed", 0o600)
	if err := os.Mkdir(n.path("etc/sdbackup/htpasswd"), 0o700); err != nil {
		t.Fatal(err)
	}
	n.write("etc/sdbackup/same.toml", "[destination.same]\nrepository=\"/srv/same\"\npassword-file=\"ROOT/etc/sdbackup/secret/passphrase\"\n", 0o644)
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	want := func(reason string) []string {
		return []string{
			"credential disk-password is not in the copy: " + reason,
			"file " + n.path("etc/sdbackup/htpasswd") + " is not in the copy: it is no regular file",
			"file " + n.path("etc/sdbackup/secret/disk.env") + " is not in the copy: it does not exist",
			"file " + n.path("etc/sdbackup/secret/passphrase") + " is not in the copy: it is the passphrase of the copies, which is no part of them",
		}
	}
	if got := n.collect().Warnings(); !slices.Equal(got, want("it is encrypted, and systemd-creds is not installed")) {
		t.Errorf("warnings %q", got)
	}
	script(t, bin, "echo Some context >&2; printf 'No TPM\\033 here.\\n' >&2; exit 1")
	c := n.collect()
	if got := c.Warnings(); !slices.Equal(got, want("it is encrypted, and systemd-creds cannot decrypt it here (No TPM\ufffd here.)")) {
		t.Errorf("warnings %q", got)
	}
	if c.Digest() != n.collect().Digest() {
		t.Error("what is missing changes the digest every time")
	}
	script(t, bin, `read -r sealed; [ "$sealed $*" = "sealed decrypt --name=disk-password - -" ] && echo opened`)
	c = n.collect()
	if data, ok := c.credential("disk-password"); !ok || string(data) != "opened\n" {
		t.Errorf("the credential is %q", string(data))
	}
	script(t, bin, "exec /bin/sleep 60")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := collect(ctx, config.Load(n.paths.Config, nil), n.paths, "", n.find); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled: %v", err)
	}
}

// script makes a systemd-creds of these lines.
func script(t *testing.T, bin, lines string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(bin, "systemd-creds"), []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestCollectNothing(t *testing.T) {
	n := newNode(t)
	cfg := config.Load(n.paths.Config, nil)
	cfg.Node.UUID = nodeUUID
	if _, err := Collect(t.Context(), cfg, n.paths, os.Getenv, ""); err == nil || !strings.Contains(err.Error(), "there is no configuration") {
		t.Errorf("of nothing: %v", err)
	}
	n.write("etc/sdbackup/big.toml", "#"+strings.Repeat("x", maxReadBytes), 0o644)
	for i := range 4 {
		n.write(fmt.Sprintf("etc/sdbackup/%d.toml", i), "#"+strings.Repeat("x", maxReadBytes-1), 0o644)
	}
	if _, err := Collect(t.Context(), cfg, n.paths, os.Getenv, ""); !errors.Is(err, ErrTooLarge) {
		t.Errorf("of too much: %v", err)
	}
}

func TestRoundTrip(t *testing.T) {
	n := newNode(t)
	n.fill()
	first, second := n.collect(), n.collect()
	if a, b := packed(t, first), packed(t, second); !bytes.Equal(a, b) {
		t.Error("the same configuration gives other bytes")
	}
	if first.Digest() != second.Digest() {
		t.Error("and another digest")
	}
	var a, b bytes.Buffer
	if err := errors.Join(first.compress(&a), second.compress(&b)); err != nil || !bytes.Equal(a.Bytes(), b.Bytes()) {
		t.Errorf("the same configuration is compressed to other bytes (%v)", err)
	}
	var file bytes.Buffer
	if err := first.Encrypt(&file, []byte(passphrase)); err != nil {
		t.Fatal(err)
	}
	back, err := Decrypt(&file, []byte(passphrase))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(packed(t, back), packed(t, first)) || back.Digest() != first.Digest() {
		t.Errorf("what is read is not what was written: %v", back)
	}
}

func TestDigest(t *testing.T) {
	n := newNode(t)
	n.fill()
	first := n.collect().Digest()
	n.write("var/lib/sdbackup/status/2.json", `{"last_run":{"run_id":"x"}}`, 0o640)
	if c := n.collect(); c.Digest() != first || !slices.Contains(names(c), "status/2.json") {
		t.Error("a run changes the digest")
	}
	if old := n.read("etc/sdbackup/secret/passphrase"); old != "" {
		n.write("etc/sdbackup/secret/passphrase", "another\n", 0o600)
	}
	if n.collect().Digest() != first {
		t.Error("the passphrase is a part of the copy")
	}
	seen := map[string]bool{first: true}
	for what, change := range map[string]func(){
		"a secret":     func() { n.write("etc/sdbackup/secret/disk.env", "A=b\n", 0o600) },
		"a mode":       func() { n.write("etc/sdbackup/secret/disk.env", "A=b\n", 0o400) },
		"a credential": func() { n.write("etc/credstore/disk-password", "x\n", 0o600) },
		"a new file":   func() { n.write("etc/sdbackup/new.toml", "", 0o644) },
		"another uuid": func() {
			n.write("etc/sdbackup/node.toml", "[node]\nuuid=\"1a1b2c3d-0000-4000-8000-00000000abcd\"\n", 0o644)
		},
	} {
		change()
		if d := n.collect().Digest(); seen[d] {
			t.Errorf("%s does not change the digest", what)
		} else {
			seen[d] = true
		}
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	all, _, err := c.Destinations()
	if err != nil {
		t.Fatal(err)
	}
	plan, err := c.plan(n)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal([]any{c, all, plan})
	if err != nil {
		t.Fatal(err)
	}
	printed := string(text)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		printed += fmt.Sprintf(verb, c) + fmt.Sprintf(verb, all) + fmt.Sprintf(verb, plan)
	}
	for _, secret := range []string{marker, fmt.Sprintf("%x", marker), strings.Trim(fmt.Sprint([]byte(marker)), "[]")} {
		if strings.Contains(printed, secret) {
			t.Errorf("%q is printed in %s", secret, regexp.MustCompile(".{0,60}"+regexp.QuoteMeta(secret)+".{0,9}").FindString(printed))
		}
	}
}

func TestPassphrase(t *testing.T) {
	n := newNode(t)
	n.write("good", "blank at the end \n", 0o600)
	n.write("lax", "secret "+marker+"\n", 0o644)
	n.write("empty", "\n", 0o600)
	n.write("two", marker+"\nlines\n", 0o600)
	n.write("long", strings.Repeat("x", 256), 0o600)
	n.write("latin1", marker+"\xe9", 0o600)
	n.write("etc/credstore/cred", "of a credential\n", 0o600)
	for _, c := range []struct {
		node       config.Node
		want, fail string
	}{
		{config.Node{PassphraseFile: n.path("good")}, "blank at the end ", ""},
		{config.Node{PassphraseCredential: "cred"}, "of a credential", ""},
		{config.Node{PassphraseCredential: "none"}, "", "there is no credential none"},
		{config.Node{PassphraseFile: n.path("gone")}, "", "no such file"},
		{config.Node{PassphraseFile: n.path("lax")}, "", "want 0600"},
		{config.Node{PassphraseFile: n.path("empty")}, "", "is empty"},
		{config.Node{PassphraseFile: n.path("two")}, "", "line break"},
		{config.Node{PassphraseFile: n.path("long")}, "", "256 bytes"},
		{config.Node{PassphraseFile: n.path("latin1")}, "", "not UTF-8"},
		{config.Node{}, "", "there is no passphrase"},
	} {
		got, err := passphraseOf(t.Context(), c.node, n.find)
		if c.fail == "" {
			if err != nil || string(got) != c.want {
				t.Errorf("%+v: %q, %v; want %q", c.node, got, err, c.want)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.fail) || strings.Contains(err.Error(), marker) {
			t.Errorf("%+v: %v; want %q, and no secret", c.node, err, c.fail)
		}
	}
	if _, err := Passphrase(t.Context(), config.Node{}, os.Getenv); !errors.Is(err, ErrNoPassphrase) {
		t.Errorf("without one: %v", err)
	}
	if err := (Copy{}).Encrypt(io.Discard, []byte("two\nlines")); err == nil {
		t.Error("Encrypt takes a passphrase that gpg does not")
	}
}

func TestNodeUUID(t *testing.T) {
	if got, err := NodeUUID(config.Node{UUID: nodeUUID}); got != nodeUUID || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := formatUUID("3792c7db94504bd384a3034cd0087839"); got != "3792c7db-9450-4bd3-84a3-034cd0087839" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := formatUUID("3792"); err == nil {
		t.Error("3792 is no ID")
	}
	if _, err := os.Stat("/etc/machine-id"); err != nil {
		t.Skip("this machine has no ID")
	}
	first, err := NodeUUID(config.Node{})
	if err != nil {
		t.Skip(err)
	}
	if again, _ := NodeUUID(config.Node{}); again != first || !uuidPattern.MatchString(first) {
		t.Errorf("%q, then %q", first, again)
	}
	if raw, _ := os.ReadFile("/etc/machine-id"); strings.TrimSpace(string(raw)) == strings.ReplaceAll(first, "-", "") {
		t.Error("it is the machine ID itself")
	}
	if FileName(first) != "node-backup-"+first+".tar.gz.gpg" {
		t.Error(FileName(first))
	}
}

// gpg runs gpg with a home and a passphrase file of its own.
func gpg(t *testing.T, stdin []byte, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("gpg"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("gpg is not installed; it is in Debian's package gnupg")
		}
		t.Skip("gpg is not installed; it is in Debian's package gnupg")
	}
	home, err := os.MkdirTemp("", "gpg") // its sockets' names must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		exec.Command("gpgconf", "--homedir", home, "--kill", "gpg-agent").Run()
		os.RemoveAll(home)
	})
	file := filepath.Join(home, "passphrase")
	if err := os.WriteFile(file, []byte(passphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("gpg", append([]string{"--homedir", home, "--batch", "--pinentry-mode", "loopback", "--passphrase-file", file}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("gpg %s: %v\n%s", args, err, stderr.String())
	}
	if strings.Contains(stderr.String(), "WARNING: message") {
		t.Errorf("gpg %s: %s", args, stderr.String())
	}
	return out
}

func TestStockGPGOpensIt(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	var file bytes.Buffer
	if err := c.Encrypt(&file, []byte(passphrase)); err != nil {
		t.Fatal(err)
	}
	packets := string(gpg(t, file.Bytes(), "--list-packets"))
	for _, want := range []string{"cipher 9", "s2k 3, hash 8", "65011712", "mdc_method: 2", `name=""`, "created 0"} {
		if !strings.Contains(packets, want) {
			t.Errorf("the packets lack %q:\n%s", want, packets)
		}
	}
	plain := gpg(t, file.Bytes(), "-d")
	tar := exec.Command("tar", "tzv")
	tar.Stdin = bytes.NewReader(plain)
	list, err := tar.CombinedOutput()
	if err != nil {
		t.Fatalf("tar: %v\n%s", err, list)
	}
	lines := strings.Split(strings.TrimSpace(string(list)), "\n")
	for i, name := range names(c) {
		if i >= len(lines) || !strings.HasSuffix(lines[i], " "+name) || !strings.HasPrefix(lines[i], "-r") || !strings.Contains(lines[i], " 0/0 ") {
			t.Errorf("tar lists\n%s\nwant %s", list, name)
		}
	}
	if len(lines) != len(names(c)) {
		t.Errorf("tar lists %d files; want %d", len(lines), len(names(c)))
	}
}

func TestReadsWhatGPGMade(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	var plain bytes.Buffer
	if err := c.compress(&plain); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"as it comes": nil,
		"AES-128":     {"--cipher-algo", "AES128"},
		"compressed":  {"--compress-algo", "bzip2", "--compress-level", "9"},
		"zip":         {"--compress-algo", "zip", "-z", "9"},
		"old S2K":     {"--s2k-mode", "1", "--s2k-digest-algo", "SHA1"},
	} {
		t.Run(name, func(t *testing.T) {
			file := gpg(t, plain.Bytes(), append(args, "--s2k-count", "65536", "--symmetric")...)
			back, err := Decrypt(bytes.NewReader(file), []byte(passphrase))
			if err != nil || back.Digest() != c.Digest() {
				t.Errorf("Decrypt: %v", err)
			}
			if _, err := Decrypt(bytes.NewReader(file), []byte("wrong")); !errors.Is(err, ErrPassphrase) {
				t.Errorf("with a wrong passphrase: %v", err)
			}
		})
	}
	armored := gpg(t, plain.Bytes(), "--armor", "--s2k-count", "65536", "--symmetric")
	if _, err := Decrypt(bytes.NewReader(armored), []byte(passphrase)); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "--dearmor") {
		t.Errorf("armored: %v", err)
	}
}

// zipped compresses an archive.
func zipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
