package destination

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/config"
)

// Undeletion says what to put back: of some days, or all there is.
type Undeletion struct {
	ID         string
	Days       []string // YYYY-MM-DD; of a file that was deleted more than once the latest counts
	All        bool
	Repository string // TYPE/UUID; "": every one
	DryRun     bool   // only find out
}

// Deleted is what the holding area has, or had, of a repository's objects that were deleted on one day.
type Deleted struct {
	Day        string   `json:"day"`
	Repository string   `json:"repository"`
	Objects    int      `json:"objects"`
	Bytes      int64    `json:"bytes"`
	Until      string   `json:"until,omitempty"` // the day on which it is removed for good; "": nobody removes it
	Restored   int      `json:"restored"`        // objects that are in their place again
	Present    int      `json:"present"`         // that were there already; what is held of them stays held
	Different  []string `json:"different"`       // paths at which there is something else; that stays, and what is held, too
}

// holding is a holding area and the destination around it.
type holding interface {
	// list returns the sizes of the files below a folder, by their paths in it; none when there is no such folder.
	list(ctx context.Context, folder string) (map[string]int64, error)
	// same tells whether two files of one size have the same content.
	same(ctx context.Context, a, b string) (bool, error)
	// move moves files from one folder to another one and never replaces any. It returns how many it has moved.
	move(ctx context.Context, from, to string, files []string) (int, error)
	close()
}

// Held lists what the holding area of a destination has, the latest day first. Of a repository all when it has no name.
func (s *Store) Held(ctx context.Context, id, repository string) ([]Deleted, error) {
	d, err := find(s.load(), id)
	if err != nil {
		return nil, err
	}
	var hide masker
	h, err := s.holding(ctx, d, &hide)
	if err != nil {
		return nil, err
	}
	defer h.close()
	groups, err := held(ctx, h, d.KeepDeleted, func(_, r string) bool { return inRepository(r, repository) })
	if err != nil {
		return nil, hide.error(d.ID, err)
	}
	list := []Deleted{}
	for _, g := range groups {
		list = append(list, g.Deleted)
	}
	return list, nil
}

// Undelete puts back what was deleted. What is there is never replaced. When something could not be put back, what could is returned with the error.
func (s *Store) Undelete(ctx context.Context, u Undeletion) ([]Deleted, error) {
	for _, day := range u.Days {
		if _, err := time.Parse(time.DateOnly, day); err != nil {
			return nil, usage("day", "%q is no day; want one as in %s", day, s.Now().UTC().Format(time.DateOnly))
		}
	}
	d, err := find(s.load(), u.ID)
	if err != nil {
		return nil, err
	}
	var hide masker
	h, err := s.holding(ctx, d, &hide)
	if err != nil {
		return nil, err
	}
	defer h.close()
	groups, err := held(ctx, h, d.KeepDeleted, func(day, r string) bool {
		return inRepository(r, u.Repository) && (u.All || slices.Contains(u.Days, day))
	})
	if err != nil {
		return nil, hide.error(d.ID, err)
	}
	var errs []error
	list := []Deleted{}
	there := map[string]map[string]place{}
	for _, g := range groups {
		if there[g.Repository] == nil {
			sizes, err := h.list(ctx, g.Repository)
			if err != nil {
				errs = append(errs, hide.error(d.ID, err))
				continue
			}
			there[g.Repository] = map[string]place{}
			for name, size := range sizes {
				there[g.Repository][name] = place{path.Join(g.Repository, name), size}
			}
		}
		if err := g.restore(ctx, h, there[g.Repository], u.DryRun); err != nil {
			errs = append(errs, hide.error(d.ID, fmt.Errorf("put back %s of %s: %w", g.Repository, g.Day, err)))
		}
		list = append(list, g.Deleted)
		if ctx.Err() != nil {
			return list, context.Cause(ctx)
		}
	}
	return list, errors.Join(errs...)
}

// error masks what must not be told.
func (m masker) error(id string, err error) error {
	text := m.mask(err.Error())
	if text == err.Error() {
		return fmt.Errorf("destination %s: %w", id, err)
	}
	return fmt.Errorf("destination %s: %s", id, text)
}

// inRepository tells whether a repository is the wanted one, or in it.
func inRepository(repository, wanted string) bool {
	wanted = strings.Trim(wanted, "/")
	return wanted == "" || repository == wanted || strings.HasPrefix(repository, wanted+"/")
}

