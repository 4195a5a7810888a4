package restserver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// objectMime is the type of all objects. With it, net/http does not look into them.
const objectMime = "application/octet-stream"

func (s *Store) head(w http.ResponseWriter, o Object) error {
	size, err := s.Size(o)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", objectMime)
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	w.WriteHeader(http.StatusOK)
	return nil
}

// Size returns the size in bytes of an object, or an error that is fs.ErrNotExist.
func (s *Store) Size(o Object) (int64, error) {
	if !o.valid() || o.Name == "" && o.Type != configType {
		return 0, fs.ErrNotExist
	}
	root, err := s.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	info, err := root.Stat(o.Path())
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s is no regular file: %w", o.Path(), fs.ErrNotExist)
	}
	return info.Size(), nil
}

// get sends an object, or a range of it.
func (s *Store) get(w http.ResponseWriter, r *http.Request, o Object) error {
	root, err := s.open()
	if err != nil {
		return err
	}
	// What else than a file there may be, say a named pipe, must not hold up the request.
	f, err := root.OpenFile(o.Path(), os.O_RDONLY|unix.O_NONBLOCK, 0)
	root.Close()
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file: %w", o.Path(), fs.ErrNotExist)
	}
	d := newDownload(w, s.stallTimeout())
	defer d.done()
	d.Header().Set("Content-Type", objectMime)
	http.ServeContent(d, r, "", time.Time{}, f)
	s.count(Read, o.Type, d.n)
	return nil
}

// remove is the method DELETE.
func (s *Store) remove(w http.ResponseWriter, o Object) error {
	if s.AppendOnly && o.Type != lockType {
		return ErrAppendOnly
	}
	if err := s.Remove(o); err != nil {
		return err
	}
	ok(w)
	return nil
}

// Remove removes an object, or the whole repository; nothing else that is in its folder, and the folder itself only when it is empty.
// What is not there has been removed. It does not mind AppendOnly, which is for clients.
func (s *Store) Remove(o Object) error {
	if !o.valid() || isFolderType(o.Type) && o.Name == "" {
		return fs.ErrNotExist
	}
	root, err := s.open()
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	if o.Type != "" {
		return s.removeFile(root, o.Path(), o.Type)
	}
	// Without the config, nobody takes for a repository what remains after a failure.
	if err := s.removeFile(root, configType, configType); err != nil {
		return fmt.Errorf("remove the repository: %w", err)
	}
	for _, name := range folderTypes {
		if err := s.removeFolder(root, name); err != nil {
			return fmt.Errorf("remove the repository: %w", err)
		}
	}
	if s.Sub == "" {
		_ = os.Remove(s.Dir) // not when there is something else in it
		return nil
	}
	base, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil //nolint:nilerr // the repository is gone
	}
	defer base.Close()
	_ = base.Remove(s.Sub)
	return nil
}

func (s *Store) removeFile(root *os.Root, name, objectType string) error {
	info, err := root.Lstat(name)
	if err == nil && info.IsDir() {
		return fmt.Errorf("remove %s: it is a folder", name)
	}
	if err == nil {
		err = root.Remove(name) // of those who do it at once, one succeeds, and gives the room back
	}
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	size := info.Size()
	if !info.Mode().IsRegular() {
		size = 0 // of a link, it is not what the link took
	}
	s.release(size)
	s.count(Delete, objectType, size)
	return nil
}

// removeFolder removes the folder of a type with all that is in it, and counts what it was.
func (s *Store) removeFolder(root *os.Root, name string) error {
	err := fs.WalkDir(root.FS(), name, func(file string, d fs.DirEntry, err error) error {
		switch {
		case missing(err):
			return nil
		case err != nil:
			return err
		case d.Type().IsRegular():
			return s.removeFile(root, file, name)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return root.RemoveAll(name)
}

// tempMark is in the name of what is being received, after that of the object and before a random part: as rest-server has it.
const tempMark = ".rest-server-temp"

// Clean removes what a server has left that ended in the midst of an upload: temporary files that nobody has written to for as long
// as age, which must be longer than StallTimeout. It returns how many.
func (s *Store) Clean(age time.Duration) (removed int, err error) {
	root, err := s.open()
	if missing(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("remove temporary files: %w", err)
	}
	defer root.Close()
	before := time.Now().Add(-age)
	var errs []error
	clean := func(dir string) {
		entries, err := fs.ReadDir(root.FS(), dir)
		if err != nil {
			errs = append(errs, ignoreMissing(err))
			return
		}
		for _, e := range entries {
			name, _, temp := strings.Cut(e.Name(), tempMark)
			if !temp || !isID(name) && name != configType || !e.Type().IsRegular() {
				continue
			}
			info, err := e.Info()
			if err != nil || !info.ModTime().Before(before) {
				continue
			}
			if err := root.Remove(path.Join(dir, e.Name())); err != nil {
				errs = append(errs, ignoreMissing(err))
				continue
			}
			s.release(info.Size())
			removed++
		}
	}
	clean(".")
	for _, name := range folderTypes {
		clean(name)
	}
	for i := range 256 {
		clean(fmt.Sprintf("%s/%02x", dataType, i))
	}
	if err := errors.Join(errs...); err != nil {
		return removed, fmt.Errorf("remove temporary files: %w", err)
	}
	return removed, nil
}
