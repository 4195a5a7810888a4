package filebackup

import (
	"bytes"
	"context"
	"crypto/sha256"
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

// BackupOptions are what a single backup is told.
type BackupOptions struct {
	DryRun   bool
	Checksum bool // read every file, whatever its size and time say
	// Accept takes the bucket as it is where it looks as if it had been tampered with.
	Accept bool
	// Progress, when it is set, is called from time to time, from several goroutines, but never from two at once.
	Progress func(Progress)
	// Streams are files of the version that are not in the folder. They are read first, one after the other.
	Streams []Stream
}

// Stream is a file of a version that a program writes and that is not on disk.
type Stream struct {
	Path string // in the version, as in "/database.sql"
	// Write writes its content. With its error the backup fails, and there is no version.
	Write func(ctx context.Context, w io.Writer) error
}

// Progress is how far something is.
type Progress struct {
	Files, TotalFiles int64
	Bytes, TotalBytes int64
}

// Summary is what a backup did.
type Summary struct {
	Versions     []string      `json:"versions"` // that were made; none where nothing has changed
	Latest       Version       `json:"latest"`   // the last of them, or the one that is as the folder is; the zero value where nothing was ever saved
	Files        int           `json:"files"`    // that the folder has
	Size         int64         `json:"size"`     // of them
	New          int           `json:"new"`
	Changed      int           `json:"changed"`
	Metadata     int           `json:"metadata"`          // changed in nothing but mode, owner, times or attributes
	Others       int           `json:"folders_and_links"` // that are new, changed or gone
	Deleted      int           `json:"deleted"`
	Unchanged    int           `json:"unchanged"`
	Uploaded     int           `json:"uploaded"` // files
	Bytes        int64         `json:"bytes"`    // of them
	Duplicates   int           `json:"duplicates"`
	Resumed      int           `json:"resumed"` // that an earlier run had stored already
	Garbage      int           `json:"garbage"` // objects of earlier runs that were removed or logged
	Unreadable   []string      `json:"unreadable,omitempty"`
	Unstable     []string      `json:"unstable,omitempty"` // changed while they were read
	Duration     time.Duration `json:"-"`
	DurationSecs float64       `json:"duration_seconds"`
}

// IncompleteError says that a version was made, but that files could not be read; they are in it as they were before.
type IncompleteError struct{ Unreadable []string }

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("%s could not be read, and stay in the backup as they were:\n%s", plural(len(e.Unreadable), "path", "paths"), strings.Join(e.Unreadable, "\n"))
}

var errReadOnly = errors.New("the configuration says read_only")

// job is a change that a scan has found.
type job struct {
	found  found
	old    *Entry  // what the path was
	stream *Stream // where the content comes from; nil: from the folder
	soft   bool    // no reason for a version by itself
}

// backup is a run.
type backup struct {
	*Repository
	options BackupOptions
	run     string
	cache   *cache
	journal *journal
	known   map[string]journalLine // of dead runs, by hash and pipeline
	used    map[string]bool        // version IDs of them
	runs    map[string]bool        // the dead ones, and this one
	keys    *keys
	logged  bool // there is a log of what is about to be stored, of this run or a dead one of this machine

	mu       sync.Mutex
	inFlight map[string]*pending
	sizes    map[int64]int // how many files have them
	sum      Summary
	progress Progress
	last     atomic.Int64 // when progress was told, in nanoseconds

	files atomic.Int64
	bytes atomic.Int64
}

// pending is a content that is being stored.
type pending struct {
	done       chan struct{}
	object, id string
	ok         bool
}

