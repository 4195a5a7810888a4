package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// target is the folder that is restored to.
type target struct {
	path   string
	exists bool
	mode   os.FileMode // that it had
	fs     filesystem
	free   uint64 // bytes that the caller may use
	inodes uint64 // likewise; 0: the file system does not count them
	parent string // the nearest folder that is there
}

// filesystem is what a kind of file system cannot hold.
type filesystem struct {
	name     string
	bare     bool   // no owners, modes, links and attributes
	caseless bool   // names that differ by case only are one
	largest  uint64 // bytes of a file; 0: no limit that matters
}

// filesystems are those that cannot hold everything, by their numbers in statfs(2).
var filesystems = map[int64]filesystem{
	unix.MSDOS_SUPER_MAGIC: {"vfat", true, true, 1<<32 - 1},
	0x2011bab0:             {"exfat", true, true, 0},
	0x5346544e:             {"ntfs", true, true, 0},
	0x7366746e:             {"ntfs3", true, true, 0},
	0xff534d42:             {"cifs", true, true, 0},
	0xfe534d42:             {"smb", true, true, 0},
}

// look examines a target without changing anything, and returns all that is wrong with it.
func look(path string) (target, []Problem) {
	t := target{path: path, parent: path}
	var problems []Problem
	add := func(remedy, format string, args ...any) {
		problems = append(problems, Problem{Text: fmt.Sprintf(format, args...), Remedy: remedy})
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && !info.IsDir():
		add("name another folder with --target", "%s is no folder", path)
		return t, problems
	case err == nil:
		t.exists, t.mode = true, info.Mode()&modeBits
		if name, err := firstIn(path); err != nil {
			add("", "look into %s: %v", path, err)
		} else if name != "" {
			add("name a new folder with --target: nothing is ever written over", "%s is not empty", path)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() != 0 && int(st.Uid) != os.Geteuid() {
			add("name a folder of your own with --target", "%s belongs to somebody else", path)
		}
	case errors.Is(err, fs.ErrNotExist):
		t.parent = filepath.Dir(path)
		if info, err := os.Stat(t.parent); err != nil || !info.IsDir() {
			add("make it: mkdir -p "+strconv.Quote(t.parent), "there is no folder %s to restore into", t.parent)
			return t, problems
		}
	default:
		add("", "examine %s: %v", path, err)
		return t, problems
	}
	var st unix.Statfs_t
	if err := unix.Statfs(t.parent, &st); err != nil {
		add("", "examine the file system of %s: %v", t.parent, err)
		return t, problems
	}
	t.fs = filesystems[int64(st.Type)] //nolint:unconvert // it has other types on other machines
	available := st.Bavail
	if os.Geteuid() == 0 {
		available = st.Bfree
	}
	t.free, t.inodes = available*uint64(st.Frsize), st.Ffree
	if st.Files == 0 {
		t.inodes = 0
	}
	switch {
	case st.Flags&unix.ST_RDONLY != 0:
		add("restore elsewhere with --target", "the file system of %s is read-only", t.parent)
	case unix.Access(t.parent, unix.W_OK|unix.X_OK) != nil:
		add("restore elsewhere with --target", "nothing can be written to %s", t.parent)
	}
	return t, problems
}

// firstIn returns a name in a folder, "" for an empty one. That of a new file system is empty.
func firstIn(path string) (string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Name() != "lost+found" {
			return e.Name(), nil
		}
	}
	return "", nil
}

// holds returns why the target cannot hold what is to be restored.
func (t target) holds(parts []part) []Problem {
	var problems []Problem
	add := func(format string, args ...any) {
		problems = append(problems, Problem{Text: fmt.Sprintf(format, args...), Remedy: "restore elsewhere with --target"})
	}
	var items uint64
	for _, p := range parts {
		items += p.has.Files + p.has.Others
		if p.has.longest > unix.NAME_MAX {
			add("a name in snapshot %s has %d bytes, and a file system takes %d", p.Short(), p.has.longest, unix.NAME_MAX)
		}
		if t.fs.largest > 0 && p.has.largest > t.fs.largest {
			add("%s holds files of up to %d bytes, and snapshot %s has one of %d", t.fs.name, t.fs.largest, p.Short(), p.has.largest)
		}
		if !t.fs.bare {
			continue
		}
		if p.has.symlinks+p.has.specials > 0 {
			add("%s holds no symbolic links, pipes and devices, and snapshot %s has %d", t.fs.name, p.Short(), p.has.symlinks+p.has.specials)
		}
		if p.has.reserved != "" {
			add("%s cannot hold the name %q", t.fs.name, p.has.reserved)
		}
		if p.has.clash != "" {
			add("%s cannot hold %q beside a name that differs by case only", t.fs.name, p.has.clash)
		}
	}
	if t.inodes > 0 && items > t.inodes {
		add("%d files and folders are to be restored, and the file system of %s has room for %d", items, t.parent, t.inodes)
	}
	if t.fs.bare {
		add("%s keeps neither owners nor modes", t.fs.name)
	}
	return problems
}

// make makes the folder for the caller alone.
func (t target) make() error {
	if t.exists {
		return os.Chmod(t.path, 0o700)
	}
	if err := os.Mkdir(t.path, 0o700); err != nil {
		return fmt.Errorf("make the folder to restore into: %w", err)
	}
	return os.Chmod(t.path, 0o700) // whatever the umask
}

// open gives a folder that was there its mode back. A new one stays the caller's alone: nobody else knows of this copy, and an old
// program that is setuid is not for everybody.
func (t target) open() error {
	if !t.exists {
		return nil
	}
	return os.Chmod(t.path, t.mode)
}
