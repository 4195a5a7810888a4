package filebackup

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
)

// What Object Lock keeps, it keeps from when it is stored. What the latest version is made of may be older than that; so backups prolong the time of all of
// it when the first of it would otherwise be left with less than nine tenths. The end of what ends first is in the local manifest. Where it is not
// known, because that is lost or what has been stored is not of this run, all of it is prolonged.

// fullRetain is how much of the time has to be left.
func fullRetain(retain time.Duration) time.Duration { return retain / 10 * 9 }

// maxUnretained is how many objects are tried after one could not be prolonged.
const maxUnretained = 20

// UnretainedError says that the latest version is there, but that not all that it is made of is kept by Object Lock for as long as it should be.
type UnretainedError struct {
	Of     int       // objects
	Until  time.Time // when they should be kept
	Failed []string  // some of those that are not, and why
	Err    error     // why it ended early; nil where it did not
}

func (e *UnretainedError) Error() string {
	text := fmt.Sprintf("the version is stored, but it could not be seen to that Object Lock keeps all %s of it until %s",
		plural(e.Of, "object", "objects"), e.Until.Local().Format(time.DateTime))
	if e.Of == 0 {
		text = "the version is stored, but it could not be seen to that Object Lock keeps it until " + e.Until.Local().Format(time.DateTime)
	}
	for _, f := range e.Failed {
		text += "\n" + f
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *UnretainedError) Unwrap() error { return e.Err }

// storedUntil is until when Object Lock keeps what this run stores, at least.
func (b *backup) storedUntil() time.Time {
	return b.start.Add(time.Until(b.s.serverNow())).Add(b.s.retain)
}

// prolong sees to it that all of the latest version is kept for as long as it should be.
func (b *backup) prolong(ctx context.Context) error {
	if b.s.retain == 0 || b.options.DryRun || b.cache.ID == "" {
		return nil
	}
	now := b.s.serverNow()
	before, until := b.cache.Retained, b.cache.Retained
	if n := len(b.sum.Versions); n > 0 && b.cache.Sequence == n && b.sum.Resumed == 0 {
		// There was nothing before, but perhaps the salt, of a run that died.
		if err := b.prolongAll(ctx, b.salts); err != nil {
			return err
		}
		until = b.storedUntil()
	}
	if until.Before(now.Add(fullRetain(b.s.retain))) {
		until = now.Add(b.s.retain)
		if err := b.prolongAll(ctx, b.needed); err != nil {
			return err
		}
	}
	if !until.Equal(before) && b.latest() == nil {
		head := b.cache.cacheHead
		head.Retained = until
		b.saveCache(head, nil)
	}
	return nil
}

// prolongAll prolongs what is found.
func (b *backup) prolongAll(ctx context.Context, find func(context.Context) ([][2]string, error)) error {
	until := b.s.serverNow().Add(b.s.retain).Truncate(time.Second).Add(time.Second)
	failed := &UnretainedError{Until: until}
	objects, err := find(ctx)
	if err == nil {
		failed.Of = len(objects)
		var mu sync.Mutex
		var done atomic.Int64
		err = each(ctx, b.c.parallel(), objects, func(ctx context.Context, o [2]string) error {
			err := b.s.retainUntil(ctx, o[0], o[1], until)
			b.told(done.Add(1))
			if !errors.Is(err, errAccess) && !errors.Is(err, ErrNotFound) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			if failed.Failed = append(failed.Failed, err.Error()); len(failed.Failed) >= maxUnretained {
				return errors.New("there may be more")
			}
			return nil
		})
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil && len(failed.Failed) == 0:
		return nil
	}
	slices.Sort(failed.Failed)
	failed.Err = err
	return failed
}

// told says how many objects have been prolonged.
func (b *backup) told(n int64) {
	if b.options.Progress == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.progress.Retained = max(n, b.progress.Retained)
	b.tellAll()
}

// salts are the versions of the salt object that may be of use: the one that was there first, and the one that is there now.
func (b *backup) salts(ctx context.Context) (objects [][2]string, err error) {
	if b.c.Crypto.Password == "" {
		return nil, nil
	}
	list, err := b.s.keyVersions(ctx, b.c.Crypto.RemoteSaltFile, nil)
	list = slices.DeleteFunc(list, func(v objectVersion) bool { return v.Marker })
	for i, v := range list {
		if i == 0 || i == len(list)-1 {
			objects = append(objects, [2]string{v.Key, v.ID})
		}
	}
	return objects, err
}

// needed are the objects that the latest version is made of, each with its version: those of its files, and what it takes to find them.
func (b *backup) needed(ctx context.Context) (objects [][2]string, err error) {
	seen := map[[2]string]bool{}
	add := func(key, id string) {
		if o := [2]string{key, id}; id != "" && !seen[o] {
			seen[o] = true
			objects = append(objects, o)
		}
	}
	salts, err := b.salts(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range salts {
		add(s[0], s[1])
	}
	p, err := b.plan(ctx, b.cache.ID, nil)
	if err != nil {
		return nil, err
	}
	if p.base != nil {
		add(p.base.key, p.base.versions[0])
		add(b.c.RemoteManifestDiffFile, p.base.id)
	}
	if p.base == nil && len(p.list) <= packEvery { // nobody has looked for a snapshot yet; the next version will be put together from it
		points, err := b.checkpoints(ctx, false)
		if err != nil {
			return nil, err
		}
		for _, d := range p.list {
			if c := points.whole[d.ID]; c != nil && len(c.versions) > 0 {
				add(c.key, c.versions[0])
			}
		}
	}
	for _, part := range p.parts {
		if part.pack != nil {
			add(part.pack.key, part.pack.versions[0])
		}
		for _, d := range part.diffs {
			add(b.c.RemoteManifestDiffFile, d.ID)
		}
	}
	if err := b.latest(); err != nil {
		return nil, fmt.Errorf("local manifest %s: %w", b.c.cachePath(), err)
	}
	b.cache.each(func(e *Entry) {
		if e.Kind == File && e.Object != "" {
			add(b.c.RemoteBasePath+e.Object, e.ID)
		}
	})
	return objects, nil
}

// retainUntil has Object Lock keep an object at least until then. It never shortens: the server refuses that.
func (s *store) retainUntil(ctx context.Context, key, id string, until time.Time) error {
	mode := minio.Compliance
	err := s.retry(ctx, func() error {
		if err := s.at("retain " + key); err != nil {
			return err
		}
		return s.core.PutObjectRetention(ctx, s.bucket, key, minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &until, VersionID: id})
	})
	if err != nil && ctx.Err() == nil && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrTransient) {
		// Perhaps because it is kept for longer already.
		if end := s.retainedUntil(ctx, key, id); !end.Before(until) {
			return nil
		}
	}
	return s.wrap(err, "keep version "+id+" of", key)
}

// retainedUntil tells until when an object is kept whatever happens, as far as the server lets that be known. It takes the answer by whatever name
// servers call it; minio-go does not.
func (s *store) retainedUntil(ctx context.Context, key, id string) time.Time {
	var answer struct {
		Mode            minio.RetentionMode
		RetainUntilDate time.Time
	}
	u, err := s.core.Presign(ctx, http.MethodGet, s.bucket, key, time.Hour, url.Values{"retention": {""}, "versionId": {id}})
	if err != nil {
		return time.Time{}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return time.Time{}
	}
	response, err := s.client.Do(request)
	if err != nil {
		return time.Time{}
	}
	defer response.Body.Close()
	err = xml.NewDecoder(io.LimitReader(response.Body, 64<<10)).Decode(&answer)
	if err != nil || response.StatusCode != http.StatusOK || answer.Mode != minio.Compliance {
		return time.Time{}
	}
	return answer.RetainUntilDate
}