// Backup saves the folder. Where nothing has changed it makes no version. The error is an *IncompleteError where files could not be read; the
// summary is valid then, too.
func (r *Repository) Backup(ctx context.Context, options BackupOptions) (*Summary, error) {
	start := time.Now()
	switch {
	case r.c.ReadOnly:
		return nil, errReadOnly
	case r.c.BasePath == "":
		return nil, &ConfigError{[]string{"base_path: is missing"}}
	}
	if err := r.c.local(); err != nil {
		return nil, err
	}
	// Before everything else: whatever is cleaned up belongs to nobody who is alive.
	lock, err := r.c.lock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	b := &backup{Repository: r, options: options, run: randomID(), used: map[string]bool{}, runs: map[string]bool{}, inFlight: map[string]*pending{}, sizes: map[int64]int{}}
	b.runs[b.run] = true
	err = b.do(ctx)
	if b.journal != nil {
		b.journal.f.Close()
	}
	b.sum.Duration = time.Since(start)
	b.sum.DurationSecs = b.sum.Duration.Seconds()
	if err != nil {
		return nil, err
	}
	if !options.DryRun {
		b.sum.Latest = Version{ID: b.cache.ID, Time: b.cache.Modified}
	}
	if len(b.sum.Unreadable) > 0 {
		slices.Sort(b.sum.Unreadable)
		return &b.sum, &IncompleteError{b.sum.Unreadable}
	}
	return &b.sum, nil
}

func (b *backup) do(ctx context.Context) error {
	if b.options.DryRun {
		if on, err := b.s.versioning(ctx); err != nil {
			return err
		} else if !on {
			b.c.Log.Info("versioning of the bucket is not enabled, and would be", "bucket", b.c.S3.Bucket)
		}
	} else if enabled, err := b.s.ensureVersioning(ctx); err != nil {
		return err
	} else if enabled {
		b.c.Log.Info("versioning of the bucket was not enabled, and is now", "bucket", b.c.S3.Bucket)
	}
	var fresh bool
	var err error
	b.cache, fresh, err = b.current(ctx)
	if tamper := (*TamperError)(nil); errors.As(err, &tamper) && b.options.Accept && !b.options.DryRun {
		b.c.Log.Warn("the bucket is taken as it is", "problem", tamper.What)
		b.cache, err = b.accept(ctx)
	}
	if err != nil {
		return err
	}
	if b.needsKeys() && !b.options.DryRun {
		if b.keys, err = b.key(ctx, true); err != nil {
			return err
		}
	}
	if !b.options.DryRun {
		if err := b.recover(ctx); err != nil {
			return err
		}
	}
	jobs, soft, refreshed, err := b.compare(ctx)
	if err != nil {
		return err
	}
	if b.options.DryRun {
		for _, j := range jobs {
			b.count(j.status())
		}
		return nil
	}
	if len(jobs) == 0 {
		if len(refreshed) > 0 || !fresh {
			b.cache = b.cache.merge(sortedPaths(refreshed), refreshed)
			b.saveCache()
		}
		return b.cleanUp(ctx)
	}
	jobs = append(jobs, soft...)
	n := or(b.c.SplitChunkSize, len(jobs))
	for part := range slices.Chunk(jobs, n) {
		if err := b.commitPart(ctx, part, refreshed); err != nil {
			return err
		}
		refreshed = nil
	}
	return b.cleanUp(ctx)
}

// accept makes the cache anew from what is in the bucket.
func (b *backup) accept(ctx context.Context) (*cache, error) {
	all, err := b.allVersions(ctx)
	if err != nil {
		return nil, err
	}
	head := b.c.cacheHead()
	if len(all) == 0 {
		return &cache{cacheHead: head}, nil
	}
	m, snapshot, _, err := b.rebuild(ctx, all)
	if err != nil {
		return nil, err
	}
	head.ID, head.Modified, head.Sequence, head.Snapshot = all[len(all)-1].ID, all[len(all)-1].Time, len(all), snapshot
	return cacheOf(head, m), nil
}

func (b *backup) needsKeys() bool {
	// Where nothing is encrypted nothing is asked for, and an existing key is derived when it is first used.
	if slices.Contains(b.c.MetaPipeline, pipeEncrypt) {
		return true
	}
	return slices.ContainsFunc(b.c.FilePipeline, func(p Pipeline) bool {
		return slices.Contains(p.Words, pipeEncrypt) || slices.Contains(p.Words, pipeHash)
	})
}

