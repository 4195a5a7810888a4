package config

import (
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// DefaultGatewayURL is where backup-gateway.socket listens for modules.
const DefaultGatewayURL = "http://127.0.0.1:4694"

// Gateway is the [gateway] table.
type Gateway struct {
	URL          string   // where modules of this node reach it, default DefaultGatewayURL; or unix:/path, for restic 0.17 and later
	CAFile       string   // certificates, in PEM, that vouch for an https URL; "": the system's
	HtpasswdFile string   // users and their passwords; "": none
	Nodes        []string // users and subjects of certificates that have the rights of a node
}

// reserved are the names that restic's REST protocol gives to parts of a repository: no folder above one may have them, for its path
// would mean something else.
var reserved = []string{"config", "data", "index", "keys", "locks", "snapshots"}

func (t *table) gateway() Gateway {
	g := Gateway{URL: t.text("url"), CAFile: t.nearby("ca-file"), HtpasswdFile: t.nearby("htpasswd-file"), Nodes: t.list("nodes", false)}
	if g.URL == "" {
		g.URL = DefaultGatewayURL
	}
	if socket, ok := strings.CutPrefix(g.URL, "unix:"); ok {
		if !strings.HasPrefix(socket, "/") {
			t.errorf("url", "%q is no socket; want unix: and an absolute path", g.URL)
		}
		return g
	}
	u, err := url.Parse(g.URL)
	switch {
	case hasPassword(g.URL):
		t.errorf("url", "holds a password; want none: modules get a token for each run")
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.RawQuery != "", u.Fragment != "":
		t.errorf("url", "is no address of a gateway; want http://HOST:PORT, https://HOST:PORT or unix:/PATH")
	}
	g.URL = strings.TrimRight(g.URL, "/")
	return g
}

// gatewayKeys reads the keys of a destination that the gateway serves.
func (t *table) gatewayKeys(d *Destination) {
	d.UUID = t.text("uuid")
	t.checkUUID(d.UUID)
	d.RcloneConfig = t.nearby("rclone-config")
	d.RcloneCredential = t.text("rclone-credential")
	d.MaxSize = t.size("max-size")
	d.KeepDeleted = t.duration("keep-deleted", 0)
	remote, isRclone := strings.CutPrefix(d.Repository, "rclone:")
	d.Gateway = t.boolean("gateway", isRclone)
	_, local := d.Local()
	if !d.Gateway {
		for _, key := range []string{"max-size", "keep-deleted"} {
			if t.filled(key) {
				t.errorf(key, "is kept by the gateway, which does not serve this destination; want gateway = true")
			}
		}
	} else {
		switch {
		case !local && !isRclone && !strings.HasPrefix(d.Repository, "rest:"):
			t.errorf("gateway", "cannot serve %q; want a folder, rest: or rclone: (backup-destination add makes one)", d.Repository)
		case !local && !isRclone && t.filled("keep-deleted"):
			t.errorf("keep-deleted", "is for folders and rclone: of %q its own gateway keeps what is deleted; set it there", d.Repository)
		}
		switch {
		case d.ID == "metrics":
			t.errorf("", "metrics is where the gateway shows its own; want another ID for a destination that it serves")
		case slices.Contains(reserved, d.ID):
			t.errorf("", "%s is a part of every repository and cannot be served by the gateway under that name; want another ID", d.ID)
		}
	}
	if isRclone && !strings.Contains(remote, ":") {
		t.errorf("repository", "%q names no remote of rclone's; want rclone:REMOTE:FOLDER", d.Repository)
	}
	for _, key := range []string{"rclone-config", "rclone-credential"} {
		if t.filled(key) && !isRclone {
			t.errorf(key, "is for a repository that begins with rclone:")
		}
	}
	t.fileOrCredential("rclone-config", "rclone-credential", d.RcloneCredential)
	t.secretFile("rclone-config", d.RcloneConfig)
}

// size returns a number of bytes; 0: none is set.
func (t *table) size(key string) int64 {
	v, ok := t.get(key)
	if !ok {
		return 0
	}
	var n int64
	var err error
	switch v := v.(type) {
	case int64:
		n = v
	case string:
		n, err = ParseSize(v)
	default:
		t.errorf(key, `is %s; want a size, as in "50G"`, typeName(v))
		return 0
	}
	switch {
	case err != nil:
		t.errorf(key, `%v; want a number of bytes, say "50G" or "50GiB"`, err)
	case n <= 0:
		t.errorf(key, `is %d; want 1 or more, as in "50G"`, n)
	default:
		return n
	}
	return 0
}

// ParseSize parses a number of bytes as systemd does, to the base of 1024: "4096", "512K", "1.5G", "50GiB".
func ParseSize(text string) (int64, error) {
	number := strings.TrimSpace(text)
	number = strings.TrimSuffix(strings.TrimSuffix(number, "B"), "i")
	factor := 1.0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMGTP", number[n-1]); i >= 0 {
			factor = math.Pow(1024, float64(i+1))
			number = strings.TrimSpace(number[:n-1])
		}
	}
	if strings.Trim(number, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is no size", text)
	}
	value, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is no size", text)
	}
	if value *= factor; value >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too large", text)
	}
	return int64(value), nil
}

// RepositoryAt returns a module's repository as restic reaches it through the gateway, in restic's notation; login is "USER:PASSWORD",
// or "" for one that shows no secret.
func (g Gateway) RepositoryAt(d *Destination, m *Module, login string) string {
	where := "/" + d.ID + "/" + m.Type + "/" + m.UUID + "/"
	if socket, ok := strings.CutPrefix(g.URL, "unix:"); ok {
		return "rest:http+unix://" + socket + ":" + where // its peer is known: no login
	}
	if scheme, rest, ok := strings.Cut(g.URL, "://"); ok && login != "" {
		return "rest:" + scheme + "://" + login + "@" + rest + where
	}
	return "rest:" + g.URL + where
}

// HoldingArea is the folder of a destination with keep-deleted where the gateway moves what is deleted: .deleted/DAY/PATH, with days in UTC
// as in 2026-11-20.
const HoldingArea = ".deleted"

// KeptUntil is when what was deleted on a day may be removed for good: all of that day is then old enough.
func KeptUntil(day time.Time, keepDeleted time.Duration) time.Time {
	return day.Add(24*time.Hour + keepDeleted)
}
