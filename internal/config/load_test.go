package config

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata/broken.txt anew")

// Everything that is wrong is said at once, in the order of the lines.
func TestEveryProblem(t *testing.T) {
	c := Load([]string{"testdata/broken.toml"}, func(name string, value any) error {
		return errors.New(name + " was judged")
	})
	got := short(t, c, c.Problems) + "\n"
	if *update {
		if err := os.WriteFile("testdata/broken.txt", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/broken.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s", got)
	}
}

func write(t testing.TB, file, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// problems prints all problems, a line each, with the folder taken out.
func problems(c *Config, dir string) string {
	var lines []string
	for _, p := range c.Problems {
		lines = append(lines, strings.ReplaceAll(p.String(), dir+"/", ""))
	}
	return strings.Join(lines, "\n")
}

func TestLayers(t *testing.T) {
	dir := t.TempDir()
	node := func(name string) string { return "[node]\nname = \"" + name + "\"\n" }
	write(t, dir+"/lib/a.toml", node("lib"))
	write(t, dir+"/etc/a.toml", node("etc"))
	write(t, dir+"/lib/masked.toml", node("masked"))
	write(t, dir+"/etc/masked.toml", "")
	write(t, dir+"/lib/null.toml", node("null"))
	write(t, dir+"/etc/.hidden.toml", node("hidden"))
	write(t, dir+"/etc/a.toml.bak", node("bak"))
	write(t, dir+"/etc/secret/b.toml", node("below"))
	write(t, dir+"/lib/m.toml", "[metrics]\ntextfile-dir = \"/lib\"\n")
	write(t, dir+"/run/m.toml", "[metrics]\ntextfile-dir = \"/run\"\n")
	for name, target := range map[string]string{"/etc/null.toml": os.DevNull, "/etc/indirect.toml": "null.toml"} {
		if err := os.Symlink(target, dir+name); err != nil {
			t.Fatal(err)
		}
	}
	c := Load([]string{dir + "/lib", dir + "/run", dir + "/none", dir + "/etc"}, nil)
	if got := problems(c, dir); got != "" {
		t.Error(got)
	}
	if c.Node.Name != "etc" || c.Metrics.TextfileDir != "/run" {
		t.Errorf("%+v %+v", c.Node, c.Metrics)
	}
	if got, want := strings.Join(c.Files, " "), strings.ReplaceAll("D/etc/a.toml D/run/m.toml D/etc/masked.toml", "D", dir); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestNoLayerIsThere(t *testing.T) {
	dir := t.TempDir()
	if c := Load([]string{dir + "/a", dir + "/b"}, nil); len(c.Problems) > 0 || c.Node.Name == "" {
		t.Error(c.Node, c.Problems)
	}
}

func TestOnePlace(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir+"/conf/any.name", "[node]\nname = \"file\"\n")
	write(t, dir+"/conf/x.toml", "[node]\nname = \"folder\"\n")
	write(t, dir+"/conf/empty", "")
	for path, want := range map[string]string{file: "file", dir + "/conf": "folder"} {
		if c := Load([]string{path}, nil); c.Node.Name != want || len(c.Problems) > 0 {
			t.Errorf("%s: %s %v", path, c.Node.Name, c.Problems)
		}
	}
	c := Load([]string{dir + "/none"}, nil)
	const want = "none: does not exist; write the configuration there, or name another place with --config"
	if got := problems(c, dir); got != want {
		t.Error(got)
	}
	if len(c.Problems) != 1 || c.Problems[0].Kind != KindFile {
		t.Errorf("%+v", c.Problems)
	}
	if got := problems(Load([]string{file + "/below"}, nil), dir); got != "conf/any.name/below: cannot be examined: not a directory" {
		t.Error(got)
	}
}

func TestUnreadableFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/a-good.toml", "[node]\nname = \"good\"\n")
	write(t, dir+"/b-syntax.toml", "[node]\n\nname = \n")
	write(t, dir+"/c-latin1.toml", "# a\n# b\xfcrger\n")
	write(t, dir+"/d-folder.toml/x", "")
	write(t, dir+"/g-large.toml", "# "+strings.Repeat("x", maxFileBytes))
	write(t, dir+"/h-twice.toml", "[backup.1]\n[backup.1]\n")
	write(t, dir+"/i-nul.toml", "a = \"\x00\"\n")
	if err := errors.Join(os.Symlink("none", dir+"/e-dangling.toml"), syscall.Mkfifo(dir+"/f-pipe.toml", 0o600)); err != nil {
		t.Fatal(err)
	}
	c := Load([]string{dir}, nil)
	const want = `b-syntax.toml:3: is not TOML: expected value but found '\n' instead
c-latin1.toml:2: is not UTF-8; want text in UTF-8, as TOML has it
d-folder.toml: is no regular file
e-dangling.toml: cannot be read: no such file or directory
f-pipe.toml: is no regular file
g-large.toml: is larger than 16 MiB
h-twice.toml:2: is not TOML: Key 'backup.1' has already been defined.
i-nul.toml:1: is not TOML: `
	if got := problems(c, dir); !strings.HasPrefix(got, want) || c.Node.Name != "good" {
		t.Error(got)
	}
	for _, p := range c.Problems {
		if p.Kind != KindFile {
			t.Errorf("%+v", p)
		}
	}
}

