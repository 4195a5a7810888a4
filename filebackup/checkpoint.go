package filebackup

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A version is put together from all diffs up to it. So that this takes a handful of requests, whoever makes versions stores checkpoints, too: now
// and then a snapshot, which is a whole manifest, and with every second version a pack, which is the diffs since the snapshot in one object. They
// only say again what diffs say; one that is missing or of no use makes it take longer.
//
//	SNAPSHOTS/NUMBER-ID          the snapshot of the version with that ID
//	SNAPSHOTS/NUMBER-ID.AFTER    the pack of the diffs after the first AFTER ones up to that version
//
// NUMBER is how many diffs there are up to the version, counted downwards from the largest, so that the first page of a listing has the newest.
// Of an object that has several versions the oldest counts: it was stored when nobody could know its name yet. Where metadata is encrypted, only what
// is encrypted counts: who has no password could else say of versions that have none what was in them.

const (
	numbers   = 99999999
	packEvery = 2
	maxPacked = 10000 // changes of a pack; more start the next one
	aPage     = 1000  // what one request lists
)

type checkpoint struct {
	key      string
	id       string // of the version
	number   int
	after    int      // of a pack
	versions []string // of the object, the oldest first
}

func (r *Repository) snapshotName(number int, id string) string {
	return fmt.Sprintf("%s/%08d-%s", r.c.RemoteSnapshotPath, numbers-number, id)
}

func (r *Repository) packName(number int, id string, after int) string {
	return fmt.Sprintf("%s.%08d", r.snapshotName(number, id), after)
}

// parse reads the name of an object below the folder of snapshots.
func (c *checkpoint) parse(name string) (pack, ok bool) {
	first, id, ok := strings.Cut(name, "-")
	n, err := strconv.ParseUint(first, 10, 32)
	if !ok || err != nil || len(first) != 8 {
		return false, false
	}
	c.id, c.number = id, int(n)
	if c.number > numbers/2 {
		c.number = numbers - c.number // else it is of before they were counted downwards
	}
	if i := len(id) - 9; i > 0 && id[i] == '.' {
		if after, err := strconv.ParseUint(id[i+1:], 10, 32); err == nil && int(after) < c.number {
			c.id, c.after = id[:i], int(after)
			return true, true
		}
	}
	return false, true
}

// checkpoints are those that are there, by the IDs of versions.
type checkpoints struct {
	whole, packs map[string]*checkpoint
	complete     bool
}

// checkpoints lists the newest, or all.
func (r *Repository) checkpoints(ctx context.Context, all bool) (*checkpoints, error) {
	found := &checkpoints{whole: map[string]*checkpoint{}, packs: map[string]*checkpoint{}, complete: true}
	prefix := r.c.RemoteSnapshotPath + "/"
	n, last := 0, ""
	objects := map[string]*checkpoint{} // some servers list markers apart
	err := r.s.versions(ctx, prefix, func(v objectVersion) bool {
		n, last = n+1, v.Key
		c := objects[v.Key]
		if c == nil {
			c = &checkpoint{key: v.Key}
			objects[v.Key] = c
			if pack, ok := c.parse(strings.TrimPrefix(v.Key, prefix)); pack {
				if other := found.packs[c.id]; other == nil || c.after < other.after {
					found.packs[c.id] = c
				}
			} else if ok {
				found.whole[c.id] = c
			}
		}
		if !v.Marker {
			c.versions = slices.Insert(c.versions, 0, v.ID)
		}
		found.complete = all || n < aPage
		return found.complete
	})
	if !found.complete { // of the last object there may be older versions
		for _, list := range []map[string]*checkpoint{found.whole, found.packs} {
			maps.DeleteFunc(list, func(_ string, c *checkpoint) bool { return c.key == last })
		}
	}
	if errors.Is(err, errAccess) {
		err = nil
	}
	return found, err
}

// route is what a version is put together from.
type route struct {
	Base  leg   `json:"base"`  // a snapshot, or nothing
	Parts []leg `json:"parts"` // packs and diffs, the oldest first
}

