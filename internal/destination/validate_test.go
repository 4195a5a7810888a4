package destination

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeProber fails where it is told to.
type fakeProber struct {
	fails   string // list, later (list until something is stored), create, read, remove, other (what is read)
	data    []byte
	removed bool
	hang    bool
}

func (p *fakeProber) fail(what string) error {
	if strings.Contains(p.fails, what) {
		return errors.New("cannot " + what)
	}
	return nil
}

func (p *fakeProber) list(ctx context.Context) error {
	if p.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	if strings.Contains(p.fails, "later") && p.data == nil {
		return errNotYet
	}
	return p.fail("list")
}

func (p *fakeProber) create(_ context.Context, _ string, data []byte) error {
	if err := p.fail("create"); err != nil {
		return err
	}
	p.data = data
	return nil
}

func (p *fakeProber) read(context.Context, string) ([]byte, error) {
	if strings.Contains(p.fails, "other") {
		return []byte("other"), nil
	}
	return p.data, p.fail("read")
}

func (p *fakeProber) remove(context.Context, string) error {
	p.removed = true
	return p.fail("remove")
}

func (p *fakeProber) close(context.Context, string) string { return "" }

func TestProbe(t *testing.T) {
	for fails, want := range map[string]Outcome{
		"": OK, "later": OK, "list": NoRead, "later list": NoRead, "read": NoRead, "other": NoRead, "create": NoWrite, "remove": NoDelete,
		"remove read": NoDelete, "remove list": NoDelete, "create read": NoWrite, "list create": NotAccessible, "later create": NotAccessible,
		"list create remove": NotAccessible, "create remove": NoWrite,
	} {
		p := &fakeProber{fails: fails}
		v := probe(t.Context(), p, "x")
		if v.Outcome != want || (v.Detail == "") != (want == OK) || !p.removed || (v.Leftover != "") != (want == NoDelete) {
			t.Errorf("probe where %q fails = %+v, tidied up %t; want %s", fails, v, p.removed, want)
		}
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, errTimeout(30*time.Second))
	defer cancel()
	if v := probe(ctx, &fakeProber{hang: true}, "x"); v.Outcome != NotAccessible || v.Detail != "gave no answer within 30s" {
		t.Errorf("probe of what does not answer = %+v", v)
	}
}

// one validates a single destination.
func one(t *testing.T, s *Store, id string) Verdict {
	t.Helper()
	verdicts, err := s.Validate(t.Context(), []string{id}, 20*time.Second)
	if err != nil || len(verdicts) != 1 || verdicts[0].ID != id {
		t.Fatalf("Validate = %+v, %v", verdicts, err)
	}
	return verdicts[0]
}

