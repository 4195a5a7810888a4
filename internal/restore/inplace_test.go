package restore

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/exchange"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
	"sdbackup/internal/token"
)

// reload changes the configuration.
func (w *world) reload(old, replacement string) {
	w.t.Helper()
	w.edit("web.toml", old, replacement)
}

func (w *world) edit(name, old, replacement string) {
	w.t.Helper()
	file := filepath.Join(w.dir, "etc", name)
	data, err := os.ReadFile(file)
	w.check(err)
	w.check(os.WriteFile(file, []byte(strings.Replace(string(data), old, replacement, 1)), 0o600))
	w.Config = config.Load(w.Paths.Config, nil)
	for _, p := range w.Config.Errors() {
		w.t.Fatal(p)
	}
}

func inPlace(r *Request) { r.InPlace, r.Target, r.Verify = true, "", true }

// nothingLeft looks for stages and journals.
func (w *world) nothingLeft() {
	w.t.Helper()
	for _, dir := range []string{w.data, filepath.Join(w.data, "data"), exchange.Dir(w.Paths)} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".sdbackup") || strings.HasSuffix(e.Name(), ".journal") {
				w.t.Errorf("%s is left in %s", e.Name(), dir)
			}
		}
	}
}

// What lives is replaced by what was saved, in every respect; what is excluded stays; and the hook gets the dumps.
func TestInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	data := filepath.Join(w.data, "data")
	w.check(unix.Lsetxattr(data, "user.top", []byte("x"), 0))
	old := time.Date(2003, 2, 3, 4, 5, 6, 0, time.UTC)
	w.check(os.Chmod(data, 0o751))
	w.check(os.Chtimes(data, old, old))
	want, top := tree(t, data), tree(t, w.data)["/data"]
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "CREATE"})
	w.reload(`include = ["data"]`, `include = ["data"]
exclude = ["cache", "*.log"]
restore-state = ["sh", "-c", "cat \"$RESTORE_DUMPS/all.sql\" > ../hook; pwd >> ../hook; echo $MODULE_ID $RESTORE_TIME >> ../hook; test ! -e data/added"]`)
	w.write("wiki1/data/added", "new")
	w.write("wiki1/data/first", "changed")
	w.check(os.RemoveAll(filepath.Join(data, "sticky")))
	w.check(os.Mkdir(filepath.Join(data, "cache"), 0o755))
	w.write("wiki1/data/cache/x", "kept")
	w.write("wiki1/data/a.log", "kept")
	p := w.plan(inPlace)
	dry, err := w.DryRun(t.Context(), p)
	if err != nil || dry.Live.Kept.Count != 3 || dry.Live.Gone.Count != 1 || dry.Live.New.Count != 1 || dry.Live.Changed.Count < 1 {
		t.Errorf("DryRun = %+v %+v, %v", dry, dry.Live, err)
	}
	result, err := w.Restore(t.Context(), p, quietly)
	if err != nil || !result.Complete || !result.Verified || result.Kept != 2 || result.RolledBack || len(result.Places) != 1 {
		t.Fatalf("Restore = %+v, %v\n%s", result, err, w.log)
	}
	got := tree(t, data)
	for _, name := range []string{"/cache", "/cache/x", "/a.log"} {
		if got[name] == "" {
			t.Errorf("%s was not kept", name)
		}
		delete(got, name)
	}
	sameTree(t, got, want)
	if got := tree(t, w.data)["/data"]; got != top {
		t.Errorf("the folder itself is\n%s; want\n%s", got, top)
	}
	hook, _ := os.ReadFile(filepath.Join(w.dir, "hook"))
	if lines := strings.Split(string(hook), "\n"); len(lines) < 2 || lines[0] != "CREATE"+w.data || !strings.HasPrefix(lines[1], "wiki1 20") {
		t.Errorf("the hook saw %q", hook)
	}
	w.nothingLeft()
}

// A hook that fails puts everything back.
func TestInPlaceHookFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", nil)
	w.reload(`include = ["data"]`, `include = ["data"]
exclude = ["*.log"]
restore-state = ["sh", "-c", "test ! -e data/added && echo no database; exit 1"]`)
	w.write("wiki1/data/added", "new")
	w.write("wiki1/data/a.log", "kept")
	before := tree(t, w.data)
	result, err := w.Restore(t.Context(), w.plan(inPlace), quietly)
	if err == nil || !strings.Contains(err.Error(), "no database") || !result.RolledBack || result.Complete || !strings.Contains(Remedy(err), "as it was before") {
		t.Errorf("Restore = %+v, %v", result, err)
	}
	sameTree(t, tree(t, w.data), before)
	w.nothingLeft()
}

