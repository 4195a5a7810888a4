package restore

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
)

const (
	wikiUUID   = "3792c7db-9450-4bd3-84a3-034cd0087839"
	removed    = "4792c7db-9450-4bd3-84a3-034cd0087839"
	others     = "5792c7db-9450-4bd3-84a3-034cd0087839"
	brokenUUID = "5892c7db-9450-4bd3-84a3-034cd0087839"
	password   = "planted-password-5Vn"
)

// emptyRepository returns a repository that was made once: that is slow, and so is every call of restic.
func emptyRepository(t *testing.T) string {
	t.Helper()
	dir, err := madeOnce()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var madeOnce = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(scratch, "empty")
	r := restic.Repository{
		Location: filepath.Join(dir, "repository"), PasswordFile: filepath.Join(dir, "password"), CacheDir: filepath.Join(dir, "cache"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if err := errors.Join(os.MkdirAll(r.Location, 0o700), os.WriteFile(r.PasswordFile, []byte(password+"\n"), 0o600)); err != nil {
		return "", err
	}
	return r.Location, r.Init(context.Background())
})

// scratch is a folder for what the tests share.
var scratch string

func TestMain(m *testing.M) {
	if dir := os.Getenv("RESTORE_IN_PLACE"); dir != "" {
		os.Exit(child(dir))
	}
	var err error
	if scratch, err = os.MkdirTemp("", "restore-test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(scratch)
	os.Exit(code)
}

// world is a machine with a configuration, a destination and a module.
type world struct {
	*Restorer
	t      *testing.T
	dir    string
	data   string // the module's directory
	prefix string // the destination's folder
	log    *bytes.Buffer
}

func newWorld(t *testing.T, extra string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, dir: dir, data: filepath.Join(dir, "wiki1"), prefix: filepath.Join(dir, "repo"), log: new(bytes.Buffer)}
	for _, d := range []string{"wiki1/data", "repo", "etc", "out"} {
		w.check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	w.write("password", password+"\n")
	w.check(os.WriteFile(filepath.Join(dir, "etc/web.toml"), []byte(fmt.Sprintf(`
[node]
name = "web1"
[destination.archive]
repository = "%[1]s/repo"
password-file = "%[1]s/password"
%[2]s
[module.wiki1]
type = "dokuwiki"
uuid = "%[3]s"
directory = "%[1]s/wiki1"
include = ["data"]
[backup.1]
schedule = "daily"
destination = "archive"
modules = ["wiki1"]
retention = 7
`, dir, extra, wikiUUID)), 0o600))
	w.check(os.Mkdir(filepath.Join(dir, "run"), 0o700))
	w.Restorer = restorer(dir, w.log)
	for _, p := range w.Config.Errors() {
		t.Fatal(p)
	}
	return w
}

// restorer works with the configuration of a world.
func restorer(dir string, log io.Writer) *Restorer {
	paths := config.UserPaths(func(key string) string {
		return map[string]string{"HOME": dir, "XDG_RUNTIME_DIR": filepath.Join(dir, "run")}[key]
	})
	paths.Config = []string{filepath.Join(dir, "etc")}
	return &Restorer{Config: config.Load(paths.Config, nil), Paths: paths, Getenv: os.Getenv, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil))}
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	w.check(os.MkdirAll(filepath.Dir(path), 0o755))
	w.check(os.WriteFile(path, []byte(text), 0o600))
}

