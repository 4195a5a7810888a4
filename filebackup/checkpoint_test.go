package filebackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

// A bucket with 10,000 versions is opened, and backed up to, by a handful of requests, with and without what this machine knows.
func TestTenThousandVersions(t *testing.T) {
	const total, after, named = 10000, 31, 2200
	f := newFixture(t)
	f.pipelines("all")
	const files = 50
	for i := range files {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	f.backup()
	ctx, r := t.Context(), f.open()
	k, err := r.c.loadCache()
	if err != nil {
		t.Fatal(err)
	}
	entry := k.manifest().Entry("/f0")
	// Diffs that say the same in whatever order: several at a time.
	diff, err := sealMeta(metaHeader(nil, nil), nil, literal(encodeDiff(nil, []Change{{Status: statusChanged, Entry: *entry}})))
	if err != nil {
		t.Fatal(err)
	}
	key, err := r.key(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	err = each(ctx, 4, make([]struct{}, total-after-1), func(ctx context.Context, _ struct{}) error {
		_, err := r.s.put(ctx, r.c.RemoteManifestDiffFile, diff, false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all, _, _, err := r.diffVersions(ctx, "")
	if err != nil || len(all) != total-after {
		t.Fatalf("%d versions, %v; want %d", len(all), err, total-after)
	}
	// The names of packs, whose contents nobody reads any more; and the snapshots.
	err = each(ctx, 8, all[len(all)-named:], func(ctx context.Context, v Version) error {
		n := slices.IndexFunc(all, func(o Version) bool { return o.ID == v.ID }) + 1
		switch from := total - after; {
		case (from-n)%32 == 0:
			of := *k
			of.Sequence, of.ID = n, v.ID
			_, err := r.putSnapshot(ctx, &of)
			return err
		case (from-n)%2 == 0:
			_, err := r.s.put(ctx, r.packName(n, v.ID, n-2), nil, false)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The last versions are made as backups make them, but for their pauses.
	last := all[len(all)-1]
	k.ID, k.Modified, k.Sequence = last.ID, last.Time, len(all)
	k.Route = &route{Base: leg{Diffs: len(all), Changes: files}}
	b := &backup{Repository: r, cache: k, keys: key}
	for i := range after {
		e := k.manifest().Entry(fmt.Sprintf("/f%d", i))
		e.Mode = 0o600 + uint32(i)
		id, err := r.putMeta(ctx, r.c.RemoteManifestDiffFile, literal(encodeDiff(&commit{ID: randomID(), Parent: b.cache.ID}, []Change{{Status: statusChanged, Entry: *e}})))
		if err != nil {
			t.Fatal(err)
		}
		head := b.cache.cacheHead
		head.ID, head.Sequence, head.Route = id, head.Sequence+1, head.Route.plus(r.c.RemoteManifestDiffFile, id, 1)
		if head, err = b.packIfDue(ctx, head); err != nil {
			t.Fatal(err)
		}
		b.saveCache(head, func(do func(string, *Entry) error) error { return do(e.Path, e) })
		if err := errors.Join(b.snapshotIfDue(ctx), b.latest()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range after {
		if err := os.Chmod(fmt.Sprintf("%s/f%d", f.dir, i), os.FileMode(0o600+i)); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("made in %v", time.Since(start))
	requests := func(what string, limit int64, do func(*Repository) error) {
		t.Helper()
		r, start := f.open(), time.Now()
		if err := do(r); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%s: %d requests, %v", what, r.Requests(), time.Since(start))
		if r.Requests() > limit {
			t.Errorf("%s takes %d requests; want %d", what, r.Requests(), limit)
		}
	}
	unchanged := func(r *Repository) error {
		s, err := r.Backup(ctx, BackupOptions{})
		if err == nil && (len(s.Versions) > 0 || s.Latest.ID != b.cache.ID) {
			err = fmt.Errorf("it made a version: %+v", s)
		}
		return err
	}
	requests("a backup of nothing", 4, unchanged)
	if err := os.Remove(r.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	requests("a backup of nothing without what this machine knew", 8, unchanged)
	if k, err = r.c.loadCache(); err != nil || k.Sequence != total || k.Route.Base.Diffs != total-after || len(k.Route.Parts) != 2 {
		t.Errorf("%+v, %v", k, err)
	}
	requests("a backup after that", 4, unchanged)
	if err := os.Remove(r.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	requests("the latest version", 8, func(r *Repository) error {
		v, err := r.Find(ctx, "latest")
		if err != nil {
			return err
		}
		m, err := r.Manifest(ctx, v)
		if err == nil && (m.Entry("/f7").Mode != 0o607 || v.ID != b.cache.ID) {
			err = errors.New("it is not the latest")
		}
		return err
	})
	requests("all versions", 12, func(r *Repository) error {
		list, err := r.Versions(ctx)
		if len(list) != total {
			t.Errorf("%d versions; want %d", len(list), total)
		}
		return err
	})
	// Pages of 1,000, one more where the last one is full, and what has expired.
	for what, c := range map[string]struct {
		name  string
		limit int64
		want  string
	}{
		"the latest by its ID":         {b.cache.ID, 2, b.cache.ID},
		"the oldest by its ID":         {all[0].ID, 12, all[0].ID},
		"one in the middle by its ID":  {all[total/2].ID, 7, all[total/2].ID},
		"the latest by time":           {time.Now().Add(time.Minute).Format(time.DateTime), 2, b.cache.ID},
		"before the first one by time": {"1999-01-01", 12, ""},
	} {
		requests("to find "+what, c.limit, func(r *Repository) error {
			v, err := r.Find(ctx, c.name)
			if v.ID != c.want || (err == nil) != (c.want != "") {
				return fmt.Errorf("%+v, %w", v, err)
			}
			return nil
		})
	}
}

// Packs and snapshots say nothing that diffs do not say, and whatever is wrong with them, versions are what they were.
func TestCheckpoints(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("plain")
	f.c.SplitChunkSize, f.c.SnapshotInterval = 1, 8
	for i := range 13 {
		f.write(fmt.Sprintf("f%02d", i), fmt.Sprint("content ", i))
	}
	f.backup()
	ctx := t.Context()
	want := map[string]*Manifest{}
	list := f.versions()
	c := chain{m: newManifest(), commits: map[string]bool{}}
	if err := f.open().eachDiff(ctx, list, func(d diff) error {
		c.apply(d)
		m := newManifest()
		for p, e := range c.m.entries {
			m.entries[p] = e
		}
		want[d.version.ID] = m
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	points, err := f.open().checkpoints(ctx, true)
	if err != nil || len(points.whole) == 0 || len(points.packs) < 2 {
		t.Fatalf("%+v, %v; want packs and snapshots", points, err)
	}
	look := func(what string) {
		t.Helper()
		for _, v := range list {
			m, err := f.open().Manifest(ctx, v)
			if err != nil || !sameManifest(m, want[v.ID]) {
				t.Errorf("%s: version %s: %v", what, v.ID, err)
			}
		}
		if err := os.Remove(f.c.cachePath()); err != nil {
			t.Fatal(err)
		}
		if s := f.backup(); len(s.Versions) > 0 {
			t.Errorf("%s: a backup makes versions: %+v", what, s)
		}
	}
	look("as made")
	if v, err := f.open().Verify(ctx, VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	// Whoever has the key puts something over them, and hides them.
	for _, p := range []map[string]*checkpoint{points.whole, points.packs} {
		for _, c := range p {
			if _, err := f.owner.PutObject(ctx, f.bucket, c.key, strings.NewReader("nonsense"), 8, minio.PutObjectOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := f.owner.RemoveObject(ctx, f.bucket, c.key, minio.RemoveObjectOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	look("put over and hidden")
	if s := f.logged.String(); strings.Contains(s, "of no use") {
		t.Errorf("what was stored first was not taken: %s", s)
	}
	for _, p := range []map[string]*checkpoint{points.whole, points.packs} {
		for _, c := range p {
			if err := f.owner.RemoveObject(ctx, f.bucket, c.key, minio.RemoveObjectOptions{VersionID: c.versions[0]}); err != nil {
				t.Fatal(err)
			}
		}
	}
	look("removed")
	if v, err := f.open().Verify(ctx, VerifyOptions{ReadData: true}); err != nil || len(v.Problems) != len(points.whole)+len(points.packs) {
		t.Errorf("verify: %+v, %v; want each of them named", v, err)
	}
	if s := f.logged.String(); !strings.Contains(s, "snapshot is of no use") || !strings.Contains(s, "pack of manifest diffs is of no use") {
		t.Errorf("nothing is said of what is of no use: %s", s)
	}
}

// Who can write to the bucket and has no password cannot make versions look otherwise than they were: of metadata that is encrypted, checkpoints
// that are not are of no use.
func TestForgedCheckpoints(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("encrypted")
	f.c.SnapshotInterval = 100
	for i := range 9 { // more than there may be changes, that there is no snapshot
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	for i := range 5 {
		f.write("changes", fmt.Sprint(i))
		f.backup()
	}
	ctx := t.Context()
	want := map[string]*Manifest{}
	for _, v := range f.versions() {
		m, err := f.open().Manifest(ctx, v)
		if err != nil {
			t.Fatal(err)
		}
		want[v.ID] = m
	}
	r := f.open()
	points, err := r.checkpoints(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	list := f.versions()
	for i, v := range list {
		if points.whole[v.ID] == nil {
			f.putPlain(r.snapshotName(i+1, v.ID), string(encodeDiff(&commit{ID: "snapshot", Parent: v.ID}, nil)))
		}
		if points.packs[v.ID] == nil {
			f.putPlain(r.packName(i+1, v.ID, i), "["+string(appendPacked(nil, v.ID, encodeDiff(nil, nil)))+"]")
		}
	}
	for _, v := range list {
		m, err := f.open().Manifest(ctx, v)
		if err != nil || !sameManifest(m, want[v.ID]) {
			t.Errorf("version %s has %d files, %v; want %d", v.ID, m.Len(), err, want[v.ID].Len())
		}
	}
	if err := os.Remove(f.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	if s := f.backup(); len(s.Versions) > 0 {
		t.Errorf("a backup makes a version: %+v", s)
	}
	f.same(f.dir, f.download("latest"))
}

// Whatever is put over the newest checkpoint, and however often: what counts is what was stored first.
func TestCheckpointPutOverOften(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SplitChunkSize, f.c.SnapshotInterval = 1, 4
	for i := range 4 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	f.backup()
	ctx, r := t.Context(), f.open()
	points, err := r.checkpoints(ctx, true)
	if err != nil || len(points.whole) == 0 {
		t.Fatal(points, err)
	}
	list := f.versions()
	last := list[len(list)-1]
	c := points.whole[last.ID]
	if c == nil {
		t.Fatalf("the latest version has no snapshot: %+v", points)
	}
	empty, err := sealMeta(metaHeader(nil, nil), nil, literal(encodeDiff(&commit{ID: "snapshot", Parent: last.ID}, nil)))
	if err != nil {
		t.Fatal(err)
	}
	err = each(ctx, 8, make([]struct{}, aPage+1), func(ctx context.Context, _ struct{}) error {
		_, err := r.s.put(ctx, c.key, empty, false)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := f.open().Manifest(ctx, last); err != nil || m.Len() != 4 {
		t.Errorf("the latest version has %d files, %v; want 4", m.Len(), err)
	}
}

// A pack that is no more does not keep the next one from being made.
func TestPackAfterOneThatIsGone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SnapshotInterval = 100
	for i := range 20 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	for i := range 10 {
		f.write("changes", fmt.Sprint(i))
		f.backup()
		points, err := f.open().checkpoints(t.Context(), true)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range points.packs {
			if err := f.owner.RemoveObject(t.Context(), f.bucket, c.key, minio.RemoveObjectOptions{VersionID: c.versions[0]}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if s := f.logged.String(); strings.Contains(s, "could not be stored") {
		t.Error(s)
	}
	f.same(f.dir, f.download("latest"))
}

func FuzzPack(f *testing.F) {
	diff := encodeDiff(&commit{"id", "parent", "host", 5}, testChanges())
	f.Add([]byte("[]"))
	f.Add(append(append([]byte("["), appendPacked(appendPacked(nil, "one", diff), "two", encodeDiff(nil, nil))...), ']'))
	f.Add([]byte(`[{"version": "a", "diff": null}, {"version": "a", "diff": [], "diff": 5}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var all []packed
		if json.Unmarshal(text, &all) != nil {
			return
		}
		var list []Version
		for _, p := range all {
			list = append(list, Version{ID: p.Version})
		}
		diffs, err := unpack(text, list)
		if err != nil {
			return
		}
		var again []byte
		for _, d := range diffs {
			again = appendPacked(again, d.version.ID, encodeDiff(d.commit, d.changes))
		}
		same, err := unpack(append(append([]byte("["), again...), ']'), list)
		if err != nil || len(same) != len(diffs) {
			t.Fatalf("%q becomes %q: %v", text, again, err)
		}
		if len(list) > 0 {
			if _, err := unpack(text, list[1:]); err == nil {
				t.Error("a diff too many is taken")
			}
		}
	})
}

func FuzzCheckpointName(f *testing.F) {
	r := &Repository{c: &Config{RemoteSnapshotPath: "s"}}
	f.Add(r.snapshotName(7, "id")[2:])
	f.Add(r.packName(7, "id", 3)[2:])
	f.Add("00000032-id")
	f.Add("99999999-.00000000")
	f.Fuzz(func(t *testing.T, name string) {
		var c checkpoint
		pack, ok := c.parse(name)
		switch {
		case !ok && pack, c.number < 0, c.after < 0, pack && c.after >= c.number:
			t.Fatalf("%q is %+v, a pack: %v", name, c, pack)
		case ok && c.number < numbers/2:
			again, made := checkpoint{}, r.snapshotName(c.number, c.id)
			if pack {
				made = r.packName(c.number, c.id, c.after)
			}
			if p, ok := again.parse(made[2:]); !ok || p != pack && !pack || again.number != c.number || pack && (again.id != c.id || again.after != c.after) {
				t.Errorf("%q is %+v, and %q is %+v", name, c, made, again)
			}
		}
	})
}
