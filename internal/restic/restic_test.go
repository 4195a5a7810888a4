package restic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/config"
)

const password = "planted-password-5Vn"

// newRepository returns a repository in a folder of the test, which is not made yet.
func newRepository(t *testing.T) Repository {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "password"), []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	return Repository{
		Location: filepath.Join(dir, "repository"), PasswordFile: filepath.Join(dir, "password"), CacheDir: filepath.Join(dir, "cache"),
		Secrets: []string{password}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func initialised(t *testing.T) Repository {
	t.Helper()
	r := newRepository(t)
	if err := r.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r
}

func stdin(text string) Source {
	return Source{Host: "web1", Tags: []string{"module=wiki", "run=1"}, Stdin: strings.NewReader(text), Name: "file"}
}

func TestNoRepository(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	if _, err := r.Backup(t.Context(), stdin("x"), nil); !errors.Is(err, ErrNoRepository) {
		t.Errorf("Backup = %v, want ErrNoRepository", err)
	}
}

// What only failed to open is not missing: it must never be made anew.
func TestUnreachableIsNotMissing(t *testing.T) {
	t.Parallel()
	r := newRepository(t)
	r.Location = "rest:http://127.0.0.1:1/wiki/"
	_, err := r.Backup(t.Context(), stdin("x"), nil)
	if errors.Is(err, ErrNoRepository) || !errors.Is(err, ErrTransient) {
		t.Errorf("Backup = %v, want ErrTransient", err)
	}
}

func TestWrongPassword(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	if err := os.WriteFile(r.PasswordFile, []byte("another"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Snapshots(t.Context(), "web1", nil); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("Snapshots = %v, want ErrWrongPassword", err)
	}
}

// A password that is a word of what restic prints hides nothing from us.
func TestPasswordThatResticSays(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	const word = "wrong"
	if err := os.WriteFile(r.PasswordFile, []byte(word), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	r.Secrets, r.Log = []string{word}, slog.New(slog.NewTextHandler(&log, nil))
	if _, err := r.Snapshots(t.Context(), "web1", nil); !errors.Is(err, ErrWrongPassword) {
		t.Errorf("Snapshots = %v, want ErrWrongPassword", err)
	}
	if !strings.Contains(log.String(), "*** password") || strings.Contains(log.String(), word) {
		t.Errorf("the log holds the password: %s", log.String())
	}
	mask := Repository{Secrets: []string{word, "Fatal"}}.mask
	for text, want := range map[string]error{
		"Fatal: wrong password or no key found":                                                  ErrWrongPassword,
		"Fatal: unable to open config file: Stat: stat /wrong/config: no such file or directory": ErrNoRepository,
		"Fatal: wrong host: connection refused":                                                  ErrTransient,
	} {
		if err := classifyText(1, text, mask); !errors.Is(err, want) || strings.Contains(err.Error(), word) {
			t.Errorf("classifyText(%q) = %v; want %v, masked", text, err, want)
		}
	}
	if err := classifyText(1, "Fatal: "+strings.Repeat("x", 498)+word, mask); strings.Contains(err.Error(), "xwr") {
		t.Errorf("what is cut short tells the beginning of a secret: %v", err)
	}
}

func TestMissingProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := newRepository(t).Init(t.Context()); !errors.Is(err, ErrMissingProgram) {
		t.Errorf("Init = %v, want ErrMissingProgram", err)
	}
}

// Codes that nobody knows are failures, with what was printed; and no secret goes into an error or a log line.
func TestUnknownExitCode(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho 'Fatal: the moon is full, " + password + "' >&2\nexit 77\n"
	if err := os.WriteFile(filepath.Join(dir, "restic"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	r := newRepository(t)
	var log strings.Builder
	r.Log = slog.New(slog.NewTextHandler(&log, nil))
	_, err := r.Backup(t.Context(), stdin("x"), nil)
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 77 || !strings.Contains(exit.Text, "the moon is full") {
		t.Errorf("Backup = %v, want exit code 77 and why", err)
	}
	if strings.Contains(log.String()+err.Error(), password) {
		t.Errorf("the password is told: %v %s", err, log.String())
	}
}

// restic's exit code 3 is a snapshot that lacks the unreadable files.
func TestPartial(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		asNobody(t, "TestPartial")
		return
	}
	r := initialised(t)
	dir := t.TempDir()
	for _, name := range []string{"good", "bad"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "bad"), 0); err != nil {
		t.Fatal(err)
	}
	sum, err := r.Backup(t.Context(), Source{Host: "web1", Paths: []string{dir}}, nil)
	if err != nil || sum.Snapshot == "" || sum.UnreadableCount != 1 || !slices.Equal(sum.Unreadable, []string{filepath.Join(dir, "bad")}) {
		t.Errorf("Backup = %+v, %v; want a snapshot without bad", sum, err)
	}
}

// asNobody runs one test again as a user whom file modes stop.
func asNobody(t *testing.T, name string) {
	t.Helper()
	self, err := os.ReadFile(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "restic-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	binary := filepath.Join(dir, "test")
	if err := errors.Join(os.Chmod(dir, 0o777), os.WriteFile(binary, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-test.run", "^"+name+"$", "-test.count=1")
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir, "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as nobody: %v\n%s", err, out)
	}
}

func TestManyStrangePaths(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	dir := t.TempDir()
	var paths []string
	for _, name := range []string{"-flag", "sp ace", "new\nline", "star*", "#comment", "not-utf8-\xff"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	sum, err := r.Backup(t.Context(), Source{Host: "web1", Paths: paths}, nil)
	if err != nil || sum.Files != uint64(len(paths)) || sum.UnreadableCount != 0 {
		t.Errorf("Backup = %+v, %v; want %d files", sum, err, len(paths))
	}
}

// A stopped restic leaves no process and says why it stopped.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	in, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for {
			if names, _ := os.ReadDir(filepath.Join(r.Location, "locks")); len(names) > 0 {
				cancel(errors.New("terminated"))
				return
			}
			if t.Context().Err() != nil {
				return
			}
		}
	}()
	_, err = r.Backup(ctx, Source{Host: "web1", Stdin: in, Name: "file"}, nil)
	if !errors.Is(err, ErrInterrupted) || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("Backup = %v, want ErrInterrupted and why", err)
	}
}

