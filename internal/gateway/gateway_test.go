package gateway

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/token"
)

// fixture is a gateway with its configuration, and clients of it.
type fixture struct {
	*testing.T
	dir    string
	server *Server
	http   *httptest.Server
	log    *bytes.Buffer
}

// kinds are the kinds of destinations that every test of behaviour goes through: [destination.archive] of each.
var kinds = []string{"local", "rclone"}

// newFixture starts a gateway with a destination "archive" of the kind, and the modules wiki1 (own) and wiki2 (other).
func newFixture(t *testing.T, kind, more string) *fixture {
	t.Helper()
	if _, err := exec.LookPath("rclone"); err != nil && kind == "rclone" {
		t.Fatalf("these tests need rclone: %v", err)
	}
	f := &fixture{T: t, dir: t.TempDir(), log: new(bytes.Buffer)}
	for _, dir := range []string{"repo", "config", "files"} {
		if err := os.Mkdir(filepath.Join(f.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	f.write("password", "correct horse\n")
	f.write("rclone.conf", "[archive]\ntype = alias\nremote = "+f.dir+"/repo\n")
	repository := f.dir + "/repo"
	keys := ""
	if kind == "rclone" {
		repository, keys = "rclone:archive:", "rclone-config = \""+f.dir+"/rclone.conf\"\n"
	}
	f.configure(fmt.Sprintf(`
node.name = "web1"
[destination.archive]
repository = %q
password-file = %q
gateway = true
%s%s
[module.wiki1]
type = "dokuwiki"
uuid = %q
include = ["/srv"]
[module.wiki2]
type = "dokuwiki"
uuid = %q
include = ["/srv"]
[backup.1]
schedule = "daily"
destination = "archive"
modules = ["wiki1", "wiki2"]
retention = 7
`, repository, f.dir+"/password", keys, more, strings.TrimPrefix(own, "dokuwiki/"), strings.TrimPrefix(other, "dokuwiki/")))
	f.server = &Server{
		Paths:  config.Paths{Config: []string{f.dir + "/config"}, State: f.dir + "/state", Tokens: f.dir + "/run/tokens"},
		Getenv: func(string) string { return "" }, Log: slog.New(slog.NewTextHandler(writerOf{f}, nil)),
	}
	f.http = httptest.NewUnstartedServer(f.server)
	f.http.Config.ConnContext = ConnContext
	f.http.Start()
	t.Cleanup(func() {
		f.http.Close()
		f.server.Close()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", f.log)
		}
	})
	return f
}

// writerOf collects the log; slog's handlers write one record at a time.
type writerOf struct{ *fixture }

func (w writerOf) Write(p []byte) (int, error) { return w.log.Write(p) }

func (f *fixture) write(name, text string) {
	f.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) configure(text string) { f.write("config/test.toml", text) }

// as makes a run token and returns "NAME:TOKEN"; mode "" is the node's.
func (f *fixture) as(name string, mode token.Mode, repositories ...string) string {
	f.Helper()
	p := token.Principal{Name: name, Node: mode == ""}
	for _, r := range repositories {
		p.Grants = append(p.Grants, token.Grant{Destination: "archive", Repository: r, Mode: mode})
	}
	made, err := token.Store{Dir: f.server.Paths.Tokens}.New(p, time.Now().Add(time.Hour))
	if err != nil {
		f.Fatal(err)
	}
	return name + ":" + made.Text
}

// ask makes a request and returns the code and the body of its answer.
func (f *fixture) ask(login, method, path string, body string, header ...string) (int, string) {
	f.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, f.http.URL+path, reader)
	if err != nil {
		f.Fatal(err)
	}
	if name, secret, ok := strings.Cut(login, ":"); ok {
		req.SetBasicAuth(name, secret)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		f.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// rest is ask by restic's protocol; it fails the test when the code is another one.
func (f *fixture) rest(want int, login, method, path, body string) string {
	f.Helper()
	code, text := f.ask(login, method, path, body, "Accept", v2)
	if code != want {
		f.Errorf("%s %s: %d %s; want %d", method, path, code, strings.TrimSpace(text), want)
	}
	return text
}

func name(content string) string {
	sum := sha256.Sum256([]byte(content))
	return hex.EncodeToString(sum[:])
}

// restic runs the real one on the repository.
func (f *fixture) restic(login, repository string, args ...string) (string, error) {
	f.Helper()
	out, err := f.command(login, repository, args...).CombinedOutput()
	return string(out), err
}

func (f *fixture) command(login, repository string, args ...string) *exec.Cmd {
	base := "rest:" + strings.Replace(f.http.URL, "http://", "http://"+login+"@", 1) + "/archive/" + repository + "/"
	cmd := exec.Command("restic", append([]string{"--no-cache", "-r", base}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD_FILE="+f.dir+"/password")
	return cmd
}

func (f *fixture) mustRestic(login, repository string, args ...string) string {
	f.Helper()
	out, err := f.restic(login, repository, args...)
	if err != nil {
		f.Fatalf("restic %v: %v\n%s", args, err, out)
	}
	return out
}

// refused runs restic until it is told 403; it would try again for a minute.
func (f *fixture) refused(login, repository string, args ...string) {
	f.Helper()
	cmd := f.command(login, repository, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		f.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		f.Fatal(err)
	}
	var text strings.Builder
	for lines := bufio.NewScanner(out); lines.Scan(); {
		text.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "403") {
			_ = cmd.Process.Signal(os.Interrupt) // then it removes its lock
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
			return
		}
	}
	f.Errorf("restic %v was not refused: %v\n%s", args, cmd.Wait(), text.String())
}

// tree lists what is in a folder, but for locks, with sizes.
func (f *fixture) tree(dir string) string {
	f.Helper()
	var b strings.Builder
	err := filepath.WalkDir(filepath.Join(f.dir, dir), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Base(filepath.Dir(path)) == "locks" {
			return err
		}
		info, err := e.Info()
		if err == nil {
			fmt.Fprintln(&b, strings.TrimPrefix(path, f.dir), info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		f.Fatal(err)
	}
	return b.String()
}

// The whole life of a repository: the module saves, the node forgets and prunes, and what is restored is the same.
func TestRestic(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, kind, "")
			module, prune := f.as("wiki1", token.Add, own), f.as("wiki1", token.All, own)
			big := bytes.Repeat([]byte("all work and no play makes jack a dull boy\n"), 50000)
			f.write("files/a", "one\n")
			f.write("files/b", string(big))
			f.mustRestic(module, own, "init", "--repository-version", "1") // so that there is something to migrate
			f.mustRestic(module, own, "backup", f.dir+"/files")
			f.write("files/a", "two\n")
			f.mustRestic(module, own, "backup", f.dir+"/files")
			f.mustRestic(module, own, "check", "--read-data")

			// What restic itself would do beyond adding is refused, and changes nothing.
			before := f.tree("repo/" + own)
			for _, args := range [][]string{
				{"forget", "--keep-last", "1", "--prune"},
				{"forget", "latest"},
				{"key", "add", "--new-password-file", f.dir + "/password"},
				{"migrate", "upgrade_repo_v2"},
				{"tag", "--add", "x"},
			} {
				f.refused(module, own, args...)
			}
			after := f.tree("repo/" + own)
			for line := range strings.Lines(before) { // "tag" adds a snapshot before it would remove the old one
				if !strings.Contains(after, line) {
					t.Errorf("%s is gone, or another one, after what a module must not do", strings.TrimSpace(line))
				}
			}
			if out := f.mustRestic(module, own, "snapshots", "--json"); strings.Count(out, `"short_id"`) < 2 {
				t.Errorf("snapshots = %s; want both", out)
			}
			f.mustRestic(module, own, "check")

			// Retention may.
			f.mustRestic(prune, own, "forget", "--keep-last", "1", "--prune")
			f.mustRestic(module, own, "check", "--read-data")
			f.mustRestic(module, own, "restore", "latest", "--target", f.dir+"/restored")
			for file, want := range map[string][]byte{"a": []byte("two\n"), "b": big} {
				got, err := os.ReadFile(filepath.Join(f.dir, "restored", f.dir, "files", file))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("restored %s: %v, %d bytes; want %d", file, err, len(got), len(want))
				}
			}

			// The layout is restic's own, so it can be used without the gateway, too.
			cmd := exec.Command("restic", "--no-cache", "-r", filepath.Join(f.dir, "repo", own), "snapshots")
			cmd.Env = append(os.Environ(), "RESTIC_PASSWORD_FILE="+f.dir+"/password")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("restic on the folder: %v\n%s", err, out)
			}
			// Another module's is out of reach.
			f.refused(module, other, "init")
		})
	}
}

