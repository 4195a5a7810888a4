package restore

import (
	"context"

	"sdbackup/internal/restic"
)

// Probe opens the repository, which tells whether it is there and its password right, and returns the locks in it. It writes nothing.
func (r *Restorer) Probe(ctx context.Context, at Repository) ([]restic.Lock, error) {
	if at.InBucket() {
		repository, err := r.openBucket(ctx, at, 0)
		if err != nil {
			return nil, err
		}
		_, list, err := r.versionPoints(ctx, at, repository)
		if err != nil {
			return nil, err
		}
		_, err = repository.Changes(ctx, list[len(list)-1])
		return nil, explainBucket(at, err)
	}
	o, err := r.open(ctx, at)
	if err != nil {
		return nil, err
	}
	defer o.close()
	locks, err := o.Locks(ctx)
	return locks, o.explain(err)
}