// Only what was asked for is replaced.
func TestInPlacePath(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "CREATE"})
	w.write("wiki1/data/first", "changed")
	w.write("wiki1/data/sub\xff/deep/page", "changed")
	w.write("wiki1/data/empty2", "stays")
	_, err := w.Restore(t.Context(), w.plan(func(r *Request) { inPlace(r); r.Only = []string{"data/sub\xff"} }), quietly)
	w.check(err)
	for name, want := range map[string]string{"first": "changed", "sub\xff/deep/page": "deep", "empty2": "stays"} {
		if got, err := os.ReadFile(filepath.Join(w.data, "data", name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	w.nothingLeft()
}

// All that stands in the way is told at once, and nothing is done.
func TestInPlaceProblems(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "CREATE"})
	w.reload(`include = ["data"]`, `include = ["other"]
units = ["no-such-sdbackup-test.service"]
exclude = ["[a"]
user = "nobody"`)
	w.Units = nil
	p, err := w.Check(t.Context(), w.request(inPlace))
	w.check(err)
	defer p.Close()
	data, _ := json.Marshal(p.Blocked())
	for _, want := range []string{"no service manager", "[a", "there is no restore-state", "include does not name", "there is no no-such-sdbackup-test.service"} {
		if !strings.Contains(string(data), want) {
			t.Errorf("nobody said %q: %s", want, data)
		}
	}
	w.reload(`include = ["other"]`, `include = ["data"]`)
	q, err := w.Check(t.Context(), w.request(inPlace))
	w.check(err)
	defer q.Close()
	data, _ = json.Marshal(q.Blocked())
	if os.Geteuid() == 0 && !strings.Contains(string(data), "with the rights of another user") {
		t.Errorf("a setuid file of root's would come to nobody: %s", data)
	}
}

// A mount point below what lives is refused; a mount point itself is no obstacle.
func TestInPlaceMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	w := newWorld(t, "")
	data := filepath.Join(w.data, "data")
	mount := func(at string) {
		w.t.Helper()
		if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=8m"); err != nil {
			t.Skip("nothing can be mounted here: ", err)
		}
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount(data)
	w.check(os.Mkdir(filepath.Join(data, "inner"), 0o755))
	w.write("wiki1/data/page", "saved")
	old := time.Date(2003, 2, 3, 4, 5, 6, 0, time.UTC)
	w.check(os.Chtimes(data, old, old))
	want := tree(t, w.data)
	w.save(wikiUUID, "web1", "r1", nil)
	w.write("wiki1/data/page", "changed")
	w.write("wiki1/data/more", "new")
	w.check(os.Chmod(data, 0o700))
	_, err := w.Restore(t.Context(), w.plan(inPlace), quietly)
	w.check(err)
	sameTree(t, tree(t, w.data), want)
	w.nothingLeft()

	mount(filepath.Join(data, "inner"))
	p, err := w.Check(t.Context(), w.request(inPlace))
	w.check(err)
	defer p.Close()
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0].Text, "inner is mounted below") {
		t.Errorf("problems = %+v", p.Problems)
	}
}

// While the module is backed up, nothing is restored over it.
func TestInPlaceLocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", nil)
	p := w.plan(inPlace)
	held, err := exchange.Take(w.Paths, "wiki1", "", "", "restore")
	w.check(err)
	_, err = w.Restore(t.Context(), p, quietly)
	if err == nil || !strings.Contains(err.Error(), "module wiki1 is in use: held by process") {
		t.Errorf("Restore = %v", err)
	}
	held.Release()
	w.nothingLeft()
}

