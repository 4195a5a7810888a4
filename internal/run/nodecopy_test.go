package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/gateway"
	"sdbackup/internal/nodecopy"
	"sdbackup/internal/status"
)

const (
	nodeUUID   = "0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11"
	passphrase = "planted passphrase of the node"
)

// copier runs a backup of a configuration that is on disk, to a destination that a real gateway serves, or to a folder.
type copier struct {
	*testing.T
	dir    string
	top    string // of the destination
	paths  config.Paths
	script *script
	log    bytes.Buffer

	server *gateway.Server
	asked  atomic.Int64
	before func(n int64, w http.ResponseWriter, r *http.Request) bool // false: it has answered
}

func newCopier(t *testing.T, kind string, keepDeleted bool) *copier {
	t.Helper()
	c := &copier{T: t, dir: t.TempDir(), script: new(script)}
	c.top = filepath.Join(c.dir, "top")
	for _, dir := range []string{c.top, filepath.Join(c.dir, "etc")} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.paths = config.Paths{
		Config: []string{filepath.Join(c.dir, "etc")}, State: filepath.Join(c.dir, "state"), Lock: filepath.Join(c.dir, "lock"),
		Tokens: filepath.Join(c.dir, "run/tokens"), Cache: filepath.Join(c.dir, "cache"),
	}
	c.write("passphrase", passphrase+"\n")
	c.write("password", "planted restic password\n")
	c.write("rclone.conf", "[archive]\ntype = alias\nremote = "+c.top+"\n")
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := c.asked.Add(1); c.before == nil || c.before(n, w, r) {
			c.server.ServeHTTP(w, r)
		}
	}))
	repository, keys := c.top, ""
	switch kind {
	case "local":
		keys = "gateway = true\n"
	case "rclone":
		repository, keys = "rclone:archive:", fmt.Sprintf("rclone-config = %q\n", filepath.Join(c.dir, "rclone.conf"))
	}
	if keepDeleted {
		keys += "keep-deleted = \"1d\"\n"
	}
	c.write("etc/all.toml", fmt.Sprintf(`[node]
name = "web1"
uuid = %q
passphrase-file = %q
[gateway]
url = %q
[destination.archive]
repository = %q
password-file = %q
%s[module.a]
type = "wiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
include = ["/etc/hostname"]
[backup.1]
schedule = "daily"
destination = "archive"
modules = ["a"]
retention = 1
[backup.1.check]
schedule = "weekly"
`, nodeUUID, filepath.Join(c.dir, "passphrase"), front.URL, repository, filepath.Join(c.dir, "password"), keys))
	c.server = &gateway.Server{Paths: c.paths, Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)}
	t.Cleanup(func() { front.Close(); c.server.Close() })
	return c
}

func (c *copier) write(name, text string) {
	c.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

// run runs the job and returns what became of the copy.
func (c *copier) run(job string) (*status.NodeCopy, status.Run) {
	c.Helper()
	cfg := config.Load(c.paths.Config, nil)
	for _, p := range cfg.Errors() {
		c.Log(p)
	}
	r := &Runner{
		Config: cfg, Paths: c.paths, Store: status.Store{Dir: c.paths.State}, Start: c.script, Log: slog.New(slog.NewTextHandler(&c.log, nil)),
		Now: time.Now, Getenv: func(string) string { return "" }, Version: "test",
	}
	run, err := r.Backup(c.Context(), job)
	if err != nil {
		c.Fatal(err)
	}
	return run.NodeCopy, run
}

// want runs the backup, whose copy must end so.
func (c *copier) want(what string, written bool) {
	c.Helper()
	got, run := c.run("1")
	if got == nil || got.Outcome != status.Success || got.Written != written || run.Outcome != status.Success {
		c.Fatalf("%s: the copy is %+v, the run %s; want written = %v", what, got, run.Outcome, written)
	}
}

// open opens a file at the destination.
func (c *copier) open(name, passphrase string) (nodecopy.Copy, error) {
	f, err := os.Open(filepath.Join(c.top, name))
	if err != nil {
		return nodecopy.Copy{}, err
	}
	defer f.Close()
	return nodecopy.Decrypt(f, []byte(passphrase))
}

// comment tells copies apart: it is the last line of the configuration in one.
func comment(n nodecopy.Copy) string {
	for _, f := range n.Files {
		if filepath.Base(f.Path) == "all.toml" {
			lines := strings.Split(strings.TrimSpace(string(f.Data)), "\n")
			return lines[len(lines)-1]
		}
	}
	return ""
}

func (c *copier) edit(line string) {
	c.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "etc/all.toml"))
	if err != nil {
		c.Fatal(err)
	}
	c.write("etc/all.toml", string(data)+line+"\n")
}

func (c *copier) bytes() string {
	c.Helper()
	data, err := os.ReadFile(filepath.Join(c.top, nodecopy.FileName(nodeUUID)))
	if err != nil {
		c.Fatal(err)
	}
	return string(data)
}

