package nodecopy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
)

// plan is what a copy comes to on a machine.
func (c Copy) plan(n *node, roots ...string) (Plan, error) {
	p := &planner{Copy: c, paths: n.paths, roots: append(roots, n.path("etc")), stores: []string{n.path("etc"), n.path("run")}}
	return p.plan()
}

func mustPlan(t *testing.T, c Copy, n *node) Plan {
	t.Helper()
	p, err := c.plan(n)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bare takes everything from a node but its root, whose path the copy has.
func (n *node) bare() {
	n.t.Helper()
	entries, err := os.ReadDir(n.root)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(n.path(e.Name())); err != nil {
			n.t.Fatal(err)
		}
	}
}

// tree lists all files and folders with modes and contents.
func (n *node) tree() map[string]string {
	n.t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(n.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
		}
		all[strings.TrimPrefix(path, n.root)] = text
		return nil
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return all
}

func sameTree(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for path := range want {
		if got[path] != want[path] {
			t.Errorf("%s: %s is %q; want %q", what, path, got[path], want[path])
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			t.Errorf("%s: %s is there", what, path)
		}
	}
}

func (n *node) states(p Plan) string {
	var lines []string
	for _, f := range p.Files {
		lines = append(lines, fmt.Sprintf("%s %04o %s", f.State, f.Mode, strings.TrimPrefix(f.Path, n.root)))
	}
	return strings.Join(lines, "\n")
}

func (n *node) left(p Plan) string {
	var lines []string
	for _, l := range p.LeftOut {
		lines = append(lines, strings.ReplaceAll(l.Name+": "+l.Reason, n.root, ""))
	}
	return strings.Join(lines, "\n")
}

func equal(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
	}
}

