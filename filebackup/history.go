package filebackup

import "context"

// Step is what a version changed of one path: what was there before, and what after; nil is nothing.
type Step struct{ Before, After *Entry }

// History passes on what each version changed, the oldest first, those that have expired included. An error of each stops it and is returned.
func (r *Repository) History(ctx context.Context, each func(Version, []Step) error) error {
	if r.c.WriteOnly {
		return errWriteOnly
	}
	all, err := r.allVersions(ctx)
	if err != nil {
		return err
	}
	c := chain{m: newManifest(), commits: map[string]bool{}}
	err = r.eachDiff(ctx, all, func(d diff) error {
		before := map[string]*Entry{}
		for i := range d.changes {
			for _, path := range []string{d.changes[i].Entry.Path, d.changes[i].From} {
				before[path] = c.m.Entry(path)
			}
		}
		c.apply(d)
		var steps []Step
		for path, old := range before {
			if e := c.m.Entry(path); e != old {
				steps = append(steps, Step{old, e})
			}
		}
		return each(d.version, steps)
	})
	for _, p := range c.problems {
		r.c.Log.Warn((&TamperError{p}).Error())
	}
	return err
}
