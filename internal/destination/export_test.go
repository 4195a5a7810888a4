package destination

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// transfer exports all of a store and reads the document again.
func transfer(t testing.TB, s *Store, change func(*Document)) Document {
	t.Helper()
	doc, err := s.Export(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&doc)
	}
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if doc, err = ReadDocument(bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return doc
}

// TestExportImport: on another node there are the same files then.
func TestExportImport(t *testing.T) {
	from, to := testStore(t), testStore(t)
	for _, r := range requests(t) {
		if r.ID != "local-gateway" { // it is the same place as local
			mustAdd(t, from, r)
		}
	}
	doc := transfer(t, from, nil)
	done, err := to.Import(t.Context(), doc, false)
	if err != nil || len(done.Skipped) != 0 || len(done.Added) != len(doc.Destinations) {
		t.Fatalf("Import = %+v, %v", done, err)
	}
	got := tree(t, to.Dir)
	for name, text := range tree(t, from.Dir) {
		text = strings.ReplaceAll(text, from.Dir, to.Dir)
		if got[name] != text {
			t.Errorf("%s is\n%s\nwant\n%s", name, got[name], text)
		}
	}
	before := tree(t, to.Dir)
	done, err = to.Import(t.Context(), doc, false)
	if err != nil || len(done.Added) != 0 || len(done.Skipped) != len(doc.Destinations) || !maps.Equal(before, tree(t, to.Dir)) {
		t.Errorf("once more: %+v, %v; want all skipped", done, err)
	}
}

// TestExportByHand: what somebody wrote by hand is taken along, too, its remote under the ID.
func TestExportByHand(t *testing.T) {
	from, to := testStore(t), testStore(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "pw"), "pw\n")
	write(t, filepath.Join(dir, "env"), "# mine\nAWS_ACCESS_KEY_ID=a\nAWS_SECRET_ACCESS_KEY="+marker+"\n")
	write(t, filepath.Join(dir, "rclone.conf"), "[other]\ntype = local\n[mine]\ntype = b2\naccount = a\nkey = "+marker+"\n")
	pw := "password-file = \"" + dir + "/pw\"\n"
	write(t, filepath.Join(from.Dir, "hand.toml"), "[destination.s3]\nrepository = \"s3:host/b\"\nenvironment-file = \""+dir+"/env\"\n"+pw+
		"[destination.remote]\nrepository = \"rclone:mine:b/x\"\nrclone-config = \""+dir+"/rclone.conf\"\n"+pw+
		"[destination.home]\nrepository = \"rclone:roots:b\"\n"+pw)
	done, err := to.Import(t.Context(), transfer(t, from, nil), false)
	if err != nil || !slices.Equal(done.Added, []string{"home", "remote", "s3"}) {
		t.Fatalf("Import = %+v, %v", done, err)
	}
	if got := read(t, to.rclonePath("remote")); got != "[remote]\ntype = b2\naccount = a\nkey = "+marker+"\n" {
		t.Errorf("the remote is\n%s", got)
	}
	if got := read(t, to.environmentPath("s3")); got != read(t, filepath.Join(dir, "env")) {
		t.Errorf("the environment is\n%s", got)
	}
	cfg := to.load()
	for id, want := range map[string]string{"s3": "s3:host/b", "remote": "rclone:remote:b/x", "home": "rclone:roots:b"} {
		if got := cfg.Destinations[id].Repository; got != want {
			t.Errorf("repository of %s = %q; want %q", id, got, want)
		}
	}
	if problems := cfg.Errors(); len(problems) > 0 {
		t.Errorf("problems: %v", problems)
	}
	if _, err := to.Alter(t.Context(), Request{ID: "s3", Name: ptr("N")}); err != nil {
		t.Errorf("what was imported cannot be altered: %v", err)
	}
	if done, err := from.Import(t.Context(), transfer(t, to, nil), false); err != nil || !slices.Equal(done.Skipped, []string{"home", "remote", "s3"}) {
		t.Errorf("back where it came from: %+v, %v; want all skipped", done, err)
	}
}

func TestImportRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Document)
		want   string
	}{
		"ID":            {func(d *Document) { d.Destinations[1].ID = "../x" }, "destination 2 of the document"},
		"provider":      {func(d *Document) { d.Destinations[1].Provider = "ftp" }, "no provider"},
		"no password":   {func(d *Document) { d.Destinations[1].Password = "" }, "destination b: --password-file: is missing"},
		"no remote":     {func(d *Document) { d.Destinations[1].Rclone = "" }, "do not fit"},
		"two remotes":   {func(d *Document) { d.Destinations[1].Rclone += "[x]\ntype = local\n" }, "want one"},
		"another type":  {func(d *Document) { d.Destinations[1].Rclone = "[x]\ntype = local\n" }, "do not fit"},
		"another place": {func(d *Document) { d.Destinations[1].Repository = "/srv" }, "do not fit"},
		"upwards":       {func(d *Document) { d.Destinations[1].Repository = "rclone:b:b/../c" }, "leads upwards"},
		"a name":        {func(d *Document) { d.Destinations[1].Name = "a\nb" }, "line break"},
		"the ID twice": {func(d *Document) {
			e := d.Destinations[1]
			e.Repository = "rclone:b:c"
			d.Destinations = append(d.Destinations, e)
		}, "twice"},
		"an ID that is there": {func(d *Document) { d.Destinations[1].ID = "z" }, "destination z is there already"},
		"a limit":             {func(d *Document) { d.Destinations[0].MaxSize = "5G" }, "want gateway = true"},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := testStore(t), testStore(t)
			mustAdd(t, from, local("a", "/srv/a"))
			mustAdd(t, from, b2("b", "b"))
			mustAdd(t, to, local("z", "/srv/z"))
			doc := transfer(t, from, c.change)
			before := tree(t, to.Dir)
			done, err := to.Import(t.Context(), doc, false)
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), marker) || !maps.Equal(before, tree(t, to.Dir)) {
				t.Errorf("Import = %+v, %v; want an error with %q, and nothing written", done, err, c.want)
			}
		})
	}
}

func TestReadDocument(t *testing.T) {
	for text, want := range map[string]string{
		"":                                  "not what",
		"{":                                 "not what",
		"{x":                                "not JSON, at byte 2",
		`{"version": 2}`:                    "version 2",
		`{"version": 1, "x": 1}`:            "not what",
		`{"version": 1, "destinations": 1}`: "not what",
	} {
		_, err := ReadDocument(strings.NewReader(text))
		if e := (*UsageError)(nil); !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("ReadDocument(%q) = %v; want %q", text, err, want)
		}
	}
}

