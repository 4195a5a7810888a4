package filebackup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// found is something that a scan came across. They come in the order of comparePaths.
type found struct {
	path   string
	kind   Kind
	size   int64
	mtime  int64
	ctime  int64
	inode  uint64
	mode   uint32
	uid    int
	gid    int
	target string
	err    error // it is there, and cannot be read; what is known of it and what is below it stays as it is
}

func (f *found) fill(st *unix.Stat_t) {
	f.size, f.inode = st.Size, st.Ino
	f.mtime, f.ctime = st.Mtim.Nano(), st.Ctim.Nano()
	f.mode, f.uid, f.gid = st.Mode&0o7777, int(st.Uid), int(st.Gid)
}

// entry is what the scan knows.
func (f *found) entry() Entry {
	return Entry{
		Path: f.path, Kind: f.kind, Size: f.size, MTime: f.mtime, CTime: f.ctime, Inode: f.inode, Mode: f.mode, UID: f.uid, GID: f.gid,
		Target: f.target, has: hasFound,
	}
}

// scanner walks a folder. Folders that come next are read ahead of time.
type scanner struct {
	c      *Config
	device uint64
	ahead  chan struct{} // one for each folder that may be read ahead
}

// fileID tells a folder apart from all others.
type fileID struct{ device, inode uint64 }

// listing is what is in a folder.
type listing struct {
	list []item
	err  error
}

type item struct {
	found
	folder bool // to be entered
	device uint64
	next   chan listing // where it has been read ahead
}

// scan calls each for everything below the folder.
func (c *Config) scan(ctx context.Context, each func(*found) error) error {
	var st unix.Stat_t
	if err := unix.Stat(c.BasePath, &st); err != nil {
		return fmt.Errorf("folder %s: %w", c.BasePath, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("%s is no folder", c.BasePath)
	}
	s := &scanner{c: c, device: st.Dev, ahead: make(chan struct{}, 64)}
	l := s.list("")
	if l.err != nil {
		return fmt.Errorf("folder %s: %w", c.BasePath, l.err)
	}
	return s.walk(ctx, l.list, []fileID{{st.Dev, st.Ino}}, each)
}

func (s *scanner) walk(ctx context.Context, list []item, above []fileID, each func(*found) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	ahead := 0 // of what has been begun
	for i := range list {
		for ahead = max(ahead, i); ahead < len(list) && ahead < i+32; ahead++ {
			it := &list[ahead]
			if !it.folder {
				continue
			}
			select {
			case s.ahead <- struct{}{}:
				it.next = make(chan listing, 1)
				go func() {
					it.next <- s.list(it.path)
					<-s.ahead
				}()
			default:
			}
			if it.next == nil {
				break
			}
		}
		it := &list[i]
		if it.folder {
			if slices.Contains(above, fileID{it.device, it.inode}) {
				s.c.Log.Warn("a link leads back to a folder that it is in, and is not followed", "path", it.path)
				continue
			}
		}
		if !it.folder {
			if err := each(&it.found); err != nil {
				return err
			}
			continue
		}
		var l listing
		if it.next != nil {
			l = <-it.next
			it.next = nil
		} else {
			l = s.list(it.path)
		}
		if errors.Is(l.err, fs.ErrNotExist) { // it vanished
			continue
		}
		it.err = l.err
		if err := each(&it.found); err != nil {
			return err
		}
		if l.err != nil {
			continue
		}
		if err := s.walk(ctx, l.list, append(above, fileID{it.device, it.inode}), each); err != nil {
			return err
		}
	}
	return nil
}

// included tells whether all of a folder is backed up, or else which of the names in it lead to what is.
func (c *Config) included(dir string) (names []string, all bool) {
	if c.Include == nil {
		return nil, true
	}
	for _, p := range c.Include {
		if p == "/" || dir == p || strings.HasPrefix(dir, p+"/") {
			return nil, true
		}
		if below, ok := strings.CutPrefix(p, dir+"/"); ok {
			name, _, _ := strings.Cut(below, "/")
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names, false
}

// ignored tells whether a path is left out.
func (c *Config) ignored(path string) bool {
	return matchAny(c.IgnoreFiles, path) || c.Ignore != nil && c.Ignore(path)
}

// list reads a folder.
func (s *scanner) list(dir string) (l listing) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC
	if !s.c.FollowSymlinks && dir != "" {
		flags |= unix.O_NOFOLLOW
	}
	names, all := s.c.included(dir)
	if !all {
		flags |= unix.O_PATH // it may be closed to us
	}
	fd, err := unix.Open(filepath.Join(s.c.BasePath, dir), flags, 0)
	if err != nil {
		return listing{err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	if all {
		if names, err = f.Readdirnames(-1); err != nil {
			return listing{err: err}
		}
	}
	slices.Sort(names)
	l.list = make([]item, 0, len(names))
	for _, name := range names {
		it := item{found: found{path: dir + "/" + name}}
		if s.c.ignored(it.path) {
			continue
		}
		if s.stat(fd, name, &it) {
			l.list = append(l.list, it)
		}
	}
	return l
}

// stat looks at what is in a folder, and tells whether it is anything for a backup.
func (s *scanner) stat(fd int, name string, it *item) bool {
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false
	}
	if err != nil {
		it.err = err
		return true
	}
	if s.c.FollowSymlinks && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		var of unix.Stat_t
		switch err := unix.Fstatat(fd, name, &of, 0); {
		case err == nil:
			st = of
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP): // it leads nowhere, and is kept as it is
		default:
			it.err = err
			return true
		}
	}
	it.fill(&st)
	it.device = st.Dev
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		it.kind = File
	case unix.S_IFDIR:
		it.kind, it.folder = Folder, true
		if st.Dev != s.device && s.c.VisitMountpoints != nil && !*s.c.VisitMountpoints {
			it.folder = false
		}
	case unix.S_IFLNK:
		it.kind = Symlink
		target := make([]byte, max(st.Size, 255)+1)
		n, err := unix.Readlinkat(fd, name, target)
		if err != nil {
			it.err = err
			return !errors.Is(err, unix.ENOENT)
		}
		it.target = string(target[:n])
	default: // sockets, pipes, devices
		return false
	}
	return true
}