type leg struct {
	Key     string `json:"key,omitempty"`
	Version string `json:"version,omitempty"` // of the object
	Diffs   int    `json:"diffs,omitempty"`   // how many it stands for
	Changes int    `json:"changes,omitempty"` // in them, or entries of the snapshot
	Pack    bool   `json:"pack,omitempty"`
}

// plus is the route to the next version.
func (t *route) plus(key, id string, changes int) *route {
	if t == nil {
		return nil
	}
	return &route{t.Base, append(slices.Clone(t.Parts), leg{Key: key, Version: id, Diffs: 1, Changes: changes})}
}

// plan is how a version is going to be put together.
type plan struct {
	version Version
	number  int
	hidden  bool        // by a marker
	base    *checkpoint // nil: there is none, and list is all
	list    []Version   // the diffs since, the oldest first
	parts   []planned   // of them
}

type planned struct {
	diffs []Version
	pack  *checkpoint // nil: it is one diff
}

// plan finds the way to a version; "" is the latest. Unfit are checkpoints that are of no use.
func (r *Repository) plan(ctx context.Context, id string, unfit map[string]bool) (*plan, error) {
	p := new(plan)
	var points *checkpoints
	var failed error
	begun := false
	_, err := r.s.keyVersions(ctx, r.c.RemoteManifestDiffFile, func(v objectVersion) bool {
		if v.Marker || !begun && id != "" && v.ID != id {
			return false
		}
		now := Version{ID: v.ID, Time: v.Modified, Size: v.Size}
		if !begun {
			begun, p.version, p.hidden = true, now, !v.Latest
		}
		p.list = append(p.list, now)
		n := len(p.list)
		unseen := p.list[n-1:]
		// The page that was listed first has a snapshot among the next ones, unless this is an old version.
		if points == nil && n > packEvery || points != nil && !points.complete && n > 2*r.c.SnapshotInterval {
			if points, failed = r.checkpoints(ctx, points != nil); failed != nil {
				return true
			}
			unseen = p.list
		}
		if points == nil {
			return false
		}
		for i, u := range unseen {
			if c := points.whole[u.ID]; c != nil && len(c.versions) > 0 && !unfit[c.key] {
				p.base, p.list = c, p.list[:n-len(unseen)+i]
				return true
			}
		}
		return false
	})
	if err = errors.Join(failed, err); err != nil {
		return nil, err
	}
	if !begun && id != "" {
		return nil, fmt.Errorf("%w: %s", ErrNoVersion, id)
	}
	slices.Reverse(p.list)
	if p.number = len(p.list); p.base != nil {
		p.number += p.base.number
	}
	for rest := p.list; len(rest) > 0; {
		part := planned{diffs: rest[len(rest)-1:]}
		if points != nil {
			if c := points.packs[part.diffs[0].ID]; c != nil && len(c.versions) > 0 && !unfit[c.key] && c.number-c.after <= len(rest) {
				part = planned{rest[len(rest)-(c.number-c.after):], c}
			}
		}
		rest = rest[:len(rest)-len(part.diffs)]
		p.parts = append(p.parts, part)
	}
	slices.Reverse(p.parts)
	return p, nil
}

// assemble puts a version together; "" is the latest.
func (r *Repository) assemble(ctx context.Context, id string) (m *Manifest, p *plan, way *route, problems []string, err error) {
	for unfit := map[string]bool{}; ; {
		if p, err = r.plan(ctx, id, unfit); err != nil {
			return nil, nil, nil, nil, err
		}
		c, way := chain{m: newManifest(), commits: map[string]bool{}}, new(route)
		if p.base != nil {
			version := ""
			if c.m, version, err = r.readSnapshot(ctx, p.base); err != nil {
				if ctx.Err() != nil {
					return nil, nil, nil, nil, err
				}
				// It is there to be fast; the diffs say the same.
				r.c.Log.Warn("a manifest snapshot is of no use", "snapshot", p.base.key, "error", err)
				unfit[p.base.key] = true
				continue
			}
			c.last = p.base.id
			way.Base = leg{Key: p.base.key, Version: version, Diffs: p.base.number, Changes: c.m.Len()}
		}
		err = inOrder(ctx, r.c.parallel(), len(p.parts), func(ctx context.Context, i int) (diffsOf, error) {
			return r.readPlanned(ctx, p.parts[i])
		}, func(of diffsOf) error {
			for _, d := range of.list {
				c.apply(d)
				changes := len(d.changes)
				if of.version == "" {
					way.Parts = append(way.Parts, leg{Key: r.c.RemoteManifestDiffFile, Version: d.version.ID, Diffs: 1, Changes: changes})
					continue
				}
				of.Changes += changes
			}
			if of.version != "" {
				way.Parts = append(way.Parts, leg{of.key, of.version, len(of.list), of.Changes, true})
			}
			return nil
		})
		return c.m, p, way, c.problems, err
	}
}