// A repository becomes a new module, which may read it through the gateway for that time only.
func TestAs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", nil)
	w.behindGateway(false)
	p := w.plan(func(r *Request) { r.As = "wiki2" })
	ask := func(user, password string) int {
		req, err := http.NewRequest(http.MethodGet, w.Config.Gateway.URL+"/archive/dokuwiki/"+wikiUUID+"/config", nil)
		w.check(err)
		req.SetBasicAuth(user, password)
		resp, err := http.DefaultClient.Do(req)
		w.check(err)
		resp.Body.Close()
		return resp.StatusCode
	}
	url, err := os.ReadFile(p.source.(*opened).LocationFile)
	w.check(err)
	secret := strings.TrimPrefix(string(url), "rest:http://wiki2:")
	secret, _, _ = strings.Cut(secret, "@")
	if code := ask("wiki2", secret); code != http.StatusOK {
		t.Errorf("with the grant: %d", code)
	}
	other, err := token.Store{Dir: w.Paths.Tokens}.New(token.Principal{Name: "wiki2", Grants: []token.Grant{{Destination: "archive", Repository: "dokuwiki/" + others, Mode: token.Add}}}, time.Now().Add(time.Hour))
	w.check(err)
	defer other.Remove()
	if code := ask("wiki2", other.Text); code != http.StatusForbidden {
		t.Errorf("without the grant: %d", code)
	}
	result, err := w.Restore(t.Context(), p, quietly)
	if err != nil || result.Added != filepath.Join(w.dir, "etc/wiki2.toml") || result.As != "wiki2" {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	p.Close()
	if code := ask("wiki2", secret); code != http.StatusUnauthorized {
		t.Errorf("after the end: %d", code)
	}
	w.reload("nothing", "")
	m := w.Config.Modules["wiki2"]
	if m == nil || m.Type != "dokuwiki" || m.UUID == wikiUUID || m.Directory != filepath.Join(w.dir, "out/new") || len(m.Include) != 1 {
		t.Fatalf("the new module is %+v", m)
	}
	sameTree(t, tree(t, filepath.Join(m.Directory, m.Include[0])), tree(t, filepath.Join(w.data, "data")))

	// In place of the new one, path by path.
	before := tree(t, w.data)
	w.check(os.WriteFile(filepath.Join(m.Directory, m.Include[0], "more"), nil, 0o600))
	result, err = w.Restore(t.Context(), w.plan(func(r *Request) { inPlace(r); r.As = "wiki2" }), quietly)
	if err != nil || !result.Verified {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	sameTree(t, tree(t, filepath.Join(m.Directory, m.Include[0])), tree(t, filepath.Join(w.data, "data")))
	sameTree(t, tree(t, w.data), before)

	for as, want := range map[string]string{"wiki1": "is the one that was saved", "../x": "cannot be the ID", "wiki3": "it has no place"} {
		if _, err := w.Check(t.Context(), w.request(func(r *Request) { inPlace(r); r.As = as })); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--as %s: %v; want %q", as, err, want)
		}
	}
}

// A new module's user is not given what would let it be somebody else.
func TestAsPrivileges(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", nil)
	w.reload(`include = ["data"]`, "include = [\"data\"]\nuser = \"nobody\"")
	as := func(r *Request) { r.As = "wiki2" }
	p, err := w.Check(t.Context(), w.request(as))
	w.check(err)
	defer p.Close()
	if data, _ := json.Marshal(p.Blocked()); !strings.Contains(string(data), "with the rights of another user than nobody") {
		t.Errorf("a setuid file of root's would come to nobody: %s", data)
	}
	if q := w.plan(func(r *Request) { as(r); r.Only = []string{"data/first"} }); len(q.Blocked()) > 0 {
		t.Errorf("a plain file is refused: %+v", q.Blocked())
	}
	w.reload(`user = "nobody"`, `user = "nobody-of-that-name"`)
	q, err := w.Check(t.Context(), w.request(as))
	w.check(err)
	defer q.Close()
	if data, _ := json.Marshal(q.Blocked()); !strings.Contains(string(data), "there is no user nobody-of-that-name") {
		t.Errorf("a user that is missing is told as %s", data)
	}
}

// However many there are, none is passed over.
func TestBeyond(t *testing.T) {
	nobody := module.User{Name: "nobody", UID: 65534, GID: 65534, Groups: []uint32{100}}
	file := func(mode os.FileMode, uid, gid uint32) restic.Node {
		return restic.Node{Type: "file", Path: "/x/a", Mode: mode, UID: uid, GID: gid}
	}
	for _, c := range []struct {
		node restic.Node
		want bool
	}{
		{file(0o755, 0, 0), false},
		{file(os.ModeSetuid|0o755, 65534, 0), false},
		{file(os.ModeSetuid|0o755, 0, 65534), true},
		{file(os.ModeSetgid|0o755, 0, 100), false},
		{file(os.ModeSetgid|0o755, 65534, 0), true},
		{restic.Node{Type: "chardev", Path: "/x/a"}, true},
		{restic.Node{Type: "dev", Path: "/x/a"}, true},
		{restic.Node{Type: "dir", Path: "/x/a", Mode: os.ModeDir | os.ModeSetgid}, false},
	} {
		var all counts
		for range 20000 {
			all.place(file(os.ModeSetuid|0o755, 65534, 65534), []string{"/x"}, &nobody)
		}
		all.place(c.node, []string{"/x"}, &nobody)
		if (all.beyond != "") != c.want {
			t.Errorf("%+v is refused: %q; want %v", c.node, all.beyond, c.want)
		}
	}
}

