package config

import (
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// What configures the engine files is here: the bucket of a destination, and what a module of it can have.

// bucketName matches the names that Amazon allows, which every server takes.
var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// bucketKeys say more of a bucket.
var bucketKeys = []string{"endpoint", "region", "storage-class", "retain"}

// bucket reads what a destination says of a bucket; nil: it has none.
func (t *table) bucket() *Bucket {
	b := &Bucket{
		Name: t.text("bucket"), Endpoint: strings.TrimRight(t.text("endpoint"), "/"), Region: t.text("region"), StorageClass: t.text("storage-class"),
		Retain: t.text("retain"),
	}
	if t.data["bucket"] == nil {
		for _, key := range bucketKeys {
			if t.filled(key) {
				t.errorf(key, "is of a bucket, and there is none; want bucket = \"NAME\"")
			}
		}
		return nil
	}
	if !bucketName.MatchString(b.Name) {
		t.errorf("bucket", "%q is no name of a bucket; want 3 to 63 lower case letters, digits, dots and hyphens", b.Name)
	}
	if b.Endpoint != "" {
		u, err := url.Parse(b.Endpoint)
		switch {
		case hasPassword(b.Endpoint):
			t.errorf("endpoint", "holds a password; want the keys in environment-file, as AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=...")
		case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "", u.Path != "", u.RawQuery != "", u.Fragment != "":
			t.errorf("endpoint", "%q is no address of a server; want https://HOST or https://HOST:PORT", b.Endpoint)
		}
	}
	if b.Retain != "" && !retainSpan.MatchString(b.Retain) {
		t.errorf("retain", "%q is no span of time; want numbers with y, m, w, d or h, as in \"30d\"", b.Retain)
	}
	return b
}

var retainSpan = regexp.MustCompile(`^([0-9]{1,5}[ymwdh])+$`)

// String names what is below a folder of the bucket, for people and records.
func (b *Bucket) String(folder string) string {
	name := "files:" + path.Join(b.Name, folder)
	if b.Endpoint != "" { // else Amazon's
		name += "@" + b.Endpoint
	}
	return name
}

// OnlyBucket tells whether the destination is for nothing but modules of engine files.
func (d *Destination) OnlyBucket() bool { return d.Repository == "" && d.Bucket != nil }

// engine reads what saves a module, and refuses what that cannot do.
func (t *table) engine(m *Module) {
	m.Pipeline = t.list("pipeline", false)
	switch m.Engine {
	case "":
		m.Engine = EngineRestic
	case EngineRestic, EngineFiles:
	default:
		t.errorf("engine", `is %q; want "restic" or "files"`, m.Engine)
		return
	}
	if m.Engine == EngineRestic {
		if t.data["pipeline"] != nil {
			t.errorf("pipeline", `is of engine files; want engine = "files", or leave it out: restic always compresses and encrypts`)
		}
		return
	}
	if t.data["pipeline"] == nil {
		m.Pipeline = []string{"compress", "encrypt"}
	}
	for i, word := range m.Pipeline {
		if !slices.Contains([]string{"hash_names", "compress", "encrypt"}, word) {
			t.errorf(t.element(t.name, "pipeline", i), "is %q; want hash_names, compress or encrypt", word)
		}
	}
	for _, key := range []string{"max-size", "upload-limit", "download-limit"} {
		if t.filled(key) {
			t.errorf(key, "is kept by the gateway, which there is not with engine files; leave it out, or take engine restic")
		}
	}
}

// engineProblem says why a backup cannot save a module with its engine; "": it can.
func (c *Config) engineProblem(b *Backup, m *Module) string {
	d := c.Destinations[b.Destination]
	switch {
	case d == nil:
		return ""
	case m.Engine == EngineFiles && d.Bucket == nil:
		return fmt.Sprintf("%s is of engine files, and destination %s has no bucket; want bucket = \"NAME\" there, or another destination", m.ID, d.ID)
	case m.Engine != EngineFiles && d.OnlyBucket():
		return fmt.Sprintf("%s is of engine restic, and destination %s has no repository; want one there, or engine = \"files\" for the module", m.ID, d.ID)
	case m.Engine != EngineFiles:
		return ""
	}
	for _, id := range c.BackupIDs() {
		if id == b.ID {
			break
		}
		if other := c.Backups[id]; other.Destination == b.Destination && slices.Contains(other.Modules, m.ID) {
			return fmt.Sprintf("%s is saved to destination %s by backup %s, too: with engine files each would remove the other's versions; want a destination of its own", m.ID, d.ID, id)
		}
	}
	return ""
}

// ModuleErrors returns the errors for which a backup cannot save a module.
func (c *Config) ModuleErrors(backup, module string) []Problem {
	errs := c.ErrorsOf(KindModule, module)
	b, m := c.Backups[backup], c.Modules[module]
	if b == nil || m == nil {
		return errs
	}
	if text := c.engineProblem(b, m); text != "" {
		errs = append(errs, Problem{
			Position: c.PositionOf(KindBackup, backup, "modules"), Kind: KindBackup, ID: backup, Key: "backup." + backup + ".modules", Message: text,
		})
	}
	return errs
}
