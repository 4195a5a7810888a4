package restserver

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Store is one repository. Its fields are set before its first use; then it is safe for concurrent use, and must not be copied.
// It holds no file open between requests.
type Store struct {
	// Dir is the folder that is never left. It is the repository; or Sub is, a folder of it ("a/b"), which is made when something is
	// stored in it, while Dir must be there.
	Dir, Sub string

	NoVerify        bool // take uploads whatever their SHA-256
	GroupAccessible bool // make folders and files 0770 and 0660 rather than 0700 and 0600, whatever the umask
	AppendOnly      bool // DELETE is for locks only
	NoRemove        bool // DELETE of the whole repository is no method at all

	// Identical lets a client repeat an upload whose answer it did not get: what is the same as what is there is 200, not 403.
	Identical bool

	// CountUnknown takes uploads of unknown length where there is a Quota, and counts them as they come: too much of them is 500, as
	// with rest-server. Else they are refused, 411.
	CountUnknown bool

	StallTimeout time.Duration // how long a client may be silent in a transfer; 0: DefaultStallTimeout; negative: for ever

	Quota Quota        // nil: none
	Count func(Event)  // is told what was done; nil: nobody is
	Log   *slog.Logger // nil: none

	own  shared
	with *shared // of the server that this store belongs to; nil: own
}

// Quota bounds what is stored.
type Quota interface {
	// Reserve takes n bytes, or returns an error that wraps ErrQuota.
	Reserve(n int64) error
	// Release gives n bytes back: they were not stored, or have been removed.
	Release(n int64)
}

// Kind is what was done.
type Kind string

// The kinds of events.
const (
	Write  Kind = "write"
	Read   Kind = "read"
	Delete Kind = "delete"
)

// Event is that an object was written, read or deleted.
type Event struct {
	Kind  Kind
	Type  string // of the object
	Bytes int64  // written, sent or freed
}

// shared is what the stores of a server have in common.
type shared struct {
	syncs     syncs
	uploads   atomic.Int32 // that are being received
	publish   sync.Mutex   // names are given one at a time where the file system cannot do it without replacing
	warnFsync sync.Once
}

func (s *Store) shared() *shared {
	if s.with != nil {
		return s.with
	}
	return &s.own
}

// Serve does what a request wants of the object, and answers. On an error it has not answered, but for a Late one; the error is
// always an *Error, which Answer answers with. Errors of the system are in it: a Code of 500 is for the operator to know of.
//
//	the repository      POST ?create=true  DELETE
//	config              GET HEAD POST DELETE
//	list of a type      GET
//	object              GET HEAD POST DELETE
func (s *Store) Serve(w http.ResponseWriter, r *http.Request, o Object) error {
	if err := s.serve(w, r, o); err != nil {
		return errorOf(err)
	}
	return nil
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, o Object) error {
	body := newBody(w, r, s.stallTimeout())
	if !o.valid() {
		return fs.ErrNotExist
	}
	whole, list := o.Type == "", o.Type != configType && o.Name == ""
	switch {
	case whole && r.Method == http.MethodPost:
		return s.create(w, r)
	case whole && r.Method == http.MethodDelete && !s.NoRemove:
		return s.remove(w, o)
	case whole && s.NoRemove:
		return notAllowed(w, "POST")
	case whole:
		return notAllowed(w, "POST, DELETE")
	case list && r.Method == http.MethodGet:
		return s.list(w, r, o.Type)
	case list:
		return notAllowed(w, "GET")
	}
	switch r.Method {
	case http.MethodHead:
		return s.head(w, o)
	case http.MethodGet:
		return s.get(w, r, o)
	case http.MethodPost:
		return s.upload(w, r, body, o)
	case http.MethodDelete:
		return s.remove(w, o)
	}
	return notAllowed(w, "HEAD, GET, POST, DELETE")
}

func notAllowed(w http.ResponseWriter, methods string) error {
	w.Header().Set("Allow", methods)
	return errMethod
}

func ok(w http.ResponseWriter) {
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusOK)
}

func (s *Store) stallTimeout() time.Duration {
	if s.StallTimeout == 0 {
		return DefaultStallTimeout
	}
	return max(s.StallTimeout, 0)
}

func (s *Store) count(kind Kind, objectType string, bytes int64) {
	if s.Count != nil {
		s.Count(Event{kind, objectType, bytes})
	}
}

