package run

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
	"sdbackup/internal/token"
)

var due = status.Result{Outcome: status.Success, Snapshot: "5afe", RetentionDue: true}

// behindGateway is newRunner for a destination behind a gateway, which answers with handler.
func behindGateway(t *testing.T, s *script, handler http.HandlerFunc) *Runner {
	t.Helper()
	r, _ := newRunner(t, s, "a")
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	r.Config.Node.Name = "web1"
	r.Config.Gateway.URL = server.URL
	r.Config.Destinations["archive"].Gateway = true
	r.Config.Modules["a"].User, r.Config.Modules["a"].ReadAll = "nobody", true
	r.Paths.Tokens = filepath.Join(t.TempDir(), "sdbackup/tokens")
	return r
}

// What removes is a second attempt: with a token that may, a cache of its own, and no user's rights.
func TestRetentionIsAnAttemptOfItsOwn(t *testing.T) {
	s := &script{results: map[string][]status.Result{"a": {due, saved}}}
	r := behindGateway(t, s, func(http.ResponseWriter, *http.Request) {})
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Success {
		t.Fatalf("Backup = %+v, %v; want a success", run, err)
	}
	if len(s.plans) != 2 {
		t.Fatalf("%d attempts, want 2", len(s.plans))
	}
	first, second := s.plans[0], s.plans[1]
	if !first.AddOnly || first.Saved != nil {
		t.Errorf("the first attempt's plan is %+v, want one that adds only", first)
	}
	if second.AddOnly || second.Saved == nil || second.CacheDir != first.CacheDir+nodeCache {
		t.Errorf("the second attempt's plan is %+v, want one that knows what is saved and may remove", second)
	}
	rec, err := r.Store.Module("1", "a")
	if err != nil || rec.Attempts != 1 || rec.CPUSecondsTotal != 4 {
		t.Errorf("the record is %+v, %v; want 1 attempt and the CPU time of both", rec, err)
	}
	job := Job{Module: r.Config.Modules["a"], Plan: first, Destination: r.Config.Destinations["archive"]}.asNode()
	if job.Module.User != "" || job.Module.ReadAll || r.Config.Modules["a"].User != "nobody" {
		t.Errorf("retention runs as %q, read-all %v; the module has become %+v", job.Module.User, job.Module.ReadAll, r.Config.Modules["a"])
	}
}

// A run that is stopped before retention has saved the snapshot, and says so.
func TestStoppedBeforeRetention(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &script{results: map[string][]status.Result{"a": {due}}, during: func(context.Context, string) { cancel(errors.New("shutdown")) }}
	r := behindGateway(t, s, func(http.ResponseWriter, *http.Request) {})
	run, err := r.Backup(ctx, "1")
	if err != nil || run.Outcome != status.Failed || len(s.plans) != 1 {
		t.Fatalf("Backup = %+v, %v after %d attempts; want a failure after one", run, err, len(s.plans))
	}
	rec, err := r.Store.Module("1", "a")
	if err != nil || rec.Snapshot != "5afe" || !strings.Contains(rec.Error, "before retention") {
		t.Errorf("the record is %+v, %v; want the snapshot and what was not done", rec, err)
	}
}