// An ID that two files define is an error of that item only, with both places; the first counts.
func TestDuplicates(t *testing.T) {
	dir := t.TempDir()
	const module = "type = \"t\"\nuuid = \"3792c7db-9450-4bd3-84a3-034cd008783%d\"\ninclude = [\"/a\"]\n"
	write(t, dir+"/a.toml", "[node]\nname = \"a\"\n[module.m]\nui-name = \"first\"\n"+fmt.Sprintf(module, 1))
	write(t, dir+"/b.toml", "\n[node]\nname = \"b\"\n[module.m]\nui-name = \"second\"\n[module.\"\\u006d2\"]\n"+fmt.Sprintf(module, 2))
	write(t, dir+"/c.toml", "[\"module\".m2]\nnonsense = 1")
	c := Load([]string{dir}, nil)
	const want = `b.toml:2: node: is there twice, also at a.toml:1; want it once
b.toml:4: module.m: is there twice, also at a.toml:3; want it once
c.toml:1: module.m2: is there twice, also at b.toml:6; want it once`
	if got := problems(c, dir); got != want {
		t.Error(got)
	}
	if c.Node.Name != "a" || c.Modules["m"].UIName != "first" {
		t.Error(c.Node, c.Modules["m"])
	}
	if len(c.ErrorsOf(KindModule, "m")) != 1 {
		t.Error(c.ErrorsOf(KindModule, "m"))
	}
}

// An ID may hold dots, so that a key of one item is named like another item.
func TestDottedIDs(t *testing.T) {
	c := loadText(t, `
[module.a]
type = "t"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087831"
include = ["/a"]
user = "u"
[module."a.user"]
type = "t"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087832"
include = ["/a"]
`)
	if got := short(t, c, c.Problems); got != "" {
		t.Error(got)
	}
	if got := c.Modules["a.user"].Line; got != 7 && got != 6 { // the name stands at both
		t.Error(got)
	}
}

