package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/webdav"

	"sdbackup/internal/config"
	"sdbackup/internal/gateway"
	"sdbackup/internal/token"
)

// changeTimeout is how long a running gateway may take to notice a change: far longer than it does.
const changeTimeout = 20 * time.Second

// served is a running gateway and the folder of its configuration.
type served struct {
	*testing.T
	config string
	url    string
	login  string
}

// serve starts a gateway that has no destinations.
func serve(t *testing.T) *served {
	t.Helper()
	dir := t.TempDir()
	paths := config.Paths{Config: []string{filepath.Join(dir, "etc")}, State: filepath.Join(dir, "state"), Tokens: filepath.Join(dir, "tokens")}
	made, err := token.Store{Dir: paths.Tokens}.New(token.Principal{Name: "node", Node: true}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	server := &gateway.Server{Paths: paths, Getenv: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)}
	front := httptest.NewServer(server)
	t.Cleanup(func() {
		front.Close()
		server.Close()
	})
	return &served{T: t, config: paths.Config[0], url: front.URL, login: made.Text}
}

// must runs a command that has to do what it is to do.
func (s *served) must(stdin string, args ...string) string {
	s.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(strings.NewReader(stdin), &stdout, &stderr, append([]string{"--config", s.config}, args...)...); code != 0 {
		s.Fatalf("%v: %d, %s", args, code, stderr.String())
	}
	return stdout.String()
}

// ask makes a request of restic's protocol.
func (s *served) ask(method, path, body string) (int, string) {
	s.Helper()
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	req.SetBasicAuth("node", s.login)
	req.Header.Set("Accept", "application/vnd.x.restic.rest.v2")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// want makes a request whose answer is known.
func (s *served) want(code int, method, path, body string) {
	s.Helper()
	if got, text := s.ask(method, path, body); got != code {
		s.Errorf("%s %s: %d %s; want %d", method, path, got, strings.TrimSpace(text), code)
	}
}

// becomes asks until the gateway has noticed a change.
func (s *served) becomes(code int, method, path string) {
	s.Helper()
	for end := time.Now().Add(changeTimeout); ; {
		got, text := s.ask(method, path, "")
		if got == code {
			return
		}
		if time.Now().After(end) {
			s.Fatalf("%s %s: still %d %s; want %d", method, path, got, strings.TrimSpace(text), code)
		}
	}
}

const repository = "dokuwiki/3792c7db-9450-4bd3-84a3-034cd0087839"

// TestGatewayNotices: what is added is served at the next request, what is removed no longer, and nothing is started again.
func TestGatewayNotices(t *testing.T) {
	s := serve(t)
	folder := t.TempDir()
	top := "/archive/" + repository + "/"
	s.want(http.StatusNotFound, "HEAD", top+"config", "")
	s.must("", "add", "archive", "--provider=local", "--path="+folder, "--gateway")
	s.want(http.StatusOK, "POST", top+"?create=true", "")
	s.want(http.StatusOK, "POST", top+"config", "x")
	s.want(http.StatusOK, "HEAD", top+"config", "")
	s.must("", "alter", "archive", "--path="+filepath.Join(folder, "none"))
	s.becomes(http.StatusServiceUnavailable, "HEAD", top+"config")
	s.must("", "alter", "archive", "--path="+folder)
	s.becomes(http.StatusOK, "HEAD", top+"config")
	s.must("", "remove", "archive")
	s.becomes(http.StatusNotFound, "HEAD", top+"config")
	if data, err := os.ReadFile(filepath.Join(folder, repository, "config")); err != nil || string(data) != "x" {
		t.Errorf("what is stored is %q, %v", data, err)
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("the folder has %v, %v; want nothing but the repository", left, err)
	}
}

// TestGatewayTakesTheNewSecret: rclone is started again with a secret that was altered.
func TestGatewayTakesTheNewSecret(t *testing.T) {
	if _, err := exec.LookPath("rclone"); err != nil {
		t.Fatalf("this test needs rclone: %v", err)
	}
	var wanted atomic.Value
	wanted.Store("old-" + marker)
	files := &webdav.Handler{FileSystem: webdav.NewMemFS(), LockSystem: webdav.NewMemLS()}
	storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "backup" || password != wanted.Load() {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		files.ServeHTTP(w, r)
	}))
	defer storage.Close()
	s := serve(t)
	top := "/cloud/" + repository + "/"
	s.must("old-"+marker, "add", "cloud", "--provider=webdav", "--url="+storage.URL, "--username=backup", "--secret-file=-")
	s.want(http.StatusOK, "POST", top+"?create=true", "")
	s.want(http.StatusOK, "POST", top+"config", "x")
	wanted.Store("new-" + marker)
	if code, _ := s.ask("HEAD", top+"config", ""); code == http.StatusOK {
		t.Error("the old secret still does")
	}
	s.must("new-"+marker, "alter", "cloud", "--secret-file=-")
	s.becomes(http.StatusOK, "HEAD", top+"config")
	s.must("", "remove", "cloud")
	s.becomes(http.StatusNotFound, "HEAD", top+"config")
}

