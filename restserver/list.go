package restserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// The types of lists. The second is given to whoever asks for just that.
const (
	listMimeV1 = "application/vnd.x.restic.rest.v1"
	listMimeV2 = "application/vnd.x.restic.rest.v2"
)

const (
	// A buffer of a list is handed on when it is that full; the longest entry fits into the rest.
	listBufferBytes = 64 << 10
	listFullBytes   = listBufferBytes - 256
	direntBytes     = 32 << 10
	// maxListers is how many folders of data are read at once. More than two or three help only where a disk is slow.
	maxListers = 4
)

var (
	listBuffers   = sync.Pool{New: func() any { b := make([]byte, 0, listBufferBytes); return &b }}
	direntBuffers = sync.Pool{New: func() any { b := make([]byte, direntBytes); return &b }}
)

// list sends the names of the objects of a type, with their sizes in version 2. Those who read folders append entries to buffers, each
// entry with a comma before it; this goroutine sends them as they come. So a list takes the same memory however long it is.
func (s *Store) list(w http.ResponseWriter, r *http.Request, objectType string) error {
	l := &lister{sizes: r.Header.Get("Accept") == listMimeV2, full: make(chan *[]byte, maxListers)}
	root, err := s.open()
	if err != nil {
		return err
	}
	defer root.Close()
	if l.root, err = openRoot(root, objectType); err != nil {
		return err
	}
	defer l.root.Close()
	l.folders = []string{"."}
	if objectType == dataType {
		if l.folders, err = subfolders(l.root); err != nil {
			return err
		}
	}
	l.start()
	defer l.stop()

	w.Header().Set("Content-Type", listMimeV1)
	if l.sizes {
		w.Header().Set("Content-Type", listMimeV2)
	}
	d := newDownload(w, s.stallTimeout())
	defer d.done()
	first, more := <-l.full, true
	var second *[]byte
	if first != nil {
		second, more = <-l.full
	}
	if first == nil || !more { // the whole list is there, or why it is not
		if l.err != nil {
			return l.err
		}
		text := []byte("[]")
		if first != nil {
			(*first)[0] = '['
			*first = append(*first, ']')
			text = *first
			defer listBuffers.Put(first)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		w.WriteHeader(http.StatusOK)
		_, _ = d.Write(text)
		return nil
	}
	(*first)[0] = '['
	for b := range l.buffers(first, second) {
		_, err := d.Write(*b)
		listBuffers.Put(b)
		if err != nil {
			return &Error{Code: http.StatusInternalServerError, Err: fmt.Errorf("send the list: %w", err), Late: true}
		}
	}
	if l.err != nil {
		return &Error{Code: http.StatusInternalServerError, Err: l.err, Late: true}
	}
	_, _ = d.Write([]byte{']'})
	return nil
}

// lister reads the folders of a list, a few at once.
type lister struct {
	root    *os.Root // of the type
	folders []string
	sizes   bool

	next    atomic.Int64
	stopped atomic.Bool
	running sync.WaitGroup
	full    chan *[]byte // of entries; closed at the end, after err is set
	failed  sync.Once
	err     error
}

func (l *lister) start() {
	for range min(len(l.folders), runtime.GOMAXPROCS(0), maxListers) {
		l.running.Go(l.run)
	}
	go func() {
		l.running.Wait()
		close(l.full)
	}()
}

// stop ends the readers, whatever they have not handed on.
func (l *lister) stop() {
	l.stopped.Store(true)
	for b := range l.full {
		listBuffers.Put(b)
	}
}

// buffers are those that have been received already, and all others.
func (l *lister) buffers(received ...*[]byte) func(func(*[]byte) bool) {
	return func(yield func(*[]byte) bool) {
		for _, b := range received {
			if !yield(b) {
				return
			}
		}
		for b := range l.full {
			if !yield(b) {
				return
			}
		}
	}
}

// run reads folders until there are none left.
func (l *lister) run() {
	out := listBuffers.Get().(*[]byte)
	*out = (*out)[:0]
	dirents := direntBuffers.Get().(*[]byte)
	defer direntBuffers.Put(dirents)
	for !l.stopped.Load() {
		i := int(l.next.Add(1)) - 1
		if i >= len(l.folders) {
			break
		}
		if err := l.read(l.folders[i], *dirents, &out); err != nil {
			l.failed.Do(func() { l.err = fmt.Errorf("list folder %s: %w", l.folders[i], err) })
			l.stopped.Store(true)
		}
	}
	if len(*out) > 0 {
		l.full <- out
		return
	}
	listBuffers.Put(out)
}

// read appends the entries of one folder. One that is gone meanwhile has none.
func (l *lister) read(folder string, dirents []byte, out **[]byte) error {
	f, err := openFolder(l.root, folder)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	fd := int(f.Fd())
	return readFolder(fd, dirents, func(name []byte, kind byte) error {
		if !isID(name) || l.stopped.Load() {
			return nil
		}
		var size int64
		if l.sizes || kind != unix.DT_REG {
			var found bool
			if size, found, err = l.size(fd, folder, string(name)); !found {
				return err
			}
		}
		b := **out
		b = append(b, ',')
		if l.sizes {
			b = append(append(append(b, `{"name":"`...), name...), `","size":`...)
			b = append(strconv.AppendInt(b, size, 10), '}')
		} else {
			b = append(append(append(b, '"'), name...), '"')
		}
		if **out = b; len(b) >= listFullBytes {
			l.full <- *out
			*out = listBuffers.Get().(*[]byte)
			**out = (**out)[:0]
		}
		return nil
	})
}

// size is the size of a file in an open folder. What is no file, or is gone meanwhile, is not found. Links are looked up with the
// care that they need.
func (l *lister) size(fd int, folder, name string) (size int64, found bool, err error) {
	var st unix.Stat_t
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, &fs.PathError{Op: "fstatat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return st.Size, st.Mode&unix.S_IFMT == unix.S_IFREG, nil
	}
	info, err := l.root.Stat(folder + "/" + name)
	if missing(err) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return info.Size(), info.Mode().IsRegular(), nil
}

// subfolders returns which of the folders 00 to ff are there.
func subfolders(root *os.Root) ([]string, error) {
	f, err := openFolder(root, ".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	err = readFolder(int(f.Fd()), make([]byte, direntBytes), func(name []byte, kind byte) error {
		if len(name) == 2 && isHex(name) && kind != unix.DT_REG {
			names = append(names, string(name))
		}
		return nil
	})
	return names, err
}

// readFolder calls visit for each entry of an open folder, with its name, good until visit returns, and DT_REG, DT_DIR, DT_UNKNOWN and
// the like: getdents64(2). os.ReadDir makes an object of each and sorts them, which is most of its time.
func readFolder(fd int, buf []byte, visit func(name []byte, kind byte) error) error {
	const reclenAt, kindAt, nameAt = 16, 18, 19 // of struct linux_dirent64
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if errors.Is(err, unix.ENOENT) { // the folder has been removed
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "getdents64", Path: "", Err: err}
		}
		if n == 0 {
			return nil
		}
		for rest := buf[:n]; len(rest) > nameAt; {
			entry := rest[:binary.NativeEndian.Uint16(rest[reclenAt:])]
			rest = rest[len(entry):]
			name := entry[nameAt:]
			for i, c := range name {
				if c == 0 {
					name = name[:i]
					break
				}
			}
			if err := visit(name, entry[kindAt]); err != nil {
				return err
			}
		}
	}
}
