package restserver

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// restic is the command for a repository: a folder, or "rest:" and a URL.
func restic(t *testing.T, repository string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), "restic", append([]string{"--no-cache", "--repo", repository}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=correct horse", "TMPDIR="+t.TempDir())
	return cmd
}

// succeeds runs restic and returns what it prints.
func succeeds(t *testing.T, repository string, args ...string) string {
	t.Helper()
	out, err := restic(t, repository, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("restic %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// refused runs restic until it prints the text. It would try again for a quarter of an hour: then it is interrupted.
func refused(t *testing.T, text, repository string, args ...string) {
	t.Helper()
	cmd := restic(t, repository, args...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	seen := false
	for lines := bufio.NewScanner(r); lines.Scan(); {
		all.WriteString(lines.Text() + "\n")
		if !seen && strings.Contains(lines.Text(), text) {
			seen = true
			_ = cmd.Process.Signal(os.Interrupt)
		}
	}
	if err := cmd.Wait(); err == nil || !seen {
		t.Errorf("restic %s: %v; want that it is told %q:\n%s", strings.Join(args, " "), err, text, all.String())
	}
}

// sources makes something to back up.
func sources(t *testing.T) (dir string, file []byte) {
	t.Helper()
	dir, file = t.TempDir(), make([]byte, 5<<20)
	_, _ = rand.Read(file)
	for name, data := range map[string][]byte{"large": file, "small": []byte("small"), "empty": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, file
}

// restored compares what was restored.
func restored(t *testing.T, repository, source string, file []byte, args ...string) {
	t.Helper()
	target := t.TempDir()
	succeeds(t, repository, append([]string{"restore", "latest", "--target", target}, args...)...)
	if data, err := os.ReadFile(filepath.Join(target, source, "large")); err != nil || !bytes.Equal(data, file) {
		t.Errorf("restored %d bytes, %v; want %d, as they were", len(data), err, len(file))
	}
}

// checked reads all there is.
func checked(t *testing.T, repository string, args ...string) {
	t.Helper()
	if out := succeeds(t, repository, append([]string{"check", "--read-data"}, args...)...); !strings.Contains(out, "no errors were found") {
		t.Errorf("check: %s", out)
	}
}

// TestRestic has the real one speak to the server, and to the same folders without it.
func TestRestic(t *testing.T) {
	if _, err := exec.LookPath("restic"); err != nil {
		t.Fatalf("this test needs restic: %v", err)
	}
	source, file := sources(t)
	template := filepath.Join(t.TempDir(), "repository")
	succeeds(t, template, "init")
	succeeds(t, template, "backup", filepath.Join(source, "small"))
	// local is a folder with a repository that was made without the server.
	local := func(t *testing.T, sub string) (dir string) {
		t.Helper()
		dir = t.TempDir()
		if err := os.CopyFS(filepath.Join(dir, sub), os.DirFS(template)); err != nil {
			t.Fatal(err)
		}
		return dir
	}

	t.Run("http", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		server, log := serve(t, &Server{Path: dir, NoAuth: true})
		repository := "rest:" + server.URL + "/a/b/"
		succeeds(t, repository, "init")
		succeeds(t, repository, "backup", filepath.Join(source, "small"))
		succeeds(t, repository, "backup", source)
		if out := succeeds(t, repository, "forget", "--group-by", "", "--keep-last", "1", "--prune"); !strings.Contains(out, "1 snapshots have been removed") {
			t.Errorf("forget: %s", out)
		}
		checked(t, repository)
		restored(t, repository, source, file)
		restored(t, filepath.Join(dir, "a", "b"), source, file)
		if left := filepath.Join(dir, "a", "b", "locks"); len(files(t, left)) > 0 {
			t.Errorf("%q are left", files(t, left))
		}
		if text := log.String(); strings.Contains(text, "ERROR") {
			t.Errorf("log:\n%s", text)
		}
	})
	t.Run("TLS", func(t *testing.T) {
		t.Parallel()
		dir := local(t, "a")
		handler, err := NewHandler(&Server{Path: dir, NoAuth: true})
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(handler)
		server.EnableHTTP2 = true
		server.StartTLS()
		defer server.Close()
		ca := filepath.Join(t.TempDir(), "ca")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
		repository := "rest:" + server.URL + "/a/"
		succeeds(t, repository, "backup", source, "--cacert", ca)
		checked(t, filepath.Join(dir, "a"))
		restored(t, repository, source, file, "--cacert", ca)
	})
	t.Run("append-only", func(t *testing.T) {
		t.Parallel()
		dir := local(t, "")
		server, _ := serve(t, &Server{Path: dir, NoAuth: true, AppendOnly: true})
		repository := "rest:" + server.URL + "/"
		snapshots, keys := files(t, filepath.Join(dir, "snapshots")), files(t, filepath.Join(dir, "keys"))
		refused(t, "403 Forbidden", repository, "forget", snapshots[0])
		second := filepath.Join(t.TempDir(), "password")
		if err := os.WriteFile(second, []byte("battery staple"), 0o600); err != nil {
			t.Fatal(err)
		}
		succeeds(t, repository, "key", "add", "--new-password-file", second)
		both := files(t, filepath.Join(dir, "keys"))
		for _, id := range both {
			if id != keys[0] {
				refused(t, "403 Forbidden", repository, "key", "remove", id)
			}
		}
		if a, b := files(t, filepath.Join(dir, "snapshots")), files(t, filepath.Join(dir, "keys")); len(snapshots) != 1 || len(a) != 1 || len(both) != 2 || len(b) != 2 {
			t.Errorf("there are %d snapshots and %d keys; want 1 and 2", len(a), len(b))
		}
	})
	t.Run("private", func(t *testing.T) {
		t.Parallel()
		server, _ := serve(t, &Server{Path: local(t, "bob"), HtpasswdPath: writeUsers(t, bcryptOf(t, "bob", "pw"), bcryptOf(t, "eve", "pw")), PrivateRepos: true})
		url := func(login string) string {
			return "rest:http://" + login + "@" + strings.TrimPrefix(server.URL, "http://") + "/bob/"
		}
		succeeds(t, url("bob:pw"), "snapshots")
		refused(t, "401", url("eve:pw"), "snapshots")
		refused(t, "401", url("bob:wrong"), "snapshots")
	})
	t.Run("quota", func(t *testing.T) {
		t.Parallel()
		dir := local(t, "a")
		s := &Server{Path: dir, NoAuth: true, MaxRepoSize: 1 << 20}
		server, _ := serve(t, s)
		repository := "rest:" + server.URL + "/a/"
		refused(t, "507 Insufficient Storage", repository, "backup", source)
		succeeds(t, repository, "backup", filepath.Join(source, "small")) // there is room for that
		server.Close()
		var used int64
		for _, name := range files(t, dir) {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			used += info.Size()
		}
		if used != s.limit.Used() || used > s.MaxRepoSize {
			t.Errorf("%d bytes are stored, and %d of the quota are used; want the same, and at most %d", used, s.limit.Used(), s.MaxRepoSize)
		}
	})
}