var copierKinds = []struct {
	name, kind  string
	keepDeleted bool
}{{"folder", "", false}, {"local", "local", false}, {"local, keep-deleted", "local", true}, {"rclone", "rclone", false}, {"rclone, keep-deleted", "rclone", true}}

// A copy is there after a run, stays as it is while nothing changes, and is written again for every change.
func TestNodeCopy(t *testing.T) {
	for _, k := range copierKinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			c := newCopier(t, k.kind, k.keepDeleted)
			if got, _ := c.run("check@1"); got != nil {
				t.Errorf("a check has a copy: %+v", got)
			}
			c.want("first run", true)
			first := c.bytes()
			if n, err := c.open(nodecopy.FileName(nodeUUID), passphrase); err != nil || n.Manifest.Node.Name != "web1" || n.Manifest.Version != "test" {
				t.Fatalf("the copy is %+v, %v", n.Manifest, err)
			}
			c.want("second run", false)
			if c.bytes() != first {
				t.Error("a second run wrote the copy again")
			}
			c.edit("# changed")
			c.want("changed configuration", true)
			if n, err := c.open(nodecopy.FileName(nodeUUID), passphrase); err != nil || comment(n) != "# changed" {
				t.Errorf("the copy ends with %q, %v", comment(n), err)
			}
			c.write("passphrase", "another one\n")
			c.want("changed passphrase", true)
			if _, err := c.open(nodecopy.FileName(nodeUUID), "another one"); err != nil {
				t.Error(err)
			}
			c.want("unchanged again", false)
			if err := os.Remove(filepath.Join(c.top, nodecopy.FileName(nodeUUID))); err != nil {
				t.Fatal(err)
			}
			c.want("removed copy", true)
			if err := os.Truncate(filepath.Join(c.top, nodecopy.FileName(nodeUUID)), 100); err != nil {
				t.Fatal(err)
			}
			c.want("cut copy", true)
			if err := os.RemoveAll(filepath.Join(c.paths.State, "node-copy")); err != nil {
				t.Fatal(err)
			}
			c.want("lost note", true)
			entries, err := os.ReadDir(c.top)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.Name() != nodecopy.FileName(nodeUUID) && e.Name() != ".deleted" && e.Name() != "wiki" {
					t.Errorf("%s is left at the destination", e.Name())
				}
			}
			info, err := os.Stat(filepath.Join(c.paths.State, "node-copy/archive.json"))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the note: %v, %v", info, err)
			}
			note, _ := os.ReadFile(filepath.Join(c.paths.State, "node-copy/archive.json"))
			for _, text := range []string{c.log.String(), string(note)} {
				for _, secret := range []string{passphrase, "another one", "planted restic"} {
					if strings.Contains(text, secret) {
						t.Errorf("%q is in\n%s", secret, text)
					}
				}
			}
		})
	}
}

// Whenever the writer or the gateway dies, with the request done or not, one whole copy is there: the old one or the new one. And the
// next run mends all.
func TestNodeCopyCutAtEveryStep(t *testing.T) {
	for _, k := range copierKinds[2:] {
		for _, how := range []string{"half sent", "done, no answer"} {
			t.Run(k.name+", "+how, func(t *testing.T) {
				t.Parallel()
				c := newCopier(t, k.kind, k.keepDeleted)
				c.want("first run", true)
				for step := int64(1); ; step++ {
					if step > 20 {
						t.Fatal("there is no end of steps")
					}
					c.edit(fmt.Sprintf("# step %d", step))
					c.asked.Store(0)
					died := false
					c.before = func(n int64, w http.ResponseWriter, r *http.Request) bool {
						if strings.HasSuffix(r.URL.Path, ".json") || n < step {
							return true // what is beside the repository is not looked at
						}
						died = true
						switch {
						case n > step:
						case how == "half sent" && r.ContentLength > 0:
							r.Body = io.NopCloser(io.MultiReader(io.LimitReader(r.Body, r.ContentLength/2), cut{}))
							func() {
								defer func() { _ = recover() }()
								c.server.ServeHTTP(httptest.NewRecorder(), r)
							}()
						case how == "done, no answer":
							c.server.ServeHTTP(httptest.NewRecorder(), r)
						}
						panic(http.ErrAbortHandler)
					}
					got, run := c.run("1")
					c.before = nil
					if !died {
						break
					}
					if got == nil || got.Outcome != status.Failed || got.Error == "" || run.Outcome != status.Partial || run.Modules[0].Outcome != status.Success {
						t.Fatalf("step %d: the copy is %+v, the run %s of %+v; want a copy that failed and modules that are saved", step, got, run.Outcome, run.Modules)
					}
					whole := slices.ContainsFunc([]string{nodecopy.FileName(nodeUUID), nodecopy.StagedName(nodeUUID)}, func(name string) bool {
						_, err := c.open(name, passphrase)
						return err == nil
					})
					if !whole {
						t.Fatalf("step %d: no whole copy is left", step)
					}
					c.want(fmt.Sprintf("after step %d", step), true)
					n, err := c.open(nodecopy.FileName(nodeUUID), passphrase)
					if want := fmt.Sprintf("# step %d", step); err != nil || comment(n) != want {
						t.Fatalf("after step %d the copy ends with %q, %v", step, comment(n), err)
					}
					if _, err := os.Stat(filepath.Join(c.top, nodecopy.StagedName(nodeUUID))); !errors.Is(err, os.ErrNotExist) {
						t.Errorf("after step %d the staged one is left", step)
					}
				}
			})
		}
	}
}

