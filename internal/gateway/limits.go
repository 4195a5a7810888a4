package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/time/rate"

	"sdbackup/restserver"
)

// usage is how many bytes the repositories of a destination take. A repository is measured once, when it is first needed, and counted
// from there on.
type usage struct {
	mu    sync.Mutex
	bytes map[string]int64 // by repository; "": all of the destination
}

// fullError says which limit an upload would exceed.
type fullError struct {
	what  string
	limit int64
	used  int64
}

func (e *fullError) Error() string {
	return fmt.Sprintf("%s is full: %d of %d bytes (max-size) are used", e.what, e.used, e.limit)
}

// Unwrap tells a restserver.Store what it means.
func (e *fullError) Unwrap() error { return restserver.ErrQuota }

// quota is what a local repository is held against: the limits as they are when something comes.
type quota struct {
	server      *Server
	destination *destination
	repository  string
}

// Reserve implements restserver.Quota.
func (q quota) Reserve(n int64) error {
	limits := q.server.current().limits(q.destination, q.repository)
	if len(limits) == 0 {
		return nil
	}
	if err := q.destination.measure(context.Background(), nil, limits); err != nil {
		return err
	}
	return q.destination.usage.reserve(n, limits)
}

// Release implements restserver.Quota.
func (q quota) Release(n int64) {
	q.destination.usage.release(n, q.server.current().limits(q.destination, q.repository))
}

// reserve counts n bytes as used, unless a limit would be exceeded.
func (u *usage) reserve(n int64, limits []limit) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range limits {
		if used := u.bytes[l.key]; n > l.bytes-used { // the other way round it could overflow
			return &fullError{l.what, l.bytes, used}
		}
	}
	u.add(n, limits)
	return nil
}

func (u *usage) release(n int64, limits []limit) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.add(-n, limits)
}

func (u *usage) add(n int64, limits []limit) {
	for _, l := range limits {
		if used, known := u.bytes[l.key]; known { // else it will be measured
			u.bytes[l.key] = max(0, used+n)
		}
	}
}

// limit is one max-size.
type limit struct {
	key   string // of usage
	what  string
	bytes int64
}

// measure finds out what is used where a limit needs it and nobody knows yet.
func (d *destination) measure(ctx context.Context, r *http.Request, limits []limit) error {
	for _, l := range limits {
		d.usage.mu.Lock()
		_, known := d.usage.bytes[l.key]
		d.usage.mu.Unlock()
		if known {
			continue
		}
		n, err := d.size(ctx, r, l.key)
		if err != nil {
			return fmt.Errorf("measure what is used: %w", err)
		}
		d.usage.mu.Lock()
		if d.usage.bytes == nil {
			d.usage.bytes = map[string]int64{}
		}
		if _, known := d.usage.bytes[l.key]; !known {
			d.usage.bytes[l.key] = n
		}
		d.usage.mu.Unlock()
	}
	return nil
}

// size adds up what a repository takes; "" is all of the destination.
func (d *destination) size(ctx context.Context, r *http.Request, repository string) (int64, error) {
	switch {
	case d.rclone != nil:
		return d.rclone.size(ctx, repository)
	case d.remote != nil:
		var total int64
		for _, kind := range []string{"data", "index", "keys", "locks", "snapshots"} {
			n, err := d.remote.list(r, repository, kind)
			if err != nil {
				return 0, err
			}
			total += n
		}
		return total, nil
	}
	var total int64
	err := filepath.WalkDir(filepath.Join(d.folder, filepath.FromSlash(repository)), func(_ string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}

// leaving looks what an object, or a whole repository, that is about to be removed takes; gone is to be called when it is.
func (d *destination) leaving(r *http.Request, req Request, limits []limit) (gone func(), err error) {
	if len(limits) == 0 {
		return func() {}, nil
	}
	if err := d.measure(r.Context(), r, limits); err != nil {
		return nil, err
	}
	var size int64
	if req.Object.Type == "" {
		if size, err = d.size(r.Context(), r, req.Repository); err != nil {
			return nil, fmt.Errorf("measure what is used: %w", err)
		}
	} else {
		size = d.objectSize(r, req.Repository, req.Object)
	}
	return func() { d.usage.release(size, limits) }, nil
}

// objectSize is the size of an object that is about to be removed, 0 when nobody needs it.
func (d *destination) objectSize(r *http.Request, repository string, o restserver.Object) int64 {
	if d.folder != "" {
		info, err := os.Lstat(filepath.Join(d.folder, filepath.FromSlash(repository), o.Path()))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	u, release, err := d.upstream()
	if err != nil {
		return 0
	}
	defer release()
	n, _, err := u.stat(r, repository, o)
	if err != nil {
		return 0
	}
	return n
}

// slowReader reads no faster than its limiter allows.
type slowReader struct {
	io.ReadCloser
	ctx     context.Context
	limiter *rate.Limiter
}

func (s slowReader) Read(p []byte) (int, error) {
	if burst := s.limiter.Burst(); len(p) > burst {
		p = p[:burst]
	}
	n, err := s.ReadCloser.Read(p)
	if wait := s.limiter.WaitN(s.ctx, n); wait != nil && err == nil {
		err = wait
	}
	return n, err
}

// slowWriter writes no faster than its limiter allows. It hides that the connection can send a file by itself.
type slowWriter struct {
	http.ResponseWriter
	ctx     context.Context
	limiter *rate.Limiter
}

func (s slowWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s slowWriter) Write(p []byte) (int, error) {
	total := 0
	for len(p) > 0 {
		part := p[:min(len(p), s.limiter.Burst())]
		if err := s.limiter.WaitN(s.ctx, len(part)); err != nil {
			return total, err
		}
		n, err := s.ResponseWriter.Write(part)
		total += n
		if err != nil {
			return total, err
		}
		p = p[n:]
	}
	return total, nil
}

// newLimiter allows so many bytes a second.
func newLimiter(bytes int64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(bytes), int(min(max(bytes/4, 4<<10), 1<<20)))
}
