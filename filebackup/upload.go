package filebackup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// part is a part of the jobs, of which one version is made.
type part struct {
	first    bool // it has the jobs of streams, too
	from, to int  // of the jobs
	hardJobs int  // how many of them are a reason for a version
	uploads  int  // how many may store an object
	changes  int  // of the version

	results spool
	at      []int          // the result of each job, or -1
	streams []streamResult // those of streams, in the order of paths
	hard    atomic.Bool
}

// close frees what a part takes that is done.
func (p *part) close() {
	p.results.close()
	p.at, p.streams = nil, nil
}

// streamResult says where the result of a stream is.
type streamResult struct {
	path string
	at   int
}

// result is what became of a job.
type result struct {
	path    string
	soft    bool // it makes no version by itself
	changes []Change
	local   *Entry // is new on this machine only

	entry Entry // of what has been read
}

// The changes of a result by the letters they are written down with.
var statusLetters = map[string]byte{statusNew: 'n', statusChanged: 'c', statusDeleted: 'd', statusExtra: 'r', statusDropped: 'x'}

const localLetter = 'l'

func (r *result) append(b []byte) []byte {
	soft := byte(0)
	if r.soft {
		soft = 1
	}
	b = append(b, soft)
	for i := range r.changes {
		b = appendRecord(append(b, statusLetters[r.changes[i].Status]), &r.changes[i].Entry)
	}
	if r.local != nil {
		b = appendRecord(append(b, localLetter), r.local)
	}
	return b
}

// parse reads a result into r, whose memory is used again.
func (r *result) parse(b []byte) {
	*r = result{soft: b[0] == 1, changes: r.changes[:0], entry: r.entry}
	for b = b[1:]; len(b) > 0; {
		letter := b[0]
		if letter == localLetter {
			r.local = &r.entry
			parseRecord(b[1:], r.local)
			r.path = r.local.Path
		}
		for status, l := range statusLetters {
			if l == letter {
				r.changes = append(r.changes, Change{Status: status})
				e := &r.changes[len(r.changes)-1].Entry
				parseRecord(b[1:], e)
				r.path = e.Path
			}
		}
		_, b = recordPath(b[1:])
	}
}

// each calls do with the results that count, in the order of paths. A result is valid until do returns.
func (p *part) each(do func(*result) error) error {
	var buf []byte
	var r, s result // one of streams is looked at while another waits
	read := func(i int, r *result) (err error) {
		if buf, err = p.results.get(i, buf); err == nil {
			r.parse(buf)
		}
		return err
	}
	streams := p.streams
	streamsBefore := func(path string) error { // "": all
		for len(streams) > 0 && (path == "" || comparePaths(streams[0].path, path) < 0) {
			if err := read(streams[0].at, &s); err != nil {
				return err
			}
			if err := do(&s); err != nil {
				return err
			}
			streams = streams[1:]
		}
		return nil
	}
	for _, i := range p.at {
		if i < 0 {
			continue
		}
		if err := read(i, &r); err != nil {
			return err
		}
		if r.soft && !p.hard.Load() {
			continue
		}
		if err := streamsBefore(r.path); err != nil {
			return err
		}
		if err := do(&r); err != nil {
			return err
		}
	}
	return streamsBefore("")
}

// entries calls do with what is new in the version, or nil for a path that is no more, in the order of paths.
func (p *part) entries(do func(path string, e *Entry) error) error {
	return p.each(func(r *result) error {
		e := r.local
		for i := range r.changes {
			if c := &r.changes[i]; e == nil && c.Status != statusDeleted && c.Status != statusDropped {
				e = &c.Entry
			}
		}
		return do(r.path, e)
	})
}

