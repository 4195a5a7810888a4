package exchange

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// folder is an open folder.
type folder struct{ fd int }

// openFolder opens a folder by a path that has no symbolic link in it.
func openFolder(path string) (folder, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return folder{-1}, &fs.PathError{Op: "open the folder", Path: path, Err: err}
	}
	return folder{fd}, nil
}

func (f folder) close() { _ = unix.Close(f.fd) }

// inode is that of a name in the folder; 0: there is none.
func (f folder) inode(name string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Fstatat(f.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, nil
	}
	return st.Ino, err
}

// inode is that of a path.
func inode(path string) (uint64, error) {
	f, err := openFolder(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	defer f.close()
	n, err := f.inode(filepath.Base(path))
	if err != nil {
		return 0, &fs.PathError{Op: "examine", Path: path, Err: err}
	}
	return n, nil
}

// rename renames; with unix.RENAME_EXCHANGE both are there before and after, with unix.RENAME_NOREPLACE only one.
func rename(from, to string, how uint) error {
	a, err := openFolder(filepath.Dir(from))
	if err != nil {
		return err
	}
	defer a.close()
	b, err := openFolder(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer b.close()
	if err := unix.Renameat2(a.fd, filepath.Base(from), b.fd, filepath.Base(to), how); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// noted is what a folder was like. Numbers of devices may be others after a boot.
type noted struct {
	Inode uint64
	Born  int64 // nanoseconds; 0: its file system does not tell
	MTime int64 // likewise
}

func note(path string) (noted, error) {
	f, err := openFolder(path)
	if err != nil {
		return noted{}, err
	}
	defer f.close()
	var st unix.Statx_t
	if err := unix.Statx(f.fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return noted{}, &fs.PathError{Op: "examine", Path: path, Err: err}
	}
	nsec := func(t unix.StatxTimestamp) int64 { return t.Sec*1e9 + int64(t.Nsec) }
	n := noted{Inode: st.Ino, MTime: nsec(st.Mtime)}
	if st.Mask&unix.STATX_BTIME != 0 {
		n.Born = nsec(st.Btime)
	}
	return n, nil
}

// check tells whether the folder is there. Where a file system is not mounted there may be another one.
func (n noted) check(path string) error {
	now, err := note(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (now.Inode != n.Inode || now.Born != n.Born) {
		return fmt.Errorf("the folder %s is not the one that it was: mount its file system, and recover again", path)
	}
	return err
}

// item is what is exchanged for what lies ready. 0 is the inode of what is not there.
type item struct {
	Live   string
	Staged string
	Old    uint64
	New    uint64
}

// swap exchanges the item, or, when it was, exchanges it back.
func (i item) swap(back bool) error {
	switch {
	case i.Old != 0 && i.New != 0:
		return rename(i.Staged, i.Live, unix.RENAME_EXCHANGE)
	case (i.New != 0) != back:
		return rename(i.Staged, i.Live, unix.RENAME_NOREPLACE)
	}
	return rename(i.Live, i.Staged, unix.RENAME_NOREPLACE)
}

// undo puts the item back if it was exchanged. What lies ready nobody else can change, what is live anybody: that counts little.
func (i item) undo() error {
	live, err := inode(i.Live)
	if err != nil {
		return err
	}
	staged, err := inode(i.Staged)
	if err != nil {
		return err
	}
	switch {
	case i.Old != 0 && staged == i.Old && live != 0:
		return rename(i.Staged, i.Live, unix.RENAME_EXCHANGE)
	case i.Old != 0 && staged == i.Old:
		return rename(i.Staged, i.Live, unix.RENAME_NOREPLACE)
	case i.Old == 0 && staged == 0 && live != 0:
		return rename(i.Live, i.Staged, unix.RENAME_NOREPLACE)
	case live == i.Old, i.Old == 0 && staged == i.New:
		return nil
	}
	return fmt.Errorf("%s is not what was there before the restore, and that is not in %s either: put it there, and recover again", i.Live, i.Staged)
}

// move is something that the backup leaves out, and that the new data takes over from the old.
type move struct {
	From  string // in the live data
	To    string // in what lies ready
	Inode uint64
}

// undo moves it back; false: it is nowhere.
func (m move) undo() (bool, error) {
	n, err := inode(m.To)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return true, err
	}
	if n == 0 { // it never went, or who had it live has removed it
		n, err = inode(m.From)
		return n != 0, err
	}
	// Nothing else was there, and nobody else gets there: that it has another inode means that who had it live wrote it anew.
	return true, rename(m.To, m.From, unix.RENAME_NOREPLACE)
}

// top is what a folder that cannot be renamed is like, before and after.
type top struct {
	Path string
	Old  attribute
	New  attribute
}

// attribute is what is kept of a folder itself.
type attribute struct {
	UID    int
	GID    int
	Mode   uint32
	MTime  int64 // nanoseconds
	Xattrs map[string][]byte
}

func mtime(path string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "examine", Path: path, Err: err}
	}
	return unix.TimespecToNsec(st.Mtim), nil
}

func setMTime(path string, nsec int64) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	defer f.close()
	return f.setMTime(nsec)
}