func (w *world) repository(uuid string) restic.Repository {
	return restic.Repository{
		Location: filepath.Join(w.prefix, "dokuwiki", uuid), PasswordFile: filepath.Join(w.dir, "password"), CacheDir: filepath.Join(w.dir, "cache"),
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

// save saves the module's data as module-backup does, and returns the snapshot's ID.
func (w *world) save(uuid, host, runID string, dumps map[string]string) string {
	w.t.Helper()
	r := w.repository(uuid)
	if _, err := os.Stat(filepath.Join(r.Location, "config")); err != nil {
		w.check(os.CopyFS(r.Location, os.DirFS(emptyRepository(w.t))))
	}
	tags := []string{"module=wiki1", "backup=1", "run=" + runID}
	for name, text := range dumps {
		_, err := r.Backup(w.t.Context(), restic.Source{Host: host, Tags: append(tags, "dump="+name), Stdin: strings.NewReader(text), Name: name}, nil)
		w.check(err)
	}
	sum, err := r.Backup(w.t.Context(), restic.Source{Host: host, Tags: append(tags, "files"), Paths: []string{filepath.Join(w.data, "data")}}, nil)
	w.check(err)
	return sum.Snapshot
}

// request asks for the module.
func (w *world) request(change func(*Request)) Request {
	w.t.Helper()
	at, err := w.Find(w.t.Context(), "wiki1", "", "")
	w.check(err)
	req := Request{Repository: at, Target: filepath.Join(w.dir, "out", "new")}
	if change != nil {
		change(&req)
	}
	return req
}

// plan checks a request that nothing is wrong with.
func (w *world) plan(change func(*Request)) *Plan {
	w.t.Helper()
	p, err := w.Check(w.t.Context(), w.request(change))
	w.check(err)
	w.t.Cleanup(p.Close)
	if len(p.Problems) > 0 {
		w.t.Fatalf("problems: %+v", p.Problems)
	}
	return p
}

func quietly(Progress) {}

// odd are names that nobody expects, as a tree that restic saved once.
var odd = []string{"sp ace", "new\nline", "star*", "[a]", "not-utf8-\xff", "not-utf8-\xfe", `back\slash`, "-flag", "ü", "$HOME", "!x"}

func (w *world) fill() {
	w.t.Helper()
	data := filepath.Join(w.data, "data")
	for _, name := range odd {
		w.check(os.WriteFile(filepath.Join(data, name), []byte("in "+name), 0o640))
	}
	w.check(os.MkdirAll(filepath.Join(data, "sub\xff/deep"), 0o755))
	w.check(os.WriteFile(filepath.Join(data, "sub\xff/deep/page"), []byte("deep"), 0o644))
	w.check(os.WriteFile(filepath.Join(data, "empty"), nil, 0o444))
	w.check(os.WriteFile(filepath.Join(data, "first"), []byte("linked"), 0o600))
	w.check(os.Link(filepath.Join(data, "first"), filepath.Join(data, "second")))
	w.check(os.Symlink("/nowhere/at all", filepath.Join(data, "dangling")))
	w.check(os.WriteFile(filepath.Join(data, "setuid"), []byte("#!"), 0o755))
	w.check(os.Chmod(filepath.Join(data, "setuid"), 0o755|os.ModeSetuid))
	w.check(os.Mkdir(filepath.Join(data, "sticky"), 0o755))
	w.check(os.Chmod(filepath.Join(data, "sticky"), 0o777|os.ModeSticky))
	w.check(unix.Mkfifo(filepath.Join(data, "pipe"), 0o600))
	sparse, err := os.Create(filepath.Join(data, "sparse"))
	w.check(err)
	_, err = sparse.WriteAt([]byte("end"), 24<<20)
	w.check(errors.Join(err, sparse.Close()))
	old := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	w.check(os.Chtimes(filepath.Join(data, "first"), old, old))
	if os.Geteuid() == 0 {
		w.check(os.Lchown(filepath.Join(data, "star*"), 1234, 4321))
		w.check(os.Lchown(filepath.Join(data, "dangling"), 1234, 4321))
	}
}

// tree describes everything below a folder as far as it is to be kept.
func tree(t *testing.T, top string) map[string]string {
	t.Helper()
	all := map[string]string{}
	inodes := map[uint64]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, st := strings.TrimPrefix(path, top), info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d %v", info.Mode(), st.Uid, st.Gid, info.ModTime().UTC())
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if first := inodes[st.Ino]; first != "" {
				text += " linked to " + first
			}
			inodes[st.Ino] = name
			text += fmt.Sprintf(" %d %x", len(data), bytes.TrimRight(bytes.TrimLeft(data, "\x00"), "\x00"))
			if len(data) > 1<<20 && st.Blocks*512 < int64(len(data))/4 {
				text += " with holes"
			}
		case info.Mode()&os.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " to " + to
		}
		if name != "" {
			all[name] = text + attributes(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// attributes are the extended ones, without security.*.
func attributes(t *testing.T, path string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return ""
	}
	text := ""
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		value := make([]byte, 4096)
		if name == "" || strings.HasPrefix(name, "security.") {
			continue
		}
		m, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		text += fmt.Sprintf(" %s=%x", name, value[:m])
	}
	return text
}

func sameTree(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%q is\n%s; want\n%s", name, got[name], text)
		}
	}
	for name := range got {
		if want[name] == "" {
			t.Errorf("%q was not saved", name)
		}
	}
}

