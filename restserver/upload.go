package restserver

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// smallBytes is up to where an upload is received as a whole before anything is written.
	smallBytes = 64 << 10
	// bufferBytes is what is read, hashed and written at a time: with more, a piece is no longer in the processor's cache when it is
	// hashed and written, which takes a third more time. pipelineBuffers is how many are under way of one upload.
	bufferBytes     = 64 << 10
	pipelineBuffers = 8
	// writeBackBytes is after how much the disk is set to work on an upload that is alone, before it has ended: the sync at its end is
	// the shorter. Where there are many, the disk is busy anyway, and what they write comes to it in larger pieces without that.
	writeBackBytes = 4 << 20
)

var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallBytes+1); return &b }}
	buffers      = sync.Pool{New: func() any { return &buffer{data: make([]byte, bufferBytes)} }}
)

// buffer is a piece of an upload. Whoever is the last to be done with it gives it back.
type buffer struct {
	data []byte
	n    int
	busy atomic.Int32
}

// receipt is an upload on its way to the disk.
type receipt struct {
	store  *Store
	body   *body
	hash   hash.Hash // nil: nobody needs to know
	length int64     // that the client has announced; -1: it has not
	taken  int64     // of the quota
	n      int64     // that have come
	sum    [sha256.Size]byte
	file   *os.File
	dry    bool // nothing is stored of it

	written, writtenBack int64
}

// upload is the method POST.
func (s *Store) upload(w http.ResponseWriter, r *http.Request, b *body, o Object) error {
	dir, name := o.place()
	root, folder, err := s.openFolderMade(dir)
	if err != nil {
		return fmt.Errorf("open folder %s: %w", dir, err)
	}
	defer root.Close()
	defer folder.Close()

	verify := !s.NoVerify && o.Type != configType
	up := &receipt{store: s, body: b, length: r.ContentLength}
	if verify || s.Identical {
		up.hash = sha256.New()
	}
	switch there, err := exists(int(folder.Fd()), name); {
	case err != nil:
		return err
	case there && !s.Identical:
		return ErrExists
	case there:
		return s.repeat(w, up, root, folder, o)
	}
	if err := up.reserveLength(r); err != nil {
		return err
	}
	done := false
	defer func() {
		if !done {
			s.release(up.taken)
		}
	}()
	temporary := name + tempMark + rand.Text()
	err = up.receive(folder, temporary, verify, o)
	if up.file != nil {
		defer up.file.Close()
	}
	if err == nil {
		err = s.place(int(folder.Fd()), temporary, name)
	}
	if err != nil {
		if up.file != nil {
			_ = unix.Unlinkat(int(folder.Fd()), temporary, 0) // Clean gets what stays
		}
		if errors.Is(err, unix.EEXIST) { // another client was faster
			return s.repeated(w, up, root, folder, o)
		}
		return err
	}
	// The object is there: whatever comes, it must not be removed, for others may have seen it.
	done = true
	s.release(up.taken - up.n)
	if err := s.syncFolder(folder); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	s.count(Write, o.Type, up.n)
	ok(w)
	return nil
}

// openFolderMade opens the repository and a folder in it, and makes both where they are missing.
func (s *Store) openFolderMade(dir string) (*os.Root, *os.File, error) {
	root, err := s.openMade()
	if err != nil {
		return nil, nil, err
	}
	folder, err := openFolder(root, dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.makeFolder(root, dir); err == nil {
			folder, err = openFolder(root, dir)
		}
	}
	if err != nil {
		root.Close()
		return nil, nil, err
	}
	return root, folder, nil
}

// reserveLength takes what the client has announced of the quota.
func (up *receipt) reserveLength(r *http.Request) error {
	if up.store.Quota == nil {
		return nil
	}
	if text := r.Header.Get("Content-Length"); text != "" { // for callers other than net/http, which has looked at it
		if _, err := strconv.ParseUint(text, 10, 63); err != nil {
			return fmt.Errorf("%w: Content-Length is %q", ErrNoLength, text)
		}
	}
	if up.length < 0 {
		if !up.store.CountUnknown {
			return ErrNoLength
		}
		return nil
	}
	if err := up.store.reserve(up.length); err != nil {
		return err
	}
	up.taken = up.length
	return nil
}

// account counts n bytes more, and takes them of the quota when they were not announced.
func (up *receipt) account(n int) error {
	if up.n += int64(n); up.dry || up.store.Quota == nil || up.n <= up.taken {
		return nil
	}
	if err := up.store.reserve(int64(n)); err != nil {
		return &Error{Code: http.StatusInternalServerError, Err: err}
	}
	up.taken += int64(n)
	return nil
}

