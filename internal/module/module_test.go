package module

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/restic"
	"sdbackup/internal/status"
)

const password = "planted-password-3Kd"

// newPlan returns the plan of a module with a little data and a repository that does not exist yet.
func newPlan(t *testing.T) Plan {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string]string{"data/page.txt": "a page\n", "data/sub/other.txt": "another\n", "password": password + "\n"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Plan{
		Run: "run1", Backup: "1", Module: "wiki", Node: "web1",
		Repository:   filepath.Join(dir, "repository"),
		PasswordFile: filepath.Join(dir, "password"),
		CacheDir:     filepath.Join(dir, "cache"),
		LockFile:     filepath.Join(dir, "wiki.lock"),
		Directory:    dir, Include: []string{"data"}, OnPartial: "fail",
		PruneInterval: 7 * 24 * time.Hour, Timeout: time.Minute, NoProgressTimeout: time.Minute,
		MayInit: true,
	}
}

// next is the plan of the attempt after one with this result.
func (p Plan) next(r status.Result) Plan {
	p.Snapshots, p.LastPrune, p.MayInit = r.Snapshots, r.LastPrune, false
	return p
}

func attemptOf(t *testing.T, p Plan) (status.Result, string) {
	t.Helper()
	var log strings.Builder
	r := Run(t.Context(), p, nil, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if strings.Contains(log.String(), password) || strings.Contains(r.Error, password) {
		t.Errorf("the log or the error holds the password: %s %s", r.Error, log.String())
	}
	return r, log.String()
}

// resticCalls counts the calls of restic in a debug log.
func resticCalls(log string) int {
	return strings.Count(log, `msg="restic `) - strings.Count(log, `msg="restic: `)
}

func (p Plan) repositoryForTest(t *testing.T) restic.Repository {
	return restic.Repository{Location: p.Repository, PasswordFile: p.PasswordFile, CacheDir: p.CacheDir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
}

func (p Plan) snapshots(t *testing.T) []restic.Snapshot {
	t.Helper()
	list, err := p.repositoryForTest(t).Snapshots(t.Context(), p.Node, []string{"module=wiki"})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func want(t *testing.T, r status.Result, outcome status.Outcome, errorPart string) {
	t.Helper()
	if r.Outcome != outcome || !strings.Contains(r.Error, errorPart) {
		t.Fatalf("outcome %s, error %q (hint %q); want %s with %q", r.Outcome, r.Error, r.Hint, outcome, errorPart)
	}
}

// The first attempt makes the repository; later ones save, forget what the policy does not keep, and call restic no more than needed.
func TestSaveAndRetain(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	p.Retention = config.Retention{KeepLast: 2}
	hooks := filepath.Join(p.Directory, "hooks")
	p.DumpState = []string{"sh", "-c", "echo dump $MODULE_ID >> " + hooks}
	p.CleanupState = []string{"sh", "-c", "echo cleanup >> " + hooks}
	var r status.Result
	for i, removed := range []int{0, 0, 1, 1} {
		var log string
		r, log = attemptOf(t, p)
		want(t, r, status.Success, "")
		if r.Retention == nil || r.Retention.Removed != removed || r.Retention.Pruned != (removed > 0) {
			t.Errorf("attempt %d: retention %+v, want %d removed", i, r.Retention, removed)
		}
		if n := resticCalls(log); n > 2 || i == 1 && n != 1 {
			t.Errorf("attempt %d: %d calls of restic, want at most 2:\n%s", i, n, log)
		}
		p = p.next(r)
	}
	if list := p.snapshots(t); len(list) != 2 || len(r.Snapshots) != 2 {
		t.Errorf("%d snapshots in the repository and %d on record, want 2", len(list), len(r.Snapshots))
	} else if tags := list[1].Tags; !slices.Equal(tags, []string{"module=wiki", "backup=1", "files", "run=run1"}) {
		t.Errorf("tags = %v", tags)
	}
	if r.Files != 2 || r.SizeBytes == 0 || r.Snapshot == "" {
		t.Errorf("result = %+v, want what was saved", r)
	}
	data, _ := os.ReadFile(hooks)
	if want := strings.Repeat("dump wiki\ncleanup\n", 4); string(data) != want {
		t.Errorf("hooks wrote %q, want %q", data, want)
	}
	// Changed paths do not start a group of their own, in which everything would be kept for ever.
	p.Include = []string{"data/sub"}
	r, _ = attemptOf(t, p)
	want(t, r, status.Success, "")
	if n := len(p.snapshots(t)); n != 2 {
		t.Errorf("%d snapshots after the paths changed, want 2", n)
	}
	// A restore gives back the same bytes.
	target := t.TempDir()
	cmd := exec.Command("restic", "-r", p.Repository, "--password-file", p.PasswordFile, "--no-cache", "restore", "latest", "--target", target)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if got, _ := os.ReadFile(target + p.Directory + "/data/sub/other.txt"); string(got) != "another\n" {
		t.Errorf("restored %q", got)
	}
}

// What fails before restic is begun leaves no snapshot, and cleans up.
func TestFailuresBeforeRestic(t *testing.T) {
	for _, test := range []struct {
		name    string
		change  func(*Plan)
		message string
	}{
		{"missing source", func(p *Plan) { p.Include = []string{"data", "gone"} }, "gone: no such file"},
		{"failed dump hook", func(p *Plan) { p.DumpState = []string{"sh", "-c", "echo disk full >&2; exit 7"} }, "disk full"},
		{"missing hook", func(p *Plan) { p.DumpState = []string{"/no/such/hook"} }, "/no/such/hook"},
		{"too few files", func(p *Plan) { p.MinFiles = 3 }, "there are 2 files"},
		{"no mount", func(p *Plan) { p.RequireMount = []string{p.Directory} }, "nothing is mounted"},
		{"no password", func(p *Plan) { p.PasswordFile += ".gone" }, "password"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlan(t)
			test.change(&p)
			r, _ := attemptOf(t, p)
			want(t, r, status.Failed, test.message)
			if r.Retry || r.Snapshot != "" {
				t.Errorf("result = %+v, want no retry and no snapshot", r)
			}
			if _, err := os.Stat(p.Repository); err == nil {
				t.Error("there is a repository")
			}
		})
	}
}

// A dump becomes a file of a snapshot only when its program ended well and printed something.
func TestDumps(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	p.Include = nil
	p.Retention = config.Retention{KeepLast: 1}
	p.Dumps = []config.Dump{{Command: []string{"sh", "-c", "echo all of it"}, Filename: "db.sql"}}
	p.CleanupState = []string{"touch", filepath.Join(p.Directory, "cleaned")}
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	if len(r.Dumps) != 1 {
		t.Fatalf("dumps = %v, want one", r.Dumps)
	}
	cmd := exec.Command("restic", "-r", p.Repository, "--password-file", p.PasswordFile, "--no-cache", "dump", "latest", "/db.sql")
	if out, err := cmd.Output(); err != nil || string(out) != "all of it\n" {
		t.Errorf("the dump reads %q, %v", out, err)
	}
	p = p.next(r)
	for name, command := range map[string]string{"half": "echo half; exit 1", "empty": "true", "killed": "echo half; kill -9 $$"} {
		p.Dumps[0].Command = []string{"sh", "-c", command}
		os.Remove(p.CleanupState[1])
		r, _ := attemptOf(t, p)
		want(t, r, status.Failed, "dump db.sql")
		if _, err := os.Stat(p.CleanupState[1]); err != nil {
			t.Errorf("%s: cleanup-state did not run", name)
		}
		if n := len(p.snapshots(t)); n != 1 {
			t.Errorf("%s: %d snapshots, want the good one only", name, n)
		}
	}
}

func TestLockedModuleIsConflict(t *testing.T) {
	p := newPlan(t)
	held, err := lock.TryExclusive(p.LockFile, "other")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	r, _ := attemptOf(t, p)
	want(t, r, status.Conflict, "already being backed up")
	if !strings.Contains(r.Error, "backup other") {
		t.Errorf("error = %q, want it to say by whom", r.Error)
	}
}

// A repository that the records know is never made anew behind their back.
func TestVanishedRepository(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	p.MayInit = false
	r, _ := attemptOf(t, p)
	want(t, r, status.Failed, "is gone")
	if !strings.Contains(r.Hint, "run-backup --init 1") {
		t.Errorf("hint = %q", r.Hint)
	}
	if _, err := os.Stat(filepath.Join(p.Repository, "config")); err == nil {
		t.Error("the repository was made")
	}
}

func TestWrongPasswordIsNotRetried(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	if err := os.WriteFile(p.PasswordFile, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ = attemptOf(t, p.next(r))
	want(t, r, status.Failed, "password")
	if r.Retry || r.Hint == "" {
		t.Errorf("retry %t, hint %q; want a hint and no retry", r.Retry, r.Hint)
	}
}

// killRestic kills a restic that works on the plan's repository, in the middle, and leaves its lock.
func killRestic(t *testing.T, p Plan) {
	t.Helper()
	cmd := exec.Command("restic", "-r", p.Repository, "--password-file", p.PasswordFile, "--no-cache", "backup", "--stdin")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLock(t, p)
	cmd.Process.Kill()
	cmd.Wait()
}

func waitForLock(t *testing.T, p Plan) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		names, _ := os.ReadDir(filepath.Join(p.Repository, "locks"))
		if len(names) > 0 && len(names[0].Name()) == 64 { // else it is still being written
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("restic takes no lock")
		}
		syscall.Select(0, nil, nil, nil, &syscall.Timeval{Usec: 5000})
	}
}

// The lock of a killed restic is removed, and what it left is pruned; that of a living one is left alone.
func TestRepositoryLocks(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	p.Retention = config.Retention{KeepLast: 1}
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	p = p.next(r)

	killRestic(t, p)
	p.Unclean = true
	r, _ = attemptOf(t, p)
	want(t, r, status.Success, "")
	if r.StaleLocksRemoved != 1 || !r.Retention.Pruned {
		t.Errorf("%d stale locks removed, retention %+v; want 1 and pruned", r.StaleLocksRemoved, r.Retention)
	}
	p = p.next(r)

	living := exec.Command("restic", "-r", p.Repository, "--password-file", p.PasswordFile, "--no-cache", "backup", "--stdin")
	in, err := living.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := living.Start(); err != nil {
		t.Fatal(err)
	}
	waitForLock(t, p)
	r, _ = attemptOf(t, p)
	want(t, r, status.Failed, "retention failed")
	if !r.Retry || r.StaleLocksRemoved != 0 || r.Snapshot == "" {
		t.Errorf("result = %+v, want a retry and the lock left alone", r)
	}
	io.WriteString(in, "something")
	in.Close()
	if err := living.Wait(); err != nil {
		t.Errorf("the other restic was disturbed: %v", err)
	}
	// The next attempt of the run has only the retention left to do.
	before := len(p.snapshots(t))
	p.Saved = &r
	r, log := attemptOf(t, p)
	want(t, r, status.Success, "")
	if resticCalls(log) != 1 || r.Retention == nil || r.Retention.Removed != 1 || before != 2 {
		t.Errorf("calls %d, retention %+v, %d snapshots before; want one call that removes one", resticCalls(log), r.Retention, before)
	}
}

// A stopped attempt leaves neither restic nor its lock, and cleans up.
func TestStoppedAttempt(t *testing.T) {
	t.Parallel()
	for name, limit := range map[string]func(*Plan){
		"signal":      func(*Plan) {},
		"timeout":     func(p *Plan) { p.Timeout = 3 * time.Second },
		"no progress": func(p *Plan) { p.NoProgressTimeout = 2 * time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlan(t)
			p.Include = nil
			gate := filepath.Join(p.Directory, "gate")
			if err := syscall.Mkfifo(gate, 0o600); err != nil {
				t.Fatal(err)
			}
			r, _ := attemptOf(t, func() Plan { // so that the repository exists
				q := p
				q.Dumps = []config.Dump{{Command: []string{"echo", "x"}, Filename: "db"}}
				return q
			}())
			want(t, r, status.Success, "")
			p = p.next(r)
			p.Dumps = []config.Dump{{Command: []string{"sh", "-c", "echo begun; cat " + gate}, Filename: "db"}}
			p.CleanupState = []string{"touch", filepath.Join(p.Directory, "cleaned")}
			limit(&p)
			ctx, cancel := context.WithCancelCause(t.Context())
			if name == "signal" {
				go func() { waitForLock(t, p); cancel(errors.New("SIGTERM")) }()
			}
			r = Run(ctx, p, nil, slog.New(slog.NewTextHandler(io.Discard, nil)))
			cancel(nil)
			want(t, r, status.Failed, map[string]string{"signal": "SIGTERM", "timeout": "timeout", "no progress": "no progress"}[name])
			if r.Retry != (name == "no progress") {
				t.Errorf("retry = %t", r.Retry)
			}
			if names, _ := os.ReadDir(filepath.Join(p.Repository, "locks")); len(names) > 0 {
				t.Error("restic's lock is left")
			}
			if _, err := os.Stat(p.CleanupState[1]); err != nil {
				t.Error("cleanup-state did not run")
			}
		})
	}
}