// What KeepsAll says is kept, `restic forget` keeps.
func TestKeepsAllAgreesWithRestic(t *testing.T) {
	t.Parallel()
	r := initialised(t)
	now := time.Date(2026, 3, 31, 23, 30, 0, 0, time.Local)
	var times []time.Time
	for i, ago := range []time.Duration{0, time.Hour, 26 * time.Hour, 8 * 24 * time.Hour, 40 * 24 * time.Hour, 400 * 24 * time.Hour} {
		at := now.Add(-ago)
		cmd := exec.Command("restic", "-r", r.Location, "--password-file", r.PasswordFile, "--no-cache", "--quiet", "backup", "--host", "web1", "--tag", "module=wiki",
			"--time", at.Format(time.DateTime), "--stdin")
		cmd.Stdin = strings.NewReader(fmt.Sprint(i))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		times = append(times, at)
	}
	for _, test := range []struct {
		policy config.Retention
		want   bool
	}{
		{config.Retention{KeepLast: 6}, true},
		{config.Retention{KeepLast: 5}, false},
		{config.Retention{KeepDaily: 6}, false}, // two of one day
		{config.Retention{KeepHourly: 6}, true},
		{config.Retention{KeepLast: 2, KeepMonthly: 4}, false},
		{config.Retention{KeepLast: 2, KeepDaily: 6}, true},
		{config.Retention{KeepLast: 1, KeepWeekly: 2, KeepYearly: 2}, false},
		{config.Retention{KeepWithin: "2y"}, true},
		{config.Retention{KeepWithin: "1y1m"}, false},
		{config.Retention{KeepWithin: "2d", KeepMonthly: 3, KeepWeekly: 9}, true},
	} {
		if got := KeepsAll(test.policy, times); got != test.want {
			t.Errorf("KeepsAll(%+v) = %t; want %t", test.policy, got, test.want)
		}
		if !test.want {
			continue
		}
		f, err := r.Forget(t.Context(), test.policy, "web1", []string{"module=wiki"})
		if err != nil || len(f.Remove) != 0 || len(f.Keep) != len(times) {
			t.Fatalf("Forget(%+v) keeps %d and removes %d, %v; KeepsAll said that it keeps all", test.policy, len(f.Keep), len(f.Remove), err)
		}
	}
	f, err := r.Forget(t.Context(), config.Retention{KeepLast: 2}, "web1", []string{"module=wiki"})
	if err != nil || len(f.Remove) != 4 || len(f.Keep) != 2 {
		t.Errorf("Forget = %+v, %v; want 4 removed", f, err)
	}
	if list, err := r.Snapshots(t.Context(), "web1", []string{"module=wiki"}); err != nil || len(list) != 2 {
		t.Errorf("Snapshots = %+v, %v; want 2", list, err)
	}
	if f, err := r.Forget(t.Context(), config.Retention{KeepLast: 1}, "web1", []string{"module=none"}); err != nil || len(f.Keep)+len(f.Remove) != 0 {
		t.Errorf("Forget of nothing = %+v, %v", f, err)
	}
}

