package filebackup

import (
	"context"
	"slices"
)

// Latest is the name of the latest version.
const Latest = "latest"

// Recent are the latest n versions, the newest first, but for those of them that have expired. A thousand take one request, and what has expired
// another one. Where that cannot be found out, or not before the context ends, they are all there, beside the error.
func (r *Repository) Recent(ctx context.Context, n int) (list []Version, err error) {
	type answer struct {
		ids map[string]bool
		err error
	}
	expired := make(chan answer, 1)
	go func() { // it may take a key, whose derivation cannot be cancelled
		ids, err := r.expired(ctx)
		expired <- answer{ids, err}
	}()
	err = r.eachVersion(ctx, func(v Version) bool {
		list = append(list, v)
		return len(list) < n
	})
	if err != nil {
		return nil, err
	}
	select {
	case a := <-expired:
		return slices.DeleteFunc(list, func(v Version) bool { return a.ids[v.ID] }), a.err
	case <-ctx.Done():
		return list, context.Cause(ctx)
	}
}

// eachVersion hands out the diffs that are there, the newest first, until it is enough.
func (r *Repository) eachVersion(ctx context.Context, more func(Version) bool) error {
	begun := false
	_, err := r.s.keyVersions(ctx, r.c.RemoteManifestDiffFile, func(v objectVersion) bool {
		if v.Marker {
			return false
		}
		if !begun && !v.Latest {
			r.c.Log.Warn("the manifest was deleted; its versions are still there, and undelete brings it back", "object", v.Key)
		}
		begun = true
		return !more(Version{ID: v.ID, Time: v.Modified, Size: v.Size})
	})
	return err
}