// Everything that a file system keeps of files comes back, but for what is about the system that was saved.
func TestRestoreKeepsEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	first := filepath.Join(w.data, "data/first")
	w.check(unix.Lsetxattr(first, "user.colour", []byte("blue"), 0))
	// u::rw- u:1234:r-- g::r-- m::r-- o::---, acl(5) in the kernel's form.
	acl := []byte{2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 210, 4, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255}
	w.check(unix.Lsetxattr(filepath.Join(w.data, "data/setuid"), "user.x", []byte("y"), 0))
	withACL := unix.Lsetxattr(filepath.Join(w.data, "data/sp ace"), "system.posix_acl_access", acl, 0) == nil
	if os.Geteuid() == 0 {
		w.check(unix.Lsetxattr(first, "security.planted", []byte("x"), 0))
	}
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "CREATE TABLE t;\n", "roles, all": "x"})
	p := w.plan(func(r *Request) { r.Verify = true })
	result, err := w.Restore(t.Context(), p, quietly)
	if err != nil || !result.Complete || !result.Verified || result.ErrorCount != 0 || len(result.Snapshots) != 3 {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	target := filepath.Join(w.dir, "out/new")
	want := tree(t, filepath.Join(w.data, "data"))
	sameTree(t, tree(t, filepath.Join(target, w.data, "data")), want)
	if !strings.Contains(want["/sparse"], "with holes") {
		t.Error("this file system makes no holes")
	}
	if withACL && !strings.Contains(want["/sp ace"], "posix_acl_access") {
		t.Error("the ACL was not looked at")
	}
	if data, err := os.ReadFile(filepath.Join(target, "dumps/all.sql")); err != nil || string(data) != "CREATE TABLE t;\n" {
		t.Errorf("dump = %q, %v", data, err)
	}
	if n, err := unix.Lgetxattr(filepath.Join(target, w.data, "data/first"), "security.planted", make([]byte, 9)); err == nil {
		t.Errorf("security.planted came back, %d bytes", n)
	}
	if info, err := os.Stat(target); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the new folder has mode %v, %v; want 0700", info.Mode(), err)
	}
	for _, secret := range []string{password} {
		if text, _ := json.Marshal(result); strings.Contains(string(text)+w.log.String(), secret) {
			t.Error("the password is told")
		}
	}
	if locks, _ := os.ReadDir(filepath.Join(w.prefix, "dokuwiki", wikiUUID, "locks")); len(locks) != 0 {
		t.Errorf("%d locks are left", len(locks))
	}
	w.damaged(p)
}