func TestNewPlanKnowsItsRepositoryOnly(t *testing.T) {
	cfg := &config.Config{Node: config.Node{Name: "web1"}, Destinations: map[string]*config.Destination{"d": {ID: "d", Repository: "/srv"}}}
	b, m := &config.Backup{ID: "1", Destination: "d"}, &config.Module{ID: "wiki", Type: "w", UUID: "u"}
	rec := &status.Module{Result: status.Result{Repository: "/srv/w/u", Snapshots: []status.Snapshot{{ID: "1"}}}, LastSuccess: time.Now()}
	if p := NewPlan(cfg, config.Paths{}, b, m, "r", rec); p.MayInit || len(p.Snapshots) != 1 {
		t.Errorf("plan = %+v, want it to know the repository", p)
	}
	rec.Repository = "/elsewhere/w/u"
	if p := NewPlan(cfg, config.Paths{}, b, m, "r", rec); !p.MayInit || len(p.Snapshots) != 0 {
		t.Errorf("plan = %+v, want it to know nothing of another repository", p)
	}
}

func FuzzEnvironment(f *testing.F) {
	f.Add("A=b\n# c\nexport X=1\nQ=\"a b\"\n")
	f.Fuzz(func(t *testing.T, data string) {
		env, err := environment(data)
		for _, line := range env {
			if name, _, ok := strings.Cut(line, "="); !ok || name == "" || strings.ContainsRune(line, 0) || strings.Contains(line, "\n") {
				t.Errorf("environment(%q) = %q, %v", data, env, err)
			}
		}
	})
}