// Every way to do more than add, by hand.
func TestModuleCannot(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			module, node := f.as("wiki1", token.Add, own), f.as("web1", "")
			top := "/archive/" + own
			f.rest(200, module, "POST", top+"/?create=true", "")
			f.rest(200, module, "POST", top+"/keys/"+name("key"), "key")
			f.rest(200, module, "POST", top+"/config", "config")
			for _, kind := range allTypes[:2] {
				f.rest(200, module, "POST", top+"/"+kind+"/"+name("content"), "content")
			}
			f.rest(200, module, "POST", top+"/locks/"+name("lock"), "lock")
			f.rest(200, module, "POST", top+"/snapshots/"+name("content"), "content")
			f.rest(200, node, "POST", "/archive/"+other+"/?create=true", "")

			// Once more the same, and other content under its name.
			f.rest(200, module, "POST", top+"/data/"+name("content"), "content")
			f.rest(403, module, "POST", top+"/data/"+name("content"), "another")
			f.rest(403, module, "POST", top+"/data/"+name("content"), "content and more")
			f.rest(200, module, "POST", top+"/config", "config")
			f.rest(403, module, "POST", top+"/config", "another config")
			f.rest(403, node, "POST", top+"/config", "another")
			f.rest(403, node, "POST", top+"/data/"+name("content"), "another")
			if got := f.rest(200, module, "GET", top+"/data/"+name("content"), ""); got != "content" {
				t.Errorf("content = %q", got)
			}
			// A blob that is not what its name says.
			f.rest(400, module, "POST", top+"/data/"+name("new"), "not it")
			f.rest(404, module, "GET", top+"/data/"+name("new"), "")
			f.rest(400, module, "POST", top+"/index/"+name(""), "not empty")

			for path, code := range map[string]int{
				"/config": 403, "/keys/" + name("key"): 403, "/data/" + name("content"): 403, "/index/" + name("content"): 403, "/snapshots/" + name("content"): 403,
				"/": 403, "/data/": 403, "/locks/": 403, "/locks/../data/" + name("content"): 404, "/locks/%2e%2e/data/" + name("content"): 404,
				"/locks%2f..%2fdata%2f" + name("content"): 404, "//locks/" + name("lock"): 404, "/x/../locks/" + name("lock"): 404,
			} {
				f.rest(code, module, "DELETE", top+path, "")
			}
			f.rest(403, module, "POST", top+"/keys/"+name("second key"), "second key")
			f.rest(200, module, "DELETE", top+"/locks/"+name("lock"), "")
			f.rest(404, module, "GET", top+"/locks/"+name("lock"), "")

			// Elsewhere.
			for _, path := range []string{
				"/archive/" + other + "/config", "/archive/" + other + "/data/", "/archive/dokuwiki/config", "/archive/" + own + "x/config", "/bucket/" + own + "/config",
			} {
				f.rest(403, module, "GET", path, "")
			}
			for _, path := range []string{"/archive/config", "/archive/data/keys/config", "/archive/../archive/" + own + "/config"} {
				f.rest(404, module, "GET", path, "")
			}
			// By WebDAV a module reads, and that is all.
			for _, method := range []string{"PUT", "DELETE", "MKCOL", "MOVE", "COPY", "PROPPATCH", "LOCK", "POST", "PATCH"} {
				code, _ := f.ask(module, method, top+"/data/x", "", "Destination", f.http.URL+top+"/y")
				if code != 403 {
					t.Errorf("%s by WebDAV: %d; want 403", method, code)
				}
			}
			// The query that tells restic's protocol is no way around it.
			if code, _ := f.ask(module, "DELETE", top+"/config?create=true", ""); code != 403 {
				t.Errorf("DELETE with create=true: %d; want 403", code)
			}
			for _, login := range []string{"", "wiki1:x", "wiki2:" + strings.SplitN(module, ":", 2)[1], "web1/../wiki1:x", ":x"} {
				f.rest(401, login, "GET", top+"/config", "")
			}
			if code, text := f.ask(module, "GET", top+"/config", "", "Accept", v2); code != 200 || text != "config" {
				t.Errorf("config: %d %q", code, text)
			}
		})
	}
}