func sortedPaths(entries map[string]*Entry) []string {
	paths := slices.Collect(maps.Keys(entries))
	slices.SortFunc(paths, comparePaths)
	return paths
}

// status is what a job does to the version, as far as that is known before it is done.
func (j *job) status() string {
	switch {
	case j.found.path == "":
		if j.old.Kind == File {
			return statusDeleted
		}
		return statusDropped
	case j.found.kind != File:
		return statusExtra
	case j.old == nil || j.old.Kind != File:
		return statusNew
	}
	return statusChanged
}

// compare scans the folder beside the cache. Soft are changes that are no reason for a version by themselves.
func (b *backup) compare(ctx context.Context) (jobs, soft []job, refreshed map[string]*Entry, err error) {
	refreshed = map[string]*Entry{}
	own := b.c.localPaths()
	streams := map[string]*job{}
	for i := range b.options.Streams {
		s := &b.options.Streams[i]
		now := time.Now().UnixNano()
		own[s.Path] = true
		jobs = append(jobs, job{stream: s, found: found{path: s.Path, kind: File, mtime: now, ctime: now, mode: 0o600, uid: os.Getuid(), gid: os.Getgid()}})
	}
	for i := range jobs {
		streams[jobs[i].found.path] = &jobs[i]
	}
	streamed := jobs
	jobs = nil
	rest := b.cache.records
	var kept []string // folders that could not be read
	gone := func(path []byte, record []byte) {
		name := string(path)
		if slices.ContainsFunc(kept, func(k string) bool { return name == k || strings.HasPrefix(name, k+"/") }) {
			return
		}
		if matchAny(b.c.SkipDelete, name) && !b.c.ignored(name) {
			return
		}
		old := new(Entry)
		parseRecord(record, old)
		if s := streams[name]; s != nil {
			s.old = old
			return
		}
		jobs = append(jobs, job{old: old})
	}
	err = b.c.scan(ctx, func(f *found) error {
		if own[f.path] {
			return nil
		}
		var record []byte
		for len(rest) > 0 {
			path, after := recordPath(rest)
			order := comparePaths(string(path), f.path)
			if order > 0 {
				break
			}
			if order == 0 {
				record, rest = rest, after
				break
			}
			gone(path, rest)
			rest = after
		}
		if f.err != nil {
			b.sum.Unreadable = append(b.sum.Unreadable, fmt.Sprintf("%s: %v", f.path, f.err))
			kept = append(kept, f.path)
			return nil
		}
		b.progress.TotalFiles++
		if f.kind == File {
			b.sum.Files++
			b.sum.Size += f.size
		}
		if record == nil {
			jobs = append(jobs, job{found: *f})
			if f.kind == File {
				b.sizes[f.size]++
				b.progress.TotalBytes += f.size
			}
			return nil
		}
		var old Entry
		parseRecord(record, &old)
		what := b.differs(f, &old)
		switch what {
		case same:
			b.sum.Unchanged++
			return nil
		case sameButInode:
			b.sum.Unchanged++
			old.Inode, old.CTime, old.has = f.inode, f.ctime, old.has|hasInode
			refreshed[old.Path] = &old
			return nil
		}
		j := job{found: *f, old: &old}
		if what == softly {
			j.soft = true
			soft = append(soft, j)
			return nil
		}
		if f.kind == File && what == differs {
			b.sizes[f.size]++
			b.progress.TotalBytes += f.size
		}
		jobs = append(jobs, j)
		return nil
	})
	if err != nil {
		return nil, nil, nil, err
	}
	for len(rest) > 0 {
		path, after := recordPath(rest)
		gone(path, rest)
		rest = after
	}
	b.progress.TotalFiles += int64(len(streamed))
	return append(streamed, jobs...), soft, refreshed, nil
}

// difference is how a file differs from what it was.
type difference int

const (
	same         difference = iota
	sameButInode            // moved or touched on this machine only; nothing that a version holds
	softly                  // a folder's time
	metadata                // but not the content
	differs
)

