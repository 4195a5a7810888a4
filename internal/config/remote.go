package config

import (
	"bufio"
	"bytes"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Ways to a remote.
const (
	SSH     = "ssh"     // in process
	OpenSSH = "openssh" // by the ssh program
	HTTPS   = "https"   // it fetches its configuration, and shows a certificate
	HTTP    = "http"    // it fetches its configuration, encrypted with a pre-shared key
)

// DefaultKeepalive is how long a connection to a remote may be silent.
const DefaultKeepalive = 30 * time.Second

// Remote is a [remote.ID] table: another host, and the configuration that is sent to it or that it fetches.
type Remote struct {
	Position
	ID               string
	Connection       string // default SSH
	Host             string
	Port             int // 0: 22, or with OpenSSH what that finds
	Username         string
	PrivateKeys      []string // files; none: the agent's, and those in ~/.ssh
	KnownHosts       string   // default ~/.ssh/known_hosts, or with OpenSSH what that finds
	BinaryPath       string   // of remote-backup there
	Configuration    string   // file or folder, relative to Folder
	SendFiles        []string // relative to Folder
	Keepalive        time.Duration
	URL              string // where it can fetch its configuration itself; "": nowhere
	PreSharedKeyFile string // for HTTP
	Folder           string // of the file that the table is in
}

// Pushes tells whether the configuration is sent to the remote.
func (r *Remote) Pushes() bool { return r.Connection == SSH || r.Connection == OpenSSH }

// Fetches tells whether the remote may fetch its configuration with a certificate.
func (r *Remote) Fetches() bool { return r.Connection == HTTPS || strings.HasPrefix(r.URL, "https:") }

// Serve is the [serve] table: how configurations are offered to remotes that fetch theirs.
type Serve struct {
	Listen          []string // where no socket is passed
	CertificateFile string   // in PEM; "": no https
	KeyFile         string
	ClientCAFile    string // certificates that vouch for those of remotes
}

// DefaultServe is where remote-backup serves when nothing else is said.
const DefaultServe = ":4695"

// RemoteIDs returns the IDs of all remotes.
func (c *Config) RemoteIDs() []string { return sorted(c.Remotes) }

func (t *table) remote(here Position) *Remote {
	r := &Remote{
		Position:         here,
		ID:               t.id,
		Connection:       t.text("connection"),
		Host:             t.text("host"),
		Port:             t.number("port", 1, 0),
		Username:         t.text("username"),
		KnownHosts:       t.home("known-hosts", t.text("known-hosts")),
		BinaryPath:       t.text("binary-path"),
		Configuration:    t.required("configuration", `what is sent: a file or folder, as in configuration = "web2.toml"`),
		SendFiles:        t.list("send-files", false),
		Keepalive:        t.duration("keepalive", DefaultKeepalive),
		URL:              t.text("url"),
		PreSharedKeyFile: t.nearby("pre-shared-key-file"),
		Folder:           filepath.Dir(t.file),
	}
	for i, key := range t.list("private-keys", true) {
		r.PrivateKeys = append(r.PrivateKeys, t.home(t.element(t.name, "private-keys", i), key))
	}
	if r.Connection == "" {
		r.Connection = SSH
	}
	if r.BinaryPath == "" {
		r.BinaryPath = "/usr/bin/remote-backup"
	}
	if !slices.Contains([]string{SSH, OpenSSH, HTTPS, HTTP}, r.Connection) {
		t.errorf("connection", `is %q; want "ssh", "openssh", "https" or "http"`, r.Connection)
	}
	switch {
	case r.Pushes() && r.Host == "" && t.data["host"] == nil:
		t.errorf("host", `is missing; want the host to connect to, as in host = "web2.example.org"`)
	case strings.HasPrefix(r.Host, "-") || strings.ContainsAny(r.Host, " \t\n/@"), r.Pushes() && r.Host == "":
		t.errorf("host", "%q is no name of a host", r.Host)
	}
	if strings.HasPrefix(r.Username, "-") || strings.ContainsAny(r.Username, " \t\n@") {
		t.errorf("username", "%q is no name of a user", r.Username)
	}
	if r.Port > 65535 {
		t.errorf("port", "is %d; want 65535 or less", r.Port)
	}
	if r.Keepalive < time.Second {
		t.errorf("keepalive", "is less than a second; want a time span such as \"30s\"")
		r.Keepalive = DefaultKeepalive
	}
	t.inFolder("configuration", r.Configuration)
	for i, name := range r.SendFiles {
		t.inFolder(t.element(t.name, "send-files", i), name)
	}
	t.secretFile("pre-shared-key-file", r.PreSharedKeyFile)
	wantsKey := r.Connection == HTTP || strings.HasPrefix(r.URL, "http:")
	if wantsKey && !t.filled("pre-shared-key-file") {
		t.errorf("pre-shared-key-file", "is missing; without TLS want a file with a key that the host has, too: head -c 32 /dev/urandom | base64")
	}
	if r.URL != "" {
		if u, err := url.Parse(r.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" ||
			u.Path != "/configuration/"+t.id {
			t.errorf("url", "is not where the configuration is; want https://HOST:PORT/configuration/%s", t.id)
		}
	}
	return r
}

// inFolder refuses a name that does not stay in the folder of the table.
func (t *table) inFolder(key, name string) {
	if name != "" && (!filepath.IsLocal(name) || path.Clean(name) != name) {
		t.errorf(key, `%q is not in the folder of this file; want a relative path without ".."`, name)
	}
}

func (t *table) serve() Serve {
	s := Serve{
		Listen:          t.list("listen", true),
		CertificateFile: t.nearby("certificate-file"),
		KeyFile:         t.nearby("key-file"),
		ClientCAFile:    t.nearby("client-ca-file"),
	}
	if t.data["listen"] == nil {
		s.Listen = []string{DefaultServe}
	}
	t.secretFile("key-file", s.KeyFile)
	names := []string{"certificate-file", "key-file", "client-ca-file"}
	for _, key := range names {
		if !t.filled(key) && slices.ContainsFunc(names, t.filled) {
			t.errorf(key, "is missing; https wants certificate-file, key-file and client-ca-file")
		}
	}
	return s
}

// nearby returns the path of a file that belongs to the configuration: absolute, or relative to the file that names it.
func (t *table) nearby(key string) string {
	return t.beside(key, t.text(key))
}

func (t *table) beside(key, name string) string {
	switch {
	case name == "" || filepath.IsAbs(name):
		return name
	case !filepath.IsLocal(name):
		t.errorf(key, `%q leads out of the folder of this file; want an absolute path, or one without ".."`, name)
		return ""
	}
	path := filepath.Join(filepath.Dir(t.file), name)
	if absolute, err := filepath.Abs(path); err == nil { // else the working folder is gone, and the file as well
		return absolute
	}
	return path
}

// home is beside, with ~/ for the caller's home.
func (t *table) home(key, name string) string {
	rest, ok := strings.CutPrefix(name, "~/")
	if !ok {
		return t.beside(key, name)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		t.errorf(key, "%q: the home folder of this user is not known; want an absolute path", name)
		return ""
	}
	return filepath.Join(home, rest)
}

// excludeFiles reads the patterns of files, restic's --exclude-file without variables.
func (t *table) excludeFiles() []string {
	var patterns []string
	for i, name := range t.list("exclude-file", true) {
		key := t.element(t.name, "exclude-file", i)
		name = t.beside(key, name)
		if name == "" {
			continue
		}
		data, err := os.ReadFile(name)
		if err != nil {
			t.errorf(key, "%s cannot be read: %v", name, plain(err))
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for lines.Scan() {
			if line := strings.TrimSpace(lines.Text()); line != "" && line[0] != '#' && t.clean(key, line) {
				patterns = append(patterns, line)
			}
		}
		if err := lines.Err(); err != nil {
			t.errorf(key, "%s cannot be read: %v", name, err)
		}
	}
	return patterns
}

// memoryFolder begins the path of a configuration that another host sent.
const memoryFolder = "/proc/self/fd/"

// InMemory tells whether only this process can open the path: it is of a configuration that another host sent.
func InMemory(path string) bool {
	if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, memoryFolder) {
		return true
	}
	return strings.HasPrefix(path, memoryFolder)
}

// shown is a path as people know it.
func shown(path string) string {
	if rest, ok := strings.CutPrefix(path, memoryFolder); ok {
		if _, name, ok := strings.Cut(rest, "/"); ok {
			return name
		}
	}
	return path
}
