package destination

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strings"
	"syscall"

	"sdbackup/internal/config"

	"golang.org/x/sys/unix"
)

// localHolding is a folder. No symbolic link leads out of it: who may write into a repository must not have root move files elsewhere.
type localHolding struct{ root *os.Root }

func openLocalHolding(id, dir string) (holding, error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("destination %s: there is no folder %s; is its disk mounted?", id, dir)
	}
	if err != nil {
		return nil, fmt.Errorf("destination %s: %w", id, err)
	}
	return localHolding{root}, nil
}

func (h localHolding) close() { h.root.Close() }

func (h localHolding) list(ctx context.Context, folder string) (map[string]int64, error) {
	files := map[string]int64{}
	err := fs.WalkDir(h.root.FS(), folder, func(name string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // or gone meanwhile
		case err != nil:
			return err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case e.IsDir():
			return nil
		}
		size := int64(-1) // of what is no file, and so the same as nothing
		if e.Type().IsRegular() {
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			size = info.Size()
		} else if folder == config.HoldingArea {
			return nil
		}
		files[strings.TrimPrefix(name, folder+"/")] = size
		return nil
	})
	return files, err
}

// compared is how much of two files is compared at a time.
const compared = 64 << 10

func (h localHolding) same(ctx context.Context, a, b string) (bool, error) {
	var files [2]*os.File
	for i, name := range []string{a, b} {
		f, err := h.root.Open(name)
		if err != nil {
			return false, err
		}
		defer f.Close()
		files[i] = f
	}
	var buffers [2][compared]byte
	for {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		var n [2]int
		var ends [2]bool
		for i, f := range files {
			var err error
			n[i], err = io.ReadFull(f, buffers[i][:])
			ends[i] = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
			if err != nil && !ends[i] {
				return false, err
			}
		}
		if n[0] != n[1] || !bytes.Equal(buffers[0][:n[0]], buffers[1][:n[1]]) {
			return false, nil
		}
		if ends[0] || ends[1] {
			return ends[0] == ends[1], nil
		}
	}
}

// move renames, folder by folder; each is durable before it begins with the next.
func (h localHolding) move(ctx context.Context, from, to string, files []string) (moved int, err error) {
	for len(files) > 0 && ctx.Err() == nil {
		dir, n := path.Dir(files[0]), 1
		for n < len(files) && path.Dir(files[n]) == dir {
			n++
		}
		done, e := h.moveIn(ctx, path.Join(from, dir), path.Join(to, dir), files[:n])
		moved, err = moved+done, errors.Join(err, e)
		files = files[n:]
	}
	return moved, err
}

func (h localHolding) moveIn(ctx context.Context, from, to string, files []string) (moved int, err error) {
	if err := h.makeFolder(to); err != nil {
		return 0, err
	}
	source, err := h.root.Open(from)
	if err != nil {
		return 0, err
	}
	defer source.Close()
	target, err := h.root.Open(to)
	if err != nil {
		return 0, err
	}
	defer target.Close()
	for _, name := range files {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
			break
		}
		base := path.Base(name)
		if err = rename(int(source.Fd()), int(target.Fd()), base); err != nil {
			err = &os.LinkError{Op: "rename", Old: path.Join(from, base), New: path.Join(to, base), Err: err}
			break
		}
		moved++
	}
	return moved, errors.Join(err, syncFolder(target), syncFolder(source))
}

// rename moves a file from one open folder to another, where nothing may have its name.
func rename(from, to int, name string) error {
	err := unix.Renameat2(from, name, to, name, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	// NFS and some others lack that. Most of them have hard links.
	if err := unix.Linkat(from, name, to, name, 0); err == nil || errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOENT) {
		if err == nil {
			err = unix.Unlinkat(from, name, 0)
		}
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(to, name, &st, unix.AT_SYMLINK_NOFOLLOW); !errors.Is(err, unix.ENOENT) {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	return unix.Renameat(from, name, to, name)
}

// makeFolder makes a folder and those above it where they are missing, in the modes that the gateway gives them. Each belongs to whom
// the one belongs that it is in, so that whoever uses the repository can use it, too.
func (h localHolding) makeFolder(name string) error {
	if info, err := h.root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	parent, mode := path.Dir(name), fs.FileMode(secretFolder)
	if parent == "." {
		mode = publicFolder
	} else if err := h.makeFolder(parent); err != nil {
		return err
	}
	above, err := h.root.Open(parent)
	if err != nil {
		return err
	}
	defer above.Close()
	info, err := above.Stat()
	if err != nil {
		return err
	}
	if err := h.root.Mkdir(name, mode); err != nil {
		return err
	}
	if err := h.root.Chmod(name, mode); err != nil { // whatever the umask
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		if err := h.root.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	return syncFolder(above)
}

// syncFolder makes durable what names an open folder has, where its file system can do that.
func syncFolder(f *os.File) error {
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// rcloneHolding is a remote.
type rcloneHolding struct{ *rcloneRemote }

func (h rcloneHolding) list(ctx context.Context, folder string) (map[string]int64, error) {
	out, err := h.run(ctx, nil, "lsjson", "--recursive", "--files-only", "--no-modtime", "--no-mimetype", h.at(folder))
	if e := (*rcloneError)(nil); errors.As(err, &e) && e.code == rcloneNoFolder {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []struct {
		Path string
		Size int64
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("read rclone's list: %w", err)
	}
	files := map[string]int64{}
	for _, f := range list {
		files[f.Path] = f.Size
	}
	return files, nil
}

// hashName is the name of everything in a repository but its config.
var hashName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// same compares the content only where the name is not its hash: the gateway has held all others against their names when they came.
func (h rcloneHolding) same(ctx context.Context, a, b string) (bool, error) {
	if hashName.MatchString(path.Base(a)) {
		return true, nil
	}
	one, err := h.run(ctx, nil, "cat", h.at(a))
	if err != nil {
		return false, err
	}
	other, err := h.run(ctx, nil, "cat", h.at(b))
	return bytes.Equal(one, other), err
}

// move lets the storage itself move what it can.
func (h rcloneHolding) move(ctx context.Context, from, to string, files []string) (int, error) {
	names := []byte(strings.Join(files, "\n") + "\n")
	_, err := h.run(ctx, names, "move", "--files-from-raw", "-", "--ignore-existing", "--b2-hard-delete",
		"--retries", "3", "--low-level-retries", "3", "--transfers", "16", "--checkers", "16", h.at(from), h.at(to))
	if err != nil {
		return 0, err
	}
	return len(files), nil
}
