package restserver

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// record is a log to look at, written to by many.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.String()
}

// serve starts a whole server, in a new folder unless it has one.
func serve(tb testing.TB, s *Server) (*httptest.Server, *record) {
	tb.Helper()
	if s.Path == "" {
		s.Path = tb.TempDir()
	}
	text := new(record)
	s.Logger = slog.New(slog.NewTextHandler(text, nil))
	handler, err := NewHandler(s)
	if err != nil {
		tb.Fatal(err)
	}
	server := httptest.NewServer(handler)
	tb.Cleanup(server.Close)
	return server, text
}

// TestServerStatusCodes is rest-server's table of what is answered.
func TestServerStatusCodes(t *testing.T) {
	name, content := blob("content")
	other, _ := blob("other")
	big := strings.Repeat("x", 3*smallBytes)
	bigName, _ := blob(big)
	const bob, eve, stranger = "bob:pw", "eve:pw", "bob:wrong"
	type step struct {
		login, method, path string
		body                any
		code                int
	}
	for test, c := range map[string]struct {
		server *Server
		steps  []step
	}{
		"paths": {&Server{NoAuth: true}, []step{
			{"", "POST", "/", nil, 400},
			{"", "POST", "/?create=true", nil, 200},
			{"", "POST", "/a/?create=true", nil, 200},
			{"", "POST", "/a/?create=true", nil, 200},
			{"", "POST", "/a/b/?create=true", nil, 200},
			{"", "POST", "/a/b/c/?create=true", nil, 404},
			{"", "POST", "/a?create=true", nil, 404},
			{"", "GET", "/", nil, 405},
			{"", "DELETE", "/a/", nil, 405},
			{"", "GET", "/a/data/", nil, 200},
			{"", "GET", "/a/data", nil, 404},
			{"", "GET", "/b/data/", nil, 404},
			{"", "GET", "//data/", nil, 404},
			{"", "GET", "/a/../data/", nil, 404},
			{"", "GET", "/a/./data/", nil, 404},
			{"", "GET", "/%2e%2e/config", nil, 404},
			{"", "GET", "/%2e%2e%2f%2e%2e%2fetc/config", nil, 404},
			{"", "GET", "/a%2fb/data/", nil, 200}, // a slash is a slash
			{"", "GET", "/a%2f%2e%2e%2fb/data/", nil, 404},
			{"", "GET", "/a%00/data/", nil, 404},
			{"", "GET", "/a%ff/data/", nil, 404},
			{"", "POST", "/a%ff/?create=true", nil, 200}, // what is no UTF-8 is a name, too
			{"", "GET", "/a%ff/data/", nil, 200},
			{"", "GET", "/a/data/" + strings.ToUpper(name), nil, 404},
			{"", "GET", "/a/data/" + name[1:], nil, 404},
			{"", "GET", "/a/data/" + name + "/", nil, 404},
			{"", "GET", "/a/data/..%2fconfig", nil, 404},
			{"", "POST", "/data/?create=true", nil, 405}, // no repository: the list of data
			{"", "POST", "/keys/data/?create=true", nil, 404},
			{"", "GET", "/" + strings.Repeat("x", 300) + "/config", nil, 404},
			{"", "POST", "/" + strings.Repeat("x", 300) + "/config", "c", 404},
			{"", "GET", "/metrics", nil, 404},
			{"", "GET", "/.htpasswd", nil, 404},
			{"", "GET", "/.htpasswd/config", nil, 404},
			{"", "POST", "/.htpasswd/config", "c", 404},
			{"", "GET", "/fifo/data/", nil, 404},
			{"", "POST", "/new/config", "c", 200},
		}},
		"objects": {&Server{NoAuth: true}, []step{
			{"", "HEAD", "/config", nil, 404},
			{"", "POST", "/config", "c", 200},
			{"", "POST", "/config", "c", 403},
			{"", "HEAD", "/config", nil, 200},
			{"", "GET", "/config", nil, 200},
			{"", "PATCH", "/config", nil, 405},
			{"", "DELETE", "/config", nil, 200},
			{"", "DELETE", "/config", nil, 200},
			{"", "POST", "/data/" + name, content, 200},
			{"", "POST", "/data/" + name, content, 403},
			{"", "POST", "/data/" + other, content, 400},
			{"", "POST", "/data/" + other, big, 400},
			{"", "POST", "/data/" + bigName, big, 200},
			{"", "HEAD", "/data/" + name, nil, 200},
			{"", "GET", "/data/" + other, nil, 404},
			{"", "PUT", "/data/" + name, content, 405},
			{"", "DELETE", "/data/" + name, nil, 200},
			{"", "DELETE", "/data/" + name, nil, 200},
			{"", "HEAD", "/data/", nil, 405},
		}},
		"append-only": {&Server{NoAuth: true, AppendOnly: true}, []step{
			{"", "POST", "/config", "c", 200},
			{"", "POST", "/data/" + name, content, 200},
			{"", "POST", "/locks/" + name, content, 200},
			{"", "DELETE", "/config", nil, 403},
			{"", "DELETE", "/data/" + name, nil, 403},
			{"", "DELETE", "/keys/" + name, nil, 403},
			{"", "DELETE", "/locks/" + name, nil, 200},
		}},
		"no verification": {&Server{NoAuth: true, NoVerifyUpload: true}, []step{
			{"", "POST", "/data/" + other, content, 200},
			{"", "POST", "/data/" + name, big, 200},
		}},
		"removal": {&Server{NoAuth: true, RemoveRepos: true}, []step{
			{"", "POST", "/a/?create=true", nil, 200},
			{"", "DELETE", "/a/", nil, 200},
			{"", "GET", "/a/data/", nil, 404},
		}},
		"users": {&Server{}, []step{
			{"", "GET", "/data/", nil, 401},
			{"", "GET", "/no/such/path", nil, 401},
			{stranger, "GET", "/data/", nil, 401},
			{"eve:", "GET", "/data/", nil, 401},
			{bob, "GET", "/data/", nil, 404},
			{bob, "POST", "/?create=true", nil, 200},
			{eve, "GET", "/data/", nil, 200},
			{bob, "GET", "/eve/data/", nil, 404},
		}},
		"private": {&Server{PrivateRepos: true}, []step{
			{bob, "POST", "/?create=true", nil, 401},
			{bob, "GET", "/config", nil, 401},
			{bob, "POST", "/bob/?create=true", nil, 200},
			{bob, "POST", "/bob/sub/?create=true", nil, 200},
			{bob, "POST", "/bob/sub/sub/?create=true", nil, 404},
			{bob, "GET", "/bob/data/", nil, 200},
			{eve, "GET", "/bob/data/", nil, 401},
			{eve, "GET", "/bob%2fsub/data/", nil, 401},
			{eve, "GET", "/eve%2f%2e%2e%2fbob/data/", nil, 404},
			{eve, "GET", "/Bob/data/", nil, 401},
			{bob, "GET", "/bobby/data/", nil, 401},
			{"", "GET", "/bob/data/", nil, 401},
			{stranger, "GET", "/bob/data/", nil, 401},
			{"data:pw", "POST", "/data/?create=true", nil, 401}, // a user of such a name has none
			{"data:pw", "POST", "/data/data/" + name, content, 404},
		}},
		"private without users": {&Server{PrivateRepos: true, NoAuth: true}, []step{
			{"", "POST", "/bob/?create=true", nil, 200},
		}},
		"quota": {&Server{NoAuth: true, MaxRepoSize: 40 << 10}, []step{ // .htpasswd counts
			{"", "POST", "/a/data/" + bigName, big, 507},
			{"", "POST", "/a/data/" + name, content, 200},
			{"", "POST", "/b/config", strings.Repeat("x", 39<<10), 200},
			{"", "POST", "/c/config", strings.Repeat("x", 2<<10), 507},
			{"", "DELETE", "/b/config", nil, 200},
			{"", "POST", "/c/config", strings.Repeat("x", 2<<10), 200},
			{"", "POST", "/a/data/" + other, io.LimitReader(zeros{}, 1<<20), 500}, // it has not said so
			{"", "POST", "/d/config", strings.Repeat("x", 36<<10), 200},
		}},
		"metrics": {&Server{Prometheus: true}, []step{
			{"", "GET", "/metrics", nil, 401},
			{stranger, "GET", "/metrics", nil, 401},
			{bob, "GET", "/metrics", nil, 200},
			{bob, "POST", "/metrics/?create=true", nil, 200}, // a repository of that name
		}},
		"private metrics": {&Server{Prometheus: true, PrivateRepos: true}, []step{
			{bob, "GET", "/metrics", nil, 401},
			{"metrics:pw", "GET", "/metrics", nil, 200},
		}},
		"metrics for all": {&Server{Prometheus: true, PrometheusNoAuth: true, PrivateRepos: true}, []step{
			{"", "GET", "/metrics", nil, 200},
			{stranger, "GET", "/metrics", nil, 200},
			{"", "GET", "/bob/data/", nil, 401},
		}},
		"metrics without users": {&Server{Prometheus: true, NoAuth: true}, []step{
			{"", "GET", "/metrics", nil, 200},
		}},
	} {
		t.Run(test, func(t *testing.T) {
			c.server.Path = t.TempDir()
			users := []string{shaOf("bob", "pw"), shaOf("eve", "pw"), shaOf("data", "pw"), bcryptOf(t, "metrics", "pw")}
			if err := os.WriteFile(filepath.Join(c.server.Path, ".htpasswd"), []byte(strings.Join(users, "\n")), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(filepath.Join(c.server.Path, "fifo"), 0o600); err != nil {
				t.Fatal(err)
			}
			server, log := serve(t, c.server)
			server.Client().Timeout = 30 * time.Second
			failures := 0
			for i, s := range c.steps {
				if s.code >= 500 {
					failures++
				}
				var headers []string
				if user, password, ok := strings.Cut(s.login, ":"); ok {
					r := httptest.NewRequest("GET", "/", nil)
					r.SetBasicAuth(user, password)
					headers = append(headers, "Authorization: "+r.Header.Get("Authorization"))
				}
				got := do(t, server, s.method, s.path, s.body, headers...)
				if got.code != s.code {
					t.Errorf("step %d: %s %s as %q: %d %q; want %d", i+1, s.method, s.path, s.login, got.code, got.body, s.code)
				}
				if got.code == 405 && got.header.Get("Allow") == "" || got.code == 401 && got.header.Get("Www-Authenticate") == "" {
					t.Errorf("step %d: %s %s: %d without Allow or WWW-Authenticate", i+1, s.method, s.path, got.code)
				}
			}
			for _, name := range files(t, c.server.Path) {
				if strings.Contains(name, tempMark) {
					t.Errorf("%s is left", name)
				}
			}
			// What clients do wrong is no error of the server's.
			if failed := strings.Count(log.String(), "request failed"); failed != failures {
				t.Errorf("the log has %d failures of the server; want %d:\n%s", failed, failures, log)
			}
		})
	}
}

// TestUnparsableLength is for callers other than net/http, which refuses it.
func TestUnparsableLength(t *testing.T) {
	name, content := blob("content")
	for text, want := range map[string]int{"7": 200, "seven": 411, "-1": 411, "99999999999999999999": 411} {
		s := &Server{Path: t.TempDir(), NoAuth: true, MaxRepoSize: 1 << 20}
		handler, err := NewHandler(s)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("POST", "/data/"+name, bytes.NewReader(content))
		r.Header.Set("Content-Length", text)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("Content-Length %q: %d; want %d", text, w.Code, want)
		}
	}
}