// TestUndelete: what restic deletes through the gateway comes back, while the gateway runs.
func TestUndelete(t *testing.T) {
	for _, program := range []string{"restic", "rclone"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("this test needs %s: %v", program, err)
		}
	}
	for kind, args := range map[string][]string{
		"local":  {"--provider=local", "--gateway"},
		"rclone": {"--provider=rclone", "--rclone-config=-"},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			s := serve(t)
			folder, files := t.TempDir(), t.TempDir()
			stdin := "[x]\ntype = alias\nremote = " + folder + "\n"
			if kind == "local" {
				args = append(args, "--path="+folder)
			}
			s.must(stdin, append([]string{"add", "archive", "--keep-deleted=14d"}, args...)...)
			restic := func(args ...string) {
				t.Helper()
				cmd := exec.Command("restic", append([]string{"--no-cache"}, args...)...)
				cmd.Env = append(os.Environ(), "RESTIC_PASSWORD_FILE="+filepath.Join(s.config, "secret/archive.password"),
					"RESTIC_REPOSITORY=rest:"+strings.Replace(s.url, "://", "://node:"+s.login+"@", 1)+"/archive/"+repository+"/")
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("restic %v: %v\n%s", args, err, out)
				}
			}
			write := func(text string) {
				if err := os.WriteFile(filepath.Join(files, "file"), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			restic("init")
			write("first")
			restic("backup", files)
			kept := snapshots(t, folder)
			write("second")
			restic("backup", files)
			restic("forget", "--keep-last", "1", "--prune")
			if got := snapshots(t, folder); len(got) != 1 || got[0] == kept[0] {
				t.Fatalf("snapshots are %v; want one, and another one than %v", got, kept)
			}
			s.must("", "undelete", "archive", "--all", "--dry-run")
			if got := snapshots(t, folder); len(got) != 1 {
				t.Errorf("a dry run brought back %v", got)
			}
			out := s.must("", "undelete", "archive", "--all")
			if got := snapshots(t, folder); len(got) != 2 || !strings.Contains(out, repository) {
				t.Errorf("snapshots are %v; want two\n%s", got, out)
			}
			restic("check", "--read-data")
			restic("restore", kept[0], "--target", filepath.Join(s.config, "restored"))
			if data, err := os.ReadFile(filepath.Join(s.config, "restored", files, "file")); err != nil || string(data) != "first" {
				t.Errorf("restored is %q, %v", data, err)
			}
			if out := s.must("", "undelete", "archive"); out != "nothing that was deleted is kept\n" {
				t.Errorf("what is still deleted: %s", out)
			}
		})
	}
}

func snapshots(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, repository, "snapshots/*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		files[i] = filepath.Base(files[i])
	}
	return files
}