func TestNeverOverLiveData(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.write("wiki1/data/page", "live")
	w.save(wikiUUID, "web1", "r1", nil)
	w.write("wiki1/data/page", "newer")
	for _, target := range []string{w.data, filepath.Join(w.data, "data/page"), filepath.Join(w.dir, "none/below")} {
		if _, problems := look(target); len(problems) == 0 || problems[0].Remedy == "" {
			t.Errorf("%s is taken, or without a remedy: %+v", target, problems)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(w.data, "data/page")); string(data) != "newer" {
		t.Errorf("page = %q", data)
	}
	// An empty folder will do, and has its mode again in the end.
	empty := filepath.Join(w.dir, "out/empty")
	w.check(os.Mkdir(empty, 0o750))
	w.check(os.Mkdir(filepath.Join(empty, "lost+found"), 0o700))
	_, err := w.Restore(t.Context(), w.plan(func(r *Request) { r.Target, r.Verify = empty, true }), quietly)
	w.check(err)
	if info, _ := os.Stat(empty); info.Mode().Perm() != 0o750 {
		t.Errorf("the folder has mode %v; want 0750", info.Mode())
	}
}

func TestOnlyPaths(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.write("wiki1/data/starlet", "must not come")
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "x"})
	only := []string{"data/star*", "data/[a]", "data/not-utf8-\xff", filepath.Join(w.data, "data/sub\xff"), "data/new\nline", `data/back\slash`, "data/$HOME", "all.sql"}
	result, err := w.Restore(t.Context(), w.plan(func(r *Request) { r.Only, r.Verify = only, true }), quietly)
	if err != nil || !result.Verified {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	var got []string
	for name := range tree(t, result.Target) {
		if below, ok := strings.CutPrefix(name, w.data+"/data"); ok || strings.HasPrefix(name, "/dumps") {
			got = append(got, below)
		}
	}
	slices.Sort(got)
	want := []string{
		"", "/$HOME", "/[a]", `/back\slash`, "/dumps", "/dumps/all.sql", "/new\nline", "/not-utf8-\xff", "/star*", "/sub\xff", "/sub\xff/deep", "/sub\xff/deep/page",
	}
	if !slices.Equal(got, want) {
		t.Errorf("restored %q; want %q", got, want)
	}
	p, err := w.Check(t.Context(), w.request(func(r *Request) { r.Only, r.Target = []string{"data/none"}, w.dir+"/out/x" }))
	w.check(err)
	defer p.Close()
	if len(p.Problems) != 1 || !strings.Contains(p.Problems[0].Text, "has no data/none") {
		t.Errorf("problems = %+v", p.Problems)
	}
}

// Only what is asked for is compared with what is there.
func TestDryRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.write("wiki1/data/page", "old")
	w.save(wikiUUID, "web1", "r1", nil)
	w.compares("wiki1", func(only ...string) *Plan { return w.plan(func(r *Request) { r.Only = only }) })
}

// compares changes what is there, and looks what dry runs make of that.
func (w *world) compares(name string, plan func(only ...string) *Plan) {
	t := w.t
	t.Helper()
	live, err := w.DryRun(t.Context(), plan())
	if err != nil || live.Live == nil || live.Live.New.Count+live.Live.Changed.Count+live.Live.Gone.Count != 0 || live.Live.Same.Count < 15 {
		t.Fatalf("DryRun = %+v, %v; want all the same", live.Live, err)
	}
	w.write(name+"/data/page", "newer")
	w.check(os.Remove(filepath.Join(w.data, "data/not-utf8-\xfe")))
	w.check(os.RemoveAll(filepath.Join(w.data, "data/sub\xff")))
	w.write(name+"/data/sub\xff", "a file now")
	w.check(os.Mkdir(filepath.Join(w.data, "data/more"), 0o755))
	w.write(name+"/data/more/one", "12345")
	w.check(os.Chmod(filepath.Join(w.data, "data/$HOME"), 0o600))
	live, err = w.DryRun(t.Context(), plan())
	w.check(err)
	for _, class := range []struct {
		name string
		got  Class
		n, b uint64
	}{
		{"new", live.Live.New, 3, 4 + uint64(len("in not-utf8-\xfe"))}, // the file, and what was in the folder
		{"changed", live.Live.Changed, 3, 3 + uint64(len("in $HOME"))}, // page, mode, folder
		{"gone", live.Live.Gone, 2, 5},
	} {
		if class.got.Count != class.n || class.got.Bytes != class.b {
			t.Errorf("%s = %+v; want %d of %d bytes", class.name, class.got, class.n, class.b)
		}
	}
	if _, err := os.Stat(filepath.Join(w.dir, "out/new")); err == nil {
		t.Error("a dry run has made the target")
	}
	live, err = w.DryRun(t.Context(), plan("data/page"))
	if err != nil || live.Files != 1 || live.Live.Changed.Count != 1 || live.Live.New.Count+live.Live.Gone.Count+live.Live.Same.Count != 0 {
		t.Errorf("DryRun of a page = %+v, %v", live.Live, err)
	}
}

