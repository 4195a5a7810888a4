package filebackup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// aliveFor is how long a run of another machine may take of which nothing else is known than that it began.
const aliveFor = 24 * time.Hour

// gcEntry is an element of the log of what is about to be stored.
type gcEntry struct {
	Path   string `json:"path"`
	Object string `json:"real_path"`
	Run    string `json:"run"`
	Began  int64  `json:"began"` // when the run wrote it, in seconds since 1970
}

func fstat(f *os.File) (*unix.Stat_t, error) {
	st := new(unix.Stat_t)
	if err := unix.Fstat(int(f.Fd()), st); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	return st, nil
}

// gcLog reads the log of what a run is about to store, or was when it died. First is the first entry, if there
// is one, and each calls do with all.
func (r *Repository) gcLog(ctx context.Context) (first *gcEntry, v objectVersion, each func(do func(gcEntry) error) error, err error) {
	text, v, err := r.getMeta(ctx, r.c.RemoteGCLogFile, "")
	if errors.Is(err, ErrNotFound) {
		return nil, objectVersion{}, nil, nil
	}
	if err != nil {
		return nil, v, nil, err
	}
	each = func(do func(gcEntry) error) error {
		d := json.NewDecoder(bytes.NewReader(text))
		if t, err := d.Token(); err != nil || t != json.Delim('[') {
			return &CorruptError{r.c.RemoteGCLogFile, v.ID, errors.New("it holds no list")}
		}
		for d.More() {
			var l gcEntry
			if err := d.Decode(&l); err != nil {
				return &CorruptError{r.c.RemoteGCLogFile, v.ID, err}
			}
			if err := do(l); err != nil {
				return err
			}
		}
		return nil
	}
	enough := errors.New("enough")
	err = each(func(l gcEntry) error {
		first = &l
		return enough
	})
	if errors.Is(err, enough) {
		err = nil
	}
	if first != nil && first.Began > 0 { // some servers change the time of a version when another one is put over it, to a later one
		if began := time.Unix(first.Began, 0); began.Before(v.Modified) {
			v.Modified = began
		}
	}
	return first, v, each, err
}