// receive reads the body into a new file, verified and synced.
func (up *receipt) receive(folder *os.File, name string, verify bool, o Object) error {
	if up.length >= 0 && up.length <= smallBytes {
		// What is cut or mismatched never gets to the disk.
		b := smallBuffers.Get().(*[]byte)
		defer smallBuffers.Put(b)
		data, err := up.readSmall(*b)
		if err == nil {
			err = up.check(verify, o)
		}
		if err == nil {
			err = up.create(folder, name)
		}
		if err == nil {
			_, err = up.file.Write(data)
		}
		if err != nil {
			return err
		}
		return up.sync()
	}
	if err := up.create(folder, name); err != nil {
		return err
	}
	if err := up.stream(); err != nil {
		return err
	}
	if up.length >= 0 && up.n != up.length { // net/http has seen to it, but a handler around this one may give another body
		return bodyError(fmt.Errorf("%d bytes came, %d were announced", up.n, up.length))
	}
	if err := up.check(verify, o); err != nil {
		return err
	}
	return up.sync()
}

// create makes the file in which the upload is received.
func (up *receipt) create(folder *os.File, name string) error {
	// The name is one of ours, without a slash: it cannot lead out of the folder, and O_EXCL follows no link.
	mode := up.store.fileMode()
	fd, err := unix.Openat(int(folder.Fd()), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NOFOLLOW, uint32(mode))
	if err != nil {
		return &fs.PathError{Op: "openat", Path: folder.Name() + "/" + name, Err: err}
	}
	up.file = os.NewFile(uintptr(fd), folder.Name()+"/"+name)
	if up.store.GroupAccessible {
		return up.file.Chmod(mode)
	}
	return nil
}

func (up *receipt) sync() error {
	if err := up.store.fsync(up.file); err != nil {
		return fmt.Errorf("sync the upload: %w", err)
	}
	return nil
}

// check finishes the hash, and compares it with the name.
func (up *receipt) check(verify bool, o Object) error {
	if up.hash == nil {
		return nil
	}
	up.hash.Sum(up.sum[:0])
	if verify && !up.named(o) {
		return ErrMismatch
	}
	return nil
}

// named tells whether the content has the SHA-256 that the object is named by.
func (up *receipt) named(o Object) bool { return hex.EncodeToString(up.sum[:]) == o.Name }

// readSmall reads the whole body, for which buf has a byte to spare.
func (up *receipt) readSmall(buf []byte) ([]byte, error) {
	n, end, err := fill(up.body, buf)
	switch {
	case err != nil:
		return nil, err
	case !end || int64(n) != up.length:
		return nil, bodyError(fmt.Errorf("%d bytes were announced", up.length))
	}
	if up.hash != nil {
		up.hash.Write(buf[:n])
	}
	return buf[:n], up.account(n)
}

// fill reads until buf is full or the body ends.
func fill(body io.Reader, buf []byte) (n int, end bool, err error) {
	for n < len(buf) && !end {
		var m int
		m, err = body.Read(buf[n:])
		n += m
		if end = err == io.EOF; err != nil && !end {
			return n, false, bodyError(err)
		}
	}
	return n, end, nil
}

// bodyError is for a body that could not be read.
func bodyError(err error) error { return fmt.Errorf("%w: %w", ErrBody, err) }

// stream reads the body, hashes it and writes it to the file.
//
// The three are done at the same time, each for another piece of the body, so that one upload is as fast as the slowest of them. When
// there are more uploads than processors, all are busy anyway: then each upload has one buffer, and the memory of many is small.
func (up *receipt) stream() error {
	active := up.store.shared().uploads.Add(1)
	defer up.store.shared().uploads.Add(-1)
	if int(active) < runtime.GOMAXPROCS(0) {
		return up.pipeline()
	}
	b := buffers.Get().(*buffer)
	defer buffers.Put(b)
	for {
		end, err := up.next(b)
		if err != nil {
			return err
		}
		if up.hash != nil {
			up.hash.Write(b.data[:b.n])
		}
		if err := up.write(b.data[:b.n]); err != nil {
			return err
		}
		if end {
			return nil
		}
	}
}

// next reads a piece of the body.
func (up *receipt) next(b *buffer) (end bool, err error) {
	if b.n, end, err = fill(up.body, b.data); err != nil {
		return false, err
	}
	return end, up.account(b.n)
}