// process does the jobs of a part, several at a time: the streams first, one after the other.
func (b *backup) process(ctx context.Context, p *part) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	p.at = make([]int, p.to-p.from)
	if p.first {
		for _, j := range b.streams {
			i, err := b.result(ctx, p, j)
			if err != nil {
				return err
			}
			if i >= 0 {
				p.streams = append(p.streams, streamResult{j.Path, i})
			}
		}
		slices.SortFunc(p.streams, func(x, y streamResult) int { return comparePaths(x.path, y.path) })
	}
	next := atomic.Int64{}
	var wg sync.WaitGroup
	for range min(b.c.parallel(), len(p.at)) {
		wg.Go(func() {
			var buf []byte
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(p.at) {
					return
				}
				var err error
				if buf, err = b.jobs.get(p.from+i, buf); err == nil {
					p.at[i], err = b.result(ctx, p, parseJob(buf))
				}
				if err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// result does a job and writes its result down; the number of it is -1 where there is none.
func (b *backup) result(ctx context.Context, p *part, j *job) (int, error) {
	r := result{soft: j.kind == jobSoft}
	var err error
	if r.changes, r.local, err = b.one(ctx, j); err != nil {
		return 0, err
	}
	if len(r.changes) == 0 && r.local == nil {
		return -1, nil
	}
	if j.hard() && len(r.changes) > 0 {
		p.hard.Store(true)
	}
	return p.results.add(r.append(nil))
}

// one does a job. Local is an entry that is new on this machine only.
func (b *backup) one(ctx context.Context, j *job) (changes []Change, local *Entry, err error) {
	e := j.Entry
	switch j.kind {
	case jobGone:
		b.count(j.status())
		return []Change{{Status: j.status(), Entry: *j.old}}, nil, nil
	case jobRefresh:
		return nil, &e, nil
	}
	status := j.status()
	if e.Kind == File {
		stored, err := b.file(ctx, j, &e)
		if err != nil && j.stream != nil {
			return nil, nil, err
		}
		if errors.Is(err, fs.ErrNotExist) { // it vanished
			if j.old == nil || b.stays(e.Path) {
				return nil, nil, nil
			}
			gone := job{kind: jobGone, old: j.old}
			return b.one(ctx, &gone)
		}
		var unreadable *unreadableError
		if errors.As(err, &unreadable) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.sum.Unreadable = append(b.sum.Unreadable, fmt.Sprintf("%s: %v", e.Path, unreadable.error))
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%q: %w", e.Path, err)
		}
		if old := j.old; old != nil && old.Kind == File && !stored {
			if equalMeta(&e, old) { // it was moved back and forth, or read for nothing
				b.mu.Lock()
				b.sum.Unchanged++
				b.mu.Unlock()
				return nil, &e, nil
			}
			b.mu.Lock()
			b.sum.Metadata++
			b.mu.Unlock()
			return []Change{{Status: statusChanged, Entry: e}}, nil, nil
		}
	} else if e.Kind == Folder {
		if e.Xattrs, err = b.xattrs(&e); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		} else if err != nil {
			e.Xattrs = nil // of a folder whose listing can be read, and which cannot be opened: its mode counts
		}
	}
	b.count(status)
	if j.old != nil && j.old.Kind == File && e.Kind != File {
		changes = append(changes, Change{Status: statusDeleted, Entry: *j.old})
	}
	return append(changes, Change{Status: status, Entry: e}), nil, nil
}

// equalMeta tells whether a version would say the same of both.
func equalMeta(a, b *Entry) bool {
	return a.has&^hasInode == b.has&^hasInode && a.Hash == b.Hash && a.Size == b.Size && a.MTime == b.MTime && a.Mode == b.Mode &&
		a.UID == b.UID && a.GID == b.GID && maps.EqualFunc(a.Xattrs, b.Xattrs, bytes.Equal)
}

// unreadableError is one of the folder's, not of the bucket's.
type unreadableError struct{ error }

func (e *unreadableError) Unwrap() error { return e.error }

// readTries is how often a file is read that changes while it is read.
const readTries = 3

// file reads a file, and stores it unless its content is known. Stored is false where it is that of the old entry.
func (b *backup) file(ctx context.Context, j *job, e *Entry) (stored bool, err error) {
	if j.stream != nil {
		return b.stream(ctx, j, e)
	}
	hashed := false // the name of the object
	for try := 1; ; try++ {
		source, err := b.c.openSource(e.Path, false)
		if errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err != nil {
			return false, &unreadableError{err}
		}
		stored, again, err := b.read(ctx, source, j, e, try == readTries, hashed)
		source.Close()
		if errors.Is(err, errNameTaken) && !hashed {
			hashed = true
			try--
			continue
		}
		if err != nil || !again {
			return stored, err
		}
	}
}

// stat takes what an open file is now.
func (e *Entry) stat(f *os.File) error {
	st, err := fstat(f)
	if err != nil {
		return err
	}
	var now found
	now.fill(st)
	e.Size, e.MTime, e.CTime, e.Inode, e.Mode, e.UID, e.GID = now.size, now.mtime, now.ctime, now.inode, now.mode, now.uid, now.gid
	return nil
}

// read is one try of file.
func (b *backup) read(ctx context.Context, source *os.File, j *job, e *Entry, last, hashed bool) (stored, again bool, err error) {
	if err := e.stat(source); err != nil {
		return false, false, &unreadableError{err}
	}
	if e.Xattrs, err = readXattrs(source); err != nil {
		return false, false, &unreadableError{err}
	}
	old := j.old
	if old != nil && old.Kind != File {
		old = nil
	}
	if old != nil && !b.options.Checksum && b.differs(&j.Entry, old) == metadata && e.MTime == j.MTime && e.Size == j.Size && e.Inode == j.Inode {
		e.Hash, e.Object, e.ID = old.Hash, old.Object, old.ID
		return false, false, nil
	}
	words, ok := b.c.pipelineOf(e.Path)
	if !ok {
		return false, false, errors.New("no pattern of file_pipeline matches it: add one for \"*\"")
	}
	// whether the content is known can be found out before it is sent where it fits into memory, or some file has its size
	large := e.Size > int64(b.c.ChunkSize)
	hash := sha256.New()
	if large && b.maybeKnown(e.Size) {
		n, err := io.Copy(struct{ io.Writer }{hash}, &contextReader{ctx, source, b.tickBytes})
		if err != nil {
			return false, false, b.sourceError(ctx, err)
		}
		hash.Sum(e.Hash[:0])
		if _, changed := b.changed(source, e); changed && !last {
			b.bytes.Add(-n)
			return false, true, nil
		}
		if n == e.Size { // else what was read is not of the size that the version would say
			if found, err := b.reuse(ctx, e, old, words); err != nil {
				return false, false, err
			} else if found {
				b.tick(0)
				return old == nil || e.Object != old.Object || e.ID != old.ID, false, nil
			}
		}
		b.bytes.Add(-n) // which are read again
		if _, err := source.Seek(0, io.SeekStart); err != nil {
			return false, false, &unreadableError{err}
		}
		hash.Reset()
	}
	h := fileHeader(b.c.ChunkSize, words, b.keys)
	object := b.objectPath(e.Path, words, b.keys)
	if hashed {
		object = hashedPath(e.Path)
	}
	w := b.s.newObjectWriter(ctx, b.budget, b.c.RemoteBasePath+object, h, b.keys, e.Size)
	finished := false
	defer func() { w.close(finished) }()
	w.begun = func(m *multipart) error { return b.journal.add(journalLine{Object: object, Upload: m.id}) }
	n, err := b.copy(w, source, hash)
	if err != nil {
		return false, false, b.sourceError(ctx, err)
	}
	hash.Sum(e.Hash[:0])
	was := *e
	if now, changed := b.changed(source, e); changed || n != e.Size {
		if !last {
			b.bytes.Add(-n)
			return false, true, nil
		}
		// What was read is stored; the next backup reads it again, for its time is another one.
		b.mu.Lock()
		b.sum.Unstable = append(b.sum.Unstable, e.Path)
		b.mu.Unlock()
		b.c.Log.Warn("changed while it was read", "path", e.Path, "modified", time.Unix(0, now.MTime))
		was.Size = n
		was.MTime = min(was.MTime, now.MTime-1)
		*e = was
	}
	if n == 0 {
		e.Object, e.ID = "", ""
		b.tick(0)
		return old == nil || old.Object != "", false, nil
	}
	if w.upload == nil {
		if found, err := b.reuse(ctx, e, old, words); err != nil {
			return false, false, err
		} else if found {
			b.tick(0)
			return old == nil || e.Object != old.Object || e.ID != old.ID, false, nil
		}
	}
	finished, err = b.finish(ctx, w, e, words, object)
	if errors.Is(err, errNameTaken) {
		b.bytes.Add(-n)
	}
	return err == nil, false, err
}

// finish ends the object of a file, unless another goroutine has stored the same content meanwhile; finished is whether the object is there.
func (b *backup) finish(ctx context.Context, w *objectWriter, e *Entry, words []string, object string) (finished bool, err error) {
	done, err := b.claim(ctx, e, words)
	if err != nil {
		return false, err
	}
	if done == nil {
		b.tick(0)
		return false, nil
	}
	defer done()
	id, err := w.finish()
	if err != nil {
		return false, err
	}
	if err := b.journal.add(journalLine{Hash: e.Hash.String(), Words: wordsKey(words), Object: object, ID: id, Size: e.Size}); err != nil {
		return true, fmt.Errorf("journal of uploads: %w", err)
	}
	e.Object, e.ID = object, id
	b.mu.Lock()
	b.sum.Uploaded++
	b.sum.Bytes += e.Size
	b.mu.Unlock()
	b.tick(0)
	return true, b.stored.add(e.Hash, wordsKey(words), storedObject{object, id})
}

// streamChunks is how many chunks of a stream, whose size nobody knows, are a part: with chunks of 5 MiB, 10,000 parts make 488 GiB.
const streamChunks = 10

// stream reads a stream to its end, and stores it unless its content is known.
func (b *backup) stream(ctx context.Context, j *job, e *Entry) (stored bool, err error) {
	words, ok := b.c.pipelineOf(e.Path)
	if !ok {
		return false, fmt.Errorf("no pattern of file_pipeline matches %q: add one for \"*\"", e.Path)
	}
	old := j.old
	if old != nil && old.Kind != File {
		old = nil
	}
	h := fileHeader(b.c.ChunkSize, words, b.keys)
	object := b.objectPath(e.Path, words, b.keys)
	w := b.s.newObjectWriter(ctx, b.budget, b.c.RemoteBasePath+object, h, b.keys, 0)
	w.perPart = max(w.perPart, streamChunks)
	finished := false
	defer func() { w.close(finished) }()
	w.begun = func(m *multipart) error { return b.journal.add(journalLine{Object: object, Upload: m.id}) }
	hash := sha256.New()
	to := io.Writer(w)
	var enc encoder
	if w.h.compressed != "" {
		enc = encoders.Get().(encoder)
		defer encoders.Put(enc)
		enc.Reset(w)
		to = enc
	}
	e.Size = 0
	err = j.stream.Write(ctx, writerFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		_, _ = hash.Write(p)
		n, err := to.Write(p)
		e.Size += int64(n)
		b.tickBytes(n)
		return n, err
	}))
	if err == nil && enc != nil {
		err = enc.Close()
	}
	if err != nil {
		return false, err
	}
	hash.Sum(e.Hash[:0])
	b.mu.Lock()
	b.sum.Files++
	b.sum.Size += e.Size
	b.mu.Unlock()
	if old != nil && old.Hash == e.Hash && old.Size == e.Size { // its time says nothing
		*e = *old
		b.tick(0)
		return false, nil
	}
	if e.Size == 0 {
		b.tick(0)
		return true, nil
	}
	if found, err := b.reuse(ctx, e, old, words); err != nil {
		return false, err
	} else if found {
		b.tick(0)
		return true, nil
	}
	finished, err = b.finish(ctx, w, e, words, object)
	return err == nil, err
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// sourceError tells errors of the file from those of the bucket.
func (b *backup) sourceError(ctx context.Context, err error) error {
	var path *fs.PathError
	if errors.As(err, &path) && ctx.Err() == nil {
		return &unreadableError{err}
	}
	return err
}