// fakeCreds puts a systemd-creds into the path that says what it is asked: one that encrypts to base64, or cannot.
func fakeCreds(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "systemd-creds"), "#!/bin/sh\n"+script)
	if err := os.Chmod(filepath.Join(dir, "systemd-creds"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

const workingCreds = `
case "$1 $2 $3 $4" in
"encrypt --name="*" - -") echo "$2"; base64 ;;
"decrypt --name="*" - -")
  read -r name
  [ "$name" = "$2" ] || { echo "embedded name does not match" >&2; exit 1; }
  base64 -d ;;
*) exit 2 ;;
esac
`

func TestCredentials(t *testing.T) {
	fakeCreds(t, workingCreds)
	s := testStore(t)
	r := b2("a", "b")
	r.Credential = ptr(true)
	if added := mustAdd(t, s, r); added.Loads != "sdbackup-a-rclone" {
		t.Errorf("the gateway is to load %q", added.Loads)
	}
	if files := tree(t, s.Dir); len(files) != 1 || !strings.Contains(files["destination-a.toml"], "password-credential = \"sdbackup-a-password\"\nrclone-credential = \"sdbackup-a-rclone\"\n") {
		t.Errorf("the files are %v; want no secrets, and the names of two credentials", files)
	}
	kept := tree(t, s.credentials)
	for name, text := range kept {
		if strings.Contains(text, marker) || !strings.HasPrefix(text, "0600 --name=") {
			t.Errorf("%s holds %q", name, text)
		}
	}
	if _, err := s.Alter(t.Context(), Request{ID: "a", Name: ptr("N")}); err != nil || !maps.Equal(kept, tree(t, s.credentials)) {
		t.Errorf("Alter of the name: %v, credentials %v; want those of before, %v", err, tree(t, s.credentials), kept)
	}
	doc := transfer(t, s, nil)
	if e := doc.Destinations[0]; e.Password != "pw-"+marker || !strings.Contains(e.Rclone, marker) {
		t.Errorf("exported is %v", e)
	}
	if _, err := s.Alter(t.Context(), Request{ID: "a", Credential: ptr(false)}); err != nil {
		t.Fatal(err)
	}
	if files := tree(t, s.Dir); len(files) != 3 || len(tree(t, s.credentials)) != 0 || len(s.load().Errors()) > 0 {
		t.Errorf("in files: %v, and credentials %v", files, tree(t, s.credentials))
	}
	if _, err := s.Alter(t.Context(), Request{ID: "a", Credential: ptr(true), Password: "new"}); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s.passwordPath("a")+".20260102T030405Z"); got != "pw-"+marker+"\n" {
		t.Errorf("the old password is kept as %q", got)
	}
	removed, err := s.Remove(t.Context(), Removal{ID: "a"})
	if err != nil || len(tree(t, s.credentials)) != 1 || removed.Kept != s.credentialPath("sdbackup-a-password")+".20260102T030405Z" {
		t.Errorf("Remove = %+v, %v, credentials %v; want the password only", removed, err, tree(t, s.credentials))
	}
	to := testStore(t)
	if done, err := to.Import(t.Context(), doc, true); err != nil || len(tree(t, to.credentials)) != 2 || !slices.Equal(done.Loads, []string{"sdbackup-a-rclone"}) {
		t.Errorf("Import = %+v, %v, credentials %v", done, err, tree(t, to.credentials))
	}
}

func TestNoCredentials(t *testing.T) {
	for name, c := range map[string]struct{ script, want string }{
		"no key":  {"cat >/dev/null; echo 'Failed to determine local credential host secret: x' >&2; exit 1", "cannot encrypt credential sdbackup-a-password here (Failed to determine"},
		"silence": {"exit 3", "exit status 3"},
	} {
		fakeCreds(t, c.script)
		s := testStore(t)
		r := b2("a", "b")
		r.Credential = ptr(true)
		_, err := s.Add(t.Context(), r)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "leave --credential out") || len(tree(t, s.Dir)) > 0 {
			t.Errorf("%s: %v; want %q and what to do, and no files", name, err, c.want)
		}
	}
	t.Setenv("PATH", t.TempDir())
	s := testStore(t)
	r := local("a", "/srv")
	r.Credential = ptr(true)
	if _, err := s.Add(t.Context(), r); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Errorf("without systemd-creds: %v", err)
	}
	s.User = true
	if _, err := s.Add(t.Context(), r); err == nil || !strings.Contains(err.Error(), "leave out --user") {
		t.Errorf("of a user: %v", err)
	}
}

// FuzzDocument: whatever is accepted can be written, and is read back as the same.
func FuzzDocument(f *testing.F) {
	for id, r := range requests(f) {
		s := testStore(f) // of its own: some are the same place
		r.ID = id
		mustAdd(f, s, r)
		doc, err := s.Export(f.Context(), nil)
		if err != nil {
			f.Fatal(err)
		}
		data, err := json.Marshal(doc)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"version":1,"destinations":[{"id":"../x","provider":"local","repository":"/srv","password":"a\nb"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		doc, err := ReadDocument(bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, e := range doc.Destinations {
			d, err := e.stored(false)
			if err != nil {
				continue
			}
			if checkLine(string(d.password)) != nil || checkLine(d.name) != nil {
				t.Errorf("accepted is %+v", e)
			}
			text := d.toml(keys{passwordFile: "/x"})
			var tree struct {
				Destination map[string]struct{ Name, Repository, UUID string }
			}
			if _, err := toml.Decode(string(text), &tree); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			got, ok := tree.Destination[d.id]
			if !ok || len(tree.Destination) != 1 || got.Repository != d.repository || got.UUID != d.uuid() || got.Name != d.name && d.name != d.id {
				t.Errorf("%+v is read back as %+v\n%s", d, tree, text)
			}
		}
	})
}
