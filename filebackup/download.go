package filebackup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

var errWriteOnly = errors.New("the configuration says write_only")

// DownloadOptions say what of a version is downloaded.
type DownloadOptions struct {
	Paths    []string // files, and folders with all that is in them; default: everything
	Ignore   []string // patterns of what is left out
	DryRun   bool
	NoOwner  bool // as for whoever is not root
	Progress func(Progress)
}

// Restored is what a download did.
type Restored struct {
	Files    int      `json:"files"`
	Folders  int      `json:"folders"`
	Symlinks int      `json:"symlinks"`
	Bytes    int64    `json:"bytes"`
	Failed   []string `json:"failed,omitempty"`   // damaged ones
	Warnings []string `json:"warnings,omitempty"` // modes, owners and attributes that could not be set
}

// choose are the entries that the options name.
func (o *DownloadOptions) choose(m *Manifest) ([]*Entry, error) {
	list := m.Sorted()
	used := make([]bool, len(o.Paths))
	list = slices.DeleteFunc(list, func(e *Entry) bool {
		wanted := len(o.Paths) == 0
		for i, p := range o.Paths {
			p = path.Clean("/" + p)
			if p == "/" || e.Path == p || strings.HasPrefix(e.Path, p+"/") {
				wanted, used[i] = true, true
			}
		}
		return !wanted || matchAny(o.Ignore, e.Path)
	})
	for i, ok := range used {
		if !ok {
			return nil, fmt.Errorf("%w: nothing in the version has the path %q", ErrNotFound, o.Paths[i])
		}
	}
	return list, nil
}

// Download writes the files of a version into a folder, which is made where it is missing. Every file is there as a whole or not at all, and has
// the content that was saved; what is damaged is named, and does not stop the rest. Nothing is written outside of the folder, whatever the
// manifest and links in the folder say.
func (r *Repository) Download(ctx context.Context, v Version, target string, o DownloadOptions) (*Restored, error) {
	if r.c.WriteOnly {
		return nil, errWriteOnly
	}
	m, err := r.Manifest(ctx, v)
	if err != nil {
		return nil, err
	}
	list, err := o.choose(m)
	if err != nil {
		return nil, err
	}
	return r.DownloadEntries(ctx, list, target, o)
}

// DownloadEntries writes entries that Files returned, whatever the options say of paths, as Download does.
func (r *Repository) DownloadEntries(ctx context.Context, list []*Entry, target string, o DownloadOptions) (*Restored, error) {
	if r.c.WriteOnly {
		return nil, errWriteOnly
	}
	d := &download{Repository: r, o: o}
	for _, e := range list {
		if e.Kind == File {
			d.progress.TotalFiles++
			d.progress.TotalBytes += e.Size
		}
	}
	if o.DryRun {
		for _, e := range list {
			d.done(e)
		}
		return &d.sum, nil
	}
	if err := os.MkdirAll(target, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	d.root = root
	if err := d.all(ctx, list); err != nil {
		return &d.sum, err
	}
	if len(d.sum.Failed) > 0 {
		slices.Sort(d.sum.Failed)
		return &d.sum, fmt.Errorf("%s could not be restored:\n%s", plural(len(d.sum.Failed), "file", "files"), strings.Join(d.sum.Failed, "\n"))
	}
	return &d.sum, nil
}

type download struct {
	*Repository
	o    DownloadOptions
	root *os.Root

	mu       sync.Mutex
	sum      Restored
	progress Progress
	last     time.Time
	bytes    atomic.Int64
	names    atomic.Int64
}

func (d *download) done(e *Entry) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch e.Kind {
	case File:
		d.sum.Files++
		d.sum.Bytes += e.Size
	case Folder:
		d.sum.Folders++
	case Symlink:
		d.sum.Symlinks++
	}
	if d.o.Progress == nil || time.Since(d.last) < 100*time.Millisecond {
		return
	}
	d.last = time.Now()
	p := d.progress
	p.Files, p.Bytes = int64(d.sum.Files), d.bytes.Load()
	d.o.Progress(p)
}

func (d *download) warn(e *Entry, err error) {
	if err == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sum.Warnings = append(d.sum.Warnings, fmt.Sprintf("%s: %v", e.Path, err))
}