func (s *Store) reserve(n int64) error {
	if s.Quota == nil || n == 0 {
		return nil
	}
	return s.Quota.Reserve(n)
}

func (s *Store) release(n int64) {
	if s.Quota != nil && n != 0 {
		s.Quota.Release(n)
	}
}

// open opens the folder of the repository. It does so for each request, for the folder may be removed and made again meanwhile.
func (s *Store) open() (*os.Root, error) {
	root, err := os.OpenRoot(s.Dir)
	if err != nil || s.Sub == "" {
		return root, err
	}
	defer root.Close()
	return openRoot(root, s.Sub)
}

// openRoot opens a folder as a root. With the dot, only a folder can be opened: OpenRoot by itself waits for ever for the writer of a
// named pipe, and its error for a file cannot be told from others.
func openRoot(root *os.Root, path string) (*os.Root, error) { return root.OpenRoot(path + "/.") }

// openMade opens the folder of the repository, and makes it where it is missing.
func (s *Store) openMade() (*os.Root, error) {
	root, err := s.open()
	if !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	if s.Sub == "" {
		if err := os.MkdirAll(filepath.Dir(s.Dir), s.dirMode()); err != nil {
			return nil, err
		}
		above, err := os.OpenRoot(filepath.Dir(s.Dir))
		if err != nil {
			return nil, err
		}
		defer above.Close()
		if err := s.makeFolder(above, filepath.Base(s.Dir)); err != nil {
			return nil, err
		}
		return s.open()
	}
	base, err := os.OpenRoot(s.Dir)
	if err != nil {
		return nil, err
	}
	defer base.Close()
	if err := s.makeFolder(base, s.Sub); err != nil {
		return nil, err
	}
	return openRoot(base, s.Sub)
}

func (s *Store) dirMode() fs.FileMode {
	if s.GroupAccessible {
		return 0o770
	}
	return 0o700
}

func (s *Store) fileMode() fs.FileMode {
	if s.GroupAccessible {
		return 0o660
	}
	return 0o600
}

// makeFolder makes a folder, and those above it, so that they survive a crash. That one is there is no error.
func (s *Store) makeFolder(root *os.Root, path string) error {
	for i := range len(path) + 1 {
		if i < len(path) && path[i] != '/' {
			continue
		}
		name := path[:i]
		err := root.Mkdir(name, s.dirMode())
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := s.openToGroup(root, name); err != nil {
			return err
		}
		above := "."
		if cut := strings.LastIndexByte(name, '/'); cut >= 0 {
			above = name[:cut]
		}
		if err := s.syncPath(root, above); err != nil {
			return err
		}
	}
	return nil
}

// openToGroup gives a new folder the mode that the umask has withheld. Its other bits stay: the set-group-ID bit is inherited.
func (s *Store) openToGroup(root *os.Root, name string) error {
	if !s.GroupAccessible {
		return nil
	}
	info, err := root.Stat(name)
	if err != nil || info.Mode().Perm()&0o770 == 0o770 {
		return err
	}
	return root.Chmod(name, info.Mode()|0o770)
}

func (s *Store) syncPath(root *os.Root, path string) error {
	f, err := openFolder(root, path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.syncFolder(f)
}

func openFolder(root *os.Root, path string) (*os.File, error) {
	return root.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY, 0)
}

// create makes the folders of a repository. What is there already stays.
func (s *Store) create(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Get("create") != "true" {
		return errNotCreate
	}
	root, err := s.openMade()
	if err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	defer root.Close()
	// One sync for each of the two folders that get others, not one for each that they get.
	for _, path := range append([]string{"."}, folderTypes...) {
		if err := s.makeFolders(root, path); err != nil {
			return fmt.Errorf("make the repository: %w", err)
		}
	}
	ok(w)
	return nil
}

// makeFolders makes what belongs into a folder of a new repository: the types, or 00 to ff.
func (s *Store) makeFolders(root *os.Root, path string) error {
	var names []string
	switch path {
	case ".":
		names = folderTypes
	case dataType:
		for i := range 256 {
			names = append(names, fmt.Sprintf("%s/%02x", dataType, i))
		}
	}
	made := false
	for _, name := range names {
		err := root.Mkdir(name, s.dirMode())
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = s.openToGroup(root, name)
		}
		if err != nil {
			return err
		}
		made = true
	}
	if !made {
		return nil
	}
	return s.syncPath(root, path)
}