// damaged: what is damaged after it was restored, or was never restored, is found.
func (w *world) damaged(p *Plan) {
	t := w.t
	top := filepath.Join(w.dir, "out/new", w.data, "data")
	w.check(os.Remove(filepath.Join(top, "new\nline")))
	w.check(os.Chmod(filepath.Join(top, "sticky"), 0o755))
	w.check(os.Truncate(filepath.Join(top, "ü"), 1))
	c, err := compareTarget(t.Context(), p.source, p.parts[0], filepath.Join(w.dir, "out/new"), []string{"dumps"})
	if err != nil || c.New.Count != 1 || c.Changed.Count != 3 || c.Gone.Count != 0 { // the folder's time, too
		t.Errorf("compareTarget = %+v, %v", c, err)
	}
}

// All that is wrong is told at once, in sentences with a remedy.
func TestAllProblemsAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.check(os.CopyFS(w.repository(wikiUUID).Location, os.DirFS(emptyRepository(t))))
	m := w.Config.Modules["wiki1"]
	m.User, m.Units = "no-such-user-here", []string{"no-such.service", "instance@1.service"}
	w.write("password", "another one\n")
	p, err := w.Check(t.Context(), w.request(func(r *Request) { r.Target = w.data }))
	w.check(err)
	defer p.Close()
	var texts []string
	for _, q := range p.Problems {
		texts = append(texts, q.Text)
		if q.Remedy == "" {
			t.Errorf("%q has no remedy", q.Text)
		}
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{"password does not open the repository dokuwiki/" + wikiUUID, "wiki1 is not empty", "there is no user no-such-user-here", "there is no no-such.service", "there is no instance@1.service"} {
		if !strings.Contains(all, want) {
			t.Errorf("problems:\n%s\nwant %q among them", all, want)
		}
	}
	if len(p.Blocked()) != 2 {
		t.Errorf("%d problems block a new folder; want 2", len(p.Blocked()))
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	at, err := w.Find(t.Context(), "wiki1", "", "")
	w.check(err)
	p, err := w.Check(t.Context(), Request{Repository: at})
	w.check(err)
	p.Close()
	if len(p.Problems) != 1 || !strings.HasPrefix(p.Problems[0].Text, "destination archive has no repository dokuwiki/") || strings.Contains(p.Problems[0].Text, "\n") {
		t.Errorf("problems = %+v", p.Problems)
	}
	for _, name := range []string{"none", "../x/y", "a/b/c", ""} {
		var mistake *UsageError
		if _, err := w.Find(t.Context(), name, "", ""); !errors.As(err, &mistake) {
			t.Errorf("Find(%q) = %v; want a mistake", name, err)
		}
	}
}

// A restore that is stopped says what is there, and leaves no restic.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	big := make([]byte, 1<<20)
	for i := range 32 {
		for j := 0; j < len(big); j += 8 {
			big[j], big[j+1], big[j+2] = byte(i), byte(j>>8), byte(j>>16)
		}
		w.check(os.WriteFile(filepath.Join(w.data, "data", fmt.Sprint(i)), big, 0o600))
	}
	w.save(wikiUUID, "web1", "r1", nil)
	p := w.plan(nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for t.Context().Err() == nil {
			if names, _ := filepath.Glob(filepath.Join(p.Target, w.data, "data/*")); len(names) > 0 {
				break
			}
		}
		cancel(errors.New("terminated"))
	}()
	result, err := w.Restore(ctx, p, quietly)
	if err == nil || !strings.Contains(err.Error(), "terminated") || result.Complete || result.ErrorCount != 1 {
		t.Fatalf("Restore = %+v, %v", result, err)
	}
	if !strings.Contains(Remedy(err), p.Target) {
		t.Errorf("remedy = %q; want what is there", Remedy(err))
	}
	if locks, _ := os.ReadDir(filepath.Join(w.prefix, "dokuwiki", wikiUUID, "locks")); len(locks) != 0 {
		t.Errorf("%d locks are left", len(locks))
	}
	if info, err := os.Stat(p.Target); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the unfinished folder: %v, %v; want mode 0700", info, err)
	}
}

