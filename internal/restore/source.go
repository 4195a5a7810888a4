package restore

import (
	"context"
	"io"

	"sdbackup/internal/restic"
)

// source is where points are: a repository of restic's, or the versions in a bucket. What it lists has restic's form, and its errors say whose
// they are.
type source interface {
	// points lists all points, the newest first, as far as that tells of them.
	points(ctx context.Context) ([]Point, error)

	// look says all there is to know of a point. What follows is only for one that was looked at.
	look(ctx context.Context, p Point) (Point, error)

	// list passes on what a snapshot holds, a folder before what is in it; of all folders, or at least of those that are named. An error of each
	// stops it and is returned.
	list(ctx context.Context, s Snapshot, folders []string, each func(restic.Node) error) error

	// measure counts what is in snapshots of points that does not say it itself. Where that fails it stays unknown.
	measure(ctx context.Context, list []Point)

	// size is how many bytes a restore of a snapshot takes, hard links counted as one.
	size(ctx context.Context, s Snapshot) (uint64, error)

	// fill restores a part; with verify it reads the content back.
	fill(ctx context.Context, f filling, progress func(restic.RestoreProgress)) (filled, error)

	// leaves tells what fill leaves to be done: extended attributes security.* to be removed, zeros to be made holes.
	leaves() (security, zeros bool)

	// print writes a file, or a folder as a tar archive.
	print(ctx context.Context, s Snapshot, path string, w io.Writer) error

	// guarded tells whether nobody can remove what is being read.
	guarded() bool

	close()
}

// filling is what is to be restored, and where to.
type filling struct {
	part
	to     string
	goal   goal
	verify bool
}

// filled is what came of it.
type filled struct {
	Errors     []string // the first of them
	ErrorCount int
	Warnings   []string // what could not be set of modes, owners and attributes
}

// source opens what a repository is in.
func (r *Restorer) source(ctx context.Context, at Repository) (source, error) {
	if at.InBucket() {
		v, err := r.openVersions(ctx, at)
		if err != nil {
			return nil, err
		}
		return v, nil
	}
	o, err := r.open(ctx, at)
	if err != nil {
		return nil, err
	}
	return o, nil
}

// points implements source.
func (o *opened) points(ctx context.Context) ([]Point, error) {
	list, err := o.AllSnapshots(ctx)
	if err != nil {
		return nil, o.explain(err)
	}
	return points(list), nil
}

// look implements source: snapshots say it all.
func (o *opened) look(ctx context.Context, p Point) (Point, error) {
	var err error
	o.version, err = o.Version(ctx)
	return p, o.explain(err)
}

// list implements source.
func (o *opened) list(ctx context.Context, s Snapshot, folders []string, each func(restic.Node) error) error {
	return o.explain(o.Ls(ctx, s.ID, folders, each))
}

// size implements source.
func (o *opened) size(ctx context.Context, s Snapshot) (uint64, error) {
	size, err := o.Stats(ctx, s.ID)
	return size.Bytes, err
}

// fill implements source.
func (o *opened) fill(ctx context.Context, f filling, progress func(restic.RestoreProgress)) (filled, error) {
	repository := o.Repository
	done, err := repository.Restore(ctx, restic.RestoreOptions{
		Snapshot: f.ID, Target: f.goal.below(f.to, &repository), Paths: f.include, Verify: f.verify, NoLock: o.noLock, Version: o.version, Bytes: f.has.Bytes,
	}, progress)
	return filled{Errors: done.Errors, ErrorCount: done.ErrorCount}, o.explain(err)
}

// leaves implements source.
func (o *opened) leaves() (security, zeros bool) {
	return !o.version.SkipsSecurity(), !o.version.KeepsSparse()
}

// print implements source.
func (o *opened) print(ctx context.Context, s Snapshot, path string, w io.Writer) error {
	return o.explain(o.Dump(ctx, s.ID, path, w))
}

// guarded implements source: restic's lock sees to that, where one can be made.
func (o *opened) guarded() bool { return !o.noLock }