func TestValidateLocal(t *testing.T) {
	s := testStore(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	if err := os.Mkdir(filepath.Join(dir, "ok"), 0o700); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]Outcome{"ok": OK, "file": NotAccessible, "missing": NotAccessible} {
		mustAdd(t, s, local(id, filepath.Join(dir, id)))
		if v := one(t, s, id); v.Outcome != want || v.Failed() != (want != OK) {
			t.Errorf("Validate(%s) = %+v; want %s", id, v, want)
		}
	}
	if left := tree(t, filepath.Join(dir, "ok")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestValidateReadOnly needs root, for whom a mode is no obstacle, to mount something that is one.
func TestValidateReadOnly(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s := testStore(t)
	mustAdd(t, s, local("a", dir))
	if v := one(t, s, "a"); v.Outcome != NoWrite || !strings.Contains(v.Detail, "read-only file system") {
		t.Errorf("Validate = %+v; want %s", v, NoWrite)
	}
}

func TestValidateRclone(t *testing.T) {
	needRclone(t)
	s := testStore(t)
	runtime := t.TempDir()
	s.Getenv = func(name string) string { return map[string]string{"RUNTIME_DIRECTORY": runtime}[name] }
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "")
	for id, c := range map[string]struct {
		conf string
		path string
		want Outcome
	}{
		"alias":     {"[x]\ntype = alias\nremote = " + dir + "\n", "", OK},
		"local":     {"[x]\ntype = local\n", dir, OK},
		"new":       {"[x]\ntype = local\n", dir + "/not/there/yet", OK},
		"file":      {"[x]\ntype = local\n", dir + "/file/x", NotAccessible},
		"not.there": {"[x]\ntype = webdav\nurl = http://127.0.0.1:1/\npass = " + obscure(marker) + "\n", "", NotAccessible},
	} {
		mustAdd(t, s, Request{ID: id, Provider: "rclone", RcloneConfig: Secret(c.conf), Parameters: map[string]string{"path": c.path}})
		if v := one(t, s, id); v.Outcome != c.want || strings.Contains(v.Detail, marker) || v.Outcome != OK && v.Detail == "" {
			t.Errorf("Validate(%s) = %+v; want %s", id, v, c.want)
		}
	}
	if left := tree(t, runtime); len(left) > 0 {
		t.Errorf("left behind of secrets: %v", left)
	}
	for name := range tree(t, dir) {
		if strings.Contains(name, "probe") {
			t.Errorf("left behind: %s", name)
		}
	}
	all, err := s.Validate(t.Context(), nil, 20*time.Second)
	var ids []string
	for _, v := range all {
		ids = append(ids, v.ID)
	}
	if err != nil || !slices.Equal(ids, []string{"alias", "file", "local", "new", "not.there"}) {
		t.Errorf("Validate of all = %v, %v", ids, err)
	}
}

// fakeRclone puts an rclone into the path that writes down its arguments and does what a script says.
func fakeRclone(t *testing.T, script string) (log string) {
	t.Helper()
	dir := t.TempDir()
	log = filepath.Join(dir, "log")
	write(t, filepath.Join(dir, "rclone"), "#!/bin/sh\necho \"$@\" >>"+log+"\n"+script)
	if err := os.Chmod(filepath.Join(dir, "rclone"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return log
}

// TestRcloneKeepsSecrets: none is an argument, others cannot read the copy, and what rclone says of them is masked.
func TestRcloneKeepsSecrets(t *testing.T) {
	log := fakeRclone(t, `
stat -c "mode %a" "$2" "$(dirname "$2")" >>`+"$0.modes"+`
env >>$0.env
echo '2026/01/02 03:04:05 ERROR : first' >&2
echo '2026/01/02 03:04:05 CRITICAL: Failed to lsf: key `+marker+` and `+marker+`%2Fx are wrong' >&2
echo '	status code: 403, request id: 1' >&2
exit 1`)
	t.Setenv("RCLONE_CONFIG_A_KEY", "other")
	s := testStore(t)
	r := b2("a", "b")
	mustAdd(t, s, r)
	v := one(t, s, "a")
	if v.Outcome != NotAccessible || v.Detail != "Failed to lsf: key *** and ***%2Fx are wrong" {
		t.Errorf("Validate = %+v", v)
	}
	if args := read(t, log); strings.Contains(args, marker) || !strings.Contains(args, "lsf --max-depth 1 a:b") {
		t.Errorf("rclone was called with\n%s", args)
	}
	if modes := read(t, strings.TrimSuffix(log, "log")+"rclone.modes"); !strings.HasPrefix(modes, "mode 600\nmode 700\n") {
		t.Errorf("its configuration had\n%s", modes)
	}
	if env := read(t, strings.TrimSuffix(log, "log")+"rclone.env"); strings.Contains(env, "RCLONE_") {
		t.Errorf("its environment was\n%s", env)
	}
}

func TestMissingBucketIsNotMade(t *testing.T) {
	log := fakeRclone(t, "echo 'directory not found' >&2; exit 3")
	s := testStore(t)
	mustAdd(t, s, b2("a", "b"))
	if v := one(t, s, "a"); v.Outcome != NotAccessible || !strings.Contains(v.Detail, "bucket is not there") {
		t.Errorf("Validate = %+v", v)
	}
	if strings.Contains(read(t, log), "rcat") {
		t.Errorf("something was stored:\n%s", read(t, log))
	}
}

func TestNoRclone(t *testing.T) {
	s := testStore(t)
	mustAdd(t, s, b2("a", "b"))
	t.Setenv("PATH", t.TempDir())
	if v := one(t, s, "a"); v.Outcome != NotAccessible || !strings.Contains(v.Detail, "apt-get install rclone") {
		t.Errorf("Validate = %+v", v)
	}
}

func TestValidateTimeout(t *testing.T) {
	fakeRclone(t, "exec sleep 60")
	s := testStore(t)
	mustAdd(t, s, b2("a", "b"))
	start := time.Now()
	verdicts, err := s.Validate(t.Context(), nil, 200*time.Millisecond)
	if err != nil || verdicts[0].Outcome != NotAccessible || verdicts[0].Detail != "gave no answer within 200ms" || time.Since(start) > 10*time.Second {
		t.Errorf("Validate = %+v, %v after %s", verdicts, err, time.Since(start))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errStop)
	if _, err := s.Validate(ctx, nil, time.Minute); !errors.Is(err, errStop) {
		t.Errorf("Validate, cancelled: %v", err)
	}
}

// TestRefreshedToken: a token that rclone refreshed is not lost.
func TestRefreshedToken(t *testing.T) {
	fakeRclone(t, `case "$*" in *lsf*) sed -i "s/token = old.*/token = new/" "$2" ;; *) exit 1 ;; esac`)
	s := testStore(t)
	mustAdd(t, s, Request{ID: "a", Provider: "rclone", RcloneConfig: "[a]\ntype = drive\ntoken = old\nscope = drive\n"})
	one(t, s, "a")
	if got := read(t, s.rclonePath("a")); got != "[a]\ntype = drive\ntoken = new\nscope = drive\n" {
		t.Errorf("rclone.conf is\n%s", got)
	}
}

// restServer is a server of restic's REST protocol that refuses some methods, by "METHOD part-of-the-path".
type restServer struct {
	mu      sync.Mutex
	refuses string
	status  int
	objects map[string][]byte
	calls   []string
	strange bool // knows nothing of removing a repository
}

func (s *restServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, r.Method+" "+r.URL.RequestURI())
	if user, password, _ := r.BasicAuth(); user != "u" || password != marker {
		http.Error(w, "who are you? "+password, http.StatusUnauthorized)
		return
	}
	method, part, _ := strings.Cut(s.refuses, " ")
	if s.refuses != "" && r.Method == method && strings.Contains(r.URL.RequestURI(), part) {
		http.Error(w, "not for "+marker, s.status)
		return
	}
	body, _ := io.ReadAll(r.Body)
	switch _, found := s.objects[r.URL.Path]; {
	case r.Method == http.MethodPost && !strings.HasSuffix(r.URL.Path, "/"):
		s.objects[r.URL.Path] = body
	case r.Method == http.MethodPost, r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/locks/"):
	case r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, "/"):
		if s.strange {
			w.WriteHeader(http.StatusMethodNotAllowed)
		}
	case !found:
		http.NotFound(w, r)
	case r.Method == http.MethodGet:
		_, _ = w.Write(s.objects[r.URL.Path])
	case r.Method == http.MethodDelete:
		delete(s.objects, r.URL.Path)
	}
}

func TestValidateREST(t *testing.T) {
	for name, c := range map[string]struct {
		refuses string
		status  int
		user    string
		want    Outcome
	}{
		"all is well":         {"", 0, "u", OK},
		"no repositories":     {"POST create=true", 403, "u", NoWrite},
		"nothing stored":      {"POST locks", 403, "u", NoWrite},
		"disk full":           {"POST locks", 507, "u", NoWrite},
		"nothing listed":      {"GET locks/", 403, "u", NoRead},
		"nothing deleted":     {"DELETE locks", 403, "u", NoDelete},
		"append only":         {"DELETE locks", 405, "u", NoDelete},
		"another password":    {"", 0, "v", NotAccessible},
		"broken":              {"HEAD ", 500, "u", NoRead},
		"sends elsewhere":     {"POST ", 307, "u", NoWrite},
		"knows no such thing": {"DELETE nothing", 0, "u", OK},
	} {
		t.Run(name, func(t *testing.T) {
			handler := &restServer{refuses: c.refuses, status: c.status, objects: map[string][]byte{}, strange: c.refuses != ""}
			server := httptest.NewServer(handler)
			defer server.Close()
			s := testStore(t)
			mustAdd(t, s, Request{ID: "a", Provider: "rest", Secret: marker, Parameters: map[string]string{"url": server.URL + "/dest", "username": c.user}})
			v := one(t, s, "a")
			if v.Outcome != c.want || strings.Contains(v.Detail, marker) {
				t.Errorf("Validate = %+v; want %s; calls were\n%s", v, c.want, strings.Join(handler.calls, "\n"))
			}
			if c.want == OK && len(handler.objects) > 0 {
				t.Errorf("left behind: %v", handler.objects)
			}
			if c.want == OK && (v.Leftover != "") != handler.strange {
				t.Errorf("left behind is %q, of a server that can remove a repository: %t", v.Leftover, !handler.strange)
			}
			for _, call := range handler.calls {
				if _, path, _ := strings.Cut(call, " "); !strings.HasPrefix(path, "/dest/sdbackup-probe") {
					t.Errorf("%s is outside of the probe", call)
				}
			}
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	s := testStore(t)
	mustAdd(t, s, Request{ID: "a", Provider: "rest", Parameters: map[string]string{"url": fmt.Sprintf("http://%s/", listener.Addr())}})
	if v := one(t, s, "a"); v.Outcome != NotAccessible || !strings.Contains(v.Detail, "refused") {
		t.Errorf("Validate where nobody listens = %+v", v)
	}
}

func TestValidateOthers(t *testing.T) {
	s := testStore(t)
	pw := filepath.Join(t.TempDir(), "pw")
	write(t, pw, "x\n")
	password := "password-file = \"" + pw + "\"\n"
	write(t, filepath.Join(s.Dir, "hand.toml"), "[destination.s3]\nrepository = \"s3:host/b\"\n"+password+"[destination.home]\nrepository = \"rclone:x:b\"\n"+password)
	if v := one(t, s, "s3"); v.Outcome != NotTested || v.Failed() {
		t.Errorf("Validate(s3) = %+v", v)
	}
	if v := one(t, s, "home"); v.Outcome != NotAccessible || !strings.Contains(v.Detail, "rclone-config") {
		t.Errorf("Validate(home) = %+v", v)
	}
}