func (d *download) all(ctx context.Context, list []*Entry) error {
	made := map[string]bool{".": true}
	var folders, files, links []*Entry
	for _, e := range list {
		name := e.Path[1:]
		dir := path.Dir(name)
		if e.Kind == Folder {
			dir = name
			folders = append(folders, e)
		}
		if !made[dir] {
			if err := d.folder(dir); err != nil {
				return err
			}
			for p := dir; p != "."; p = path.Dir(p) {
				made[p] = true
			}
		}
		switch e.Kind {
		case File:
			files = append(files, e)
		case Symlink:
			links = append(links, e)
		}
	}
	// Owners and modes come later: what is restored should be seen by nobody before it has those.
	err := each(ctx, d.c.parallel(), files, func(ctx context.Context, e *Entry) error {
		err := d.file(ctx, e)
		if err == nil {
			d.done(e)
			return nil
		}
		var corrupt *CorruptError
		if errors.As(err, &corrupt) || errors.Is(err, ErrNotFound) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.sum.Failed = append(d.sum.Failed, fmt.Sprintf("%s: %v", e.Path, err))
			return nil
		}
		return fmt.Errorf("%q: %w", e.Path, err)
	})
	if err != nil {
		return err
	}
	for _, e := range links {
		if err := d.link(e); err != nil {
			return err
		}
		d.done(e)
	}
	for _, e := range slices.Backward(folders) {
		f, err := d.root.Open(e.Path[1:])
		if err != nil {
			return err
		}
		d.attributes(f, e)
		f.Close()
		d.done(e)
	}
	return nil
}

// folder makes a folder, with those above it.
func (d *download) folder(name string) error {
	err := d.root.MkdirAll(name, 0o755)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTDIR) {
		return fmt.Errorf("%q is in the way of a folder", name)
	}
	return err
}

// file writes a file beside its place, and puts it there when it is whole.
func (d *download) file(ctx context.Context, e *Entry) error {
	name := e.Path[1:]
	temporary := path.Join(path.Dir(name), fmt.Sprintf(".file-backup-%s-%d", randomID(), d.names.Add(1)))
	f, err := d.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	defer func() {
		if err != nil {
			_ = d.root.Remove(temporary)
		}
	}()
	if err = d.content(ctx, e, f); err != nil {
		return err
	}
	d.attributes(f, e)
	if err = d.root.Rename(temporary, name); errors.Is(err, fs.ErrExist) || errors.Is(err, unix.EISDIR) {
		err = fmt.Errorf("a folder is in its way: %w", err)
	}
	return err
}

// Content writes the content of a file. With an error it was not what was saved, or not all of it.
func (r *Repository) Content(ctx context.Context, e *Entry, w io.Writer) error {
	if r.c.WriteOnly {
		return errWriteOnly
	}
	if e.Kind != File {
		return fmt.Errorf("%q is a %s", e.Path, e.Kind)
	}
	return r.content(ctx, e, w)
}

// content writes the content of an entry.
func (r *Repository) content(ctx context.Context, e *Entry, w io.Writer) error {
	if e.Object == "" {
		if e.Hash != emptyHash {
			return &CorruptError{r.c.RemoteManifestDiffFile, "", errors.New("it says that the file is empty, and has another content")}
		}
		return nil
	}
	key := r.c.RemoteBasePath + e.Object
	corrupt := func(err error) error {
		return &CorruptError{key, e.ID, err}
	}
	body, err := r.s.open(ctx, key, e.ID)
	if err != nil {
		return err
	}
	defer body.Close()
	content, done, err := contentReader(body, func(h header) (*keys, error) { return r.keysFor(ctx, h) })
	if other := (*otherError)(nil); errors.As(err, &other) {
		return other.error
	}
	if err != nil {
		return corrupt(err)
	}
	defer done()
	out := &writer{w: w}
	sum, n, err := contentHash(out, content)
	switch {
	case out.err != nil:
		return out.err
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return corrupt(cutOff(err))
	}
	if err := mismatch(e, sum, n); err != nil {
		return corrupt(err)
	}
	return nil
}

func (d *download) content(ctx context.Context, e *Entry, f *os.File) error {
	return d.Repository.content(ctx, e, &counter{f, &d.bytes})
}

// writer tells errors of writing from those of reading.
type writer struct {
	w   io.Writer
	err error
}

func (w *writer) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

type counter struct {
	w io.Writer
	n *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// attributes sets what is recorded of a file or folder; what cannot be set is a warning.
func (d *download) attributes(f *os.File, e *Entry) {
	if e.has&hasMode != 0 {
		mode := e.Mode
		if os.Geteuid() == 0 && !d.o.NoOwner {
			if err := f.Chown(e.UID, e.GID); err != nil {
				d.warn(e, err)
				mode &^= 0o6000 // setuid for somebody else
			}
		} else if e.UID != os.Geteuid() {
			mode &^= 0o6000
		}
		for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
			if err := unix.Fsetxattr(int(f.Fd()), name, e.Xattrs[name], 0); err != nil {
				d.warn(e, fmt.Errorf("attribute %s: %w", name, err))
			}
		}
		d.warn(e, unix.Fchmod(int(f.Fd()), mode)) // after the owner, whose change takes setuid away
	} else if e.Kind == File {
		d.warn(e, f.Chmod(0o644&^umask()))
	}
	t := unix.NsecToTimespec(e.ModTime().UnixNano())
	d.warn(e, unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), []unix.Timespec{t, t}, 0))
}