func (f folder) setMTime(nsec int64) error {
	return unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.fd), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(nsec)}, 0)
}

// attributes reads what a folder is like. Attributes security.* are the machine's.
func (f folder) attributes() (attribute, error) {
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return attribute{}, err
	}
	a := attribute{int(st.Uid), int(st.Gid), st.Mode & 0o7777, unix.TimespecToNsec(st.Mtim), map[string][]byte{}}
	const most = 65536 // XATTR_LIST_MAX and XATTR_SIZE_MAX, xattr(7)
	buf := make([]byte, most)
	n, err := unix.Flistxattr(f.fd, buf)
	if errors.Is(err, unix.ENOTSUP) {
		return a, nil
	}
	if err != nil {
		return a, err
	}
	for _, name := range strings.Split(string(buf[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "security.") {
			continue
		}
		value := make([]byte, most)
		m, err := unix.Fgetxattr(f.fd, name, value)
		if err != nil {
			return a, err
		}
		a.Xattrs[name] = value[:m]
	}
	return a, nil
}

// apply makes a folder like that.
func (a attribute) apply(path string) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	defer f.close()
	now, err := f.attributes()
	if err == nil && (now.UID != a.UID || now.GID != a.GID) {
		err = unix.Fchown(f.fd, a.UID, a.GID)
	}
	if err == nil {
		err = unix.Fchmod(f.fd, a.Mode)
	}
	for name := range now.Xattrs {
		if _, ok := a.Xattrs[name]; !ok && err == nil {
			err = unix.Fremovexattr(f.fd, name)
		}
	}
	for name, value := range a.Xattrs {
		if !slices.Equal(now.Xattrs[name], value) && err == nil {
			err = unix.Fsetxattr(f.fd, name, value, 0)
		}
	}
	if err == nil {
		err = f.setMTime(a.MTime)
	}
	if err != nil {
		return fmt.Errorf("give %s its owner, mode, attributes and time: %w", path, err)
	}
	return nil
}

// makeLike makes a folder that is as another one is.
func makeLike(path, other string) error {
	above, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer above.close()
	f, err := openFolder(other)
	if err != nil {
		return err
	}
	defer f.close()
	a, err := f.attributes()
	if err != nil {
		return err
	}
	if err := unix.Mkdirat(above.fd, filepath.Base(path), 0o700); err != nil {
		return &fs.PathError{Op: "make", Path: path, Err: err}
	}
	return a.apply(path)
}

// OpenStage makes a folder that only its owner may enter, and opens it, so that nobody who owns what is above can put another in its place.
func OpenStage(path string) (*os.File, error) {
	above, err := openFolder(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer above.close()
	if err := unix.Mkdirat(above.fd, filepath.Base(path), 0o700); err != nil {
		return nil, &fs.PathError{Op: "make", Path: path, Err: err}
	}
	if err := checkStage(path); err != nil {
		return nil, err
	}
	f, err := openFolder(path)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(f.fd), path), nil
}

