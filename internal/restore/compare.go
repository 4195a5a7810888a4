package restore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"sdbackup/internal/module"
	"sdbackup/internal/restic"
)

// Class is how much is the same, new, changed or gone.
type Class struct {
	Count uint64   `json:"count"`
	Bytes uint64   `json:"bytes"` // of files
	First []string `json:"first"` // the first few of them
}

// maxNamed bounds the names in a Class.
const maxNamed = 100

func (c *Class) add(name string, bytes uint64) {
	c.Count++
	c.Bytes += bytes
	if len(c.First) < maxNamed {
		c.First = append(c.First, name)
	}
}

// Comparison is what a snapshot has that folders have not, and the other way round. Content is not read: files of one size and time count
// as the same.
type Comparison struct {
	Same    Class `json:"same"`    // without names
	New     Class `json:"new"`     // in the snapshot only
	Changed Class `json:"changed"` // of another type, size, time, mode or owner
	Gone    Class `json:"gone"`    // in the folders only
	Kept    Class `json:"kept"`    // in the folders only, because the backup leaves it out
}

func newComparison() Comparison {
	return Comparison{Same: Class{First: []string{}}, New: Class{First: []string{}}, Changed: Class{First: []string{}}, Gone: Class{First: []string{}}, Kept: Class{First: []string{}}}
}

// comparer compares nodes with what is on disk.
type comparer struct {
	selection
	place   func(string) (disk string, ok bool) // of a path whose folder is not tracked; false: it is only on the way to what was saved
	exact   bool                                // times of folders count, too
	owners  bool
	exclude restic.Exclusion
	folders map[string]*folder // by their paths in the snapshot
	result  Comparison
}

// folder is a folder on disk, with the names in it that the snapshot was not seen to have.
type folder struct {
	disk  string
	names map[string][]string // by how restic lists them
	whole bool                // all of it is wanted: what the snapshot has not is gone
}

// compareTarget compares a snapshot with the folder that it was restored to. What else is at the top of that is passed over.
func compareTarget(ctx context.Context, from source, p part, target string, beside []string) (Comparison, error) {
	c := &comparer{selection: p.selection, exact: true, owners: os.Geteuid() == 0, folders: map[string]*folder{}, result: newComparison()}
	c.track("/", target, true)
	for _, name := range beside {
		if !p.has.tops[name] {
			delete(c.folders["/"].names, name)
		}
	}
	return c.compare(ctx, from, p.Snapshot)
}

// compareLive compares a snapshot with what is now where it was saved from, or where it is to be put.
func (p *Plan) compareLive(ctx context.Context, one part) (Comparison, error) {
	c := &comparer{selection: one.selection, place: livePlace(one.Paths, p.into.Directory), owners: os.Geteuid() == 0, folders: map[string]*folder{}, result: newComparison()}
	if p.Request.InPlace {
		c.place = func(at string) (string, bool) { return p.livePath(at) }
	}
	c.exclude, _ = restic.NewExclusion(module.Exclude(p.into.Exclude)) // a bad one excludes nothing; a restore in place refuses it
	return c.compare(ctx, p.source, one.Snapshot)
}

func (c *comparer) compare(ctx context.Context, from source, s Snapshot) (Comparison, error) {
	if err := from.list(ctx, s, nil, func(n restic.Node) error { c.node(n); return nil }); err != nil {
		return c.result, err
	}
	for _, at := range sortedKeys(c.folders) {
		c.leave(c.folders[at])
	}
	return c.result, nil
}

