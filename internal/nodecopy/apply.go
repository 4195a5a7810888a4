package nodecopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
	"sdbackup/internal/lock"
)

// ProblemsError tells that the configuration would have mistakes, and nothing was written.
type ProblemsError struct{ Problems []config.Problem }

func (e *ProblemsError) Error() string {
	lines := []string{"the configuration would have mistakes; nothing was written"}
	for _, p := range e.Problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

// DiffersError tells that other files are in the way, and nothing was written.
type DiffersError struct{ Paths []string }

func (e *DiffersError) Error() string {
	return "other files of the same names are here, and nothing was written: " + strings.Join(e.Paths, ", ")
}

// change is one file to write, or to remove.
type change struct {
	path     string
	data     []byte
	mode     fs.FileMode
	uid, gid int // of whom it is to be; -1: as it comes
	remove   bool
	folder   bool // what is to be removed is a folder that was made
}

// Apply writes what is new, and what differs if Overwrite is set: the secrets first, the configuration that names them last, each file
// as a whole and durably. When something fails, or ctx ends, what was written is taken back, and so are folders that were made. Only
// being killed in the middle leaves a part: then the configuration is the old one, or some files of the new one are there, all with
// their secrets; Plan and Apply again finish it.
//
// A *ProblemsError and a *DiffersError say that nothing was tried. A secret that is replaced is kept as Kept says: it may be
// what opens a repository.
func (p Plan) Apply(ctx context.Context) error {
	if errs := p.Errors(); len(errs) > 0 && !p.IgnoreProblems {
		return &ProblemsError{errs}
	}
	if differing := p.Differing(); len(differing) > 0 && !p.Overwrite {
		return &DiffersError{differing}
	}
	if !slices.ContainsFunc(p.Files, func(f Planned) bool { return f.State != Same }) {
		return nil
	}
	var done []change // how to undo what was done
	undo := func(err error) error {
		for _, c := range slices.Backward(done) {
			if e := c.apply(); e != nil {
				err = errors.Join(err, fmt.Errorf("and it cannot be taken back: %w", e))
			}
		}
		return err
	}
	made, err := makeFolders(p.folder, 0o755)
	done = append(done, made...)
	if err != nil {
		return undo(err)
	}
	unlock, err := lock.Folder(p.folder)
	if err != nil {
		return undo(err)
	}
	defer unlock()
	for _, f := range p.Files {
		if f.State == Same {
			continue
		}
		made, err := makeFolders(filepath.Dir(f.Path), f.folder)
		done = append(done, made...)
		if err != nil {
			return undo(fmt.Errorf("restore %s: %w", f.Path, err))
		}
		back, err := p.write(ctx, f)
		done = append(done, back...)
		if err != nil {
			return undo(fmt.Errorf("restore %s: %w", f.Path, err))
		}
	}
	return nil
}

// write writes one file and returns how to undo it, also of a part when it fails.
func (p Plan) write(ctx context.Context, f Planned) (back []change, err error) {
	old, exists, err := inverse(f.Path)
	if err != nil {
		return nil, err
	}
	if exists && f.State == New && !bytes.Equal(old.data, f.Data) {
		return nil, errors.New("somebody else has just made it; try again")
	}
	changes := []change{{path: f.Path, data: f.Data, mode: f.Mode, uid: -1, gid: -1}}
	inverses := []change{old}
	if exists && !f.Secret {
		changes[0].uid, changes[0].gid = old.uid, old.gid // it may be one that somebody else edits
	}
	if f.Kept != "" && exists {
		kept := old
		kept.path, kept.mode = f.Kept, secretMode
		changes, inverses = slices.Insert(changes, 0, kept), slices.Insert(inverses, 0, change{path: f.Kept, remove: true})
	}
	for i, c := range changes {
		if ctx.Err() != nil {
			return back, context.Cause(ctx)
		}
		if p.before != nil {
			if err := p.before(c); err != nil {
				return back, err
			}
		}
		back = append(back, inverses[i]) // a change that fails half-way is undone, too
		if err := c.apply(); err != nil {
			return back, err
		}
	}
	return back, nil
}

// inverse is the change that brings a file back, or removes it where there is none.
func inverse(path string) (back change, exists bool, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return change{path: path, remove: true}, false, nil
	}
	if err != nil {
		return change{}, false, err
	}
	if !info.Mode().IsRegular() {
		return change{}, true, errors.New("what is there is no regular file")
	}
	data, mode, err := readFile(path)
	back = change{path: path, data: data, mode: mode, uid: -1, gid: -1}
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		back.uid, back.gid = int(s.Uid), int(s.Gid)
	}
	return back, true, err
}

func (c change) apply() error {
	if c.remove {
		err := os.Remove(c.path)
		switch {
		case errors.Is(err, fs.ErrNotExist), c.folder && errors.Is(err, unix.ENOTEMPTY): // somebody else uses it
			return nil
		case err != nil:
			return err
		}
		return atomicfile.SyncDir(filepath.Dir(c.path))
	}
	if err := atomicfile.Write(c.path, c.data, c.mode); err != nil {
		return err
	}
	if c.uid >= 0 && (c.uid != os.Geteuid() || c.gid != os.Getegid()) && os.Geteuid() == 0 {
		if err := os.Chown(c.path, c.uid, c.gid); err != nil {
			return err
		}
	}
	return atomicfile.SyncDir(filepath.Dir(c.path))
}

// makeFolders makes a folder of this mode where it is missing, and those above it, which all may pass. It returns how to undo that.
func makeFolders(dir string, mode fs.FileMode) (back []change, err error) {
	if _, err := os.Stat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if parent := filepath.Dir(dir); parent != dir {
		if back, err = makeFolders(parent, 0o755); err != nil {
			return back, err
		}
	}
	if err := os.Mkdir(dir, mode); errors.Is(err, fs.ErrExist) {
		return back, nil
	} else if err != nil {
		return back, err
	}
	back = append(back, change{path: dir, remove: true, folder: true})
	if err := os.Chmod(dir, mode); err != nil { // whatever the umask
		return back, err
	}
	return back, atomicfile.SyncDir(filepath.Dir(dir))
}