// diffsOf are the diffs of a part, of a pack where its version is known.
type diffsOf struct {
	list         []diff
	key, version string
	Changes      int
}

func (r *Repository) readPlanned(ctx context.Context, p planned) (of diffsOf, err error) {
	if p.pack != nil {
		of.key = p.pack.key
		if of.list, of.version, err = r.readPack(ctx, p.pack, p.diffs); err == nil || ctx.Err() != nil {
			return of, err
		}
		r.c.Log.Warn("a pack of manifest diffs is of no use", "pack", p.pack.key, "error", err)
		of = diffsOf{}
	}
	for _, v := range p.diffs {
		d, err := r.readDiff(ctx, v)
		if err != nil {
			return of, err
		}
		of.list = append(of.list, d)
	}
	return of, nil
}

// inOrder gets things, several at a time, and uses them in their order.
func inOrder[T any](ctx context.Context, parallel, n int, get func(context.Context, int) (T, error), use func(T) error) error {
	type result struct {
		value T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make([]chan result, n)
	begin := func(i int) {
		if i >= n {
			return
		}
		results[i] = make(chan result, 1)
		go func() {
			value, err := get(ctx, i)
			results[i] <- result{value, err}
		}()
	}
	for i := range parallel {
		begin(i)
	}
	for i := range n {
		got := <-results[i]
		if got.err != nil {
			return got.err
		}
		results[i] = nil
		begin(i + parallel)
		if err := use(got.value); err != nil {
			return err
		}
	}
	return nil
}

// putCheckpoint stores a snapshot or a pack, whose text write writes.
func (r *Repository) putCheckpoint(ctx context.Context, key string, write func(io.Writer) error) (version string, err error) {
	h := header{compressed: "zstd", raw: []byte(`{"V":"1","Z":{"A":"zstd"}}`)}
	var k *keys
	if slices.Contains(r.c.MetaPipeline, pipeEncrypt) {
		if k, err = r.key(ctx, true); err != nil {
			return "", err
		}
		h.raw = []byte(`{"V":"1","Z":{"A":"zstd"},"E":` + k.derivation.json(`,"E":"sodssxcc20"`) + `}`)
		h.encryption = &k.derivation
	}
	object, err := sealMeta(h, k, write)
	if err != nil {
		return "", err
	}
	return r.s.put(ctx, key, object, true)
}

// putSnapshot stores the whole manifest of a version, which is that of the cache.
func (r *Repository) putSnapshot(ctx context.Context, k *cache) (leg, error) {
	p := leg{Key: r.snapshotName(k.Sequence, k.ID), Diffs: k.Sequence}
	var err error
	p.Version, err = r.putCheckpoint(ctx, p.Key, func(w io.Writer) error {
		d := newDiffWriter(w, &commit{ID: "snapshot", Parent: k.ID})
		k.each(func(e *Entry) {
			p.Changes++
			if e.Kind == File {
				d.add(statusNew, e)
			} else {
				d.add(statusExtra, e)
			}
		})
		return d.close()
	})
	return p, err
}

// readSnapshot reads the manifest of a version. It returns which version of the object it is.
func (r *Repository) readSnapshot(ctx context.Context, at *checkpoint) (*Manifest, string, error) {
	var failed error
	for _, version := range at.versions {
		text, _, err := r.getOwnMeta(ctx, at.key, version)
		var c *commit
		var changes []Change
		if err == nil {
			if c, changes, err = decodeDiff(bytes.NewReader(text)); err == nil && (c == nil || c.ID != "snapshot" || c.Parent != at.id) {
				err = errors.New("it is not that of this version")
			}
			if err != nil {
				err = &CorruptError{at.key, version, err}
			}
		}
		if err == nil {
			m := newManifest()
			m.apply(changes)
			return m, version, nil
		}
		if failed = errors.Join(failed, err); ctx.Err() != nil {
			break
		}
	}
	return nil, "", failed
}

// packed is an element of a pack.
type packed struct {
	Version string          `json:"version"`
	Diff    json.RawMessage `json:"diff"`
}

// readPack reads a pack, which is to hold these diffs. It returns which version of the object it is.
func (r *Repository) readPack(ctx context.Context, at *checkpoint, list []Version) ([]diff, string, error) {
	var failed error
	for _, version := range at.versions {
		text, _, err := r.getOwnMeta(ctx, at.key, version)
		if err == nil {
			var diffs []diff
			if diffs, err = unpack(text, list); err == nil {
				return diffs, version, nil
			}
			err = &CorruptError{at.key, version, err}
		}
		if failed = errors.Join(failed, err); ctx.Err() != nil {
			break
		}
	}
	return nil, "", failed
}

// unpack reads the text of a pack.
func unpack(text []byte, list []Version) ([]diff, error) {
	var all []packed
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	if len(all) != len(list) {
		return nil, fmt.Errorf("it holds %d diffs, not %d", len(all), len(list))
	}
	diffs := make([]diff, len(all))
	for i, p := range all {
		if p.Version != list[i].ID {
			return nil, fmt.Errorf("it holds the diff %s in place of %s", p.Version, list[i].ID)
		}
		c, changes, err := decodeDiff(bytes.NewReader(p.Diff))
		if err != nil {
			return nil, fmt.Errorf("diff %s: %w", p.Version, err)
		}
		diffs[i] = diff{list[i], c, changes}
	}
	return diffs, nil
}

// hash is that of all that a diff says.
func (d *diff) hash() (sum Hash) {
	h := sha256.New()
	w := newDiffWriter(h, d.commit)
	for i := range d.changes {
		w.add(d.changes[i].Status, &d.changes[i].Entry)
	}
	_ = w.close() // a hash takes all
	h.Sum(sum[:0])
	return sum
}

// verifyPacks looks whether packs say what the diffs say that have these hashes.
func (r *Repository) verifyPacks(ctx context.Context, points *checkpoints, all []Version, hashes map[string]Hash, problem func(string, ...any)) error {
	type pack struct {
		*checkpoint
		list []Version
	}
	var packs []pack
	for i, v := range all {
		if c := points.packs[v.ID]; c != nil && len(c.versions) > 0 && c.number-c.after <= i+1 {
			packs = append(packs, pack{c, all[i+1-(c.number-c.after) : i+1]})
		}
	}
	return each(ctx, r.c.parallel(), packs, func(ctx context.Context, p pack) error {
		list, _, err := r.readPack(ctx, p.checkpoint, p.list)
		if err != nil {
			if corrupt := (*CorruptError)(nil); !errors.As(err, &corrupt) && !errors.Is(err, ErrNotFound) {
				return err
			}
			problem("%v", err)
		}
		for _, d := range list {
			if want, known := hashes[d.version.ID]; known && d.hash() != want {
				problem("the pack %q is not what the manifest diff %s is", p.key, d.version.ID)
			}
		}
		return nil
	})
}

// appendPacked appends an element to the text of a pack without its brackets.
func appendPacked(b []byte, version string, text []byte) []byte {
	if len(b) > 0 {
		b = append(b, ", "...)
	}
	b = appendString(append(b, `{"version": `...), version)
	return append(append(append(b, `, "diff": `...), text...), '}')
}

// packIfDue stores the pack that makes the version of this head quick to open, if it is time to, and returns the head with it.
func (b *backup) packIfDue(ctx context.Context, head cacheHead) (cacheHead, error) {
	if head.Route.due(b.c.SnapshotInterval) != duePack {
		return head, nil
	}
	next, err := b.pack(ctx, head)
	if err == nil {
		head.Route = next
	}
	return head, b.unpointed(ctx, err)
}

// snapshotIfDue does so with a snapshot of the latest version.
func (b *backup) snapshotIfDue(ctx context.Context) error {
	if b.cache.Route.due(b.c.SnapshotInterval) != dueSnapshot || b.latest() != nil {
		return nil
	}
	base, err := b.putSnapshot(ctx, b.cache)
	if err == nil {
		head := b.cache.cacheHead
		head.Route = &route{Base: base}
		b.saveCache(head, nil)
	}
	return b.unpointed(ctx, err)
}

// unpointed says that there is no checkpoint. The version is made; this only makes reading it fast.
func (b *backup) unpointed(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	b.c.Log.Warn("the manifest snapshot could not be stored", "error", err)
	return nil
}

type due int

const (
	dueNothing due = iota
	duePack
	dueSnapshot
)

// loose is how many diffs at the end are in no pack, and how many changes they have.
func (t *route) loose() (n, changes int) {
	for _, p := range slices.Backward(t.Parts) {
		if p.Pack || p.Changes > maxPacked {
			break
		}
		n, changes = n+1, changes+p.Changes
	}
	return n, changes
}

// due says what is to be stored. A snapshot is, too, when it is no larger than the packs that it replaces.
func (t *route) due(interval int) due {
	if t == nil {
		return dueSnapshot
	}
	var diffs, changes int
	for _, p := range t.Parts {
		diffs, changes = diffs+p.Diffs, changes+p.Changes
	}
	n, _ := t.loose()
	switch {
	case diffs >= interval, diffs >= packEvery && n%packEvery == 0 && changes >= t.Base.Changes:
		return dueSnapshot
	case n >= packEvery:
		return duePack
	}
	return dueNothing
}

// pack stores the diffs that are in no pack, together with those of the last one unless they become too many.
func (b *backup) pack(ctx context.Context, latest cacheHead) (*route, error) {
	way := latest.Route
	n, changes := way.loose()
	head, tail := way.Parts[:len(way.Parts)-n], way.Parts[len(way.Parts)-n:]
	next := leg{Diffs: n, Changes: changes, Pack: true}
	var text []byte
	if last := len(head) - 1; last >= 0 && head[last].Pack && head[last].Changes+changes <= maxPacked {
		old, _, err := b.getOwnMeta(ctx, head[last].Key, head[last].Version)
		if ctx.Err() != nil {
			return nil, err
		}
		if err == nil { // else it stays alone
			text = bytes.TrimSuffix(bytes.TrimPrefix(old, []byte("[")), []byte("]"))
			next.Diffs, next.Changes, head = next.Diffs+head[last].Diffs, next.Changes+head[last].Changes, head[:last]
		}
	}
	for _, p := range tail {
		diff, _, err := b.getMeta(ctx, p.Key, p.Version)
		if err != nil {
			return nil, err
		}
		text = appendPacked(text, p.Version, diff)
	}
	next.Key = b.packName(latest.Sequence, latest.ID, latest.Sequence-next.Diffs)
	var err error
	next.Version, err = b.putCheckpoint(ctx, next.Key, literal(slices.Concat([]byte("["), text, []byte("]"))))
	return &route{way.Base, append(slices.Clone(head), next)}, err
}

// fresh makes the cache of the latest version from the bucket alone.
func (r *Repository) fresh(ctx context.Context, accept bool) (*cache, error) {
	m, p, way, problems, err := r.assemble(ctx, "")
	if err != nil {
		return nil, err
	}
	head := r.c.cacheHead()
	if p.version.ID == "" || p.hidden && !accept {
		// Perhaps there are markers.
		list, hidden, _, err := r.diffVersions(ctx, "")
		switch {
		case err != nil:
			return nil, err
		case hidden && !accept:
			return nil, r.hidden(list)
		}
	}
	if len(problems) > 0 && !accept {
		return nil, &TamperError{strings.Join(problems, "; ")}
	}
	head.ID, head.Modified, head.Sequence, head.Route = p.version.ID, p.version.Time, p.number, way
	return cacheOf(head, m), nil
}

func (r *Repository) hidden(list []Version) error {
	return &TamperError{fmt.Sprintf("the manifest %q was deleted; its %d versions are still there, and \"undelete\" brings it back", r.c.RemoteManifestDiffFile, len(list))}
}
