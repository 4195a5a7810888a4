package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// finish does what this restic does not: it takes extended attributes security.* away and makes holes of zeros. It returns what could not be done.
func finish(ctx context.Context, top string, strip, dig bool) []string {
	var failed []string
	fail := func(path string, err error) {
		if len(failed) < maxNamed {
			failed = append(failed, fmt.Sprintf("%s: %v", path, err))
		}
	}
	_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			fail(path, err)
			return nil
		}
		if strip {
			if err := stripSecurity(path); err != nil {
				fail(path, err)
			}
		}
		if dig && d.Type().IsRegular() {
			if err := digHoles(ctx, path); err != nil {
				fail(path, err)
			}
		}
		return context.Cause(ctx)
	})
	return failed
}

// stripSecurity removes the attributes security.*, xattr(7), but for the label that the kernel gives every file.
func stripSecurity(path string) error {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, 65536) // XATTR_LIST_MAX
		n, err = unix.Llistxattr(path, buf)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list its attributes: %w", err)
	}
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if !strings.HasPrefix(name, "security.") || name == "security.selinux" {
			continue
		}
		if err := unix.Lremovexattr(path, name); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove its attribute %s: %w", name, err)
		}
	}
	return nil
}

const (
	// holeBytes is the least that becomes a hole, and where one may begin.
	holeBytes = 64 << 10
	readBytes = 1 << 20
)

// digHoles makes holes of a file's zeros. Its times stay as they are.
func digHoles(ctx context.Context, path string) (err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Blocks*512 < holeBytes {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil // a user's own read-only file is as good without holes
	}
	if err != nil {
		return err
	}
	defer f.Close()
	dug := false
	defer func() {
		if dug {
			times := []unix.Timespec{unix.NsecToTimespec(syscall.TimespecToNsec(st.Atim)), unix.NsecToTimespec(syscall.TimespecToNsec(st.Mtim))}
			err = errors.Join(err, unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW))
		}
	}()
	buf, zeros := make([]byte, readBytes), make([]byte, holeBytes)
	for at := int64(0); ctx.Err() == nil; {
		n, err := f.ReadAt(buf, at)
		for i := 0; i+holeBytes <= n; i += holeBytes {
			if !bytes.Equal(buf[i:i+holeBytes], zeros) {
				continue
			}
			switch err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, at+int64(i), holeBytes); {
			case errors.Is(err, unix.ENOTSUP):
				return nil
			case err != nil:
				return fmt.Errorf("make a hole: %w", err)
			}
			dug = true
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}