func TestValues(t *testing.T) {
	dir := t.TempDir()
	secret := write(t, dir+"/secret", "x")
	c := Load([]string{write(t, dir+"/t.toml", `
version = 1
node.name = "web1"
[destination.d]
repository = "/srv/backup"
password-file = "`+secret+`"
[destination.c]
name = "Cloud"
repository = "s3:s3.amazonaws.com/bucket"
password-credential = "cloud"
environment-file = "`+secret+`"
[module.m]
type = "wiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
ui-name = "Wiki"
user = "wiki1"
group = "www"
directory = "/var/lib/wiki1"
include = ["data"]
exclude = ["*.tmp"]
dump-state = ["/dump", "a b"]
cleanup-state = ["/cleanup"]
min-files = 3
on-partial = "warn"
read-all = true
require-mount = true
dump = [{filename = "db.sql", command = ["mysqldump", "wiki"]}]
resources = {CPUWeight = 20}
[module.n]
type = "wiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087830"
require-mount = "/srv"
include = ["/n"]
[backup.all]
name = "All"
schedule = ["daily", "Mon 12:00"]
randomized-delay = "15m"
accuracy = "1s"
persistent = false
destination = "d"
modules = ["n", "m"]
max-parallel = 2
retry-interval = "30s"
retry-timeout = "2h"
timeout = "infinity"
no-progress-timeout = 60
prune-interval = "1 month"
enabled = false
on-success = ["a"]
on-failure = ["b"]
on-conflict = ["c"]
on-partial = ["d"]
ping-url = "https://hc.example/1"
[backup.all.retention]
keep-last = 1
keep-hourly = 2
keep-daily = 3
keep-weekly = 4
keep-monthly = 5
keep-yearly = 6
keep-within = "1y5m7d2h"
[backup.plain]
schedule = "weekly"
randomized-offset = "1h"
destination = "c"
modules = ["m"]
retention = 7
`)}, func(string, any) error { return nil })
	if len(c.Problems) > 0 {
		t.Fatal(problems(c, dir))
	}
	at := func(line int) Position { return Position{dir + "/t.toml", line} }
	for name, pair := range map[string][2]any{
		"node": {c.Node, Node{Name: "web1"}},
		"d":    {*c.Destinations["d"], Destination{Position: at(4), ID: "d", Name: "d", Repository: "/srv/backup", PasswordFile: secret}},
		"c": {*c.Destinations["c"], Destination{
			Position: at(7), ID: "c", Name: "Cloud", Repository: "s3:s3.amazonaws.com/bucket", PasswordCredential: "cloud", EnvironmentFile: secret,
		}},
		"m": {*c.Modules["m"], Module{
			Position: at(12), ID: "m", Engine: EngineRestic, Type: "wiki", UUID: "3792c7db-9450-4bd3-84a3-034cd0087839", UIName: "Wiki", User: "wiki1", Group: "www",
			Directory: "/var/lib/wiki1", Include: []string{"data"}, Exclude: []string{"*.tmp"}, DumpState: []string{"/dump", "a b"},
			CleanupState: []string{"/cleanup"}, Dumps: []Dump{{Command: []string{"mysqldump", "wiki"}, Filename: "db.sql"}},
			RequireMount: []string{"/var/lib/wiki1"}, MinFiles: 3, OnPartial: "warn", ReadAll: true, Resources: map[string]any{"CPUWeight": int64(20)},
		}},
		"n mounts": {c.Modules["n"].RequireMount, []string{"/srv"}},
		"n name":   {c.Modules["n"].UIName + c.Modules["n"].OnPartial, "nfail"},
		"all": {*c.Backups["all"], Backup{
			Position: at(34), ID: "all", Name: "All", Schedule: []string{"daily", "Mon 12:00"}, RandomizedDelay: 15 * time.Minute,
			Accuracy: time.Second, Destination: "d", Modules: []string{"n", "m"}, MaxParallel: 2, RetryInterval: 30 * time.Second,
			RetryTimeout: 2 * time.Hour, NoProgressTimeout: time.Minute, PruneInterval: 2629800 * time.Second,
			OnSuccess: []string{"a"}, OnFailure: []string{"b"}, OnConflict: []string{"c"}, OnPartial: []string{"d"},
			PingURL: "https://hc.example/1", Retention: Retention{1, 2, 3, 4, 5, 6, "1y5m7d2h"},
		}},
		"plain": {*c.Backups["plain"], Backup{
			Position: at(62), ID: "plain", Name: "Backup plain", Schedule: []string{"weekly"}, RandomizedOffset: time.Hour, Accuracy: time.Minute,
			Persistent: true, Destination: "c", Modules: []string{"m"}, MaxParallel: 1, RetryInterval: time.Minute, RetryTimeout: time.Hour,
			Timeout: 24 * time.Hour, NoProgressTimeout: time.Hour, PruneInterval: 168 * time.Hour, Enabled: true, Retention: Retention{KeepLast: 7},
		}},
		"schedule":   {c.PositionOf(KindBackup, "plain", "schedule"), at(63)},
		"schedule 0": {c.PositionOf(KindBackup, "plain", "schedule[0]"), at(63)},
		"no key":     {c.PositionOf(KindBackup, "plain", "max-parallel"), at(62)},
		"retention":  {c.PositionOf(KindBackup, "all", "retention.keep-daily"), at(57)},
		"no item":    {c.PositionOf(KindBackup, "none", "name"), Position{}},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s:\n%+v\nwant\n%+v", name, pair[0], pair[1])
		}
	}
}

func TestBadSecretFile(t *testing.T) {
	dir := t.TempDir()
	secret := write(t, dir+"/secret", "x")
	if err := os.Chmod(secret, 0o640); err != nil {
		t.Fatal(err)
	}
	c := Load([]string{write(t, dir+"/t.toml", "[destination.d]\nrepository = \"/r\"\npassword-file = \""+secret+"\"\n")}, nil)
	const want = `t.toml:3: destination.d.password-file: secret has mode 0640, so others may use it; want 0600: chmod 600 "secret"`
	if got := problems(c, dir); got != want {
		t.Error(got)
	}
}