func TestPlanOfBareMachine(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	etc := n.tree()
	n.bare()
	p := mustPlan(t, c, n)
	equal(t, "files", n.states(p), `new 0600 /etc/credstore/disk-password
new 0640 /etc/sdbackup/htpasswd
new 0600 /etc/sdbackup/secret/archive.password
new 0600 /etc/sdbackup/secret/archive.rclone.conf
new 0600 /etc/sdbackup/secret/disk.env
new 0644 /etc/sdbackup/backups.toml
new 0644 /etc/sdbackup/destination-archive.toml
new 0644 /etc/sdbackup/masked.toml
new 0640 /etc/sdbackup/node.toml`)
	equal(t, "left out", n.left(p), `/run/sdbackup/masked.toml: it belongs to a package that is not installed here
/usr/lib/sdbackup/wiki.toml: it belongs to a package that is not installed here`)
	var waiting []string
	for _, w := range p.Waiting {
		waiting = append(waiting, fmt.Sprintf("%s of %v: %s", w.Module, w.Backups, strings.ReplaceAll(strings.Join(w.Reasons, ", "), n.root, "")))
	}
	equal(t, "waiting", strings.Join(waiting, "\n"), `mail1 of [1]: there is no user nobody-of-this-name: neither in /etc/passwd nor known to getent
wiki1 of [1 2]: /usr/lib/sdbackup/wiki.toml does not exist`)
	var problems []string
	for _, q := range p.Problems {
		problems = append(problems, strings.ReplaceAll(q.String(), n.root, ""))
	}
	equal(t, "problems", strings.Join(problems, "\n"), `/etc/sdbackup/node.toml:5: warning: node.passphrase-file: /etc/sdbackup/secret/passphrase does not exist; want a file of mode 0600; put the passphrase there, or there are no more copies`)
	if len(p.Conflicts) > 0 || p.After != (Node{"web1", nodeUUID}) || p.Node != p.After {
		t.Errorf("conflicts %v, %v after %v", p.Conflicts, p.After, p.Node)
	}
	sameTree(t, "planned", n.tree(), map[string]string{"": "drwxr-xr-x"})
	defer unix.Umask(unix.Umask(0o077)) // which is not to matter
	if err := p.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path := range etc {
		inEtc := strings.HasPrefix(path, "/etc") || path == ""
		if !inEtc || path == "/etc/sdbackup/secret/passphrase" {
			delete(etc, path)
		}
	}
	etc["/etc/credstore"], etc["/etc/sdbackup/secret"] = "drwx------", "drwx------"
	etc["/etc/sdbackup/masked.toml"] = "-rw-r--r-- "
	etc["/etc/sdbackup/secret/archive.rclone.conf"] = "-rw-------" + strings.TrimPrefix(etc["/etc/sdbackup/secret/archive.rclone.conf"], "-r--------")
	sameTree(t, "written", n.tree(), etc)

	again := mustPlan(t, c, n)
	if s := n.states(again); strings.Count(s, "same") != len(again.Files) {
		t.Errorf("again:\n%s", s)
	}
	if err := again.Apply(t.Context()); err != nil {
		t.Error(err)
	}
	n.write("usr/lib/sdbackup/wiki.toml", string(c.Files[len(c.Files)-1].Data), 0o644)
	ready := mustPlan(t, c, n)
	if len(ready.Waiting) != 2 || !strings.Contains(ready.Waiting[1].Reasons[0], "there is no folder "+n.path("srv/wiki1")) {
		t.Errorf("with the package: waiting %v", ready.Waiting)
	}
	if err := os.MkdirAll(n.path("srv/wiki1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if ready = mustPlan(t, c, n); len(ready.Waiting) != 1 {
		t.Errorf("with its folder, too: waiting %v", ready.Waiting)
	}
}

func TestPlanDiffers(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	n.write("etc/sdbackup/secret/archive.password", "made by add\n", 0o600)
	n.write("etc/sdbackup/secret/archive.password.replaced", "of old\n", 0o600)
	n.write("etc/sdbackup/secret/disk.env", "AWS_SECRET_ACCESS_KEY="+marker+"\n", 0o644)
	n.write("etc/sdbackup/backups.toml", "", 0o644)
	before := n.tree()
	p := mustPlan(t, c, n)
	want := []string{n.path("etc/sdbackup/secret/archive.password"), n.path("etc/sdbackup/secret/disk.env"), n.path("etc/sdbackup/backups.toml")}
	if !slices.Equal(p.Differing(), want) {
		t.Errorf("differing %q; want %q", p.Differing(), want)
	}
	if e := (*DiffersError)(nil); !errors.As(p.Apply(t.Context()), &e) || !slices.Equal(e.Paths, want) {
		t.Errorf("Apply: %v", p.Apply(t.Context()))
	}
	sameTree(t, "refused", n.tree(), before)
	p.Overwrite = true
	if err := p.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := n.read("etc/sdbackup/secret/archive.password.replaced-2"); got != "made by add\n" {
		t.Errorf("kept is %q", got)
	}
	if got := n.read("etc/sdbackup/secret/archive.password"); got != "archive-"+marker+"\n" {
		t.Errorf("written is %q", got)
	}
	if info, _ := os.Stat(n.path("etc/sdbackup/secret/disk.env")); info.Mode() != 0o600 || exists(n.path("etc/sdbackup/secret/disk.env.replaced")) {
		t.Errorf("its mode is %v, or one that is the same was kept", info.Mode())
	}
	if len(mustPlan(t, c, n).Differing()) > 0 {
		t.Error("it differs still")
	}
}

func TestConflicts(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	n.bare()
	n.write("etc/sdbackup/mine.toml", `[destination.archive]
repository = "/srv/mine"
password-file = "ROOT/etc/sdbackup/secret/mine"
[destination.disk]
repository = "/srv/backup"
password-file = "ROOT/etc/sdbackup/secret/mine"
`, 0o644)
	n.write("etc/sdbackup/secret/mine", "x\n", 0o600)
	before := n.tree()
	p := mustPlan(t, c, n)
	if len(p.Conflicts) != 1 {
		t.Fatalf("conflicts %v", p.Conflicts)
	}
	if k := p.Conflicts[0]; k.ID != "archive" || k.Place.String() != n.path("etc/sdbackup/mine.toml")+":1" || k.Reason != "its repository is another one" || !slices.Equal(k.Backups, []string{"1"}) {
		t.Errorf("conflict %+v", k)
	}
	equal(t, "files", n.states(p), `new 0640 /etc/sdbackup/htpasswd
new 0644 /etc/sdbackup/masked.toml
new 0640 /etc/sdbackup/node.toml`)
	equal(t, "left out", n.left(p), `/etc/sdbackup/destination-archive.toml: destination archive is defined here already (/etc/sdbackup/mine.toml:1)
/etc/sdbackup/backups.toml: destination disk is defined here already (/etc/sdbackup/mine.toml:4), so this is left out, too: backup 1, backup 2, module mail1
credential disk-password: no destination that is written needs it
/etc/sdbackup/secret/archive.password: no destination that is written needs it
/etc/sdbackup/secret/archive.rclone.conf: no destination that is written needs it
/etc/sdbackup/secret/disk.env: no destination that is written needs it
/run/sdbackup/masked.toml: it belongs to a package that is not installed here
/usr/lib/sdbackup/wiki.toml: it belongs to a package that is not installed here`)
	if err := p.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := n.tree()
	for path, text := range before {
		if after[path] != text {
			t.Errorf("%s is %q; want %q", path, after[path], text)
		}
	}

	for text, conflict := range map[string]string{
		strings.ReplaceAll(destinationTOML, "5f9d2ac1", "00000000"):                       "its uuid is another one",
		strings.ReplaceAll(destinationTOML, "archive:bucket", "archive:other"):            "its repository is another one",
		strings.ReplaceAll(destinationTOML, "uuid", "# uuid"):                             "",
		destinationTOML + "name = \"The archive\"\n":                                      "",
		strings.ReplaceAll(destinationTOML, "rclone:archive:bucket", "s3:x:"+marker+"@y"): "its repository is another one",
	} {
		n.bare()
		n.write("etc/sdbackup/destination-archive.toml", text, 0o644)
		p := mustPlan(t, c, n)
		if (len(p.Conflicts) == 0) != (conflict == "") || conflict != "" && p.Conflicts[0].Reason != conflict {
			t.Errorf("conflicts %v; want %q", p.Conflicts, conflict)
		}
		if strings.Contains(fmt.Sprint(p.Conflicts, p.LeftOut), marker) {
			t.Error("a conflict shows a repository")
		}
		p.IgnoreProblems = true
		if conflict != "" {
			if err := p.Apply(t.Context()); err != nil {
				t.Error(err)
			}
			if got := n.read("etc/sdbackup/destination-archive.toml"); got != strings.ReplaceAll(text, "ROOT", n.root) {
				t.Error("the destination that is here was overwritten")
			}
			if exists(n.path("etc/sdbackup/secret/archive.password")) {
				t.Error("secrets of the one that was left out were written")
			}
		}
	}
}

// TestReplacedLayerFile has a file of /etc in place of a package's, as on the node that the copy is of.
func TestReplacedLayerFile(t *testing.T) {
	n := newNode(t)
	n.write("etc/sdbackup/place.toml", "[node]\nuuid = \""+nodeUUID+"\"\n[destination.a]\nrepository = \"/srv/mine\"\npassword-file = \"ROOT/etc/a\"\n", 0o644)
	n.write("usr/lib/sdbackup/place.toml", "[destination.a]\nrepository = \"/srv/default\"\npassword-file = \"ROOT/etc/a\"\n", 0o644)
	n.write("usr/lib/sdbackup/b.toml", "[destination.b]\nrepository = \"/srv/b\"\npassword-file = \"ROOT/etc/b\"\n", 0o644)
	n.write("etc/a", "x", 0o600)
	n.write("etc/b", "x", 0o600)
	c := n.collect()
	if err := os.RemoveAll(n.path("etc")); err != nil {
		t.Fatal(err)
	}
	p := mustPlan(t, c, n)
	equal(t, "files", n.states(p), "new 0600 /etc/a\nnew 0600 /etc/b\nnew 0644 /etc/sdbackup/place.toml")
	if len(p.Conflicts)+len(p.LeftOut)+len(p.Problems) > 0 {
		t.Errorf("conflicts %v, left out %v, problems %v", p.Conflicts, p.LeftOut, p.Problems)
	}
}

func TestPlanProblems(t *testing.T) {
	n := newNode(t)
	n.fill()
	n.write("etc/sdbackup/old.toml", "[modul.x]\n", 0o644)
	c := n.collect()
	for i, f := range c.Files { // what nobody would have made of a configuration that is right
		if strings.HasSuffix(f.Path, "/backups.toml") {
			c.Files[i].Data = []byte("[backup.1]\nschedule = \"daily\"\nmodules = [\"gone\"]\nretention = 7\n[module.m]\ntype = 7\n")
		}
	}
	n.write("etc/sdbackup/mine.toml", "[modul.y]\n", 0o644)
	os.Remove(n.path("etc/sdbackup/old.toml"))
	before := n.tree()
	p := mustPlan(t, c, n)
	p.Overwrite = true
	err := p.Apply(t.Context())
	if e := (*ProblemsError)(nil); !errors.As(err, &e) {
		t.Fatalf("Apply: %v", err)
	}
	for _, want := range []string{
		"etc/sdbackup/old.toml:1: modul: is not known here",
		"etc/sdbackup/backups.toml:1: backup.1.destination: is missing",
		"etc/sdbackup/backups.toml:3: backup.1.modules[0]: there is no [module.gone]",
		"etc/sdbackup/backups.toml:6: module.m.type: is a number",
	} {
		if !strings.Contains(err.Error(), n.path(want)) {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "modul.y") || strings.Contains(err.Error(), os.TempDir()+"/node-backup") {
		t.Errorf("%v\nwant neither what is wrong here anyway, nor temporary places", err)
	}
	sameTree(t, "refused", n.tree(), before)
	p.IgnoreProblems = true
	if err := p.Apply(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPlanRefusesPaths(t *testing.T) {
	n := newNode(t)
	n.fill()
	n.write("srv/outside.password", "x\n", 0o600)
	n.write("etc/sdbackup/outside.toml", "[destination.out]\nrepository = \"/srv/out\"\npassword-file = \"ROOT/srv/outside.password\"\n", 0o644)
	c := n.collect()
	c.Files = append(c.Files,
		File{n.path("etc/cron.d/evil"), 0o644, []byte("evil")},
		File{n.path("etc/sdbackup/.hidden.toml"), 0o644, []byte("evil")},
		File{n.path("etc/sdbackup/below/x.toml"), 0o644, []byte("evil")},
		File{n.path("etc/sdbackup/secret/passphrase"), 0o600, []byte("evil")},
		File{n.path("etc/sdbackup2/x.toml"), 0o600, []byte("evil")})
	c.Credentials = append(c.Credentials, Credential{"unnamed", []byte("evil")})
	c.sort()
	n.bare()
	p := mustPlan(t, c, n)
	for _, f := range p.Files {
		if string(f.Data) == "evil" || strings.Contains(f.Path, "outside.password") {
			t.Errorf("%s would be written", f.Path)
		}
	}
	for _, want := range []string{
		"/srv/outside.password: it is not in a folder that may be written to",
		"/etc/cron.d/evil: nothing in the configuration names it",
		"credential unnamed: no destination that is written needs it",
	} {
		if !strings.Contains(n.left(p), want) {
			t.Errorf("left out:\n%s\nwant %s", n.left(p), want)
		}
	}
	if len(p.Errors()) != 1 || p.Errors()[0].Key != "destination.out.password-file" {
		t.Errorf("problems %v; want the secret that would be missing", p.Errors())
	}
	p, err := c.plan(n, n.path("srv"))
	if err != nil || !strings.Contains(n.states(p), "new 0600 /srv/outside.password") || len(p.Errors()) > 0 {
		t.Errorf("with that folder: %v\n%s", err, n.states(p))
	}
}

func TestPlanKeepsWhatIsNoFile(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	password := n.path("etc/sdbackup/secret/archive.password")
	os.Remove(password)
	if err := os.Symlink("nowhere", password); err != nil {
		t.Fatal(err)
	}
	htpasswd := n.path("etc/sdbackup/htpasswd")
	os.Remove(htpasswd)
	if err := unix.Mkfifo(htpasswd, 0o600); err != nil {
		t.Fatal(err)
	}
	os.Remove(n.path("etc/credstore/disk-password"))
	n.write("run/credstore.encrypted/disk-password", "sealed", 0o600)
	p := mustPlan(t, c, n)
	for _, want := range []string{
		"/etc/sdbackup/secret/archive.password: what is there is no regular file, and not the same",
		"/etc/sdbackup/htpasswd: what is there is no regular file, and not the same",
		"credential disk-password: there is an encrypted one here already, /run/credstore.encrypted/disk-password",
	} {
		if !strings.Contains(n.left(p), want) {
			t.Errorf("left out:\n%s\nwant %s", n.left(p), want)
		}
	}
	if !strings.Contains(n.states(p), "same 0644 /etc/sdbackup/masked.toml") {
		t.Errorf("files:\n%s\nwant the link to /dev/null taken for an empty file", n.states(p))
	}
}

func TestPlanFits(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	user := *n
	user.paths.User = true
	if _, err := c.plan(&user); err == nil {
		t.Error("the system's copy is planned for a user")
	}
	one := *n
	one.paths.Config = []string{n.path("etc/sdbackup/node.toml")}
	if _, err := c.plan(&one); err == nil {
		t.Error("the copy of a folder is planned for a file")
	}
	single, err := collect(t.Context(), config.Load(one.paths.Config, nil), one.paths, "", n.find)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := single.plan(n); err == nil {
		t.Error("the copy of a file is planned for a folder")
	}
	one.paths.Config = []string{n.path("elsewhere/other.toml")}
	p := mustPlan(t, single, &one)
	equal(t, "files", n.states(p), "same 0640 /etc/sdbackup/htpasswd\nnew 0640 /elsewhere/other.toml")
	if err := p.Apply(t.Context()); err != nil || n.read("elsewhere/other.toml") != n.read("etc/sdbackup/node.toml") {
		t.Errorf("Apply: %v", err)
	}

	mine := newNode(t)
	mine.paths = config.Paths{User: true, Config: []string{mine.path("home/.config/sdbackup")}, State: mine.path("state")}
	mine.write("home/.config/sdbackup/all.toml", "[node]\nuuid = \""+nodeUUID+"\"\n[destination.a]\nrepository=\"/a\"\npassword-file=\"ROOT/home/.config/sdbackup/secret/a\"\n[destination.b]\nrepository=\"/b\"\npassword-credential = \"b\"\n", 0o644)
	mine.write("home/.config/sdbackup/secret/a", "x", 0o600)
	mine.write("etc/credstore/b", "x", 0o600)
	copied := mine.collect()
	mine.bare()
	p, err = copied.Plan(mine.paths)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "files of a user", mine.states(p), "new 0600 /home/.config/sdbackup/secret/a\nnew 0644 /home/.config/sdbackup/all.toml")
	equal(t, "left out", mine.left(p), "credential b: credentials are the system's; root can write it")
	if err := p.Apply(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestApplyFails lets every change in turn fail: then nothing is left of the others.
func TestApplyFails(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	for _, state := range []string{"bare", "full"} {
		n.bare()
		if state == "full" {
			n.fill()
			n.write("etc/sdbackup/secret/archive.password", "made by add\n", 0o600)
			n.write("etc/sdbackup/node.toml", "", 0o600)
			n.write("etc/sdbackup/backups.toml", "", 0o604)
			os.RemoveAll(n.path("etc/credstore"))
			os.RemoveAll(n.path("etc/sdbackup/destination-archive.toml"))
		}
		before := n.tree()
		failure := errors.New("disk is full")
		for at := 0; ; at++ {
			p := mustPlan(t, c, n)
			p.Overwrite, p.IgnoreProblems = true, true
			count := 0
			p.before = func(change) error {
				if count++; count > at {
					return failure
				}
				return nil
			}
			err := p.Apply(t.Context())
			if err == nil {
				if at < 5 {
					t.Errorf("%s: only %d changes", state, at)
				}
				break
			}
			if !errors.Is(err, failure) || strings.Contains(err.Error(), marker) {
				t.Errorf("%s: change %d fails: %v", state, at, err)
			}
			sameTree(t, fmt.Sprintf("%s: change %d failed", state, at), n.tree(), before)
		}
		p := mustPlan(t, c, n)
		if s := n.states(p); strings.Count(s, "same") != len(p.Files) {
			t.Errorf("%s: written is\n%s", state, s)
		}
	}
}

func TestApplyInOrder(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	n.bare()
	p := mustPlan(t, c, n)
	configuration := false
	p.before = func(ch change) error {
		isTOML := strings.HasSuffix(ch.path, ".toml")
		if configuration && !isTOML {
			t.Errorf("%s is written after the configuration", ch.path)
		}
		configuration = configuration || isTOML
		return nil
	}
	if err := p.Apply(t.Context()); err != nil || !configuration {
		t.Errorf("Apply: %v", err)
	}
}

func TestApplyCancelled(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	n.bare()
	before := n.tree()
	ctx, cancel := context.WithCancel(t.Context())
	p := mustPlan(t, c, n)
	count := 0
	p.before = func(change) error {
		if count++; count == 4 {
			cancel()
		}
		return nil
	}
	if err := p.Apply(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	sameTree(t, "cancelled", n.tree(), before)
}

func TestApplyBesideOthers(t *testing.T) {
	n := newNode(t)
	n.fill()
	c := n.collect()
	n.bare()
	p := mustPlan(t, c, n)
	n.write("etc/sdbackup/backups.toml", "# just made\n", 0o644)
	before := n.tree()
	if err := p.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "somebody else") {
		t.Errorf("Apply over what was made since: %v", err)
	}
	sameTree(t, "since", n.tree(), before)
	f, err := os.Open(n.path("etc/sdbackup"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context()); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("Apply beside backup-destination: %v", err)
	}
	sameTree(t, "locked", n.tree(), before)
}

func TestDestinations(t *testing.T) {
	n := newNode(t)
	n.fill()
	os.Remove(n.path("etc/sdbackup/secret/disk.env"))
	n.write("etc/sdbackup/wrong.toml", "[destination.wrong]\nrepository = \"relative\"\npassword-file = \"ROOT/x\"\n", 0o644)
	c := n.collect()
	n.bare()
	all, problems, err := c.Destinations()
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	archive, disk := all[0], all[1]
	if archive.ID != "archive" || string(archive.Password) != "archive-"+marker+"\n" || !strings.Contains(string(archive.Rclone), "key = "+marker) ||
		archive.Defined != strings.ReplaceAll(destinationTOML, "ROOT", n.root) || len(archive.Missing) > 0 || archive.Environment != nil {
		t.Errorf("%+v", archive)
	}
	if disk.ID != "disk" || string(disk.Password) != "disk-"+marker+"\n" ||
		!slices.Equal(disk.Missing, []Missing{{"file", n.path("etc/sdbackup/secret/disk.env"), "it does not exist"}}) {
		t.Errorf("%+v", disk)
	}
	if len(problems) != 1 || problems[0].Key != "destination.wrong.repository" || problems[0].File != n.path("etc/sdbackup/wrong.toml") {
		t.Errorf("problems %v", problems)
	}
}

func TestDestinationOfPackage(t *testing.T) {
	n := newNode(t)
	n.write("usr/lib/sdbackup/place.toml", "[destination.a]\nrepository = \"/srv/a\"\npassword-file = \"ROOT/etc/a\"\n", 0o644)
	n.write("etc/a", "x", 0o600)
	n.write("etc/sdbackup/b.toml", `
[node]
uuid = "`+nodeUUID+`"
[module.m]
type = "t"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
include = ["/srv/m"]
[backup.1]
schedule = "daily"
destination = "a"
modules = ["m"]
retention = 7
`, 0o644)
	c := n.collect()
	n.bare()
	p := mustPlan(t, c, n)
	if len(p.Problems) != 1 || !p.Problems[0].Warning || !strings.Contains(p.Problems[0].Message, n.path("usr/lib/sdbackup/place.toml")+", which is not here yet") {
		t.Errorf("problems %v", p.Problems)
	}
	equal(t, "files", n.states(p), "new 0600 /etc/a\nnew 0644 /etc/sdbackup/b.toml")
}

// The passphrase goes where the configuration wants it, with everything else or not at all.
func TestPlanPlacesPassphrase(t *testing.T) {
	const file = "etc/sdbackup/secret/passphrase"
	n := newNode(t)
	n.fill()
	c := n.collect().WithPassphrase([]byte(passphrase))
	n.bare()
	p := mustPlan(t, c, n)
	if want := "new 0600 /" + file; !strings.Contains(n.states(p), want) {
		t.Fatalf("files:\n%s\nwant %s", n.states(p), want)
	}
	for _, q := range p.Problems {
		if strings.Contains(q.Key, "passphrase") {
			t.Errorf("problem %v", q)
		}
	}
	if err := p.Apply(t.Context()); err != nil || n.read(file) != passphrase+"\n" {
		t.Fatalf("Apply: %v; the file holds %q", err, n.read(file))
	}
	n.write(file, passphrase, 0o400) // without a line end it says the same
	if p := mustPlan(t, c, n); !strings.Contains(n.states(p), "same 0600 /"+file) {
		t.Errorf("files:\n%s", n.states(p))
	}
	n.write(file, "another", 0o600)
	p = mustPlan(t, c, n)
	if err := p.Apply(t.Context()); !errors.As(err, new(*DiffersError)) || n.read(file) != "another" {
		t.Errorf("over another one: %v", err)
	}
	p.Overwrite = true
	if err := p.Apply(t.Context()); err != nil || n.read(file) != passphrase+"\n" || n.read(file+".replaced") != "another" {
		t.Errorf("with Overwrite: %v, %q", err, n.read(file))
	}

	for i, f := range c.Files {
		if strings.HasSuffix(f.Path, "/node.toml") {
			c.Files[i].Data = []byte(strings.ReplaceAll(string(f.Data), n.path(file), "/root/elsewhere"))
		}
	}
	if p := mustPlan(t, c, n); strings.Contains(n.states(p), "elsewhere") || !strings.Contains(n.left(p), "/root/elsewhere: it is not in a folder that may be written to") {
		t.Errorf("files:\n%s\nleft out:\n%s", n.states(p), n.left(p))
	}
}

func TestPlanPlacesPassphraseCredential(t *testing.T) {
	n := newNode(t)
	n.fill()
	n.write("etc/sdbackup/node.toml", "[node]\nuuid = \""+nodeUUID+"\"\npassphrase-credential = \"node-passphrase\"\n", 0o644)
	c := n.collect().WithPassphrase([]byte(passphrase))
	n.bare()
	if p := mustPlan(t, c, n); !strings.Contains(n.states(p), "new 0600 /etc/credstore/node-passphrase") {
		t.Errorf("files:\n%s", n.states(p))
	}
	n.write("etc/credstore.encrypted/node-passphrase", "x", 0o600)
	if p := mustPlan(t, c, n); strings.Contains(n.states(p), "node-passphrase") || !strings.Contains(n.left(p), "there is an encrypted one here already") {
		t.Errorf("files:\n%s\nleft out:\n%s", n.states(p), n.left(p))
	}
}

func TestFileNames(t *testing.T) {
	for name, want := range map[string]string{
		FileName(nodeUUID): nodeUUID + " false true", StagedName(nodeUUID): nodeUUID + " true true",
	} {
		if uuid, staged, ok := ParseFileName(name); fmt.Sprintf("%s %v %v", uuid, staged, ok) != want {
			t.Errorf("ParseFileName(%q) = %q, %v, %v", name, uuid, staged, ok)
		}
	}
	for _, name := range []string{"", "node-backup-.tar.gz.gpg", "node-backup-../x.tar.gz.gpg", "x" + FileName(nodeUUID), FileName(nodeUUID) + "x", FileName(strings.ToUpper(nodeUUID))} {
		if _, _, ok := ParseFileName(name); ok {
			t.Errorf("ParseFileName(%q) is ok", name)
		}
	}
}

func FuzzParseFileName(f *testing.F) {
	f.Add(FileName(nodeUUID))
	f.Add(StagedName(nodeUUID))
	f.Fuzz(func(t *testing.T, name string) {
		uuid, staged, ok := ParseFileName(name)
		if ok && (staged && StagedName(uuid) != name || !staged && FileName(uuid) != name || strings.Contains(name, "/")) {
			t.Errorf("ParseFileName(%q) = %q, %v", name, uuid, staged)
		}
	})
}