func TestClassifyText(t *testing.T) {
	locked := "Fatal: unable to create lock in backend: repository is already locked exclusively by PID 1234 on web1 by root (UID 0, GID 0)\nlock was created at 2026-11-20 03:00:00 (1m ago)\n"
	for _, test := range []struct {
		name string
		code int
		text string
		want error
	}{
		{"0.14 missing", 1, "Fatal: unable to open config file: stat /srv/config: no such file or directory\nIs there a repository at the following location?\n", ErrNoRepository},
		{"0.14 S3 missing", 1, "Fatal: unable to open config file: Stat: The specified key does not exist.\nIs there a repository at the following location?\n", ErrNoRepository},
		{"0.14 no permission", 1, "Fatal: unable to open config file: stat /srv/config: permission denied\nIs there a repository at the following location?\n", nil},
		{"0.18 missing", 10, "Fatal: repository does not exist: unable to open config file: stat /srv/config: no such file or directory\n", ErrNoRepository},
		{"0.14 password", 1, "Fatal: wrong password or no key found\n", ErrWrongPassword},
		{"0.18 password", 12, "Fatal: wrong password or no key found\n", ErrWrongPassword},
		{"refused", 1, "Fatal: unable to open config file: Head \"http://h/config\": dial tcp 127.0.0.1:1: connect: connection refused\nIs there a repository at the following location?\n", ErrTransient},
		{"bad gateway", 1, "Fatal: server response unexpected: 502 Bad Gateway (502)\n", ErrTransient},
		{"ssh", 1, "Fatal: unable to open repository at sftp:h:/r: unable to start the sftp session, error: error receiving version packet from server: server unexpectedly closed connection: unexpected EOF\n", ErrTransient},
		{"interrupted", 130, "", ErrInterrupted},
		{"unknown", 99, "Fatal: something\n", nil},
		{"nothing printed", 1, "", nil},
	} {
		err := classifyText(test.code, test.text, strings.Clone)
		for _, known := range []error{ErrNoRepository, ErrWrongPassword, ErrTransient, ErrInterrupted, ErrMissingProgram} {
			if errors.Is(err, known) != (known == test.want) {
				t.Errorf("%s: classifyText = %v; want %v", test.name, err, test.want)
			}
		}
	}
	const trace = "decrypting blob 849efb failed: ciphertext verification failed\nmain.runLs\ngithub.com/restic/restic/cmd/restic/cmd_ls.go:223\nruntime.goexit\nruntime/asm_amd64.s:1594\n"
	if err := classifyText(1, trace, strings.Clone); !strings.HasSuffix(err.Error(), "decrypting blob 849efb failed: ciphertext verification failed") {
		t.Errorf("classifyText of a trace = %v; want what is before it", err)
	}
	for _, code := range []int{1, 11} {
		var e *LockedError
		if err := classifyText(code, locked, strings.Clone); !errors.As(err, &e) || e.PID != 1234 || e.Host != "web1" {
			t.Errorf("classifyText(%d) = %v; want a LockedError of process 1234 on web1", code, err)
		}
	}
}

func TestOwnerLives(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		lock LockedError
		want bool
	}{
		{LockedError{PID: os.Getpid(), Host: "web1"}, true},
		{LockedError{PID: os.Getpid(), Host: "web2"}, false},
		{LockedError{PID: gone.Process.Pid, Host: "web1"}, false},
		{LockedError{}, false},
	} {
		if got := test.lock.OwnerLives("web1"); got != test.want {
			t.Errorf("%+v OwnerLives = %t; want %t", test.lock, got, test.want)
		}
	}
}

func TestParseForget(t *testing.T) {
	f, err := parseForget([]byte(`[{"keep":[{"id":"a"}],"remove":null},{"keep":[{"id":"b"}],"remove":[{"id":"c"}]}]` + "\n{\"message_type\":\"summary\"}\n"))
	if err != nil || len(f.Keep) != 2 || len(f.Remove) != 1 {
		t.Errorf("parseForget = %+v, %v", f, err)
	}
	for _, bad := range []string{"[{", "nonsense"} {
		if _, err := parseForget([]byte(bad)); err == nil {
			t.Errorf("parseForget(%q) did not fail", bad)
		}
	}
}

// Output is read in whatever pieces it comes, and a line without end costs no memory.
func TestSplitter(t *testing.T) {
	var got []string
	s := &splitter{each: func(b []byte) { got = append(got, string(b)) }}
	for _, piece := range []string{"a", "b\nc\r\n", "", "\n", "d"} {
		io.WriteString(s, piece)
	}
	for range 3 {
		io.WriteString(s, strings.Repeat("x", maxLineBytes))
	}
	io.WriteString(s, "\ne")
	s.flush()
	if want := []string{"ab", "c", "", "e"}; !slices.Equal(got, want) {
		t.Errorf("lines = %q; want %q", got, want)
	}
	if cap(s.rest) > 2*maxLineBytes {
		t.Errorf("%d bytes are kept", cap(s.rest))
	}
}

func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"message_type":"status","percent_done":0.5}`))
	f.Add([]byte(`{"message_type":"error","error":{"message":"open x"},"item":"x"}`))
	f.Add([]byte(`{"message_type":"exit_error","code":10,"message":"Fatal: x"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if m, ok := parseMessage(line); ok {
			_ = m.text()
		}
	})
}

func FuzzParseForget(f *testing.F) {
	f.Add([]byte(`[{"keep":[{"id":"a"}],"remove":null}]`))
	f.Fuzz(func(t *testing.T, data []byte) { _, _ = parseForget(data) })
}

func FuzzClassifyText(f *testing.F) {
	f.Add(1, "Fatal: x\n")
	f.Fuzz(func(t *testing.T, code int, text string) {
		if classifyText(code, text, strings.Clone) == nil {
			t.Errorf("classifyText(%d, %q) is no error", code, text)
		}
	})
}