// A folder that has our name, and is not ours, is not removed, whenever it is made.
func TestInPlaceForeign(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", nil)
	for _, name := range []string{module.StagePrefix + "wiki1", module.ReplacedPrefix + "wiki1-x"} {
		w.write(filepath.Join("wiki1/data", name, "precious"), "") // in what is replaced: they are no part of it
	}
	w.write("wiki1/"+module.StagePrefix+"wiki1/precious", "")
	_, err := w.Restore(t.Context(), w.plan(inPlace), quietly)
	if err == nil || !strings.Contains(err.Error(), "of which no journal knows") || !strings.Contains(Remedy(err), "look into it, and remove it") {
		t.Errorf("Restore = %v (%s)", err, Remedy(err))
	}
	if _, err := os.Stat(filepath.Join(w.data, module.StagePrefix+"wiki1/precious")); err != nil {
		t.Error(err)
	}
	w.check(os.RemoveAll(filepath.Join(w.data, module.StagePrefix+"wiki1")))

	// Somebody makes it when the journal is written.
	p := w.plan(inPlace)
	j, err := w.journal(p)
	w.check(err)
	w.check(w.journals().Save(j))
	w.write("wiki1/"+module.StagePrefix+"wiki1/precious", "")
	if err := p.stage(t.Context(), j, new(Result), quietly); err == nil || len(j.Stages) != 0 {
		t.Errorf("stage = %v; the journal would remove %v", err, j.Stages)
	}
	w.check(w.journals().Save(j))
	if _, err := w.journals().Recover(t.Context(), "wiki1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(w.data, module.StagePrefix+"wiki1/precious")); err != nil {
		t.Error(err)
	}
	w.check(os.RemoveAll(filepath.Join(w.data, module.StagePrefix+"wiki1")))

	result, err := w.Restore(t.Context(), w.plan(inPlace), quietly)
	if err != nil || result.Kept != 2 {
		t.Errorf("Restore = %+v, %v", result, err)
	}
	if _, err := os.Stat(filepath.Join(w.data, "data", module.ReplacedPrefix+"wiki1-x/precious")); err != nil {
		t.Error(err)
	}
}

// When nothing could be put back, nobody is told that nothing was touched.
func TestInPlaceAdvice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", nil)
	w.reload(`include = ["data"]`, `include = ["data"]
restore-state = ["sh", "-c", "mv $PWD $PWD.away; mkdir $PWD; exit 1"]`)
	w.write("wiki1/data/first", "changed")
	before := tree(t, w.data)
	result, err := w.Restore(t.Context(), w.plan(inPlace), quietly)
	if err == nil || result.RolledBack || !strings.HasPrefix(Remedy(err), "what is live may be half restored and its units are stopped: restore-backup recover wiki1") {
		t.Errorf("Restore = %+v, %v (%s)", result, err, Remedy(err))
	}
	if list, err := w.Recover(t.Context(), "wiki1"); err == nil || len(list) != 1 || list[0].RolledBack {
		t.Errorf("Recover = %+v, %v", list, err)
	}
	w.check(os.Remove(w.data))
	w.check(os.Rename(w.data+".away", w.data))
	if list, err := w.Recover(t.Context(), "wiki1"); err != nil || len(list) != 1 || !list[0].RolledBack {
		t.Errorf("Recover = %+v, %v", list, err)
	}
	sameTree(t, tree(t, w.data), before)
	w.nothingLeft()
}

// Nobody guesses which path is which.
func TestAsOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	for _, name := range []string{"one", "two"} {
		w.write("wiki1/"+name+"/name", name)
		w.write("wiki2/"+name+"/name", "empty")
	}
	r := w.repository(wikiUUID)
	w.check(os.CopyFS(r.Location, os.DirFS(emptyRepository(t))))
	_, err := r.Backup(t.Context(), restic.Source{
		Host: "web1", Tags: []string{"module=wiki1", "backup=1", "run=r1", "files"}, Paths: []string{filepath.Join(w.data, "two"), filepath.Join(w.data, "one")},
	}, nil)
	w.check(err)
	w.reload(`include = ["data"]`, `include = ["two", "one"]
[module.wiki2]
type = "dokuwiki"
uuid = "11111111-2222-4333-8444-555555555555"
directory = "`+w.dir+`/wiki2"
include = ["two", "one"]`)
	as := func(r *Request) { inPlace(r); r.As = "wiki2" }
	_, err = w.Restore(t.Context(), w.plan(as), quietly)
	w.check(err)
	for _, name := range []string{"one", "two"} {
		if got, err := os.ReadFile(filepath.Join(w.dir, "wiki2", name, "name")); err != nil || string(got) != name {
			t.Errorf("%s is %q, %v", name, got, err)
		}
	}
	// When the one that was saved is not in the configuration any more.
	p, err := w.Check(t.Context(), w.request(func(r *Request) { as(r); r.Module = nil }))
	w.check(err)
	defer p.Close()
	if data, _ := json.Marshal(p.Blocked()); !strings.Contains(string(data), "cannot be told apart") {
		t.Errorf("problems = %s", data)
	}
}