// What a restore in place leaves, or keeps, is in no backup: only root may read it.
func TestExcludeOwn(t *testing.T) {
	t.Parallel()
	p := newPlan(t)
	p.Exclude = []string{"*.log"}
	for _, name := range []string{StagePrefix + "wiki/tree/page", ReplacedPrefix + "wiki-20260101T000000Z/x", DumpsPrefix + "wiki/all.sql", "a.log", ".sdbackup-notes"} {
		path := filepath.Join(p.Directory, "data/sub", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	var names []string
	err := p.repositoryForTest(t).Ls(t.Context(), r.Snapshot, nil, func(n restic.Node) error {
		if n.Type == "file" {
			names = append(names, n.Name)
		}
		return nil
	})
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{".sdbackup-notes", "other.txt", "page.txt"}) {
		t.Errorf("the backup has %q, %v", names, err)
	}
}

// The hook of a restore has no terminal, and what it leaves behind ends.
func TestRestoreHook(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	h := Hook{Name: "restore-state", Log: slog.New(slog.NewTextHandler(&log, nil)), Argv: []string{"sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo left $!; cat /proc/$$/stat; echo no >/dev/tty"}}
	err := h.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "/dev/tty") {
		t.Errorf("Run = %v; it could write to a terminal", err)
	}
	_, stat, _ := strings.Cut(log.String(), " (sh) ")
	// proc_pid_stat(5): state, ppid, pgrp, session, tty_nr
	fields := strings.Fields(stat)
	own, _ := unix.Getsid(0)
	if len(fields) < 5 || fields[3] == strconv.Itoa(own) || fields[3] != fields[2] || fields[4] != "0" {
		t.Errorf("our session is %d, its process is %v", own, fields)
	}
	_, left, _ := strings.Cut(log.String(), "left ")
	left, _, _ = strings.Cut(left, "\"")
	pid, err := strconv.Atoi(left)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		data, err := os.ReadFile("/proc/" + left + "/stat")
		if err != nil || strings.Contains(string(data), ") Z ") {
			break
		}
		if time.Now().After(deadline) {
			syscall.Kill(pid, syscall.SIGKILL)
			t.Fatal("what it left behind goes on")
		}
		runtime.Gosched()
	}
}

// What is missing in a file is told of the file that the operator knows, not of the copy that a unit is given.
func TestFindSecretsEmpty(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := FindSecrets(&config.Destination{ID: "d", PasswordFile: file}, os.Getenv)
	if want := "destination d: password-file " + file + " is empty"; err == nil || err.Error() != want {
		t.Errorf("FindSecrets = %v; want %s", err, want)
	}
}
