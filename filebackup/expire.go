package filebackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Keep says which versions stay, by the names of restic's options. The latest version always does.
type Keep struct {
	Last, Hourly, Daily, Weekly, Monthly, Yearly int
	Within                                       time.Duration // before the latest version
}

// choose tells which versions stay; they are the oldest first.
func (k Keep) choose(list []Version) (kept []bool) {
	kept = make([]bool, len(list))
	if len(list) == 0 {
		return kept
	}
	rules := []struct {
		left int
		of   func(time.Time) string
		last string
	}{
		{left: k.Hourly, of: func(t time.Time) string { return t.Format("2006-01-02 15") }},
		{left: k.Daily, of: func(t time.Time) string { return t.Format(time.DateOnly) }},
		{left: k.Weekly, of: func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprint(y, " ", w) }},
		{left: k.Monthly, of: func(t time.Time) string { return t.Format("2006-01") }},
		{left: k.Yearly, of: func(t time.Time) string { return t.Format("2006") }},
	}
	newest := list[len(list)-1].Time
	for i, v := range slices.Backward(list) {
		t := v.Time.Local()
		n := len(list) - i
		kept[i] = n == 1 || n <= k.Last || k.Within > 0 && !v.Time.Before(newest.Add(-k.Within))
		for r := range rules {
			if of := rules[r].of(t); rules[r].left > 0 && of != rules[r].last {
				rules[r].last = of
				rules[r].left--
				kept[i] = true
			}
		}
	}
	return kept
}

// Expiry is what expires.
type Expiry struct {
	Kept    []Version   `json:"kept"`
	Dropped []Version   `json:"dropped"`
	Objects []ObjectRef `json:"objects"` // that only they need
	Bytes   int64       `json:"bytes"`   // of them, as far as they are known
}

// Expire drops versions, and removes the objects that only they need. The diffs of dropped versions stay, for later ones build on them.
func (r *Repository) Expire(ctx context.Context, keep Keep, dryRun bool) (x *Expiry, err error) {
	if !r.c.deletes() {
		return nil, errNoDelete
	}
	if keep == (Keep{}) {
		return nil, errors.New("nothing says what to keep")
	}
	return x, r.locked(func() error {
		list, err := r.Versions(ctx)
		if err != nil {
			return err
		}
		x = &Expiry{}
		drop := map[string]bool{}
		for i, kept := range keep.choose(list) {
			if kept {
				x.Kept = append(x.Kept, list[i])
			} else {
				x.Dropped = append(x.Dropped, list[i])
				drop[list[i].ID] = true
			}
		}
		if len(drop) == 0 {
			return nil
		}
		refs, err := r.references(ctx, drop)
		if err != nil {
			return err
		}
		var objects []objectVersion
		for object := range refs.before {
			if !refs.kept[object] {
				objects = append(objects, objectVersion{Key: object[0], ID: object[1], Size: refs.sizes[object]})
			}
		}
		slices.SortFunc(objects, func(a, b objectVersion) int { return comparePaths(a.Key+"/"+a.ID, b.Key+"/"+b.ID) })
		for _, v := range objects {
			x.Objects = append(x.Objects, ObjectRef{v.Key, v.ID, v.Size})
			x.Bytes += v.Size
		}
		if dryRun {
			return nil
		}
		expired, err := r.expired(ctx)
		if err != nil {
			return err
		}
		for id := range drop {
			expired[id] = true
		}
		// First they are gone, then their objects: nobody finds a version that cannot be downloaded. What a kill leaves is garbage.
		text, err := json.Marshal(slices.Sorted(mapKeys(expired)))
		if err != nil {
			return err
		}
		if _, err := r.putMeta(ctx, r.c.RemoteExpiredFile, literal(text)); err != nil {
			return err
		}
		if err := r.s.at("expired"); err != nil {
			return err
		}
		return r.removeAll(ctx, objects)
	})
}