// recover takes up what dead runs have left: what they stored is used again, and what nobody knows the content of is garbage.
func (b *backup) recover(ctx context.Context) error {
	first, v, log, err := b.gcLog(ctx)
	if err != nil {
		return err
	}
	stored := map[string]bool{}
	logged := sync.OnceValues(func() (map[[2]string]bool, error) { return b.loggedGarbage(ctx) })
	check := sync.OnceValue(b.keys.check)
	otherKey := false
	err = b.c.readJournal(func(l *journalLine) error {
		switch {
		case l.Run != "":
			b.runs[l.Run] = true
			otherKey = b.keys != nil && l.Key != check()
		case l.Upload != "":
			// It is ours, and who began it is dead: we have the lock.
			if err := b.s.abortMultipart(ctx, b.c.RemoteBasePath+l.Object, l.Upload); err != nil && !errors.Is(err, errAccess) {
				return err
			}
		case l.ID != "":
			h, err := parseHash(l.Hash)
			if err != nil || otherKey {
				return nil
			}
			// rrbackup logs at each start what it takes for garbage; sooner or later that is removed, whatever uses it.
			if garbage, err := logged(); err != nil || garbage[[2]string{b.c.RemoteBasePath + l.Object, l.ID}] {
				return err
			}
			stored[l.ID] = true
			b.used = append(b.used, false)
			b.countSize(l.Size)
			b.countSize(l.Size) // one such file is enough
			return b.known.add(h, l.Words, storedObject{l.Object, l.ID})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if v.ID == "" {
		b.logged = false
		return nil
	}
	if (first == nil || !b.runs[first.Run]) && b.s.serverNow().Sub(v.Modified) < aliveFor {
		b.c.Log.Warn("a backup from elsewhere is running, or died less than a day ago; what it stored is left alone", "began", v.Modified)
		return nil
	}
	b.logged = true
	var candidates []objectVersion
	var mu sync.Mutex
	since := v.Modified.Truncate(time.Second)
	look := func(ctx context.Context, l gcEntry) error {
		object := or(l.Object, l.Path)
		if !strings.HasPrefix(object, "/") { // it would be somebody else's
			return nil
		}
		list, err := b.s.keyVersions(ctx, b.c.RemoteBasePath+object, func(o objectVersion) bool { return o.Modified.Before(since) })
		mu.Lock()
		defer mu.Unlock()
		for _, o := range list {
			if !o.Marker && !o.Modified.Before(since) && !stored[o.ID] {
				candidates = append(candidates, o)
			}
		}
		return err
	}
	var some []gcEntry
	err = log(func(l gcEntry) error {
		if some = append(some, l); len(some) < 1000 {
			return nil
		}
		defer func() { some = some[:0] }()
		return each(ctx, b.c.parallel(), some, look)
	})
	if err == nil {
		err = each(ctx, b.c.parallel(), some, look)
	}
	if err != nil {
		return err
	}
	return b.collect(ctx, candidates)
}

// loggedGarbage is what the garbage log names.
func (b *backup) loggedGarbage(ctx context.Context) (map[[2]string]bool, error) {
	log, err := b.garbageLog(ctx)
	logged := map[[2]string]bool{}
	for _, pair := range slices.Concat(log...) {
		logged[pair] = true
	}
	return logged, err
}

// each does all, so many at a time, until one fails.
func each[T any](ctx context.Context, parallel int, list []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(parallel, len(list)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(list) {
					return
				}
				if err := do(ctx, list[i]); err != nil {
					cancel(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// cleanUp ends a run that has done all it was to do.
func (b *backup) cleanUp(ctx context.Context) error {
	var left []storedObject
	for i, used := range b.used {
		if !used {
			o, err := b.known.get(i)
			if err != nil {
				return err
			}
			left = append(left, o)
		}
	}
	if len(left) > 0 && b.latest() == nil {
		referenced := map[string]bool{}
		b.cache.each(func(e *Entry) { referenced[e.ID] = true })
		left = slices.DeleteFunc(left, func(o storedObject) bool { return referenced[o.id] })
	}
	var mu sync.Mutex
	var candidates []objectVersion
	err := each(ctx, b.c.parallel(), left, func(ctx context.Context, o storedObject) error {
		list, err := b.s.keyVersions(ctx, b.c.RemoteBasePath+o.object, func(v objectVersion) bool { return v.ID == o.id })
		mu.Lock()
		defer mu.Unlock()
		for _, v := range list {
			if v.ID == o.id && !v.Marker {
				candidates = append(candidates, v)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if err := b.collect(ctx, candidates); err != nil {
		return err
	}
	if b.logged {
		if err := b.dropLog(ctx); err != nil {
			return err
		}
	}
	if b.journal == nil {
		if len(b.used) == 0 {
			return nil
		}
		return ignoreMissing(os.Remove(b.c.journalPath()))
	}
	return ignoreMissing(b.journal.done(b.c))
}

// dropLog says that nothing is about to be stored any more. Where that is allowed nothing is left of the log.
func (b *backup) dropLog(ctx context.Context) error {
	for own := false; b.c.deletes(); own = true {
		v, err := b.s.head(ctx, b.c.RemoteGCLogFile)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if v.ID != b.log {
			var first *gcEntry
			if first, v, _, err = b.gcLog(ctx); err != nil || v.ID == "" {
				return err
			}
			if first != nil && !b.runs[first.Run] && b.s.serverNow().Sub(v.Modified) < aliveFor { // of somebody else
				if !own || first.Run != "" {
					return nil
				}
				// rrbackup would take for garbage what has been stored since, under the names that its log has, and was replaced by then.
				break
			}
		}
		err = b.s.remove(ctx, b.c.RemoteGCLogFile, v.ID)
		if errors.Is(err, errAccess) { // by Object Lock
			break
		}
		if err != nil {
			return err
		}
	}
	return b.s.remove(ctx, b.c.RemoteGCLogFile, "")
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// collect removes those of the objects that no version refers to, or logs them.
func (b *backup) collect(ctx context.Context, candidates []objectVersion) error {
	if len(candidates) == 0 {
		return nil
	}
	// All of the history counts, not what is newer than a candidate: some servers change the time of a version when another one is
	// put over it. That takes long where there are many versions, and is needed only after a run that died.
	refs, err := b.references(ctx, nil)
	if err != nil {
		return err
	}
	candidates = slices.DeleteFunc(candidates, func(v objectVersion) bool { return refs.all[[2]string{v.Key, v.ID}] })
	b.sum.Garbage += len(candidates)
	return b.discard(ctx, candidates)
}

// discard removes objects, or, where that is not allowed, logs them for somebody who may.
func (r *Repository) discard(ctx context.Context, list []objectVersion) error {
	if len(list) == 0 {
		return nil
	}
	if r.c.deletes() {
		return r.removeAll(ctx, list)
	}
	log, err := r.garbageLog(ctx)
	if err != nil {
		return err
	}
	have := map[[2]string]bool{}
	for _, run := range log {
		for _, pair := range run {
			have[pair] = true
		}
	}
	var run [][2]string
	for _, v := range list {
		if pair := [2]string{v.Key, v.ID}; !have[pair] {
			run = append(run, pair)
		}
	}
	if len(run) == 0 {
		return nil
	}
	return r.putGarbageLog(ctx, append(log, run))
}

// KeptError says that the server does not let objects be removed. Everything else was done, and what is left is garbage.
type KeptError struct {
	Count int
	First string // its name
}

func (e *KeptError) Error() string {
	return fmt.Sprintf("%s could not be removed, because Object Lock keeps it or the access key may not: %q", plural(e.Count, "object", "objects"), e.First)
}

// removeAll removes versions of objects. What Object Lock keeps is no failure of the others.
func (r *Repository) removeAll(ctx context.Context, list []objectVersion) error {
	var mu sync.Mutex
	var refused []string
	err := each(ctx, r.c.parallel(), list, func(ctx context.Context, v objectVersion) error {
		err := r.s.remove(ctx, v.Key, v.ID)
		if errors.Is(err, errAccess) {
			mu.Lock()
			defer mu.Unlock()
			refused = append(refused, v.Key)
			return nil
		}
		return err
	})
	if err == nil && len(refused) > 0 {
		slices.Sort(refused)
		return &KeptError{len(refused), refused[0]}
	}
	return err
}

func (r *Repository) garbageLog(ctx context.Context) (log [][][2]string, err error) {
	text, v, err := r.getMeta(ctx, r.c.RemoteGarbageObjectLogFile, "")
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &log); err != nil {
		return nil, &CorruptError{r.c.RemoteGarbageObjectLogFile, v.ID, err}
	}
	return log, nil
}

func (r *Repository) putGarbageLog(ctx context.Context, log [][][2]string) error {
	b := []byte{'['}
	for i, run := range log {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, '[')
		for k, pair := range run {
			if k > 0 {
				b = append(b, ", "...)
			}
			b = appendString(append(b, '['), pair[0])
			b = append(appendString(append(b, ", "...), pair[1]), ']')
		}
		b = append(b, ']')
	}
	b = append(b, ']')
	_, err := r.putMeta(ctx, r.c.RemoteGarbageObjectLogFile, literal(b))
	return err
}

// literal writes what is given.
func literal(b []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	}
}

var errNoDelete = errors.New("the configuration allows no versions of objects to be removed (read_only, write_only, allow_delete_versions)")

// locked does something under the lock, so that no backup of this machine is running meanwhile.
func (r *Repository) locked(do func() error) error {
	if err := r.c.local(); err != nil {
		return err
	}
	lock, err := r.c.lock()
	if err != nil {
		return err
	}
	defer lock.Close()
	return do()
}

// CleanGarbageLog removes what the garbage log names and no version needs, and then the log. It returns how many objects that were.
func (r *Repository) CleanGarbageLog(ctx context.Context, dryRun bool) (n int, err error) {
	if !r.c.deletes() {
		return 0, errNoDelete
	}
	return n, r.locked(func() error {
		log, err := r.garbageLog(ctx)
		if err != nil || log == nil {
			return err
		}
		refs, err := r.references(ctx, nil)
		if err != nil {
			return err
		}
		// rrbackup logs what it does not know, and what has a name that begins like that of a file it was about to store.
		var list []objectVersion
		var stays [][2]string
		for _, pair := range slices.Concat(log...) {
			if refs.all[pair] || !strings.HasPrefix(pair[0], r.c.RemoteBasePath+"/") {
				stays = append(stays, pair)
				continue
			}
			list = append(list, objectVersion{Key: pair[0], ID: pair[1]})
		}
		if len(stays) > 0 {
			r.c.Log.Warn("the garbage log names what is none; that stays", "count", len(stays), "first", stays[0][0], "version", stays[0][1])
		}
		n = len(list)
		if dryRun {
			return nil
		}
		if err := r.removeAll(ctx, list); err != nil {
			return err
		}
		return r.s.remove(ctx, r.c.RemoteGarbageObjectLogFile, "")
	})
}

// references are the objects that versions refer to.
type references struct {
	all    map[[2]string]bool // by any version
	kept   map[[2]string]bool // by one that is kept
	before map[[2]string]bool // by one that was not expired before
	sizes  map[[2]string]int64
}

// references reads all diffs. Drop are versions that are about to expire.
func (r *Repository) references(ctx context.Context, drop map[string]bool) (*references, error) {
	all, err := r.allVersions(ctx)
	if err != nil {
		return nil, err
	}
	expired, err := r.expired(ctx)
	if err != nil {
		return nil, err
	}
	// how many versions before the i-th are kept
	kept, before := make([]int, len(all)+1), make([]int, len(all)+1)
	for i, v := range all {
		kept[i+1], before[i+1] = kept[i], before[i]
		last := i == len(all)-1 // whatever is to be dropped: backups go on from it
		if last || !expired[v.ID] {
			before[i+1]++
			if last || !drop[v.ID] {
				kept[i+1]++
			}
		}
	}
	refs := &references{map[[2]string]bool{}, map[[2]string]bool{}, map[[2]string]bool{}, map[[2]string]int64{}}
	type since struct {
		object [2]string
		from   int
	}
	current := map[string]since{}
	end := func(s since, to int) {
		if s.object[1] == "" || !strings.HasPrefix(s.object[0], r.c.RemoteBasePath+"/") { // others' are never ours to remove
			return
		}
		refs.all[s.object] = true
		if kept[to] > kept[s.from] {
			refs.kept[s.object] = true
		}
		if before[to] > before[s.from] {
			refs.before[s.object] = true
		}
	}
	i := 0
	commits := map[string]bool{}
	err = r.eachDiff(ctx, all, func(d diff) error {
		if d.commit != nil && commits[d.commit.ID] {
			// Somebody has put an older one there again, which counts where a version is put together from a snapshot that is newer than that. What was
			// there before is needed, too.
			for _, c := range d.changes {
				end(since{[2]string{r.c.RemoteBasePath + c.Entry.Object, c.Entry.ID}, 0}, len(all))
			}
			i++
			return nil
		}
		if d.commit != nil {
			commits[d.commit.ID] = true
		}
		for _, c := range d.changes {
			for _, path := range []string{c.Entry.Path, c.From} {
				if s, ok := current[path]; ok && path != "" && (path != c.From || c.Status == statusMoved) {
					end(s, i)
					delete(current, path)
				}
			}
		}
		for _, c := range d.changes {
			switch c.Status {
			case statusNew, statusChanged, statusMoved:
				object := [2]string{r.c.RemoteBasePath + c.Entry.Object, c.Entry.ID}
				current[c.Entry.Path] = since{object, i}
				refs.sizes[object] = c.Entry.Size
			}
		}
		i++
		return nil
	})
	for _, s := range current {
		end(s, len(all))
	}
	return refs, err
}

// Garbage is what a garbage collection found.
type Garbage struct {
	Objects []ObjectRef `json:"objects"`
	Bytes   int64       `json:"bytes"`
	Left    int         `json:"left"`    // that may belong to a backup which is running elsewhere
	Missing []ObjectRef `json:"missing"` // that versions refer to
	Removed bool        `json:"removed"` // or logged
	Logged  bool        `json:"logged"`
}

// ObjectRef names a version of an object.
type ObjectRef struct {
	Key  string `json:"key"`
	ID   string `json:"version_id"`
	Size int64  `json:"size"`
}

// GarbageCollect finds the objects of files that no version refers to, and removes or logs them. Where objects are missing it
// touches nothing.
func (r *Repository) GarbageCollect(ctx context.Context, dryRun bool) (g *Garbage, err error) {
	if r.c.ReadOnly && !dryRun {
		return nil, errReadOnly
	}
	return g, r.locked(func() error {
		// In this order: what a run stores is known by its log before, and by its version after.
		stored := map[[2]string]objectVersion{}
		err := r.s.versions(ctx, r.c.RemoteBasePath+"/", func(v objectVersion) bool {
			if !v.Marker {
				stored[[2]string{v.Key, v.ID}] = v
			}
			return true
		})
		if err != nil {
			return err
		}
		first, began, _, err := r.gcLog(ctx)
		if err != nil {
			return err
		}
		runs, resumed := map[string]bool{}, map[string]bool{}
		err = r.c.readJournal(func(l *journalLine) error {
			if l.ID != "" { // a run that goes on where one died uses it
				delete(stored, [2]string{r.c.RemoteBasePath + l.Object, l.ID})
				resumed[l.ID] = true
			}
			runs[l.Run] = l.Run != ""
			return nil
		})
		if err != nil {
			return err
		}
		alive := began.ID != "" && r.s.serverNow().Sub(began.Modified) < aliveFor && (first == nil || !runs[first.Run])
		refs, err := r.references(ctx, nil)
		if err != nil {
			return err
		}
		g = &Garbage{}
		for object := range refs.kept {
			if _, ok := stored[object]; !ok && !resumed[object[1]] {
				g.Missing = append(g.Missing, ObjectRef{object[0], object[1], refs.sizes[object]})
			}
		}
		var list []objectVersion
		for object, v := range stored {
			switch {
			case refs.kept[object]:
			case alive && !v.Modified.Before(began.Modified.Truncate(time.Second)):
				g.Left++
			default:
				list = append(list, v)
				g.Objects = append(g.Objects, ObjectRef{v.Key, v.ID, v.Size})
				g.Bytes += v.Size
			}
		}
		order := func(a, b ObjectRef) int { return strings.Compare(a.Key+a.ID, b.Key+b.ID) }
		slices.SortFunc(g.Objects, order)
		slices.SortFunc(g.Missing, order)
		if len(g.Missing) > 0 {
			return fmt.Errorf("%s that versions refer to are missing, the first is %q; nothing was removed", plural(len(g.Missing), "object", "objects"), g.Missing[0].Key)
		}
		if dryRun {
			return nil
		}
		g.Removed, g.Logged = r.c.deletes(), !r.c.deletes()
		return r.discard(ctx, list)
	})
}

// Undelete makes objects visible again that were deleted without their versions: all of them, or those of the metadata and of
// files whose paths begin with one of the prefixes. Nothing else is changed. It returns their names.
func (r *Repository) Undelete(ctx context.Context, dryRun bool) (keys []string, err error) {
	if r.c.ReadOnly && !dryRun {
		return nil, errReadOnly
	}
	var markers []objectVersion
	hidden := map[string]bool{} // with versions below the markers
	last := map[string]bool{}   // with a marker as the latest
	err = r.s.versions(ctx, "", func(v objectVersion) bool {
		switch {
		case v.Key == r.c.RemoteGCLogFile || v.Key == r.c.RemoteGarbageObjectLogFile: // whose deletion is how they end
		case v.Marker:
			markers = append(markers, v)
			last[v.Key] = last[v.Key] || v.Latest
		default:
			hidden[v.Key] = true
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	markers = slices.DeleteFunc(markers, func(v objectVersion) bool { return !hidden[v.Key] || !last[v.Key] || !r.ours(v.Key) })
	for _, v := range markers {
		keys = append(keys, v.Key)
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if dryRun {
		return keys, nil
	}
	if !r.c.deletes() {
		return keys, errNoDelete
	}
	return keys, r.removeAll(ctx, markers)
}

// ours tells whether an object belongs to this repository.
func (r *Repository) ours(key string) bool {
	switch key {
	case r.c.RemoteManifestDiffFile, r.c.RemoteExpiredFile, r.c.Crypto.RemoteSaltFile:
		return true
	}
	return strings.HasPrefix(key, r.c.RemoteBasePath+"/") || strings.HasPrefix(key, r.c.RemoteSnapshotPath+"/")
}
