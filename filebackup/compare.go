package filebackup

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"
)

// job is a change that a scan has found.
type job struct {
	Entry         // what the path is now, as far as the scan knows
	old   *Entry  // what it was
	kind  jobKind // what is to be done
	// stream is where the content comes from; nil: from the folder
	stream *Stream
}

type jobKind byte

const (
	jobChange  jobKind = iota
	jobGone            // the path is no more
	jobSoft            // no reason for a version by itself
	jobRefresh         // new on this machine only
)

// hard tells whether the job is a reason for a version.
func (j *job) hard() bool { return j.kind <= jobGone }

// uploads tells whether it may store an object: what is empty now may have grown when it is read.
func (j *job) uploads() bool { return j.kind == jobChange && j.Kind == File }

// status is what a job does to the version, as far as that is known before it is done.
func (j *job) status() string {
	switch {
	case j.kind == jobGone:
		if j.old.Kind == File {
			return statusDeleted
		}
		return statusDropped
	case j.Kind != File:
		return statusExtra
	case j.old == nil || j.old.Kind != File:
		return statusNew
	}
	return statusChanged
}

// append appends the job as a record.
func (j *job) append(b []byte) []byte {
	b = appendRecord(append(b, byte(j.kind)), &j.Entry)
	if j.old != nil {
		b = appendRecord(b, j.old)
	}
	return b
}

func parseJob(b []byte) *job {
	j := &job{kind: jobKind(b[0])}
	parseRecord(b[1:], &j.Entry)
	if _, rest := recordPath(b[1:]); len(rest) > 0 {
		j.old = new(Entry)
		parseRecord(rest, j.old)
	}
	return j
}

// compare scans the folder beside the cache and adds what is to be done, in the order of paths. Of streams it finds out what they were.
func (b *backup) compare(ctx context.Context, add func(*job) error) error {
	own := b.c.localPaths()
	streams := map[string]*job{}
	for i := range b.options.Streams {
		s := &b.options.Streams[i]
		now := time.Now().UnixNano()
		j := &job{stream: s, Entry: Entry{Path: s.Path, MTime: now, CTime: now, Mode: 0o600, UID: os.Getuid(), GID: os.Getgid(), has: hasFound}}
		b.streams = append(b.streams, j)
		streams[s.Path] = j
		own[s.Path] = true
	}
	if n := len(b.streams); n > 0 {
		b.parts = []*part{{first: true, hardJobs: n, uploads: n}}
	}
	rest := b.cache.records
	kept := "" // the last path that could not be read; what is below it comes next
	gone := func(path []byte, record []byte) error {
		name := string(path)
		if s := streams[name]; s != nil {
			s.old = new(Entry)
			parseRecord(record, s.old)
			return nil
		}
		if kept != "" && strings.HasPrefix(name, kept+"/") || b.stays(name) {
			return nil
		}
		old := new(Entry)
		parseRecord(record, old)
		return add(&job{kind: jobGone, old: old})
	}
	err := b.c.scan(ctx, func(f *found) error {
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
			if err := gone(path, rest); err != nil {
				return err
			}
			rest = after
		}
		if f.err != nil {
			b.sum.Unreadable = append(b.sum.Unreadable, fmt.Sprintf("%s: %v", f.path, f.err))
			kept = f.path
			return nil
		}
		b.progress.TotalFiles++
		b.tell()
		if f.kind == File {
			b.sum.Files++
			b.sum.Size += f.size
		}
		j := job{Entry: f.entry()}
		what := differs
		if record != nil {
			j.old = new(Entry)
			parseRecord(record, j.old)
			what = b.differs(&j.Entry, j.old)
		}
		switch what {
		case same:
			b.sum.Unchanged++
			return nil
		case sameButInode:
			b.sum.Unchanged++
			j.Entry, j.old = *j.old, nil
			j.Inode, j.CTime, j.has = f.inode, f.ctime, j.has|hasInode
			j.kind = jobRefresh
		case softly:
			j.kind = jobSoft
		case differs:
			if f.kind == File {
				b.countSize(f.size)
				b.progress.TotalBytes += f.size
			}
		}
		return add(&j)
	})
	if err != nil {
		return err
	}
	for len(rest) > 0 {
		path, after := recordPath(rest)
		if err := gone(path, rest); err != nil {
			return err
		}
		rest = after
	}
	b.progress.TotalFiles += int64(len(b.streams))
	return nil
}

// stays tells whether a path stays in the backup when it is no more.
func (b *backup) stays(path string) bool { return matchAny(b.c.SkipDelete, path) && !b.c.ignored(path) }

// difference is how a file differs from what it was.
type difference int

const (
	same         difference = iota
	sameButInode            // moved or touched on this machine only; nothing that a version holds
	softly                  // a folder's time
	metadata                // but not the content
	differs
)

func (b *backup) differs(e, old *Entry) difference {
	if e.Kind != old.Kind {
		return differs
	}
	known := old.has&hasInode != 0
	meta := old.has&hasMode != 0 && old.Mode == e.Mode && old.UID == e.UID && old.GID == e.GID
	mtime := old.MTime == e.MTime
	if old.has&hasMTime == 0 {
		mtime = old.lastMod == seconds(e.MTime)
	}
	switch e.Kind {
	case File:
		if b.options.Checksum || !mtime || old.has&hasSize != 0 && old.Size != e.Size || known && old.Inode != e.Inode {
			return differs
		}
		if !meta {
			return metadata
		}
	case Symlink:
		if old.Target != e.Target || !meta {
			return metadata
		}
	case Folder:
		if !meta {
			return metadata
		}
	}
	if known && old.CTime == e.CTime && old.Inode == e.Inode {
		return same
	}
	if e.Kind != Symlink && known { // perhaps an attribute
		attrs, err := b.xattrs(e)
		if err == nil && !maps.EqualFunc(attrs, old.Xattrs, bytes.Equal) {
			return metadata
		}
	}
	if e.Kind == Folder && !mtime {
		return softly
	}
	return sameButInode
}

func (b *backup) xattrs(e *Entry) (map[string][]byte, error) {
	file, err := b.c.openSource(e.Path, e.Kind == Folder)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readXattrs(file)
}
