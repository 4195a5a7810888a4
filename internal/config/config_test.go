package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestRepositoryOf(t *testing.T) {
	m := &Module{Type: "dokuwiki", UUID: "3792c7db-9450-4bd3-84a3-034cd0087839"}
	const suffix = "dokuwiki/3792c7db-9450-4bd3-84a3-034cd0087839"
	for prefix, want := range map[string]string{
		"/":                                "/" + suffix,
		"/srv/backup":                      "/srv/backup/" + suffix,
		"/srv/backup//":                    "/srv/backup/" + suffix,
		"local:/srv/backup":                "local:/srv/backup/" + suffix,
		"sftp:u@host:/srv":                 "sftp:u@host:/srv/" + suffix,
		"sftp:u@host:":                     "sftp:u@host:" + suffix,
		"sftp://u@host:2222//srv":          "sftp://u@host:2222//srv/" + suffix,
		"rest:https://host:8000":           "rest:https://host:8000/" + suffix + "/",
		"rest:https://host:8000/u/":        "rest:https://host:8000/u/" + suffix + "/",
		"rest:http+unix:///run/r.sock:/u/": "rest:http+unix:///run/r.sock:/u/" + suffix + "/",
		"s3:s3.amazonaws.com/bucket":       "s3:s3.amazonaws.com/bucket/" + suffix,
		"s3:https://minio:9000/bucket/a/":  "s3:https://minio:9000/bucket/a/" + suffix,
		"b2:bucket":                        "b2:bucket:/" + suffix,
		"b2:bucket:":                       "b2:bucket:/" + suffix,
		"b2:bucket:a/b":                    "b2:bucket:a/b/" + suffix,
		"azure:container:/":                "azure:container:/" + suffix,
		"gs:bucket:/a/":                    "gs:bucket:/a/" + suffix,
		"swift:container":                  "swift:container:/" + suffix,
		"swift:container:":                 "swift:container:/" + suffix,
		"rclone:remote:":                   "rclone:remote:" + suffix,
		"rclone:remote:a/b":                "rclone:remote:a/b/" + suffix,
	} {
		if got := (&Destination{Repository: prefix}).RepositoryOf(m); got != want {
			t.Errorf("RepositoryOf(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func TestLocal(t *testing.T) {
	for repository, want := range map[string]string{"/srv": "/srv", "local:/srv": "/srv", "sftp:h:/srv": "", "local:srv": ""} {
		got, ok := (&Destination{Repository: repository}).Local()
		if ok != (want != "") || ok && got != want {
			t.Errorf("Local(%q) = %q, %v", repository, got, ok)
		}
	}
}

func TestHasPassword(t *testing.T) {
	for repository, want := range map[string]bool{
		"/srv/backup":                        false,
		"/srv/a:b:c@d":                       false,
		"/srv/x://a:b@c":                     true, // no harm in that
		"rest:https://host:8000/":            false,
		"rest:https://user@host:8000/":       false,
		"rest:https://user:pw@host:8000/":    true,
		"rest:https://user:@host/":           true,
		"rest:https://user:p%w@host/":        true,
		"rest:https://user:p#w@host/":        true,
		"rest:https://user:p@w@host/":        true,
		"rest:https://host:8000/a@b":         false,
		"rest:http+unix:///run/r.sock:/u@v/": false,
		"s3:https://key:secret@minio/bucket": true,
		"s3:s3.amazonaws.com/bucket":         false,
		"sftp:user@host:/srv":                false,
		"sftp:user:pw@host:/srv":             true,
		"sftp://user@host:22//srv":           false,
		"sftp://user:pw@host:22//srv":        true,
		"rclone:remote:my@folder":            false,
		"b2:bucket:a@b":                      false,
	} {
		if got := hasPassword(repository); got != want {
			t.Errorf("hasPassword(%q) = %v", repository, got)
		}
	}
}

func TestCompareNatural(t *testing.T) {
	want := []string{"", "01", "1", "02", "2", "10", "A", "a", "a01", "a1", "a1b", "a2", "a10", "a10.1", "b"}
	for i, a := range want {
		for j, b := range want {
			if got := compareNatural(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("compareNatural(%q, %q) = %d", a, b, got)
			}
		}
	}
	c := &Config{Backups: map[string]*Backup{"10": {}, "9": {}, "1": {}}, Modules: map[string]*Module{"m2": {}, "m11": {}}}
	if got := c.BackupIDs(); !slices.Equal(got, []string{"1", "9", "10"}) {
		t.Error(got)
	}
	if got := c.ModuleIDs(); !slices.Equal(got, []string{"m2", "m11"}) {
		t.Error(got)
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"1": true, "wiki1": true, "a.b-c_d": true, strings.Repeat("a", 64): true,
		"": false, ".a": false, "-a": false, "_a": false, "a/b": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("a", 65): false,
	} {
		if ValidID(id) != want {
			t.Errorf("ValidID(%q) = %v", id, !want)
		}
	}
}

func TestUncovered(t *testing.T) {
	c := &Config{
		Modules: map[string]*Module{"m1": {}, "m2": {}, "m3": {}, "m10": {}},
		Backups: map[string]*Backup{
			"on":   {Enabled: true, Modules: []string{"m1"}},
			"off":  {Modules: []string{"m1", "m3"}},
			"off2": {Modules: []string{"m10"}},
		},
	}
	if got := c.Uncovered(); !slices.Equal(got, []string{"m2", "m3", "m10"}) {
		t.Error(got)
	}
}

func TestBackupErrors(t *testing.T) {
	c := loadText(t, `
[destination.good]
repository = "/srv"
password-credential = "p"
[destination.bad]
repository = "/srv"
[module.broken]
type = "t"
uuid = "x"
include = ["/a"]
[backup.1]
schedule = "daily"
destination = "good"
modules = ["broken", "missing"]
retention = 7
[backup.2]
schedule = "daily"
destination = "bad"
modules = ["broken"]
retention = 7
max-parallel = 0
[backup.3]
schedule = "daily"
destination = "missing"
modules = ["broken"]
`)
	for id, want := range map[string]string{
		"1": "",
		"2": "t.toml:21: backup.2.max-parallel: is 0; want 1 or more\n" +
			"t.toml:5: destination.bad: has no password; want password-file or password-credential",
		"3": "t.toml:24: backup.3.destination: there is no [destination.missing]",
		"4": "",
	} {
		if got := short(t, c, c.BackupErrors(id)); got != want {
			t.Errorf("backup %s:\n%s\nwant:\n%s", id, got, want)
		}
	}
	if got := short(t, c, c.ErrorsOf(KindModule, "broken")); !strings.HasPrefix(got, "t.toml:9: module.broken.uuid: ") {
		t.Error(got)
	}
	if got := short(t, c, c.Warnings()); !strings.HasPrefix(got, "t.toml:22: warning: backup.3.retention: is missing") {
		t.Error(got)
	}
	if all := len(c.Errors()) + len(c.Warnings()); all != len(c.Problems) {
		t.Errorf("%d errors and warnings of %d problems", all, len(c.Problems))
	}
}

func TestAdd(t *testing.T) {
	c := &Config{}
	at := func(file string, line int, message string) Problem {
		return Problem{Position: Position{file, line}, Message: message}
	}
	c.Add(at("b", 1, "4"), at("a", 2, "2"), at("a", 2, "3"))
	c.Add(at("a", 0, "1"), at("b", 1, "5"))
	got := ""
	for _, p := range c.Problems {
		got += p.Message
	}
	if got != "12345" {
		t.Error(got)
	}
}

// A problem is one line whatever a key or value holds, and sends nothing to the terminal.
func TestProblemIsOneLine(t *testing.T) {
	c := loadText(t, `
"a\nb" = 1
[destination."x\u001b[31m"]
[backup.1]
schedule = "daily"
destination = "no\r\nsuch"
modules = ["no\nsuch"]
retention = 1
"k\ney" = 1
`)
	if len(c.Problems) != 5 {
		t.Error(len(c.Problems))
	}
	for _, p := range c.Problems {
		if strings.ContainsAny(p.String(), "\n\r\x1b") {
			t.Errorf("%q", p.String())
		}
	}
}

func TestCheckSecretFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700, 0o640, 0o660, 0o604, 0o602, 0o610, 0o601} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		want := ""
		if mode&0o077 != 0 {
			want = fmt.Sprintf("%s has mode %04o, so others may use it; want 0600: chmod 600 %q", file, mode, file)
		}
		if got := text(CheckSecretFile(file)); got != want {
			t.Errorf("%04o: %q, want %q", mode, got, want)
		}
	}
	if err := CheckSecretFile(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if got, want := text(CheckSecretFile(dir)), dir+" is no regular file"; got != want {
		t.Error(got)
	}
	if os.Geteuid() != 0 {
		return // only root can give a file away
	}
	if err := errors.Join(os.Chmod(file, 0o600), os.Chown(file, 12345, -1)); err != nil {
		t.Fatal(err)
	}
	if got, want := text(CheckSecretFile(file)), fmt.Sprintf("%s belongs to uid 12345; want root: chown root %q", file, file); got != want {
		t.Error(got)
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestPaths(t *testing.T) {
	env := map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "relative", "XDG_CACHE_HOME": "/cache"}
	p := UserPaths(func(name string) string { return env[name] })
	if p.Config[0] != "/home/u/.config/sdbackup" || p.State != "/home/u/.local/state/sdbackup" || p.Cache != "/cache/sdbackup" || !p.User {
		t.Errorf("%+v", p)
	}
	if s := SystemPaths(); s.User || len(s.Config) != 3 || s.Config[2] != "/etc/sdbackup" {
		t.Errorf("%+v", s)
	}
}

// loadText loads one file with that text.
func loadText(t testing.TB, text string) *Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "t.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load([]string{file}, nil)
}

// short prints problems, a line each, without the folder of the only file.
func short(t testing.TB, c *Config, problems []Problem) string {
	t.Helper()
	var lines []string
	for _, p := range problems {
		lines = append(lines, strings.ReplaceAll(p.String(), filepath.Dir(p.File)+"/", ""))
	}
	return strings.Join(lines, "\n")
}