// copy moves a file's content into its object.
func (b *backup) copy(w *objectWriter, source *os.File, hash interface {
	io.Writer
	Sum([]byte) []byte
	Reset()
	Size() int
	BlockSize() int
},
) (int64, error) {
	if w.h.compressed == "" {
		return w.readFrom(source, hash, b.tickBytes)
	}
	enc := encoders.Get().(encoder)
	defer encoders.Put(enc)
	enc.Reset(w)
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	var total int64
	for {
		n, err := source.Read(*buf)
		_, _ = hash.Write((*buf)[:n])
		total += int64(n)
		b.tickBytes(n)
		if _, err := enc.Write((*buf)[:n]); err != nil {
			return total, err
		}
		if errors.Is(err, io.EOF) {
			return total, enc.Close()
		}
		if err != nil {
			return total, err
		}
		if w.ctx.Err() != nil {
			return total, context.Cause(w.ctx)
		}
	}
}

type encoder interface {
	io.WriteCloser
	Reset(io.Writer)
}

// changed tells whether a file is another than when it was opened.
func (b *backup) changed(f *os.File, e *Entry) (now Entry, changed bool) {
	now = *e
	if err := now.stat(f); err != nil {
		return now, true
	}
	return now, now.Size != e.Size || now.MTime != e.MTime
}