func TestProxyAuth(t *testing.T) {
	server, _ := serve(t, &Server{ProxyAuthUsername: "X-Forwarded-User", PrivateRepos: true})
	for _, c := range []struct {
		user, path string
		code       int
	}{
		{"", "/bob/?create=true", 401},
		{"X-Forwarded-User: bob", "/bob/?create=true", 200},
		{"X-Forwarded-User: eve", "/bob/?create=true", 401},
		{"Authorization: Basic Ym9iOnB3", "/bob/?create=true", 401},
		{"X-Forwarded-User: ..", "/../?create=true", 404},
		{"X-Forwarded-User: a/b", "/a/b/?create=true", 401},
		{"X-Forwarded-User: config", "/config", 401},
	} {
		var headers []string
		if c.user != "" {
			headers = append(headers, c.user)
		}
		got := do(t, server, "POST", c.path, "", headers...)
		if got.code != c.code || got.header.Get("Www-Authenticate") != "" {
			t.Errorf("%q at %s: %d; want %d", c.user, c.path, got.code, c.code)
		}
	}
}

func TestNewHandlerRefuses(t *testing.T) {
	dir := t.TempDir()
	for what, s := range map[string]*Server{
		"no folder":    {NoAuth: true},
		"no users":     {Path: dir},
		"file":         {Path: writeUsers(t, "x"), NoAuth: true},
		"log":          {Path: dir, NoAuth: true, Log: filepath.Join(dir, "no", "log")},
		"users folder": {Path: dir, HtpasswdPath: dir},
	} {
		if _, err := NewHandler(s); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestFailedLoginsAreLogged with who and from where, so that whoever guesses is found; and without passwords.
func TestFailedLoginsAreLogged(t *testing.T) {
	s := &Server{HtpasswdPath: writeUsers(t, shaOf("bob", "secret"))}
	server, log := serve(t, s)
	for _, login := range []string{"Basic Ym9iOnNlY3JldA==", "Basic ZXZlCjpzZWNyZXQ="} { // bob:secret, eve\n:secret
		do(t, server, "GET", "/data/", nil, "Authorization: "+login)
	}
	do(t, server, "GET", "/data/", nil) // has not tried
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, "level=WARN") })
	if len(lines) != 1 || !strings.Contains(lines[0], `user="eve\n"`) || !strings.Contains(lines[0], "client=127.0.0.1") || strings.Contains(log.String(), "secret") {
		t.Errorf("want one line, of eve:\n%s", log)
	}
}

