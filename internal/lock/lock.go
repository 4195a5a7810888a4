// Package lock has the locks that keep backups apart: flock(2) on files that are never unlinked, for whoever locks an unlinked
// file holds nothing that the next one would see.
//
// A lock belongs to the open file, not to the process. Files are opened close-on-exec; a child that shall hold the lock,
// too, is handed File, and the lock is free only when the last of them is gone, however they went.
package lock

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Lock is a lock that is held.
type Lock struct{ file *os.File }

// HeldError tells that somebody else has the lock, and who: what the holder wrote into the file, as far as it can be read.
type HeldError struct {
	Path   string
	PID    int    // 0: unknown
	Holder string // what it locks for; "": unknown
	Since  time.Time
	Gone   bool // the process has ended: what it started, say a restic, still has the lock
}

func (e *HeldError) Error() string {
	switch {
	case e.PID == 0:
		return filepath.Base(e.Path) + " is held"
	case e.Gone:
		return fmt.Sprintf("held by what process %d (backup %s) started, which has ended itself, since %s", e.PID, e.Holder, e.Since.Format(time.DateTime))
	}
	return fmt.Sprintf("held by process %d (backup %s) since %s", e.PID, e.Holder, e.Since.Format(time.DateTime))
}

// ModulePath is the path of a module's lock file in the folder of locks.
func ModulePath(dir, module string) string { return filepath.Join(dir, module+".lock") }

// maxHolderBytes bounds what is read of a lock file.
const maxHolderBytes = 256

// TryExclusive takes the lock, making the file where it is missing. It does not wait: a *HeldError says who has it. The
// holder is what others are told that it is locked for.
func TryExclusive(path, holder string) (*Lock, error) {
	f, err := open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		held := heldBy(f, path)
		f.Close()
		return nil, held
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// For messages only: that it may be torn, or fail on a full disk, costs nobody the lock.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(formatHolder(os.Getpid(), time.Now(), holder)), 0)
	}
	return &Lock{f}, nil
}

// Release gives the lock up, unless a child holds it, too. The file stays.
func (l *Lock) Release() error { return l.file.Close() }

// File is the open file that holds the lock, for a child that shall hold it, too.
func (l *Lock) File() *os.File { return l.file }

// Folder locks the folder of a configuration, for whoever changes it. It does not wait. The lock ends with the process, too.
func Folder(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return func() { f.Close() }, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another process is changing %s; try again when it is done", dir)
	}
	return nil, fmt.Errorf("lock %s: %w", dir, err)
}

// Wait returns nil as soon as nobody holds the lock, or ctx's error. It does not take the lock: whoever does next has it.
func Wait(ctx context.Context, path string) error {
	f, err := open(path, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	free := make(chan error, 1)
	go func() {
		// flock cannot be cancelled. When ctx ends first, this goroutine stays until the lock is free, and gives it back.
		err := flock(f, unix.LOCK_SH)
		f.Close()
		free <- err
	}()
	select {
	case err := <-free:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// EnsureDir makes the folder of locks where it is missing, and refuses one that others could tamper with: on some systems
// everybody may write to the folder above it, and a stranger may have been first.
func EnsureDir(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of locks: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("examine the folder of locks: %w", err)
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if info.IsDir() && int(owner) == os.Geteuid() && info.Mode().Perm()&0o022 == 0 && info.Mode().Perm() != 0o755 {
		// Whatever the umask: the users of modules must get at their locks.
		if err := os.Chmod(dir, 0o755); err != nil {
			return fmt.Errorf("open the folder of locks to modules: %w", err)
		}
	}
	switch {
	case !info.IsDir():
		return fmt.Errorf("the folder of locks, %s, is no folder", dir)
	case owner != 0 && int(owner) != os.Geteuid():
		return fmt.Errorf("the folder of locks, %s, belongs to uid %d, not to root: remove it", dir, owner)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("the folder of locks, %s, can be written to by others: want mode 0755", dir)
	}
	return nil
}

// Prepare makes a lock file that the user can lock, and nobody else but root.
func Prepare(path string, uid, gid int) error {
	f, err := open(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("lock %s is no regular file", path)
	}
	if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != uid || int(st.Gid) != gid {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
	}
	return f.Chmod(0o600)
}

func open(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
}

// flock is flock(2), begun again when a signal interrupts it.
func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

func formatHolder(pid int, since time.Time, holder string) string {
	return fmt.Sprintf("%d %d %s\n", pid, since.Unix(), holder)
}

// parseHolder reads what formatHolder wrote; what is torn or strange leaves fields empty.
func parseHolder(text string) *HeldError {
	fields := strings.SplitN(strings.TrimSuffix(text, "\n"), " ", 3)
	if len(fields) != 3 {
		return &HeldError{}
	}
	pid, err := strconv.Atoi(fields[0])
	since, err2 := strconv.ParseInt(fields[1], 10, 64)
	if err != nil || err2 != nil || pid <= 0 {
		return &HeldError{}
	}
	return &HeldError{PID: pid, Holder: strings.ToValidUTF8(fields[2], "?"), Since: time.Unix(since, 0)}
}