func wordsKey(words []string) string {
	sorted := slices.Clone(words)
	slices.Sort(sorted)
	return strings.Join(slices.Compact(sorted), " ")
}

// storedObject is an object of a file.
type storedObject struct{ object, id string }

// storedObjects are objects by their content.
type storedObjects struct {
	byWords map[string]map[Hash]int // of the pipeline
	list    spool
}

func (o *storedObjects) add(h Hash, words string, s storedObject) error {
	b := binary.AppendUvarint(nil, uint64(len(s.object)))
	i, err := o.list.add(append(append(b, s.object...), s.id...))
	if err != nil {
		return err
	}
	o.list.mu.Lock()
	defer o.list.mu.Unlock()
	if o.byWords == nil {
		o.byWords = map[string]map[Hash]int{}
	}
	if o.byWords[words] == nil {
		o.byWords[words] = map[Hash]int{}
	}
	o.byWords[words][h] = i
	return nil
}

// find returns the number of the object with that content.
func (o *storedObjects) find(h Hash, words string) (i int, ok bool) {
	o.list.mu.Lock()
	defer o.list.mu.Unlock()
	i, ok = o.byWords[words][h]
	return i, ok
}

// forget frees the memory of what nobody will look for any more.
func (o *storedObjects) forget() { o.byWords, o.list.ends = nil, nil }

