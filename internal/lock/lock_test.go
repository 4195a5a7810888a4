package lock

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMain lets the test binary stand for another process that holds a lock until its standard input ends.
func TestMain(m *testing.M) {
	if path := os.Getenv("LOCK_HOLDER"); path != "" {
		l, err := TryExclusive(path, "other")
		if err != nil {
			os.Exit(1)
		}
		if os.Getenv("LOCK_CHILD") != "" { // a child holds it, too, and outlives us
			child := exec.Command("cat")
			child.Stdin = os.Stdin
			child.ExtraFiles = []*os.File{l.File()}
			if child.Start() != nil {
				os.Exit(1)
			}
		}
		os.Stdout.WriteString("locked\n")
		bufio.NewReader(os.Stdin).ReadByte()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// holder starts a process that holds the lock, and returns what ends its standard input.
func holder(t *testing.T, path string, env ...string) (*exec.Cmd, func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(env, "LOCK_HOLDER="+path)...)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = r
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	t.Cleanup(func() { w.Close(); cmd.Process.Kill(); cmd.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal("the holder could not lock")
	}
	return cmd, func() { w.Close() }
}

func TestHeldByAnotherProcess(t *testing.T) {
	path := ModulePath(t.TempDir(), "wiki")
	cmd, _ := holder(t, path)
	_, err := TryExclusive(path, "mine")
	var held *HeldError
	if !errors.As(err, &held) || held.PID != cmd.Process.Pid || held.Holder != "other" || time.Since(held.Since) > time.Minute {
		t.Fatalf("TryExclusive = %v, want a HeldError of process %d", err, cmd.Process.Pid)
	}
}

func TestKillFreesAndWakes(t *testing.T) {
	path := ModulePath(t.TempDir(), "wiki")
	cmd, _ := holder(t, path)
	woken := make(chan error, 1)
	go func() { woken <- Wait(t.Context(), path) }()
	select {
	case err := <-woken:
		t.Fatalf("Wait returned %v while the lock was held", err)
	default:
	}
	cmd.Process.Kill()
	if err := <-woken; err != nil {
		t.Fatal(err)
	}
	l, err := TryExclusive(path, "mine")
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// A child that was handed the file keeps the lock when its parent is killed.
func TestChildKeepsLock(t *testing.T) {
	path := ModulePath(t.TempDir(), "wiki")
	cmd, endChild := holder(t, path, "LOCK_CHILD=1")
	cmd.Process.Kill()
	cmd.Wait()
	var held *HeldError
	if _, err := TryExclusive(path, "mine"); !errors.As(err, &held) {
		t.Fatalf("TryExclusive = %v, want HeldError while the child lives", err)
	}
	endChild()
	if err := Wait(t.Context(), path); err != nil {
		t.Fatal(err)
	}
}

func TestWaitEndsWithContext(t *testing.T) {
	path := ModulePath(t.TempDir(), "wiki")
	l, err := TryExclusive(path, "mine")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Wait(ctx, path); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait = %v, want context.Canceled", err)
	}
}

func TestEnsureDirRefusesWhatOthersCanWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "lock")
	if err := EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("mode %v, %v; want 0755 whatever the umask was", info.Mode(), err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if EnsureDir(dir) == nil {
		t.Error("EnsureDir took a folder of mode 0777")
	}
	if os.Getuid() == 0 {
		os.Chmod(dir, 0o755)
		os.Chown(dir, 12345, 0)
		if EnsureDir(dir) == nil {
			t.Error("EnsureDir took a stranger's folder")
		}
	}
}

func TestPrepareFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "wiki.lock")
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	if Prepare(link, os.Getuid(), os.Getgid()) == nil {
		t.Error("Prepare followed a link")
	}
	if err := Prepare(filepath.Join(dir, "mail.lock"), os.Getuid(), os.Getgid()); err != nil {
		t.Error(err)
	}
}

func FuzzParseHolder(f *testing.F) {
	f.Add("12 1700000000 1\n")
	f.Add("")
	f.Add("12 17")
	f.Fuzz(func(t *testing.T, text string) {
		held := parseHolder(text)
		if held.PID < 0 || held.Error() == "" {
			t.Errorf("parseHolder(%q) = %+v", text, held)
		}
	})
}
