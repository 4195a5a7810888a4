package config

import (
	"strings"
	"testing"
)

const filesModule = `type = "photos"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
include = ["/srv/photos"]
engine = "files"
`

func TestEngineFiles(t *testing.T) {
	dir := t.TempDir()
	secret := write(t, dir+"/secret", "x")
	keys := "password-file = \"" + secret + "\"\nenvironment-file = \"" + secret + "\"\n"
	good := "[destination.b]\nbucket = \"backups\"\nendpoint = \"https://s3.example.org\"\nregion = \"eu\"\nretain = \"30d\"\n" + keys + "[module.p]\n" + filesModule +
		"[backup.1]\nschedule = \"daily\"\ndestination = \"b\"\nmodules = [\"p\"]\nretention = 3\n"
	c := Load([]string{write(t, dir+"/good.toml", good)}, nil)
	if len(c.Problems) > 0 {
		t.Fatal(problems(c, dir))
	}
	d, m := c.Destinations["b"], c.Modules["p"]
	if *d.Bucket != (Bucket{Name: "backups", Endpoint: "https://s3.example.org", Region: "eu", Retain: "30d"}) || m.Engine != EngineFiles ||
		strings.Join(m.Pipeline, " ") != "compress encrypt" {
		t.Errorf("%+v %+v", d.Bucket, m)
	}
	if got := d.RepositoryOf(m); got != "files:backups/photos/3792c7db-9450-4bd3-84a3-034cd0087839@https://s3.example.org" {
		t.Error(got)
	}

	for _, tc := range []struct{ name, old, text, want string }{
		{"no bucket", "bucket = \"backups\"\n", "repository = \"/srv/x\"\n", `good.toml:3: destination.b.endpoint: is of a bucket, and there is none; want bucket = "NAME"`},
		{"no bucket", "bucket = \"backups\"\n", "repository = \"/srv/x\"\n", `backup.1.modules[0]: p is of engine files, and destination b has no bucket; want bucket = "NAME" there, or another destination`},
		{"restic", "engine = \"files\"", "", `backup.1.modules[0]: p is of engine restic, and destination b has no repository; want one there, or engine = "files" for the module`},
		{"unknown engine", "\"files\"", "\"borg\"", `module.p.engine: is "borg"; want "restic" or "files"`},
		{"bucket", "\"backups\"", "\"Back/ups\"", `destination.b.bucket: "Back/ups" is no name of a bucket; want 3 to 63 lower case letters, digits, dots and hyphens`},
		{"endpoint", "https://s3.example.org", "s3.example.org", `destination.b.endpoint: "s3.example.org" is no address of a server; want https://HOST or https://HOST:PORT`},
		{"secret in it", "https://", "https://key:secret@", `destination.b.endpoint: holds a password; want the keys in environment-file, as AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=...`},
		{"retain", "30d", "a month", `destination.b.retain: "a month" is no span of time; want numbers with y, m, w, d or h, as in "30d"`},
		{"no keys", "environment-file", "#", `destination.b.bucket: has no keys; want environment-file with AWS_ACCESS_KEY_ID=... and AWS_SECRET_ACCESS_KEY=...`},
		{"gateway", "region", "repository = \"/srv\"\ngateway = true\nregion", `destination.b.bucket: cannot be behind the gateway, which knows restic's repositories alone; want a destination of its own`},
		{"pipeline", "engine = \"files\"", "engine = \"files\"\npipeline = [\"shred\"]", `module.p.pipeline[0]: is "shred"; want hash_names, compress or encrypt`},
		{"pipeline of restic", "engine = \"files\"", "pipeline = []", `module.p.pipeline: is of engine files; want engine = "files", or leave it out: restic always compresses and encrypts`},
		{"limits", "engine = \"files\"", "engine = \"files\"\nmax-size = \"1G\"", `module.p.max-size: is kept by the gateway, which there is not with engine files; leave it out, or take engine restic`},
		{"two backups", "[backup.1]", "[backup.0]\nschedule = \"daily\"\ndestination = \"b\"\nmodules = [\"p\"]\nretention = 3\n[backup.1]", `backup.1.modules[0]: p is saved to destination b by backup 0, too: with engine files each would remove the other's versions; want a destination of its own`},
	} {
		if strings.Count(good, tc.old) == 0 {
			t.Fatal(tc.old)
		}
		c := Load([]string{write(t, dir+"/good.toml", strings.Replace(good, tc.old, tc.text, 1))}, nil)
		if got := problems(c, dir); !strings.Contains(got, tc.want) {
			t.Errorf("%s:\n%s\nwant %s", tc.name, got, tc.want)
		}
		if len(c.Errors()) > 0 && len(c.BackupErrors("1")) == 0 && len(c.ModuleErrors("1", "p")) == 0 {
			t.Errorf("%s: nothing keeps the run from it", tc.name)
		}
	}
	// One destination can have both.
	both := strings.Replace(good, "region", "repository = \"/srv/x\"\nregion", 1)
	both = strings.Replace(both, "[backup.1]", "[module.q]\ntype = \"wiki\"\nuuid = \"4792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/srv/wiki\"]\n[backup.1]", 1)
	both = strings.Replace(both, "[\"p\"]", "[\"p\", \"q\"]", 1)
	if c := Load([]string{write(t, dir+"/good.toml", both)}, nil); len(c.Problems) > 0 {
		t.Error(problems(c, dir))
	}
}