func (b *backup) differs(f *found, old *Entry) difference {
	if f.kind != old.Kind {
		return differs
	}
	known := old.has&hasInode != 0
	meta := old.has&hasMode != 0 && old.Mode == f.mode && old.UID == f.uid && old.GID == f.gid
	mtime := old.MTime == f.mtime
	if old.has&hasMTime == 0 {
		mtime = old.lastMod == seconds(f.mtime)
	}
	switch f.kind {
	case File:
		if b.options.Checksum || !mtime || old.has&hasSize != 0 && old.Size != f.size || known && old.Inode != f.inode {
			return differs
		}
		if !meta {
			return metadata
		}
	case Symlink:
		if old.Target != f.target || !meta {
			return metadata
		}
	case Folder:
		if !meta {
			return metadata
		}
	}
	if known && old.CTime == f.ctime && old.Inode == f.inode {
		return same
	}
	if f.kind != Symlink && known { // perhaps an attribute
		attrs, err := b.xattrs(f)
		if err == nil && !maps.EqualFunc(attrs, old.Xattrs, bytes.Equal) {
			return metadata
		}
	}
	if f.kind == Folder && !mtime {
		return softly
	}
	return sameButInode
}

func (b *backup) xattrs(f *found) (map[string][]byte, error) {
	file, err := b.c.openSource(f.path, f.kind == Folder)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readXattrs(file)
}

// commitPart stores what has changed and makes a version of it.
func (b *backup) commitPart(ctx context.Context, jobs []job, refreshed map[string]*Entry) error {
	var uploads []int
	for i := range jobs {
		if f := &jobs[i].found; f.path != "" && f.kind == File && (f.size > 0 || jobs[i].stream != nil) {
			uploads = append(uploads, i)
		}
	}
	if len(uploads) > 0 {
		if err := b.beginUploads(ctx, jobs, uploads); err != nil {
			return err
		}
	}
	changes, entries, err := b.process(ctx, jobs)
	if err != nil {
		return err
	}
	for path, e := range refreshed {
		if _, changed := entries[path]; !changed {
			entries[path] = e
		}
	}
	if len(changes) == 0 {
		b.cache = b.cache.merge(sortedPaths(entries), entries)
		b.saveCache()
		return nil
	}
	v, err := b.commit(ctx, changes)
	if err != nil {
		return err
	}
	b.sum.Versions = append(b.sum.Versions, v.ID)
	next := b.cache.merge(sortedPaths(entries), entries)
	next.ID, next.Modified, next.Sequence = v.ID, v.Time, b.cache.Sequence+1
	b.cache = next
	b.saveCache()
	return b.snapshotIfDue(ctx, v)
}

// saveCache saves the cache. It is only a copy: without it the next run takes longer.
func (b *backup) saveCache() {
	err := b.s.at("cache")
	if err == nil {
		err = b.cache.save(b.c)
	}
	if err != nil {
		b.c.Log.Warn("the local manifest cannot be written; the next backup reads it from the bucket", "file", b.c.cachePath(), "error", err)
	}
}

func (b *backup) snapshotIfDue(ctx context.Context, v Version) error {
	if b.cache.Sequence-b.cache.Snapshot < b.c.SnapshotInterval {
		return nil
	}
	v.sequence = b.cache.Sequence
	err := b.putSnapshot(ctx, v, b.cache.manifest())
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		// The version is made; this only makes reading it fast.
		b.c.Log.Warn("the manifest snapshot could not be stored", "error", err)
		return nil
	}
	b.cache.Snapshot = b.cache.Sequence
	b.saveCache()
	return nil
}

