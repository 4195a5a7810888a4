package restore

import (
	"context"

	"sdbackup/internal/restic"
)

// Probe opens the repository, which tells whether it is there and its password right, and returns the locks in it. It writes nothing.
func (r *Restorer) Probe(ctx context.Context, at Repository) ([]restic.Lock, error) {
	if at.InBucket() {
		v, err := r.openVersions(ctx, at)
		if err != nil {
			return nil, err
		}
		if _, err := v.points(ctx); err != nil {
			return nil, err
		}
		_, err = v.Changes(ctx, v.all[len(v.all)-1])
		return nil, v.explain(err)
	}
	o, err := r.open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer o.close()
	locks, err := o.Locks(ctx)
	return locks, o.explain(err)
}