// readXattrs reads the extended attributes of a file or folder that are not made by the system itself.
func readXattrs(f *os.File) (map[string][]byte, error) {
	fd := int(f.Fd())
	size, err := unix.Flistxattr(fd, nil)
	if err != nil || size == 0 {
		if errors.Is(err, unix.ENOTSUP) {
			err = nil
		}
		return nil, err
	}
	buf := make([]byte, size+256)
	if size, err = unix.Flistxattr(fd, buf); err != nil {
		return nil, err
	}
	var attrs map[string][]byte
	for name := range strings.SplitSeq(string(buf[:size]), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10) // no larger ones exist
		n, err := unix.Fgetxattr(fd, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if attrs == nil {
			attrs = map[string][]byte{}
		}
		attrs[name] = slices.Clone(value[:n])
	}
	return attrs, nil
}

// openSource opens a file or folder of the backed up folder.
func (c *Config) openSource(path string, folder bool) (*os.File, error) {
	flags := unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK // it may have become a pipe
	if !c.FollowSymlinks {
		flags |= unix.O_NOFOLLOW
	}
	if folder {
		flags |= unix.O_DIRECTORY
	}
	full := filepath.Join(c.BasePath, path)
	fd, err := unix.Open(full, flags|unix.O_NOATIME, 0)
	if errors.Is(err, unix.EPERM) { // only the owner may leave the time of access alone
		fd, err = unix.Open(full, flags, 0)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: full, Err: err}
	}
	return os.NewFile(uintptr(fd), full), nil
}