func TestEmptyPasswordFile(t *testing.T) {
	dir := t.TempDir()
	for _, text := range []string{"", " \n"} {
		secret := write(t, dir+"/secret", text)
		c := Load([]string{write(t, dir+"/t.toml", "[destination.d]\nrepository = \"/r\"\npassword-file = \""+secret+"\"\n")}, nil)
		const want = `t.toml:3: destination.d.password-file: secret is empty; want the password of the repositories in it`
		if got := problems(c, dir); got != want {
			t.Error(got)
		}
	}
}

// The example is complete but for the password, which it says how to make.
func TestExample(t *testing.T) {
	c := Load([]string{"../../examples/sdbackup.toml"}, func(string, any) error { return nil })
	for _, p := range c.Problems {
		missing := p.Key == "destination.archive.password-file" && strings.HasSuffix(p.Message, " does not exist; want a file of mode 0600")
		if !missing && !(p.Warning && strings.HasSuffix(p.Message, "cannot be examined by this user")) {
			t.Error(p)
		}
	}
	if len(c.Destinations) != 1 || len(c.Modules) != 2 || len(c.Backups) != 1 || len(c.Uncovered()) > 0 {
		t.Errorf("%+v", c)
	}
}

func FuzzLoad(f *testing.F) {
	broken, err := os.ReadFile("testdata/broken.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, table := range bytes.Split(broken, []byte("\n\n")) { // in pieces: go test minimizes long inputs for ever
		f.Add(table)
	}
	for _, text := range []string{"", "\xff", "\ufeff[node]", "[module.m]\ndump=[{}]\n", "[backup.1]\nretention=1\nmodules=['',1,'a']\n", "a.b.c=1"} {
		f.Add([]byte(text))
	}
	file := filepath.Join(f.TempDir(), "fuzz.toml")
	f.Fuzz(func(t *testing.T, text []byte) {
		l := newLoader(func(name string, value any) error { return errors.New(name) })
		l.bytes(file, text)
		c := l.finish()
		for _, p := range c.Problems {
			if p.File != file || p.Line < 0 || p.Line > 1+bytes.Count(text, []byte("\n")) || p.Message == "" || p.Kind == "" {
				t.Errorf("%+v", p)
			}
			if strings.ContainsAny(p.String(), "\n\r\x1b") {
				t.Errorf("%q", p.String())
			}
		}
		for id, b := range c.Backups {
			if !ValidID(id) || b == nil || b.ID != id || b.MaxParallel < 1 || b.RetryInterval <= 0 {
				t.Errorf("%+v", b)
			}
			c.BackupErrors(id)
		}
		for id, m := range c.Modules {
			if !ValidID(id) || m == nil || m.ID != id {
				t.Errorf("%+v", m)
			}
			for _, d := range c.Destinations {
				d.RepositoryOf(m)
			}
		}
		c.Uncovered()
	})
}

// Of a file in another grammar nothing is guessed: it is refused as a whole, with the way out.
func TestVersion(t *testing.T) {
	for _, tc := range []struct{ line, want string }{
		{"", ""},
		{"version = 1", ""},
		{"version = 0", "version 0 is an older grammar, and this sdbackup knows 1; change the file as VERSIONS in sdbackup.toml(5) tells, and say version = 1"},
		{"version = 2", "version 2 is of a later sdbackup, and this one knows 1; install that one, or write the file as sdbackup.toml(5) has it and say version = 1"},
		{"version = \"1\"", "version is a string; want version = 1"},
	} {
		c := Load([]string{write(t, t.TempDir()+"/t.toml", "# of a test\n"+tc.line+"\n[node]\nname = \"web1\"\nnme = \"\"\n")}, nil)
		if tc.want == "" {
			if c.Node.Name != "web1" || len(c.Problems) != 1 {
				t.Errorf("%q: %q, %v; want the file to be read", tc.line, c.Node.Name, c.Problems)
			}
			continue
		}
		if len(c.Problems) != 1 || c.Problems[0].Message != tc.want || c.Problems[0].Line != 2 || c.Problems[0].Kind != KindFile || c.Problems[0].Warning {
			t.Errorf("%q: %v; want %s, in line 2, and nothing else", tc.line, c.Problems, tc.want)
		}
	}
}
