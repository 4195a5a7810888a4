package destination

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"sdbackup/internal/atomicfile"
)

// change is one file to write, to move or to remove.
type change struct {
	path   string
	data   []byte // what it shall hold; nil: nothing, it is to go
	mode   fs.FileMode
	moveTo string // it is to have this name instead
	folder fs.FileMode
}

const (
	secretMode   = 0o600
	secretFolder = 0o700
	publicMode   = 0o644
	publicFolder = 0o755
)

// apply makes the changes one by one, each durable before the next begins: only so their order protects anything. When one fails,
// those before it are undone.
func (s *Store) apply(changes []change) (undo func() error, err error) {
	var done []change
	undo = func() error {
		var errs []error
		for _, c := range slices.Backward(done) {
			errs = append(errs, c.apply())
		}
		done = nil
		return errors.Join(errs...)
	}
	for _, c := range changes {
		if s.before != nil {
			if err := s.before(c); err != nil {
				return undo, errors.Join(err, undo())
			}
		}
		back, err := c.inverse()
		if err == nil {
			err = c.apply()
		}
		if err != nil {
			if e := undo(); e != nil {
				err = errors.Join(err, fmt.Errorf("and what was done before cannot be undone: %w", e))
			}
			return undo, err
		}
		done = append(done, back)
	}
	return undo, nil
}

// inverse is the change that undoes this one.
func (c change) inverse() (change, error) {
	if c.moveTo != "" {
		return change{path: c.moveTo, moveTo: c.path}, nil
	}
	back := change{path: c.path}
	info, err := os.Stat(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return back, nil
	}
	if err != nil {
		return back, err
	}
	back.mode = info.Mode().Perm()
	back.data, err = os.ReadFile(c.path)
	if back.data == nil {
		back.data = []byte{}
	}
	return back, err
}

func (c change) apply() error {
	dir := filepath.Dir(c.path)
	switch {
	case c.moveTo != "":
		if err := os.Rename(c.path, c.moveTo); err != nil {
			return err
		}
	case c.data == nil:
		if err := os.Remove(c.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	default:
		if c.folder != 0 {
			if err := makeFolder(dir, c.folder); err != nil {
				return err
			}
		}
		before, statErr := os.Stat(c.path)
		if old, err := os.ReadFile(c.path); statErr == nil && err == nil && bytes.Equal(old, c.data) && before.Mode().Perm() == c.mode {
			return nil // who watches the folder need not look
		}
		if err := atomicfile.Write(c.path, c.data, c.mode); err != nil {
			return err
		}
		if statErr == nil {
			if err := keepOwner(c.path, before); err != nil {
				return err
			}
		}
	}
	err := atomicfile.SyncDir(dir)
	if errors.Is(err, fs.ErrNotExist) && c.data == nil {
		return nil // there is no folder to remove anything from
	}
	return err
}

// makeFolder makes a folder of exactly this mode where it is missing. One that is there and is stricter stays as it is; one for
// secrets that others can look into is closed.
func makeFolder(dir string, mode fs.FileMode) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if parent := filepath.Dir(dir); mode == secretFolder {
			if err := atomicfile.MakeDir(parent, publicFolder); err != nil {
				return err
			}
		}
		if err := atomicfile.MakeDir(dir, mode); err != nil {
			return err
		}
		return os.Chmod(dir, mode) // whatever the umask
	}
	if err != nil {
		return err
	}
	if mode == secretFolder && info.Mode().Perm()&0o077 != 0 {
		return os.Chmod(dir, mode)
	}
	return nil
}

// keepOwner gives a file that was replaced to whom the old one belonged: it may be one that somebody else edits.
func keepOwner(path string, before fs.FileInfo) error {
	old, ok := before.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || old.Uid == 0 && old.Gid == 0 {
		return nil
	}
	return os.Chown(path, int(old.Uid), int(old.Gid))
}