// beginUploads leaves word of what is about to be stored, here and in the bucket, before anything is.
func (b *backup) beginUploads(ctx context.Context, jobs []job, uploads []int) error {
	if b.journal == nil {
		var err error
		if b.journal, err = b.c.openJournal(b.run); err != nil {
			return fmt.Errorf("journal of uploads: %w", err)
		}
	}
	text := []byte{'['}
	for n, i := range uploads {
		j := &jobs[i]
		e := j.entry()
		if n > 0 {
			text = append(text, ", "...)
		}
		words, _ := b.c.pipelineOf(e.Path)
		object := b.objectPath(e.Path, words, b.keys)
		text = appendString(append(text, `{"path": `...), e.Path)
		text = appendFloat(append(text, `, "created": `...), e.createdAt())
		text = appendFloat(append(text, `, "last_mod": `...), e.lastModified())
		text = append(append(append(text, `, "status": "`...), j.status()...), `", "hash": ""`...)
		if object != e.Path {
			text = appendString(append(text, `, "real_path": `...), object)
		}
		text = appendString(append(text, `, "run": `...), b.run)
		text = append(text, '}')
	}
	text = append(text, ']')
	b.logged = true
	_, err := b.putMeta(ctx, b.c.RemoteGCLogFile, text)
	return err
}

// entry is what the scan knows of a file.
func (j *job) entry() Entry {
	f := &j.found
	return Entry{
		Path: f.path, Kind: f.kind, Size: f.size, MTime: f.mtime, CTime: f.ctime, Inode: f.inode, Mode: f.mode, UID: f.uid, GID: f.gid,
		Target: f.target, has: hasSize | hasMTime | hasMode | hasInode,
	}
}