// group is what was deleted of a repository on one day.
type group struct {
	Deleted
	files map[string]int64 // below the repository
}

// held reads the holding area, the latest day first.
func held(ctx context.Context, h holding, keep time.Duration, wanted func(day, repository string) bool) ([]*group, error) {
	files, err := h.list(ctx, config.HoldingArea)
	if err != nil {
		return nil, err
	}
	groups := map[[2]string]*group{}
	for name, size := range files {
		dayName, rest, _ := strings.Cut(name, "/")
		day, err := time.Parse(time.DateOnly, dayName)
		if err != nil || checkLine(rest) != nil {
			continue // the gateway has not put it there
		}
		repository, object := splitObject(rest)
		if repository == "" || !wanted(dayName, repository) {
			continue
		}
		g := groups[[2]string{dayName, repository}]
		if g == nil {
			g = &group{Deleted: Deleted{Day: dayName, Repository: repository, Different: []string{}}, files: map[string]int64{}}
			if keep > 0 {
				g.Until = config.KeptUntil(day, keep).Format(time.DateOnly)
			}
			groups[[2]string{dayName, repository}] = g
		}
		g.files[object] = size
		g.Objects++
		g.Bytes += max(size, 0) // of some files a storage does not know it
	}
	return slices.SortedFunc(maps.Values(groups), func(a, b *group) int {
		return cmp.Or(cmp.Compare(b.Day, a.Day), cmp.Compare(a.Repository, b.Repository))
	}), nil
}

// splitObject finds where in a path a repository ends: no folder above one is named like a part of one. Of another file it is the folder.
func splitObject(name string) (repository, object string) {
	parts := strings.Split(name, "/")
	i := slices.IndexFunc(parts, func(part string) bool {
		return slices.Contains([]string{"config", "data", "index", "keys", "locks", "snapshots"}, part)
	})
	if i < 0 {
		i = len(parts) - 1
	}
	return strings.Join(parts[:i], "/"), strings.Join(parts[i:], "/")
}

// place is where a file is that a repository has, or would have by then.
type place struct {
	path string
	size int64
}

// restore puts the files back that are not there, and notes which are from then on.
func (g *group) restore(ctx context.Context, h holding, there map[string]place, dryRun bool) error {
	from := path.Join(config.HoldingArea, g.Day, g.Repository)
	var missing []string
	for _, name := range slices.Sorted(maps.Keys(g.files)) {
		old, exists := there[name]
		if !exists {
			missing = append(missing, name)
			continue
		}
		same := old.size == g.files[name]
		if same {
			var err error
			if same, err = h.same(ctx, path.Join(from, name), old.path); err != nil {
				return err
			}
		}
		if same {
			g.Present++
		} else {
			g.Different = append(g.Different, path.Join(g.Repository, name))
		}
	}
	to, err := from, error(nil)
	g.Restored = len(missing)
	if !dryRun && len(missing) > 0 {
		to = g.Repository
		g.Restored, err = h.move(ctx, from, to, missing)
	}
	if err != nil {
		return err
	}
	for _, name := range missing {
		there[name] = place{path.Join(to, name), g.files[name]}
	}
	return nil
}

// holding opens the holding area of a destination. Its secrets are added to those that are hidden.
func (s *Store) holding(ctx context.Context, d *config.Destination, hide *masker) (holding, error) {
	if dir, ok := d.Local(); ok {
		return openLocalHolding(d.ID, dir)
	}
	if d.OnlyBucket() {
		return nil, fmt.Errorf("destination %s: what was deleted of modules of engine files is kept by the bucket: \"file-backup --module ID undelete\" brings it back", d.ID)
	}
	if !strings.HasPrefix(d.Repository, "rclone:") {
		where := "only restic can reach " + publicRepository(d.Repository)
		if strings.HasPrefix(d.Repository, "rest:") {
			where = "what was deleted there is kept by the gateway that it names; run this on its host"
		}
		return nil, fmt.Errorf("destination %s: nothing of it is kept here: %s", d.ID, where)
	}
	st, err := s.read(ctx, d)
	if err != nil {
		return nil, err
	}
	hide.add(st.secrets()...)
	remote, err := s.openRemote(d, st)
	if err != nil {
		return nil, fmt.Errorf("destination %s: %w", d.ID, err)
	}
	return rcloneHolding{remote}, nil
}
