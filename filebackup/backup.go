package filebackup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
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
	Retained          int64 // objects whose Object Lock was prolonged, after everything else
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

// backup is a run. What there may be of every file is in spools and in records, for the sake of memory.
type backup struct {
	*Repository
	options BackupOptions
	start   time.Time
	run     string
	cache   *cache
	behind  bool  // the cache's records are of an earlier version than its head
	unsaved error // why the cache on disk is, too
	journal *journal
	runs    map[string]bool // the dead ones, and this one
	keys    *keys
	logged  bool   // there is a log of what is about to be stored, of this run or a dead one of this machine
	log     string // version ID of that of this run

	streams []*job
	jobs    spool
	scratch []byte
	refresh bool          // something is new on this machine only
	parts   []*part       // of the jobs; none where there is no reason for a version
	known   storedObjects // by dead runs
	used    []bool        // which of them this run uses
	stored  storedObjects // by this run

	mu       sync.Mutex
	storing  map[string]chan struct{} // contents
	sizes    map[int64]int            // how many large files have them
	sum      Summary
	progress Progress
	last     atomic.Int64 // when progress was told, in nanoseconds

	files atomic.Int64
	bytes atomic.Int64
}

// Backup saves the folder. Where nothing has changed it makes no version. The error is, or has joined, an *IncompleteError where files could not be
// read, and an *UnretainedError where Object Lock does not keep all of the latest version for as long as it should; the summary is valid then, too.
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
	b := &backup{Repository: r, options: options, start: start, run: randomID(), runs: map[string]bool{}, storing: map[string]chan struct{}{}, sizes: map[int64]int{}}
	b.runs[b.run] = true
	b.jobs.path, b.known.list.path, b.stored.list.path = r.c.spoolPath("jobs"), r.c.spoolPath("known"), r.c.spoolPath("stored")
	defer b.close()
	if err = b.do(ctx); err == nil {
		err = b.prolong(ctx)
	}
	b.sum.Duration = time.Since(start)
	b.sum.DurationSecs = b.sum.Duration.Seconds()
	if err != nil && !errors.As(err, new(*UnretainedError)) {
		return nil, err
	}
	if !options.DryRun {
		b.sum.Latest = Version{ID: b.cache.ID, Time: b.cache.Modified}
	}
	if len(b.sum.Unreadable) > 0 {
		slices.Sort(b.sum.Unreadable)
		err = errors.Join(&IncompleteError{b.sum.Unreadable}, err)
	}
	return &b.sum, err
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
		b.cache, err = b.fresh(ctx, true)
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
	if err := b.compare(ctx, b.add); err != nil {
		return err
	}
	if b.options.DryRun {
		for _, j := range b.streams {
			b.count(j.status())
		}
		return nil
	}
	if len(b.parts) == 0 && (b.refresh || !fresh) {
		b.saveCache(b.cache.cacheHead, b.refreshed)
	}
	if len(b.parts) > 0 {
		if err := b.checkKey(ctx); err != nil {
			return err
		}
	}
	for _, p := range b.parts {
		if err := b.commitPart(ctx, p); err != nil {
			return err
		}
	}
	return b.cleanUp(ctx)
}

func (b *backup) close() {
	b.jobs.close()
	b.known.list.close()
	b.stored.list.close()
	for _, p := range b.parts {
		p.close()
	}
	if b.journal != nil {
		b.journal.f.Close()
	}
}

// add takes a job. Where none is a reason for a version there are no parts.
func (b *backup) add(j *job) error {
	if b.options.DryRun {
		if j.hard() {
			b.count(j.status())
		}
		return nil
	}
	b.refresh = b.refresh || j.kind == jobRefresh
	last := len(b.parts) - 1
	if j.hard() {
		if last < 0 {
			b.parts = append(b.parts, &part{first: true})
			last++
		} else if b.c.SplitChunkSize > 0 && b.parts[last].hardJobs >= b.c.SplitChunkSize {
			b.parts = append(b.parts, &part{from: b.jobs.len()})
			last++
		}
		b.parts[last].hardJobs++
		if j.uploads() {
			b.parts[last].uploads++
		}
	}
	b.scratch = j.append(b.scratch[:0])
	n, err := b.jobs.add(b.scratch)
	if last >= 0 {
		b.parts[last].to = n + 1
	}
	return err
}

// refreshed calls do with what is new on this machine only.
func (b *backup) refreshed(do func(path string, e *Entry) error) error {
	return b.eachJob(0, b.jobs.len(), func(j *job) error {
		if j.kind != jobRefresh {
			return nil
		}
		return do(j.Path, &j.Entry)
	})
}