func (o *storedObjects) get(i int) (storedObject, error) {
	b, err := o.list.get(i, nil)
	if err != nil {
		return storedObject{}, err
	}
	n, k := binary.Uvarint(b)
	return storedObject{string(b[k : k+int(n)]), string(b[k+int(n):])}, nil
}

// countSize says that a file of that size may be stored.
func (b *backup) countSize(size int64) {
	if size > int64(b.c.ChunkSize) { // of smaller ones it is known when they have been read
		b.sizes[size]++
	}
}

// maybeKnown tells whether something of that size may be stored already.
func (b *backup) maybeKnown(size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sizes[size] > 1 || b.cache.hasSize(size, int64(b.c.ChunkSize))
}

// reuse gives the entry an object that has its content already, if there is one.
func (b *backup) reuse(ctx context.Context, e, old *Entry, words []string) (bool, error) {
	if old != nil && old.Hash == e.Hash && (old.Object != "" || e.Size == 0) {
		e.Object, e.ID = old.Object, old.ID
		return true, nil
	}
	b.mu.Lock()
	other := b.cache.entryOf(e.Hash)
	b.mu.Unlock()
	if other != nil {
		if others, ok := b.c.pipelineOf(other.Path); ok && wordsKey(others) == wordsKey(words) {
			b.duplicate(e, other.Object, other.ID)
			return true, nil
		}
	}
	if found, err := b.storedNow(e, words); found || err != nil {
		return found, err
	}
	i, known := b.known.find(e.Hash, wordsKey(words))
	if !known {
		return false, nil
	}
	o, err := b.known.get(i)
	if err != nil {
		return false, err
	}
	// It was there when it was stored. Somebody may have taken it for garbage.
	there := false
	_, err = b.s.keyVersions(ctx, b.c.RemoteBasePath+o.object, func(v objectVersion) bool {
		there = there || v.ID == o.id && !v.Marker
		return there
	})
	if err != nil || !there {
		return false, nil
	}
	e.Object, e.ID = o.object, o.id
	b.mu.Lock()
	if !b.used[i] {
		b.sum.Resumed++
	}
	b.used[i] = true
	b.mu.Unlock()
	return true, nil
}

func (b *backup) duplicate(e *Entry, object, id string) {
	e.Object, e.ID = object, id
	b.mu.Lock()
	b.sum.Duplicates++
	b.mu.Unlock()
}

// storedNow gives the entry an object that this run has stored, if there is one.
func (b *backup) storedNow(e *Entry, words []string) (bool, error) {
	i, found := b.stored.find(e.Hash, wordsKey(words))
	if !found {
		return false, nil
	}
	o, err := b.stored.get(i)
	if err == nil {
		b.duplicate(e, o.object, o.id)
	}
	return true, err
}

// claim makes this goroutine the one that stores a content, until it calls done. Done is nil where another has stored it, and the entry has its object.
func (b *backup) claim(ctx context.Context, e *Entry, words []string) (done func(), err error) {
	key := string(e.Hash[:]) + wordsKey(words)
	for {
		b.mu.Lock()
		storing := b.storing[key]
		if storing == nil {
			storing = make(chan struct{})
			b.storing[key] = storing
			b.mu.Unlock()
			done = func() {
				b.mu.Lock()
				delete(b.storing, key)
				b.mu.Unlock()
				close(storing)
			}
			if found, err := b.storedNow(e, words); found || err != nil {
				done()
				return nil, err
			}
			return done, nil
		}
		b.mu.Unlock()
		select {
		case <-storing:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