// process does the jobs, several at a time. The changes are in the order of the jobs.
func (b *backup) process(ctx context.Context, jobs []job) (changes []Change, entries map[string]*Entry, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([][]Change, len(jobs))
	local := make([]*Entry, len(jobs))
	var next atomic.Int64
	for i := 0; i < len(jobs) && jobs[i].stream != nil; i++ {
		next.Add(1)
		if results[i], local[i], err = b.one(ctx, &jobs[i]); err != nil {
			return nil, nil, err
		}
	}
	var wg sync.WaitGroup
	for range min(b.c.parallel(), len(jobs)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				var err error
				if results[i], local[i], err = b.one(ctx, &jobs[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	entries = map[string]*Entry{}
	hard := false
	for i := range jobs {
		hard = hard || !jobs[i].soft && len(results[i]) > 0
	}
	for i := range jobs {
		if jobs[i].soft && !hard {
			continue
		}
		changes = append(changes, results[i]...)
		for k := range results[i] {
			c := &results[i][k]
			switch c.Status {
			case statusDeleted, statusDropped:
				if _, set := entries[c.Entry.Path]; !set {
					entries[c.Entry.Path] = nil
				}
			default:
				entries[c.Entry.Path] = &c.Entry
			}
		}
		if local[i] != nil {
			entries[local[i].Path] = local[i]
		}
	}
	return changes, entries, nil
}

func (b *backup) count(status string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch status {
	case statusNew:
		b.sum.New++
	case statusChanged:
		b.sum.Changed++
	case statusDeleted:
		b.sum.Deleted++
	case statusExtra, statusDropped:
		b.sum.Others++
	}
}

// one does a job. Local is an entry that is new on this machine only.
func (b *backup) one(ctx context.Context, j *job) (changes []Change, local *Entry, err error) {
	f := &j.found
	if f.path == "" {
		b.count(j.status())
		return []Change{{Status: j.status(), Entry: *j.old}}, nil, nil
	}
	e := j.entry()
	status := j.status()
	if f.kind == File {
		stored, err := b.file(ctx, j, &e)
		if err != nil && j.stream != nil {
			return nil, nil, err
		}
		if errors.Is(err, fs.ErrNotExist) { // it vanished
			if j.old == nil {
				return nil, nil, nil
			}
			gone := job{old: j.old}
			return b.one(ctx, &gone)
		}
		var unreadable *unreadableError
		if errors.As(err, &unreadable) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.sum.Unreadable = append(b.sum.Unreadable, fmt.Sprintf("%s: %v", f.path, unreadable.error))
			return nil, nil, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%q: %w", f.path, err)
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
	} else if f.kind == Folder {
		if e.Xattrs, err = b.xattrs(f); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		} else if err != nil {
			e.Xattrs = nil // of a folder whose listing can be read, and which cannot be opened: its mode counts
		}
	}
	b.count(status)
	if j.old != nil && j.old.Kind == File && f.kind != File {
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
	for try := 1; ; try++ {
		source, err := b.c.openSource(e.Path, false)
		if errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if err != nil {
			return false, &unreadableError{err}
		}
		stored, again, err := b.read(ctx, source, j, e, try == readTries)
		source.Close()
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
func (b *backup) read(ctx context.Context, source *os.File, j *job, e *Entry, last bool) (stored, again bool, err error) {
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
	if old != nil && !b.options.Checksum && b.differs(&j.found, old) == metadata && e.MTime == j.found.mtime && e.Size == j.found.size {
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
		if _, err := io.Copy(struct{ io.Writer }{hash}, &contextReader{ctx, source}); err != nil {
			return false, false, b.sourceError(ctx, err)
		}
		hash.Sum(e.Hash[:0])
		if _, changed := b.changed(source, e); changed && !last {
			return false, true, nil
		}
		if b.reuse(ctx, e, old, words) {
			b.tick(e.Size)
			return old == nil || e.Object != old.Object || e.ID != old.ID, false, nil
		}
		if _, err := source.Seek(0, io.SeekStart); err != nil {
			return false, false, &unreadableError{err}
		}
		hash.Reset()
	}
	h := fileHeader(b.c.ChunkSize, words, b.keys)
	object := b.objectPath(e.Path, words, b.keys)
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
	if w.upload == nil && b.reuse(ctx, e, old, words) {
		b.tick(0)
		return old == nil || e.Object != old.Object || e.ID != old.ID, false, nil
	}
	finished, err = b.finish(ctx, w, e, words, object)
	return err == nil, false, err
}

// finish ends the object of a file, unless another goroutine has stored the same content meanwhile; finished is whether the object is there.
func (b *backup) finish(ctx context.Context, w *objectWriter, e *Entry, words []string, object string) (finished bool, err error) {
	p, mine := b.claim(e.Hash, words)
	for !mine {
		select {
		case <-p.done:
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
		if p.ok {
			e.Object, e.ID = p.object, p.id
			b.mu.Lock()
			b.sum.Duplicates++
			b.mu.Unlock()
			b.tick(0)
			return false, nil
		}
		p, mine = b.claim(e.Hash, words)
	}
	defer close(p.done)
	id, err := w.finish()
	if err != nil {
		b.unclaim(e.Hash, words)
		return false, err
	}
	if err := b.journal.add(journalLine{Hash: e.Hash.String(), Words: wordsKey(words), Object: object, ID: id, Size: e.Size}); err != nil {
		b.unclaim(e.Hash, words)
		return true, fmt.Errorf("journal of uploads: %w", err)
	}
	e.Object, e.ID = object, id
	p.object, p.id, p.ok = object, id, true
	b.mu.Lock()
	b.sum.Uploaded++
	b.sum.Bytes += e.Size
	b.mu.Unlock()
	b.tick(0)
	return true, nil
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
	if e.Size == 0 || b.reuse(ctx, e, old, words) {
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

func contentKey(h Hash, words []string) string { return string(h[:]) + wordsKey(words) }

// maybeKnown tells whether something of that size may be stored already.
func (b *backup) maybeKnown(size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sizes[size] > 1 {
		return true
	}
	for _, l := range b.known {
		if l.Size == size {
			return true
		}
	}
	// one size of all of them is looked for, not their hashes
	return b.cache.hasSize(size)
}

// reuse gives the entry an object that has its content already, if there is one.
func (b *backup) reuse(ctx context.Context, e, old *Entry, words []string) bool {
	if old != nil && old.Hash == e.Hash && (old.Object != "" || e.Size == 0) {
		e.Object, e.ID = old.Object, old.ID
		return true
	}
	b.mu.Lock()
	other := b.cache.entryOf(e.Hash)
	line, known := b.known[contentKey(e.Hash, words)]
	p := b.inFlight[contentKey(e.Hash, words)]
	b.mu.Unlock()
	if other != nil {
		if others, ok := b.c.pipelineOf(other.Path); ok && wordsKey(others) == wordsKey(words) {
			e.Object, e.ID = other.Object, other.ID
			b.mu.Lock()
			b.sum.Duplicates++
			b.mu.Unlock()
			return true
		}
	}
	if p != nil {
		select {
		case <-p.done:
			if p.ok {
				e.Object, e.ID = p.object, p.id
				b.mu.Lock()
				b.sum.Duplicates++
				b.mu.Unlock()
				return true
			}
		default:
		}
	}
	if !known {
		return false
	}
	// It was there when it was stored. Somebody may have taken it for garbage.
	there := false
	_, err := b.s.keyVersions(ctx, b.c.RemoteBasePath+line.Object, func(v objectVersion) bool {
		there = there || v.ID == line.ID && !v.Marker
		return there
	})
	if err != nil || !there {
		return false
	}
	e.Object, e.ID = line.Object, line.ID
	b.mu.Lock()
	if !b.used[line.ID] {
		b.sum.Resumed++
	}
	b.used[line.ID] = true
	b.mu.Unlock()
	return true
}

// claim makes this goroutine the one that stores a content.
func (b *backup) claim(h Hash, words []string) (p *pending, mine bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := contentKey(h, words)
	if p := b.inFlight[key]; p != nil {
		return p, false
	}
	p = &pending{done: make(chan struct{})}
	b.inFlight[key] = p
	return p, true
}

func (b *backup) unclaim(h Hash, words []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.inFlight, contentKey(h, words))
}

// tickBytes says that so much of a file was read.
func (b *backup) tickBytes(n int) {
	b.bytes.Add(int64(n))
	b.tell()
}

// tick says that a file is done.
func (b *backup) tick(n int64) {
	b.files.Add(1)
	b.bytes.Add(n)
	b.tell()
}

func (b *backup) tell() {
	if b.options.Progress == nil {
		return
	}
	now, last := time.Now().UnixNano(), b.last.Load()
	if now-last < int64(100*time.Millisecond) || !b.last.CompareAndSwap(last, now) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.progress
	p.Files, p.Bytes = b.files.Load()+int64(b.sum.Unchanged), b.bytes.Load()
	b.options.Progress(p)
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// commit makes a version: the moment in which its diff is in the bucket.
func (b *backup) commit(ctx context.Context, changes []Change) (Version, error) {
	host, _ := os.Hostname() // for people only
	c := &commit{ID: randomID(), Parent: b.cache.ID, Host: host, Time: b.s.serverNow().Unix()}
	// rrbackup orders versions by their whole seconds.
	if wait := b.cache.Modified.Truncate(time.Second).Add(time.Second + 50*time.Millisecond).Sub(b.s.serverNow()); b.cache.ID != "" && wait > 0 && wait <= 2*time.Second {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return Version{}, context.Cause(ctx)
		}
	}
	// What another machine has committed in the meantime must not be overlooked.
	if err := b.unmoved(ctx); err != nil {
		return Version{}, err
	}
	id, err := b.putMeta(ctx, b.c.RemoteManifestDiffFile, encodeDiff(c, changes))
	if err != nil {
		return Version{}, err
	}
	v := Version{ID: id, Time: b.s.serverNow()}
	if head, err := b.s.head(ctx, b.c.RemoteManifestDiffFile); err == nil && head.ID == id {
		v.Time = head.Modified
	}
	return v, b.s.at("committed")
}

// unmoved says whether the latest version is still the one that this run began with.
func (b *backup) unmoved(ctx context.Context) error {
	latest, err := b.s.head(ctx, b.c.RemoteManifestDiffFile)
	if errors.Is(err, ErrNotFound) {
		latest, err = objectVersion{}, nil
	}
	if err != nil {
		return err
	}
	if latest.ID != b.cache.ID {
		return fmt.Errorf("the manifest %q was changed by somebody else while this backup ran; nothing was committed", b.c.RemoteManifestDiffFile)
	}
	return nil
}