func sortedKeys[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// livePlace maps paths in a snapshot to those that were saved: absolute ones are themselves, relative ones began in the module's directory.
func livePlace(saved []string, directory string) func(string) (string, bool) {
	return func(p string) (string, bool) {
		disk := p
		if !slices.ContainsFunc(saved, func(s string) bool { return within(p, s) || within(s, p) }) {
			if directory == "" {
				return "", false
			}
			disk = path.Join(directory, p)
		}
		return disk, slices.ContainsFunc(saved, func(s string) bool { return within(disk, s) })
	}
}

// node compares one node.
func (c *comparer) node(n restic.Node) {
	wanted, above := c.wants(n.Path)
	disk, ok := c.locate(n.Path)
	if !ok || !wanted && !above {
		return
	}
	info, err := os.Lstat(disk)
	if n.Type == "dir" {
		if old := c.folders[n.Path]; old != nil { // another name that is listed alike
			c.leave(old)
		}
		if err == nil && info.IsDir() {
			c.track(n.Path, disk, wanted)
		} else {
			c.folders[n.Path] = &folder{disk: disk}
		}
	}
	size := uint64(0)
	if n.Type == "file" {
		size = n.Size
	}
	switch {
	case !wanted, c.isVague(n.Path):
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		c.result.New.add(n.Path, size)
	case err != nil || c.differs(n, info):
		c.result.Changed.add(n.Path, size)
	default:
		c.result.Same.Count++
		c.result.Same.Bytes += size
	}
}

// locate finds where a node is on disk, and takes it from what is left over in its folder.
func (c *comparer) locate(p string) (string, bool) {
	parent := c.folders[path.Dir(p)]
	name := path.Base(p)
	switch {
	case parent == nil && c.place != nil:
		return c.place(p)
	case parent == nil:
		return "", false
	}
	if raw := parent.names[name]; len(raw) > 0 {
		if parent.names[name] = raw[1:]; len(raw) == 1 {
			delete(parent.names, name)
		}
		name = raw[0]
	}
	return filepath.Join(parent.disk, name), true
}

// track notes what is in a folder on disk.
func (c *comparer) track(at, disk string, whole bool) {
	f := &folder{disk: disk, names: map[string][]string{}, whole: whole}
	c.folders[at] = f
	entries, err := os.ReadDir(disk)
	if err != nil {
		return // its files are told to be changed when they cannot be looked at
	}
	for _, e := range entries { // sorted, as restic's are
		f.names[listed(e.Name())] = append(f.names[listed(e.Name())], e.Name())
	}
}

// leave counts what the snapshot does not have of a folder.
func (c *comparer) leave(f *folder) {
	if !f.whole {
		return
	}
	for _, raw := range f.names {
		for _, name := range raw {
			kept := "" // a path that the backup leaves out, and all below it
			_ = filepath.WalkDir(filepath.Join(f.disk, name), func(p string, d fs.DirEntry, err error) error {
				if (kept == "" || !within(p, kept)) && c.exclude.Matches(p) {
					kept = p
				}
				if err != nil {
					return nil //nolint:nilerr // what cannot be looked at counts as one
				}
				size := uint64(0)
				if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
					size = uint64(info.Size())
				}
				if kept != "" && within(p, kept) {
					c.result.Kept.add(p, size)
				} else {
					c.result.Gone.add(p, size)
				}
				return nil
			})
		}
	}
	f.names = nil
}

// types are restic's names for what a mode says.
var types = map[os.FileMode]string{
	0: "file", os.ModeDir: "dir", os.ModeSymlink: "symlink", os.ModeNamedPipe: "fifo", os.ModeSocket: "socket",
	os.ModeDevice: "dev", os.ModeDevice | os.ModeCharDevice: "chardev",
}

const modeBits = os.ModePerm | os.ModeSetuid | os.ModeSetgid | os.ModeSticky

func (c *comparer) differs(n restic.Node, info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || types[info.Mode().Type()] != n.Type:
		return true
	case c.owners && (st.Uid != n.UID || st.Gid != n.GID):
		return true
	case n.Type == "file" && uint64(info.Size()) != n.Size:
		return true
	case n.Type != "symlink" && info.Mode()&modeBits != n.Mode&modeBits:
		return true
	}
	return (c.exact || n.Type != "dir") && !info.ModTime().Equal(n.MTime)
}