// A folder is walked, and every repository in it is known by its own file, by its snapshots, or by the configuration.
func TestListLocal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.write("wiki1/data/page", "12345")
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "123"})
	w.save(removed, "web1", "r2", nil)
	w.save(others, "web2", "r3", nil)
	w.check(os.MkdirAll(filepath.Join(w.prefix, "dokuwiki", brokenUUID), 0o700))
	w.write("repo/dokuwiki/"+brokenUUID+"/config", "nonsense")
	w.check(os.MkdirAll(filepath.Join(w.prefix, "dokuwiki/empty"), 0o700))
	w.write("repo/dokuwiki/"+others+".json", `{"module":"wiki7","ui_name":"Far","node":"web7","success":true}`)
	list, err := w.List(t.Context(), ListOptions{Sizes: true})
	if err != nil || len(list.Repositories) != 4 || len(list.Errors) != 0 {
		t.Fatalf("List = %+v, %v", list, err)
	}
	for i, want := range []Found{
		{UUID: wikiUUID, Origin: Installed, Module: "wiki1", Node: "web1"},
		{UUID: removed, Origin: ThisNode, Module: "wiki1", Node: "web1"},
		{UUID: others, Origin: Foreign, Module: "wiki7", Node: "web7"},
		{UUID: brokenUUID, Origin: Foreign},
	} {
		got := list.Repositories[i]
		if got.UUID != want.UUID || got.Origin != want.Origin || got.Module != want.Module || got.Node != want.Node || (got.Error != "") != (i == 3) {
			t.Errorf("repository %d = %+v; want %+v", i, got, want)
		}
	}
	point := list.Repositories[0].Points[0]
	if n := point.Bytes(); len(point.Snapshots) != 2 || n == nil || *n != 8 {
		t.Errorf("point = %+v; want 8 bytes in two snapshots", point)
	}
	// What is not installed is found by the beginning of its UUID.
	at, err := w.Find(t.Context(), "dokuwiki/4792", "", "")
	if err != nil || at.UUID != removed || at.Module != nil {
		t.Errorf("Find = %+v, %v", at, err)
	}
	if _, err := w.Find(t.Context(), "dokuwiki/5", "", ""); err == nil || !strings.Contains(err.Error(), "more than one") {
		t.Errorf("Find of two = %v", err)
	}
	result, err := w.Restore(t.Context(), w.plan(func(r *Request) { r.Repository = at }), quietly)
	if err != nil || result.Module != "wiki1" || result.Files != 1 {
		t.Errorf("Restore of a removed module = %+v, %v", result, err)
	}
}

func TestListMissingDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.check(os.RemoveAll(w.prefix))
	if list, err := w.List(t.Context(), ListOptions{}); err == nil {
		t.Errorf("List = %+v; want an error", list)
	}
}

