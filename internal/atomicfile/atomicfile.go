// Package atomicfile replaces files so that readers find the old content or the new, whatever kills the writer.
//
// The new content goes into a temporary file beside the old one, is synced, and is renamed over it. A temporary file is
// named "." + name + digits: a hidden one that ends in no suffix that anybody looks for. Its writer holds a flock(2) on it
// until it has its final name; so one that is not locked is a dead writer's, and Sweep may remove it at any time, whatever
// the clock says and however many other writers there are.
//
// A rename survives a loss of power only after SyncDir; Write leaves that to callers who promise it.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// errSwept tells that Sweep removed the temporary file in the moment between its creation and its lock.
var errSwept = errors.New("temporary file was swept away")

// Write replaces the file at path, or makes it, with exactly this mode: neither a umask nor the mode of an older file counts.
func Write(path string, data []byte, mode fs.FileMode) error {
	for {
		err := write(path, data, mode)
		if !errors.Is(err, errSwept) {
			return err
		}
	}
}

func write(path string, data []byte, mode fs.FileMode) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(mode))
	if err != nil {
		return err
	}
	defer func() { _ = f.Cleanup() }() // nothing, once it has its final name
	// A lock belongs to the open file, not to the descriptor: this one keeps it while renameio closes its own.
	held, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	defer unix.Close(held)
	_ = lock(held, unix.LOCK_EX) // where locks do not work, Sweep cannot take one either
	var stat unix.Stat_t
	if err := unix.Fstat(held, &stat); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if stat.Nlink == 0 {
		return errSwept
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// Sweep removes the temporary files that dead writers of the named files left in dir; of all files, where none is named.
// What cannot be removed stays: litter is no reason to fail.
func Sweep(dir string, names ...string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type().IsRegular() && isTemporary(e.Name(), names) {
			sweep(filepath.Join(dir, e.Name()))
		}
	}
}

func sweep(path string) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if lock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil {
		os.Remove(path)
	}
}

func lock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how); err != unix.EINTR {
			return err
		}
	}
}

// isTemporary tells whether Write makes temporary files of this name for one of the named files, or for any.
func isTemporary(temporary string, names []string) bool {
	rest, hidden := strings.CutPrefix(temporary, ".")
	name := strings.TrimRight(rest, "0123456789")
	if !hidden || name == "" || name == rest {
		return false
	}
	if len(names) == 0 {
		return true
	}
	for _, n := range names {
		if digits, ok := strings.CutPrefix(rest, n); ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
			return true
		}
	}
	return false
}

// MakeDir makes the folder and its parents where they are missing, so that they survive a loss of power.
func MakeDir(dir string, mode fs.FileMode) error {
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrNotExist) && filepath.Dir(dir) != dir {
		if err := MakeDir(filepath.Dir(dir), mode); err != nil {
			return err
		}
		err = os.Mkdir(dir, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil // if it is no folder, whoever writes into it is told so
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// SyncDir makes durable which names a folder holds.
func SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