// write writes to the file, if there is one.
func (up *receipt) write(p []byte) error {
	if up.dry {
		return nil
	}
	if _, err := up.file.Write(p); err != nil {
		return err
	}
	up.written += int64(len(p))
	if more := up.written - up.writtenBack; more >= writeBackBytes && up.store.shared().uploads.Load() == 1 {
		// Where it cannot be done, the sync does it all.
		_ = unix.SyncFileRange(int(up.file.Fd()), up.writtenBack, more, unix.SYNC_FILE_RANGE_WRITE)
		up.writtenBack = up.written
	}
	return nil
}

func (up *receipt) pipeline() error {
	var (
		free     = make(chan *buffer, pipelineBuffers)
		hashes   = make(chan *buffer, pipelineBuffers)
		writes   = make(chan *buffer, pipelineBuffers)
		stages   sync.WaitGroup
		writeErr error
		failed   atomic.Bool
	)
	for range pipelineBuffers {
		free <- nil // taken from the pool when it is needed
	}
	release := func(b *buffer) {
		if b.busy.Add(-1) == 0 {
			free <- b
		}
	}
	stages.Go(func() {
		for b := range hashes {
			if up.hash != nil {
				up.hash.Write(b.data[:b.n])
			}
			release(b)
		}
	})
	stages.Go(func() {
		for b := range writes {
			if writeErr == nil {
				if writeErr = up.write(b.data[:b.n]); writeErr != nil {
					failed.Store(true)
				}
			}
			release(b)
		}
	})
	var err error
	for end := false; !end && err == nil && !failed.Load(); {
		b := <-free
		if b == nil {
			b = buffers.Get().(*buffer)
		}
		if end, err = up.next(b); err != nil {
			buffers.Put(b)
			break
		}
		b.busy.Store(2)
		hashes <- b
		writes <- b
	}
	close(hashes)
	close(writes)
	stages.Wait()
	close(free)
	for b := range free {
		if b != nil {
			buffers.Put(b)
		}
	}
	return errors.Join(err, writeErr)
}

// place gives the file its name, if nothing has it.
func (s *Store) place(folder int, temporary, name string) error {
	err := unix.Renameat2(folder, temporary, folder, name, unix.RENAME_NOREPLACE)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return placeError(name, err)
	}
	// NFS and some others lack that, but most of them have hard links.
	err = unix.Linkat(folder, temporary, folder, name, 0)
	if err == nil {
		_ = unix.Unlinkat(folder, temporary, 0) // then it is one file of two names: Clean gets the other
		return nil
	}
	if errors.Is(err, unix.EEXIST) {
		return placeError(name, err)
	}
	// Without either, it is only among the clients of this server that none replaces what another has just stored.
	s.shared().publish.Lock()
	defer s.shared().publish.Unlock()
	there, err := exists(folder, name)
	if err != nil {
		return err
	}
	if there {
		return placeError(name, unix.EEXIST)
	}
	return placeError(name, unix.Renameat(folder, temporary, folder, name))
}

// exists tells whether there is anything of the name in an open folder.
func exists(folder int, name string) (bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(folder, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "fstatat", Path: name, Err: err}
	}
	return true, nil
}

func placeError(name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "renameat2", Path: name, Err: err}
}

// repeat receives an upload of what is there already, only to see whether it is the same.
func (s *Store) repeat(w http.ResponseWriter, up *receipt, root *os.Root, folder *os.File, o Object) error {
	up.dry = true
	if err := up.stream(); err != nil {
		return err
	}
	if err := up.check(false, o); err != nil {
		return err
	}
	return s.repeated(w, up, root, folder, o)
}

// repeated answers an upload of what is there already.
func (s *Store) repeated(w http.ResponseWriter, up *receipt, root *os.Root, folder *os.File, o Object) error {
	if !s.Identical {
		return ErrExists
	}
	// A name could have lost its content to a disk, or be a link to anywhere.
	size, err := s.Size(o)
	if err != nil {
		return err
	}
	same := up.named(o) && size == up.n
	// Where names are not checked, or there is none, what is there may be anything.
	if s.NoVerify || o.Type == configType {
		sum, err := sumOf(root, o.Path())
		if err != nil {
			return err
		}
		same = sum == up.sum
	}
	if !same {
		return ErrExists
	}
	// Whoever was first may be still waiting for this.
	if err := s.syncFolder(folder); err != nil {
		return fmt.Errorf("sync folder %s: %w", folder.Name(), err)
	}
	ok(w)
	return nil
}

func sumOf(root *os.Root, path string) (sum [sha256.Size]byte, err error) {
	f, err := root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}