func TestBrowseAndCat(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "")
	w.fill()
	w.save(wikiUUID, "web1", "r1", map[string]string{"all.sql": "CREATE\n"})
	w.browses("wiki1")
}

// browses looks into a snapshot that has what fill makes, and the dump all.sql.
func (w *world) browses(name string) {
	t := w.t
	t.Helper()
	at, err := w.Find(t.Context(), name, "", "")
	w.check(err)
	for where, want := range map[string][]string{
		".":                                   {"/dumps/all.sql", w.data + "/data"},
		"data/empty":                          {w.data + "/data/empty"},
		filepath.Join(w.data, "data/sub\xff"): {w.data + "/data/sub\ufffd/deep"},
	} {
		var got []string
		err := w.Browse(t.Context(), at, Choice{}, where, false, func(e Entry) error { got = append(got, e.Path); return nil })
		slices.Sort(got)
		slices.Sort(want)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("Browse(%q) = %q, %v; want %q", where, got, err, want)
		}
	}
	if err := w.Browse(t.Context(), at, Choice{}, "data/none", false, func(Entry) error { return nil }); err == nil {
		t.Error("Browse of nothing did not fail")
	}
	n := 0
	w.check(w.Browse(t.Context(), at, Choice{}, "data/sticky/..", true, func(Entry) error { n++; return nil }))
	if n < 20 {
		t.Errorf("%d entries in data", n)
	}
	for where, want := range map[string]string{"data/star*": "in star*", "dumps/all.sql": "CREATE\n", filepath.Join(w.data, "data/ü"): "in ü"} {
		var b bytes.Buffer
		if err := w.Cat(t.Context(), at, Choice{}, where, &b); err != nil || b.String() != want {
			t.Errorf("Cat(%q) = %q, %v; want %q", where, b.String(), err, want)
		}
	}
	if err := w.Cat(t.Context(), at, Choice{}, "data/none", io.Discard); err == nil {
		t.Error("Cat of nothing did not fail")
	}
	// A folder is an archive, and what is listed is as it is on disk.
	var archive bytes.Buffer
	w.check(w.Cat(t.Context(), at, Choice{}, "data/sub\xff", &archive))
	top := filepath.Join(w.data, "data/sub\xff")[1:]
	names := map[string]string{}
	for from := tar.NewReader(&archive); ; {
		h, err := from.Next()
		if err == io.EOF {
			break
		}
		w.check(err)
		data, err := io.ReadAll(from)
		w.check(err)
		names[strings.TrimPrefix(h.Name, top)] = fmt.Sprintf("%04o %s", h.FileInfo().Mode().Perm(), data)
	}
	if len(names) != 2 || names["/deep/"] != "0755 " || names["/deep/page"] != "0644 deep" {
		t.Errorf("the archive has %q", names)
	}
	w.check(w.Browse(t.Context(), at, Choice{}, "data", true, func(e Entry) error {
		info, err := os.Lstat(e.Path)
		if err != nil { // its name is no UTF-8
			return nil
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.Mode() != e.Mode || st.Uid != e.UID || st.Gid != e.GID || !info.ModTime().Equal(e.MTime) || e.Type == "file" && uint64(info.Size()) != e.Size || e.Name != filepath.Base(e.Path) ||
			e.Type != types[info.Mode().Type()] || e.Snapshot == "" {
			t.Errorf("%+v; on disk %v %v %d:%d", e, info.Mode(), info.ModTime(), st.Uid, st.Gid)
		}
		return nil
	}))
}

func TestMetadataIsBounded(t *testing.T) {
	if m, err := readMetadata(strings.NewReader(`{"node":"` + strings.Repeat("x", maxMetadataBytes) + `"}`)); err == nil {
		t.Errorf("readMetadata = %+v", m)
	}
	var want run.Metadata
	if m, err := readMetadata(strings.NewReader(`{}`)); err != nil || *m != want {
		t.Errorf("readMetadata = %+v, %v", m, err)
	}
}