func TestGrants(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			f := newFixture(t, kind, "")
			module, restore, all := f.as("wiki1", token.Add, own), f.as("wiki1", token.Read, own), f.as("wiki1", token.All, own)
			top := "/archive/" + own
			f.rest(403, restore, "POST", top+"/?create=true", "")
			f.rest(200, module, "POST", top+"/?create=true", "")
			f.rest(200, module, "POST", top+"/config", "config")
			f.rest(200, restore, "GET", top+"/config", "")
			f.rest(403, restore, "POST", top+"/data/"+name("x"), "x")
			f.rest(200, restore, "POST", top+"/locks/"+name("x"), "x")
			f.rest(200, restore, "DELETE", top+"/locks/"+name("x"), "")
			f.rest(200, module, "POST", top+"/data/"+name("x"), "x")
			f.rest(403, restore, "DELETE", top+"/data/"+name("x"), "")
			f.rest(200, all, "DELETE", top+"/data/"+name("x"), "")
			f.rest(200, all, "DELETE", top+"/data/"+name("x"), "") // what is not there is as good as deleted
			f.rest(404, module, "GET", top+"/data/"+name("x"), "")
			f.rest(403, all, "DELETE", top+"/", "")
		})
	}
}

// What is logged of a request is a line of the combined log format, whatever the client calls itself.
func TestAccessLog(t *testing.T) {
	f := newFixture(t, "local", "")
	var lines bytes.Buffer
	f.server.AccessLog = &lines
	who := f.as("wiki1", token.Add, own)
	f.rest(200, who, "POST", "/archive/"+own+"/?create=true", "")
	req, err := http.NewRequestWithContext(t.Context(), "GET", f.http.URL+"/archive/%22%0a/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", `a "quoted" one`)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	f.http.Close() // waits until all is said
	want := regexp.MustCompile(`^127\.0\.0\.1 - wiki1 \[[^]]+\] "POST /archive/` + own + `/\?create=true HTTP/1\.1" 200 \d+ "" "[^"]*"
127\.0\.0\.1 - - \[[^]]+\] "GET /archive/%22%0a/ HTTP/1\.1" 401 \d+ "" "a \\"quoted\\" one"
$`)
	if !want.Match(lines.Bytes()) {
		t.Errorf("the access log is\n%s", lines.Bytes())
	}
}