// checkStage tells whether a stage is ours alone.
func checkStage(path string) error {
	f, err := openFolder(path)
	if err != nil {
		return err
	}
	defer f.close()
	var st unix.Stat_t
	if err := unix.Fstat(f.fd, &st); err != nil {
		return err
	}
	if int(st.Uid) != os.Geteuid() || st.Mode&0o777 != 0o700 {
		return fmt.Errorf("somebody else has changed %s", path)
	}
	return nil
}

// MountRoot tells whether something is mounted at a path, or another file system begins there.
func MountRoot(path string) (bool, error) {
	var st, above unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_NO_AUTOMOUNT|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st); err != nil {
		return false, &fs.PathError{Op: "examine", Path: path, Err: err}
	}
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS, &above); err != nil {
		return false, &fs.PathError{Op: "examine", Path: filepath.Dir(path), Err: err}
	}
	return st.Attributes&st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 || st.Dev_major != above.Dev_major || st.Dev_minor != above.Dev_minor, nil
}

// MountsBelow lists what is mounted strictly below a path.
func MountsBelow(path string) ([]string, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return mountsBelow(string(data), path), nil
}

// mountsBelow reads proc_pid_mountinfo(5), where the fifth field is the mount point, with spaces and the like in octal.
func mountsBelow(table, path string) []string {
	var found []string
	for line := range strings.Lines(table) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		at := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(fields[4])
		if strings.HasPrefix(at, strings.TrimSuffix(path, "/")+"/") && at != path && !slices.Contains(found, at) {
			found = append(found, at)
		}
	}
	return found
}

// CanExchange tells whether the file system of an open, empty folder exchanges folders.
func CanExchange(dir *os.File) error {
	fd := int(dir.Fd())
	err := errors.Join(unix.Mkdirat(fd, "a", 0o700), unix.Mkdirat(fd, "b", 0o700))
	if err == nil {
		err = unix.Renameat2(fd, "a", fd, "b", unix.RENAME_EXCHANGE)
	}
	return errors.Join(err, unix.Unlinkat(fd, "a", unix.AT_REMOVEDIR), unix.Unlinkat(fd, "b", unix.AT_REMOVEDIR))
}

// Sync makes durable what is on the file systems of the folders.
func Sync(dirs []string) error {
	seen := map[uint64]bool{}
	for _, dir := range dirs {
		f, err := openFolder(dir)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err = unix.Fstat(f.fd, &st); err == nil && !seen[st.Dev] {
			seen[st.Dev] = true
			err = unix.Syncfs(f.fd)
		}
		f.close()
		if err != nil {
			return &fs.PathError{Op: "write to disk", Path: dir, Err: err}
		}
	}
	return nil
}

// removeTree removes a folder and all in it, but nothing of another file system.
func removeTree(path string) error {
	f, err := openFolder(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.close()
	var st unix.Stat_t
	err = unix.Fstatat(f.fd, filepath.Base(path), &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil {
		err = f.remove(filepath.Base(path), st.Dev)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// remove removes a name from the folder, with all below it that is on that device. What cannot be removed does not keep the rest.
func (f folder) remove(name string, dev uint64) error {
	err := unix.Unlinkat(f.fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	fd, openErr := unix.Openat(f.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if openErr != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	dir := os.NewFile(uintptr(fd), name)
	defer dir.Close()
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BASIC_STATS, &st); err != nil {
		return err
	}
	if unix.Mkdev(st.Dev_major, st.Dev_minor) != dev || st.Attributes&st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return fmt.Errorf("another file system is mounted at %s", name)
	}
	names, err := dir.Readdirnames(-1)
	for _, inner := range names {
		err = errors.Join(err, folder{fd}.remove(inner, dev))
	}
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(f.fd, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}