// eachJob calls do with a part of the jobs, but for those of streams.
func (b *backup) eachJob(from, to int, do func(*job) error) error {
	var buf []byte
	for i := from; i < to; i++ {
		var err error
		if buf, err = b.jobs.get(i, buf); err != nil {
			return err
		}
		if err := do(parseJob(buf)); err != nil {
			return err
		}
	}
	return nil
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

// PasswordError says that the password is not the one that what is stored was encrypted with, or that this was altered. Nothing was stored.
type PasswordError struct{ Bucket string }

func (e *PasswordError) Error() string {
	return fmt.Sprintf("what is stored in the bucket %q cannot be decrypted with this password; nothing was stored", e.Bucket)
}

// Unwrap makes it an ErrDecrypt.
func (e *PasswordError) Unwrap() error { return ErrDecrypt }

// checkKey looks whether the password is that of what is stored, before something is stored with it that another one is needed for.
func (b *backup) checkKey(ctx context.Context) error {
	if b.keys == nil {
		return nil
	}
	check := b.keys.check()
	if b.cache.ID == "" {
		b.cache.Key = check
	}
	if b.cache.Key == check {
		return nil
	}
	encrypted, err := b.tryKey(ctx)
	if errors.Is(err, ErrDecrypt) {
		return &PasswordError{b.c.S3.Bucket}
	}
	if err == nil && encrypted {
		b.cache.Key = check
	}
	return err
}

// tryKey decrypts the latest diff, or where that is not encrypted, the beginning of a file. Encrypted is whether there was something to decrypt.
func (b *backup) tryKey(ctx context.Context) (encrypted bool, err error) {
	object, v, err := b.s.get(ctx, b.c.RemoteManifestDiffFile, b.cache.ID)
	if err != nil {
		return false, err
	}
	h, err := readFrame(bytes.NewReader(object))
	if err != nil {
		return false, &CorruptError{v.Key, v.ID, err}
	}
	if h.encryption != nil {
		k, err := b.keysFor(ctx, h)
		if err != nil {
			return false, err
		}
		_, _, err = openMeta(object, k)
		return true, err
	}
	var tries []Entry
	b.cache.each(func(e *Entry) {
		words, _ := b.c.pipelineOf(e.Path)
		if e.Kind == File && e.Object != "" && slices.Contains(words, pipeEncrypt) && len(tries) < 3 {
			tries = append(tries, *e)
		}
	})
	for _, e := range tries {
		body, err := b.s.open(ctx, b.c.RemoteBasePath+e.Object, e.ID)
		if errors.Is(err, errAccess) || errors.Is(err, ErrNotFound) { // write-only keys may not; and what is missing is for verify to say
			continue
		}
		if err != nil {
			return false, err
		}
		content, done, err := contentReader(body, func(h header) (*keys, error) {
			encrypted = true
			return b.keysFor(ctx, h)
		})
		if err == nil {
			_, err = io.CopyN(io.Discard, content, 1)
			done()
		}
		body.Close()
		if encrypted || err != nil && !errors.Is(err, io.EOF) {
			return encrypted, err
		}
	}
	return false, nil
}

// commitPart stores what has changed and makes a version of it.
func (b *backup) commitPart(ctx context.Context, p *part) error {
	if err := b.latest(); err != nil {
		return fmt.Errorf("the rest of the backup needs the local manifest %s: %w", b.c.cachePath(), err)
	}
	p.results.path = b.c.spoolPath("results")
	defer p.close()
	if p.uploads > 0 {
		if err := b.beginUploads(ctx, p); err != nil {
			return err
		}
	}
	if err := b.process(ctx, p); err != nil {
		return err
	}
	if p == b.parts[len(b.parts)-1] {
		b.stored.forget()
	}
	head := b.cache.cacheHead
	if !p.hard.Load() {
		b.saveCache(head, p.entries)
		return nil
	}
	made, err := b.commit(ctx, p)
	if err != nil {
		return err
	}
	for _, v := range made {
		head.ID, head.Modified, head.Sequence, head.Route = v.ID, v.Time, head.Sequence+1, head.Route.plus(b.c.RemoteManifestDiffFile, v.ID, p.changes)
	}
	b.sum.Versions = append(b.sum.Versions, head.ID)
	if b.sum.Resumed > 0 {
		head.Retained = time.Time{} // they may be much older
	}
	if stored := b.storedUntil(); head.Retained.After(stored) { // of another time that was wanted then
		head.Retained = stored
	}
	if head, err = b.packIfDue(ctx, head); err != nil {
		return err
	}
	b.saveCache(head, p.entries)
	return b.snapshotIfDue(ctx)
}

// saveCache saves the cache with these changes. It is only a copy: without it the next run takes longer.
func (b *backup) saveCache(head cacheHead, changes func(do func(path string, e *Entry) error) error) {
	err := b.s.at("cache")
	if err == nil {
		err = b.cache.save(b.c, head, changes)
	}
	if err != nil {
		b.c.Log.Warn("the local manifest cannot be written; the next backup reads it from the bucket", "file", b.c.cachePath(), "error", err)
	}
	b.cache.cacheHead = head
	b.behind, b.unsaved = true, err
}

// latest makes the records of the cache those of the latest version.
func (b *backup) latest() error {
	if !b.behind {
		return nil
	}
	if b.unsaved != nil {
		return b.unsaved
	}
	want := b.cache.cacheHead
	b.cache = nil // before the other one is read, for the sake of memory
	k, err := b.c.loadCache()
	if err == nil && (k == nil || k.ID != want.ID) {
		err = errors.New("is that of another version")
	}
	if err != nil {
		b.cache, b.unsaved = &cache{cacheHead: want}, err
		return err
	}
	b.cache, b.behind = k, false
	return nil
}

// beginUploads leaves word of what is about to be stored, here and in the bucket, before anything is.
func (b *backup) beginUploads(ctx context.Context, p *part) error {
	if b.journal == nil {
		var err error
		key := ""
		if b.keys != nil {
			key = b.keys.check()
		}
		if b.journal, err = b.c.openJournal(b.run, key); err != nil {
			return fmt.Errorf("journal of uploads: %w", err)
		}
	}
	b.logged = true
	began := b.s.serverNow().Unix() - 1 // it is known to the second
	var err error
	b.log, err = b.putMeta(ctx, b.c.RemoteGCLogFile, func(w io.Writer) error {
		d := newDiffWriter(w, nil)
		var text []byte
		add := func(j *job) {
			words, _ := b.c.pipelineOf(j.Path)
			object := b.objectPath(j.Path, words, b.keys)
			text = appendString(append(text[:0], `{"path": `...), j.Path)
			text = appendFloat(append(text, `, "created": `...), j.createdAt())
			text = appendFloat(append(text, `, "last_mod": `...), j.lastModified())
			text = append(append(append(text, `, "status": "`...), j.status()...), `", "hash": ""`...)
			if object != j.Path {
				text = appendString(append(text, `, "real_path": `...), object)
			}
			text = appendString(append(text, `, "run": `...), b.run)
			text = strconv.AppendInt(append(text, `, "began": `...), began, 10)
			text = append(text, '}')
			d.element(text)
		}
		if p.first {
			for _, j := range b.streams {
				add(j)
			}
		}
		err := b.eachJob(p.from, p.to, func(j *job) error {
			if j.uploads() {
				add(j)
			}
			return nil
		})
		return errors.Join(err, d.close())
	})
	return err
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
	b.tellAll()
}

// tellAll says how far everything is. The lock is held.
func (b *backup) tellAll() {
	p := b.progress
	p.Files, p.Bytes = b.files.Load()+int64(b.sum.Unchanged), b.bytes.Load()
	b.options.Progress(p)
}

type contextReader struct {
	ctx  context.Context
	r    io.Reader
	read func(n int)
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.read(n)
	return n, err
}

// commit makes a version: the moment in which its diff is in the bucket.
func (b *backup) commit(ctx context.Context, p *part) (made []Version, err error) {
	host, _ := os.Hostname() // for people only
	c := &commit{ID: randomID(), Parent: b.cache.ID, Host: host, Time: b.s.serverNow().Unix()}
	// rrbackup orders versions by their whole seconds.
	if wait := b.cache.Modified.Truncate(time.Second).Add(time.Second + 50*time.Millisecond).Sub(b.s.serverNow()); b.cache.ID != "" && wait > 0 && wait <= 2*time.Second {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	// What another machine has committed in the meantime must not be overlooked.
	if err := b.unmoved(ctx); err != nil {
		return nil, err
	}
	id, err := b.putMeta(ctx, b.c.RemoteManifestDiffFile, func(w io.Writer) error {
		d := newDiffWriter(w, c)
		p.changes = 0
		err := p.each(func(r *result) error {
			p.changes += len(r.changes)
			for i := range r.changes {
				d.add(r.changes[i].Status, &r.changes[i].Entry)
			}
			return nil
		})
		return errors.Join(err, d.close())
	})
	if err != nil {
		return nil, err
	}
	// Where an answer was lost, the same diff is there twice.
	made, _, found, err := b.diffVersions(ctx, c.Parent)
	if err != nil || !found || len(made) == 0 || made[len(made)-1].ID != id {
		made = []Version{{ID: id, Time: b.s.serverNow()}}
	}
	return made, b.s.at("committed")
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
