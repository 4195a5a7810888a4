package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"sdbackup/internal/restic"
)

// Entry is something in a snapshot.
type Entry struct {
	restic.Node
	Snapshot string `json:"snapshot"`
	Dump     string `json:"dump,omitempty"` // of this [[dump]]
}

// Browse lists what is directly in a folder of a point, or the file that the path names; recursively all below it. A relative path begins in
// the module's directory. At the top, and in ".", dumps are listed as dumps/NAME.
func (r *Restorer) Browse(ctx context.Context, at Repository, c Choice, where string, recursive bool, each func(Entry) error) error {
	return r.at(ctx, at, c, func(from source, p Point) error {
		a := newAsked(where, at.Module, p.saved())
		found := false
		top := path.Clean(where) == "." || path.Clean(where) == "/"
		for _, s := range p.Snapshots {
			if s.Dump != "" {
				if !top && path.Clean(where) != dumpFolder && a.dump != s.Dump {
					continue
				}
				found = true
				err := from.list(ctx, s, nil, func(n restic.Node) error {
					n.Path = "/" + dumpFolder + n.Path
					return each(Entry{n, s.ID, s.Dump})
				})
				if err != nil {
					return err
				}
				continue
			}
			seen, err := browse(ctx, from, s, a.paths, recursive, func(n restic.Node) error { return each(Entry{n, s.ID, ""}) })
			if err != nil {
				return err
			}
			found = found || seen || top
		}
		if !found {
			return remedy(fmt.Errorf("the snapshot has no %s", where), `"restore-backup browse MODULE" lists what it has; a relative path begins in the module's directory`)
		}
		return nil
	})
}

// browse lists a folder of one snapshot, or a file of it.
func browse(ctx context.Context, from source, s Snapshot, paths []string, recursive bool, each func(restic.Node) error) (bool, error) {
	var listedPaths, folders []string
	for _, p := range paths {
		listedPaths = append(listedPaths, listed(p))
		if !recursive {
			folders = append(folders, p)
		}
	}
	seen := false
	err := from.list(ctx, s, folders, func(n restic.Node) error {
		switch {
		case slices.Contains(listedPaths, n.Path):
			seen = true
			if n.Type == "dir" && !recursive {
				return nil
			}
			return each(n)
		case recursive && slices.ContainsFunc(listedPaths, func(p string) bool { return within(n.Path, p) }),
			!recursive && slices.Contains(listedPaths, path.Dir(n.Path)):
			seen = true
			return each(n)
		}
		return nil
	})
	return seen, err
}

// Cat writes a file of a point, or a folder as a tar archive.
func (r *Restorer) Cat(ctx context.Context, at Repository, c Choice, where string, w io.Writer) error {
	return r.at(ctx, at, c, func(from source, p Point) error {
		a := newAsked(where, at.Module, p.saved())
		for _, s := range p.Snapshots {
			if s.Dump != "" && a.dump == s.Dump {
				return from.print(ctx, s, "/"+s.Dump, w)
			}
		}
		files := p.Files()
		if files == nil {
			return remedy(fmt.Errorf("the snapshot has no %s", where), `"restore-backup browse MODULE" lists what it has`)
		}
		counted := &counter{w: w}
		var err error
		for _, candidate := range a.paths {
			if err = from.print(ctx, *files, candidate, counted); err == nil || counted.n > 0 || ctx.Err() != nil {
				break
			}
		}
		return err
	})
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += n
	return n, err
}

// at opens the repository and finds the point.
func (r *Restorer) at(ctx context.Context, at Repository, c Choice, f func(source, Point) error) error {
	from, err := r.source(ctx, at)
	if err != nil {
		return err
	}
	defer from.close()
	list, err := from.points(ctx)
	if err != nil {
		return err
	}
	p, err := choose(list, c)
	if err != nil {
		return fmt.Errorf("%s: %w", at.Label(), err)
	}
	if p, err = from.look(ctx, p); err != nil {
		return err
	}
	return f(from, p)
}

// Mount shows all snapshots of a repository, or those of one backup, in an empty folder until ctx is done. Begins is called
// when nothing is known to be in the way.
func (r *Restorer) Mount(ctx context.Context, at Repository, backup, dir string, begins func()) error {
	if at.InBucket() {
		return usage(fmt.Sprintf(`"restore-backup browse %s" lists their files, and prints them`, at.Label()), "%s is of engine files: its versions cannot be mounted", at.Label())
	}
	if err := unix.Access("/dev/fuse", unix.R_OK|unix.W_OK); err != nil {
		return remedy(errors.New("there is no FUSE here: /dev/fuse cannot be opened"), "install fuse3, or use restore-backup browse")
	}
	info, err := os.Stat(dir)
	if err != nil {
		return remedy(fmt.Errorf("mount: %w", err), "make the folder first")
	}
	if name, err := firstIn(dir); !info.IsDir() || err != nil || name != "" {
		return remedy(fmt.Errorf("mount: %s is no empty folder", dir), "name another one")
	}
	o, err := r.open(ctx, at)
	if err != nil {
		return err
	}
	defer o.close()
	var tags []string
	if backup != "" {
		tags = []string{"backup=" + backup}
	}
	begins()
	return o.explain(o.Repository.Mount(ctx, dir, tags))
}