func TestMetrics(t *testing.T) {
	server, _ := serve(t, &Server{HtpasswdPath: writeUsers(t, shaOf("bob", "pw")), Prometheus: true})
	name, content := blob("content")
	const auth = "Authorization: Basic Ym9iOnB3"
	for _, s := range []struct{ method, path string }{
		{"POST", "/a/b/config"},
		{"GET", "/a/b/config"},
		{"POST", "/a/b/data/" + name},
		{"POST", "/a/b/data/" + name},
		{"GET", "/a/b/data/" + name},
		{"HEAD", "/a/b/data/" + name},
		{"GET", "/a/b/data/"},
		{"DELETE", "/a/b/data/" + name},
		{"DELETE", "/a/b/data/" + name},
		{"DELETE", "/a/b/config"},
		{"POST", "/locks/" + name},
		{"POST", "/%ff/keys/" + name},
	} {
		do(t, server, s.method, s.path, content, auth)
	}
	do(t, server, "GET", "/locks/"+name, nil, auth, "Range: bytes=2-3")
	text := do(t, server, "GET", "/metrics", nil, auth).body
	got := regexp.MustCompile(`(?m)^rest_server_.*$`).FindAllString(text, -1)
	slices.Sort(got)
	want := []string{
		`rest_server_blob_delete_bytes_total{repo="a/b",type="data",user="bob"} 7`,
		`rest_server_blob_delete_total{repo="a/b",type="data",user="bob"} 1`,
		`rest_server_blob_read_bytes_total{repo="",type="locks",user="bob"} 2`,
		`rest_server_blob_read_bytes_total{repo="a/b",type="data",user="bob"} 7`,
		`rest_server_blob_read_total{repo="",type="locks",user="bob"} 1`,
		`rest_server_blob_read_total{repo="a/b",type="data",user="bob"} 1`,
		`rest_server_blob_write_bytes_total{repo="",type="locks",user="bob"} 7`,
		`rest_server_blob_write_bytes_total{repo="?",type="keys",user="bob"} 7`,
		`rest_server_blob_write_bytes_total{repo="a/b",type="data",user="bob"} 7`,
		`rest_server_blob_write_total{repo="",type="locks",user="bob"} 1`,
		`rest_server_blob_write_total{repo="?",type="keys",user="bob"} 1`,
		`rest_server_blob_write_total{repo="a/b",type="data",user="bob"} 1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("metrics:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, name := range []string{"go_goroutines ", "process_open_fds ", "promhttp_metric_handler_requests_total"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("without %s", name)
		}
	}
}

// TestLog has clients that would forge lines.
func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	server, _ := serve(t, &Server{HtpasswdPath: writeUsers(t, shaOf("bob", "pw")), Log: path})
	do(t, server, "POST", "/?create=true", nil, "Authorization: Basic Ym9iOnB3", "User-Agent: restic")
	do(t, server, "GET", "/keys/", nil, "Authorization: Basic Ym9iOnB3", "Referer: a\"b\\c", "User-Agent: \xff")
	do(t, server, "GET", "/x%0a?\"", nil, "Authorization: Basic Ym9iOndyb25n", "User-Agent: ")
	server.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got := regexp.MustCompile(`\[[^]]+\]`).ReplaceAllString(string(data), "[time]")
	want := `127.0.0.1 - bob [time] "POST /?create=true HTTP/1.1" 200 0 "" "restic"
127.0.0.1 - bob [time] "GET /keys/ HTTP/1.1" 200 2 "a\"b\\c" "\xff"
127.0.0.1 - - [time] "GET /x%0a?\" HTTP/1.1" 401 13 "" ""
`
	if got != want {
		t.Errorf("the log is\n%s\nwant\n%s", got, want)
	}
	if m := regexp.MustCompile(`\[(.*?)\]`).FindStringSubmatch(string(data)); m == nil {
		t.Error("no time")
	} else if when, err := time.Parse("02/Jan/2006:15:04:05 -0700", m[1]); err != nil || time.Since(when).Abs() > time.Minute {
		t.Errorf("time %s: %v, %v", m[1], when, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o600 != 0o600 {
		t.Errorf("log: %v, %v", info, err)
	}
}

// TestQuotaAfterRestart starts anew on what another server has stored.
func TestQuotaAfterRestart(t *testing.T) {
	dir := t.TempDir()
	name, content := blob(strings.Repeat("x", 1000))
	next, more := blob(strings.Repeat("y", 500))
	server, _ := serve(t, &Server{Path: dir, NoAuth: true, MaxRepoSize: 1400})
	if got := do(t, server, "POST", "/a/data/"+name, content); got.code != 200 {
		t.Fatal(got)
	}
	server.Close()
	s := &Server{Path: dir, NoAuth: true, MaxRepoSize: 1400}
	server, _ = serve(t, s)
	if s.limit.Used() != 1000 {
		t.Errorf("%d bytes are used after a restart; want 1000", s.limit.Used())
	}
	for i, c := range []struct {
		method, path string
		body         []byte
		code         int
		used         int64
	}{
		{"POST", "/b/data/" + next, more, 507, 1000},
		{"DELETE", "/a/data/" + name, nil, 200, 0},
		{"DELETE", "/a/data/" + name, nil, 200, 0},
		{"POST", "/b/data/" + next, more, 200, 500},
		{"POST", "/b/data/" + name, more, 400, 500},
		{"POST", "/b/data/" + name, content, 507, 500},
	} {
		if got := do(t, server, c.method, c.path, c.body); got.code != c.code || s.limit.Used() != c.used {
			t.Errorf("step %d: %d, %d used; want %d, %d", i+1, got.code, s.limit.Used(), c.code, c.used)
		}
	}
}

// TestServerClean is for what a server left that was killed.
func TestServerClean(t *testing.T) {
	dir := t.TempDir()
	old := time.Now().Add(-48 * time.Hour)
	temp := someID + tempMark + "X"
	for _, path := range []string{
		"data/01/" + temp, "a/keys/" + temp, "a/b/config" + tempMark + "X", "a/b/data/ff/" + temp, // go
		"a/b/data/ff/" + someID, "a/b/c/keys/" + temp, "a/b/data/more/" + temp, ".htpasswd", "a/keys/young" + tempMark,
	} {
		path = filepath.Join(dir, path)
		_ = os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Chtimes(path, old, old)
	}
	outside := t.TempDir()
	_ = os.MkdirAll(filepath.Join(outside, "keys"), 0o700)
	_ = os.WriteFile(filepath.Join(outside, "keys", temp), nil, 0o600)
	_ = os.Chtimes(filepath.Join(outside, "keys", temp), old, old)
	_ = os.Symlink(outside, filepath.Join(dir, "link"))
	s := &Server{Path: dir, NoAuth: true, MaxRepoSize: 1 << 20}
	if _, err := NewHandler(s); err != nil {
		t.Fatal(err)
	}
	n, err := s.Clean(t.Context(), 24*time.Hour)
	if n != 4 || err != nil || s.limit.Used() != 50 {
		t.Errorf("Clean = %d, %v, and %d bytes are used; want 4, and 50", n, err, s.limit.Used())
	}
	if len(files(t, dir)) != 6 || len(files(t, outside)) != 1 {
		t.Errorf("%q are left, and outside %q", files(t, dir), files(t, outside))
	}
}

// TestKilledClients cut their uploads at every stage, on a real connection: nothing is left of them.
func TestKilledClients(t *testing.T) {
	dir := t.TempDir()
	s := &Server{Path: dir, NoAuth: true, MaxRepoSize: 1 << 30}
	server, _ := serve(t, s)
	name, _ := blob("x")
	for _, head := range []string{"Content-Length: 1000", "Content-Length: 10000000", "Transfer-Encoding: chunked"} {
		for _, sent := range []int{0, 100, 300 << 10, 2 << 20} {
			if head == "Content-Length: 1000" && sent > 1000 {
				continue
			}
			c, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", name, head)
			if head[0] == 'T' && sent > 0 {
				fmt.Fprintf(c, "%x\r\n", sent+1)
			}
			_, _ = io.CopyN(c, zeros{}, int64(sent))
			c.Close()
		}
	}
	server.Close() // waits for the requests
	if left := files(t, dir); len(left) > 0 || s.limit.Used() != 0 {
		t.Errorf("%q are left, and %d bytes of the quota", left, s.limit.Used())
	}
}

// TestExpectContinue sends no body to a server that does not want it.
func TestExpectContinue(t *testing.T) {
	server, _ := serve(t, &Server{NoAuth: true})
	name, content := blob("content")
	for _, want := range []int{200, 403} {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n", name, len(content))
		var text []byte
		buf := make([]byte, 1000)
		for {
			n, err := c.Read(buf)
			text = append(text, buf[:n]...)
			if strings.HasSuffix(string(text), " 100 Continue\r\n\r\n") {
				_, _ = c.Write(content)
			}
			if err != nil {
				break
			}
		}
		if got := strings.Contains(string(text), fmt.Sprintf("HTTP/1.1 %d ", want)); !got || strings.Contains(string(text), "100 Continue") != (want == 200) {
			t.Errorf("%q; want %d, and to be asked for the body only if it is wanted", text, want)
		}
	}
}

// TestLengths lie, or are missing.
func TestLengths(t *testing.T) {
	dir := t.TempDir()
	server, _ := serve(t, &Server{Path: dir, NoAuth: true})
	name, content := blob("content")
	for head, want := range map[string]string{
		"Content-Length: 8":                                " 400 ", // and the connection ends
		"Content-Length: 6":                                " 400 ",
		"Content-Length: -1":                               " 400 ",
		"Content-Length: 99999999999999999999":             " 400 ",
		"Content-Length: 7\r\nContent-Length: 8":           " 400 ",
		"Content-Length: x":                                " 400 ",
		"X: none":                                          " 400 ", // an empty body is not the content
		"Transfer-Encoding: chunked":                       " 400 ", // it is none
		"Transfer-Encoding: gzip":                          " 501 ",
		"Content-Length: 7\r\nTransfer-Encoding: identity": " 501 ",
		"Content-Length: 7":                                " 200 ",
	} {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\n%s\r\nConnection: close\r\n\r\n%s", name, head, content)
		_ = c.(*net.TCPConn).CloseWrite()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		text, _ := io.ReadAll(c) // what is not read of the body may reset the connection
		c.Close()
		if line, _, _ := strings.Cut(string(text), "\r\n"); !strings.Contains(line, want) {
			t.Errorf("%q: %q; want%s", head, line, want)
		}
		left := files(t, dir)
		if want == " 200 " != (len(left) == 1) {
			t.Errorf("%q: %q are left", head, left)
		}
		_ = os.Remove(filepath.Join(dir, "data", name[:2], name))
	}
}

// TestGroupAccessible has the group's folder inherit the group, and open what the umask would close.
func TestGroupAccessible(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o770|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	server, _ := serve(t, &Server{Path: dir, NoAuth: true, GroupAccessibleRepos: true})
	post(t, server, "/a/b/?create=true")
	name, content := blob("content")
	do(t, server, "POST", "/a/b/data/"+name, content)
	do(t, server, "POST", "/a/b/config", "c")
	for path, want := range map[string]os.FileMode{
		"a": 0o770 | os.ModeDir | os.ModeSetgid, "a/b/data/00": 0o770 | os.ModeDir | os.ModeSetgid, "a/b/config": 0o660, "a/b/data/" + name[:2] + "/" + name: 0o660,
	} {
		if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info.Mode(), err, want)
		}
	}
}

func TestDebugLogsRequests(t *testing.T) {
	server, log := serve(t, &Server{NoAuth: true, Debug: true})
	do(t, server, "GET", "/keys/", nil)
	if text := log.String(); !strings.Contains(text, "url=/keys/") || !strings.Contains(text, "code=404") {
		t.Errorf("log:\n%s", text)
	}
}