var umask = sync.OnceValue(func() os.FileMode {
	m := unix.Umask(0o077)
	unix.Umask(m)
	return os.FileMode(m)
})

// link makes a symbolic link, in place of what is there.
func (d *download) link(e *Entry) error {
	name := e.Path[1:]
	temporary := path.Join(path.Dir(name), fmt.Sprintf(".file-backup-%s-%d", randomID(), d.names.Add(1)))
	if err := d.root.Symlink(e.Target, temporary); err != nil {
		return err
	}
	if os.Geteuid() == 0 && !d.o.NoOwner && e.has&hasMode != 0 {
		d.warn(e, d.root.Lchown(temporary, e.UID, e.GID))
	}
	if e.has&hasMTime != 0 {
		d.warn(e, d.linkTime(temporary, e))
	}
	if err := d.root.Rename(temporary, name); err != nil {
		_ = d.root.Remove(temporary)
		return err
	}
	return nil
}

// linkTime sets the time of a symbolic link itself.
func (d *download) linkTime(name string, e *Entry) error {
	dir, err := d.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	t := unix.NsecToTimespec(e.MTime)
	return unix.UtimesNanoAt(int(dir.Fd()), path.Base(name), []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// Difference is a path that two versions have otherwise, or one of them only.
type Difference struct {
	Path   string `json:"path"`
	Kind   Kind   `json:"kind"`
	Status string `json:"status"` // new, changed, metadata, deleted
}

// Diff tells how b differs from a.
func (r *Repository) Diff(ctx context.Context, a, b Version) ([]Difference, error) {
	from, err := r.Manifest(ctx, a)
	if err != nil {
		return nil, err
	}
	to, err := r.Manifest(ctx, b)
	if err != nil {
		return nil, err
	}
	var list []Difference
	for _, e := range to.Sorted() {
		old := from.Entry(e.Path)
		status := ""
		switch {
		case old == nil:
			status = statusNew
		case old.Kind != e.Kind, e.Hash != old.Hash, e.Target != old.Target:
			status = statusChanged
		case e.Kind == File && !equalMeta(e, old), e.Mode != old.Mode, e.UID != old.UID, e.GID != old.GID:
			status = "metadata"
		default:
			continue
		}
		list = append(list, Difference{e.Path, e.Kind, status})
	}
	for _, e := range from.Sorted() {
		if to.Entry(e.Path) == nil {
			list = append(list, Difference{e.Path, e.Kind, statusDeleted})
		}
	}
	slices.SortStableFunc(list, func(a, b Difference) int { return comparePaths(a.Path, b.Path) })
	return list, nil
}

// Verification is what was found by looking at everything.
type Verification struct {
	Versions int      `json:"versions"`
	Objects  int      `json:"objects"`
	Bytes    int64    `json:"bytes"` // that were read
	Problems []string `json:"problems"`
}

// VerifyOptions say how much is looked at.
type VerifyOptions struct {
	ReadData bool
	Part, Of int // read only this part of so many, from 1 on; the zero values are all of it
	Progress func(Progress)
}

// reads tells whether an object with that content is read.
func (o VerifyOptions) reads(h Hash) bool {
	return o.ReadData && (o.Of < 2 || int(binary.BigEndian.Uint32(h[:])%uint32(o.Of)) == o.Part-1)
}

// Verify looks whether every version can be had: every diff is readable and follows the one before, every object is there. With
// ReadData it reads the objects and compares their contents with the manifest. Problems are no error.
func (r *Repository) Verify(ctx context.Context, options VerifyOptions) (*Verification, error) {
	if r.c.WriteOnly && options.ReadData {
		return nil, errWriteOnly
	}
	v := &Verification{Problems: []string{}}
	var mu sync.Mutex
	problem := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		v.Problems = append(v.Problems, fmt.Sprintf(format, args...))
	}
	k, err := r.c.loadCache()
	if err != nil {
		k = nil // made anew by the next backup
	}
	all, hidden, _, err := r.diffVersions(ctx, "")
	if err != nil {
		return nil, err
	}
	if hidden {
		problem("the manifest %q was deleted; undelete brings it back", r.c.RemoteManifestDiffFile)
	}
	if k != nil && k.ID != "" && !slices.ContainsFunc(all, func(v Version) bool { return v.ID == k.ID }) {
		problem("%v", r.gone(k))
	}
	expired, err := r.expired(ctx)
	if err != nil {
		return nil, err
	}
	points, err := r.checkpoints(ctx, true)
	if err != nil {
		return nil, err
	}
	stored := map[[2]string]int64{}
	err = r.s.versions(ctx, r.c.RemoteBasePath+"/", func(v objectVersion) bool {
		if !v.Marker {
			stored[[2]string{v.Key, v.ID}] = v.Size
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	c := chain{m: newManifest(), commits: map[string]bool{}}
	type object struct {
		e       Entry
		version string // the first that needs it
	}
	objects := map[[2]string]object{}
	texts := map[string]Hash{} // of diffs
	for i, version := range all {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		d, err := r.readDiff(ctx, version)
		if err != nil {
			if corrupt := (*CorruptError)(nil); !errors.As(err, &corrupt) && !errors.Is(err, ErrNotFound) {
				return nil, err
			}
			problem("version %s, and whatever builds on it: %v", version.ID, err)
			c.last = "?"
			continue
		}
		c.apply(d)
		if options.ReadData {
			texts[version.ID] = d.hash()
		}
		if at := points.whole[version.ID]; at != nil && len(at.versions) > 0 {
			m, _, err := r.readSnapshot(ctx, at)
			if err != nil {
				problem("%v", err)
			} else if !sameManifest(m, c.m) {
				problem("the manifest snapshot %q is not what the diffs make of version %s", at.key, version.ID)
			}
		}
		if expired[version.ID] && i < len(all)-1 {
			continue
		}
		v.Versions++
		// What is new in a version that is kept has to be there; the first that is kept needs everything.
		check := func(e *Entry) {
			if e.Kind == File && e.Object != "" {
				key := [2]string{r.c.RemoteBasePath + e.Object, e.ID}
				if _, known := objects[key]; !known {
					objects[key] = object{*e, version.ID}
				}
			}
		}
		if i == 0 || expired[all[i-1].ID] {
			for _, e := range c.m.entries {
				check(e)
			}
		} else {
			for k := range d.changes {
				if e := c.m.entries[d.changes[k].Entry.Path]; e != nil {
					check(e)
				}
			}
		}
	}
	for _, p := range c.problems {
		problem("%v", &TamperError{p})
	}
	if options.ReadData {
		if err := r.verifyPacks(ctx, points, all, texts, problem); err != nil {
			return nil, err
		}
	}
	v.Objects = len(objects)
	total := Progress{TotalFiles: int64(len(objects))}
	for _, o := range objects {
		total.TotalBytes += o.e.Size
	}
	list := slices.Collect(maps.Values(objects))
	slices.SortFunc(list, func(a, b object) int { return comparePaths(a.e.Path, b.e.Path) })
	var read atomic.Int64
	err = each(ctx, r.c.parallel(), list, func(ctx context.Context, o object) error {
		key := [2]string{r.c.RemoteBasePath + o.e.Object, o.e.ID}
		if _, ok := stored[key]; !ok {
			problem("%s, in version %s: object %q, version %s, is missing", o.e.Path, o.version, key[0], key[1])
			return nil
		}
		if !options.reads(o.e.Hash) {
			return nil
		}
		err := r.content(ctx, &o.e, &counter{io.Discard, &read})
		if corrupt := (*CorruptError)(nil); errors.As(err, &corrupt) || errors.Is(err, ErrNotFound) {
			problem("%s, in version %s: %v", o.e.Path, o.version, err)
			err = nil
		}
		if options.Progress != nil {
			mu.Lock()
			defer mu.Unlock()
			total.Files++
			total.Bytes = read.Load()
			options.Progress(total)
		}
		return err
	})
	v.Bytes = read.Load()
	slices.Sort(v.Problems)
	return v, err
}

func sameManifest(a, b *Manifest) bool {
	if len(a.entries) != len(b.entries) {
		return false
	}
	for p, e := range a.entries {
		o := b.entries[p]
		if o == nil || o.Kind != e.Kind || o.Hash != e.Hash || o.Object != e.Object || o.ID != e.ID || o.Target != e.Target || o.Mode != e.Mode {
			return false
		}
	}
	return true
}

// Files are the entries of a version, a folder before what is in it.
func (r *Repository) Files(ctx context.Context, v Version) ([]*Entry, error) {
	if r.c.WriteOnly {
		return nil, errWriteOnly
	}
	m, err := r.Manifest(ctx, v)
	if err != nil {
		return nil, err
	}
	return m.Sorted(), nil
}