// The gateway is told what a repository is, whatever came of the module; a type that is new gets its folder.
func TestMetadata(t *testing.T) {
	for _, test := range []struct {
		result  status.Result
		success bool
	}{{saved, true}, {readFault, true}, {broken, false}} {
		var got Metadata
		var calls []string
		folder := false
		var r *Runner
		r = behindGateway(t, &script{results: map[string][]status.Result{"a": {test.result}}}, func(w http.ResponseWriter, req *http.Request) {
			calls = append(calls, req.Method+" "+req.URL.Path)
			name, secret, _ := req.BasicAuth()
			if p, ok := (token.Store{Dir: r.Paths.Tokens}).Lookup(secret, time.Now()); !ok || !p.Node || name != "web1" {
				t.Errorf("%s comes from %q, %+v; want the node", req.Method, name, p)
			}
			switch {
			case req.Method == "MKCOL":
				folder = true
			case !folder:
				w.WriteHeader(http.StatusConflict)
			default:
				data, _ := io.ReadAll(req.Body)
				if err := json.Unmarshal(data, &got); err != nil {
					t.Error(err)
				}
			}
		})
		if _, err := r.Backup(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		if want := "PUT /archive/wiki/uuid-of-a.json, MKCOL /archive/wiki, PUT /archive/wiki/uuid-of-a.json"; strings.Join(calls, ", ") != want {
			t.Errorf("calls %q; want %s", calls, want)
		}
		if got.Module != "a" || got.UUID != "uuid-of-a" || got.Node != "web1" || got.Success != test.success || time.Since(got.Time) > time.Minute {
			t.Errorf("after %s the metadata is %+v", test.result.Outcome, got)
		}
		if left, _ := os.ReadDir(r.Paths.Tokens); len(left) > 0 {
			t.Errorf("tokens are left: %v", left)
		}
	}
}

// An attempt's token is good for its own repository until the attempt ends, and its files go with it.
func TestAttemptToken(t *testing.T) {
	r := behindGateway(t, new(script), func(http.ResponseWriter, *http.Request) {})
	d := r.Config.Destinations["archive"]
	d.PasswordFile = filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(d.PasswordFile, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	attempts := filepath.Join(filepath.Dir(r.Paths.Tokens), "attempts")
	if err := os.MkdirAll(attempts, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(attempts, "of-a-killed-run"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	job := Job{
		Plan: module.NewPlan(r.Config, r.Paths, r.Config.Backups["1"], r.Config.Modules["a"], "run", nil), Module: r.Config.Modules["a"],
		Destination: d, Backup: r.Config.Backups["1"], Gateway: r.Config.Gateway,
	}
	for _, test := range []struct {
		job  Job
		mode token.Mode
	}{{job, token.Add}, {job.asNode(), token.All}} {
		secrets, forget, err := test.job.secrets(t.Context(), r.Paths)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(secrets.Repository.Path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the repository's file: %v, %v; want mode 0600", info, err)
		}
		data, err := os.ReadFile(secrets.Repository.Path)
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(data), "a:")
		secret, address, _ := strings.Cut(rest, "@")
		if want := strings.TrimPrefix(r.Config.Gateway.URL, "http://") + "/archive/wiki/uuid-of-a/"; address != want {
			t.Errorf("the repository is at %s, want %s", address, want)
		}
		p, ok := (token.Store{Dir: r.Paths.Tokens}).Lookup(secret, time.Now())
		if want := (token.Grant{Destination: "archive", Repository: "wiki/uuid-of-a", Mode: test.mode}); !ok || p.Node || len(p.Grants) != 1 || p.Grants[0] != want {
			t.Errorf("the token is good for %+v; want %+v", p, want)
		}
		forget()
		if _, ok := (token.Store{Dir: r.Paths.Tokens}).Lookup(secret, time.Now()); ok {
			t.Error("the token outlives its attempt")
		}
		if left, _ := os.ReadDir(attempts); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	}
}

// A gateway that is not there is told from everything else at once; the attempt may be tried again.
func TestKnock(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	u, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	there := []string{"http://" + l.Addr().String(), "unix:" + socket}
	for _, url := range there {
		if err := knock(t.Context(), config.Gateway{URL: url}); err != nil {
			t.Errorf("knock at %s: %v", url, err)
		}
	}
	l.Close()
	u.Close()
	for _, url := range append(there, "unix:/does/not/exist", "http://does-not-exist.invalid") {
		err := knock(t.Context(), config.Gateway{URL: url})
		if err == nil {
			t.Errorf("knock at %s, where nobody is, succeeds", url)
			continue
		}
		a := Job{Plan: module.Plan{Module: "a", Saved: &status.Result{Snapshot: "5afe"}}}.failed(time.Now(), &gatewayError{err})
		if !a.Result.Retry || !strings.Contains(a.Result.Hint, "backup-gateway.socket") || a.Result.Snapshot != "5afe" || a.Result.Outcome != status.Failed {
			t.Errorf("the attempt's result is %+v", a.Result)
		}
	}
}