// cut is a body that breaks off.
type cut struct{}

func (cut) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// What stands in the way of a copy is told, on record and in the log; the modules are saved. A stopped or broken run forgets nothing of it.
func TestNodeCopyFails(t *testing.T) {
	for name, spoil := range map[string]func(c *copier){
		"no folder":      func(c *copier) { os.RemoveAll(c.top) },
		"no passphrase":  func(c *copier) { os.Remove(filepath.Join(c.dir, "passphrase")) },
		"empty":          func(c *copier) { c.write("passphrase", "\n") },
		"open to others": func(c *copier) { os.Chmod(filepath.Join(c.dir, "passphrase"), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			c := newCopier(t, "", false)
			spoil(c)
			got, run := c.run("1")
			if got == nil || got.Outcome != status.Failed || got.Error == "" || run.Outcome != status.Partial || len(run.Modules) != 1 {
				t.Fatalf("the copy is %+v, the run %+v", got, run)
			}
			if text := c.log.String(); !strings.Contains(text, "the copy of this node's configuration at destination archive is not written") || strings.Contains(text, passphrase) {
				t.Errorf("the log says\n%s", text)
			}
			rec, err := status.Store{Dir: c.paths.State}.Backup("1")
			if err != nil || rec.NodeCopy == nil || rec.NodeCopy.Error != got.Error || !rec.LastNodeCopy.IsZero() {
				data, _ := json.Marshal(rec)
				t.Errorf("on record: %s, %v", data, err)
			}
		})
	}
}

// What is missing in a copy is told once, and again when it is something else.
func TestNodeCopyTellsOnceWhatIsMissing(t *testing.T) {
	c := newCopier(t, "", false)
	c.edit("[destination.other]\nrepository = \"/srv/other\"\npassword-credential = \"no-such-credential-here\"")
	told := func() int {
		n := strings.Count(c.log.String(), "no-such-credential-here is not in the copy")
		c.log.Reset()
		return n
	}
	c.want("first", true)
	if n := told(); n != 1 {
		t.Errorf("told %d times, want 1", n)
	}
	c.edit("# changed")
	c.want("second", true)
	if n := told(); n != 0 {
		t.Errorf("told %d times again", n)
	}
}

// Without a passphrase there is no copy and no word of it.
func TestNoNodeCopy(t *testing.T) {
	c := newCopier(t, "", false)
	data, _ := os.ReadFile(filepath.Join(c.dir, "etc/all.toml"))
	c.write("etc/all.toml", strings.Replace(string(data), "passphrase-file", "# passphrase-file", 1))
	got, run := c.run("1")
	if entries, _ := os.ReadDir(c.top); got != nil || len(entries) > 0 || run.Outcome != status.Success || strings.Contains(c.log.String(), "copy") {
		t.Errorf("the copy is %+v, at the destination are %v, the log says\n%s", got, entries, c.log.String())
	}
}

// A destination that only restic reaches takes none, which the configuration's check tells.
func TestNodeCopyOfRemote(t *testing.T) {
	c := newCopier(t, "", false)
	data, _ := os.ReadFile(filepath.Join(c.dir, "etc/all.toml"))
	c.write("etc/all.toml", strings.Replace(string(data), fmt.Sprintf("%q", c.top), `"s3:https://s3.example.org/bucket"`, 1))
	if got, run := c.run("1"); got != nil || run.Outcome != status.Success {
		t.Errorf("the copy is %+v", got)
	}
	warnings := config.Load(c.paths.Config, nil).Warnings()
	if !slices.ContainsFunc(warnings, func(p config.Problem) bool { return strings.Contains(p.Message, "no copy of the configuration") }) {
		t.Errorf("the warnings are %v", warnings)
	}
}

// Neither a drill nor a run of a configuration that another host has sent leaves a copy.
func TestNoNodeCopyOf(t *testing.T) {
	c := newCopier(t, "", false)
	c.edit("[module.a.drill]\nschedule = \"monthly\"")
	if got, run := c.run("drill@a"); got != nil || run.Outcome != status.Success {
		t.Errorf("drill: the copy is %+v, the run %s", got, run.Outcome)
	}
	sent, err := os.Open(c.paths.Config[0])
	if err != nil {
		t.Fatal(err)
	}
	defer sent.Close()
	c.paths.Config = []string{fmt.Sprintf("/proc/self/fd/%d", sent.Fd())}
	if got, run := c.run("1"); got != nil || run.Outcome != status.Success {
		t.Errorf("sent: the copy is %+v, the run %s", got, run.Outcome)
	}
}
