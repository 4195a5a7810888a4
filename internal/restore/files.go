package restore

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/exchange"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
)

// Of engine files: versions in a bucket, read by the package filebackup in this process.

// InBucket tells whether the repository is of engine files.
func (r Repository) InBucket() bool {
	if r.Module != nil {
		return r.Module.Engine == config.EngineFiles
	}
	return r.Destination.OnlyBucket()
}

// bucket opens the versions of a repository of engine files. Local files of it are in dir.
func (r *Restorer) bucket(ctx context.Context, at Repository, dir string, change func(*filebackup.Config)) (*filebackup.Repository, error) {
	d, m := at.Destination, at.module()
	if d.Bucket == nil {
		return nil, usage("", "%s is of engine files, and destination %s has no bucket", at.Label(), d.ID)
	}
	secrets, forget, err := run.ReadSecrets(ctx, r.Config, r.Paths, d, m)
	if err != nil {
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	defer forget()
	if secrets.Password.Encrypted {
		return nil, remedy(fmt.Errorf("destination %s: its password is an encrypted credential, which only a service is given", d.ID),
			"run it by systemd-run with -p LoadCredentialEncrypted="+d.PasswordCredential)
	}
	password, err := os.ReadFile(secrets.Password.Path)
	if err != nil {
		return nil, fmt.Errorf("reach destination %s: read the password: %w", d.ID, err)
	}
	environment, err := module.ReadEnvironment(secrets.Environment.Path)
	if err != nil {
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	c, err := module.Files{Bucket: *d.Bucket, Prefix: m.Type + "/" + m.UUID, Pipeline: m.Pipeline}.Config(string(password), environment, dir)
	if err != nil {
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	c.Log = r.Log
	change(c)
	repository, err := filebackup.Open(c)
	if err != nil {
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	return repository, nil
}

// openBucket opens the versions to read them.
func (r *Restorer) openBucket(ctx context.Context, at Repository, parallel int) (*filebackup.Repository, error) {
	return r.bucket(ctx, at, filepath.Join(r.Paths.Cache, at.Destination.ID, "restore"), func(c *filebackup.Config) { c.ReadOnly, c.Parallel = true, parallel })
}

// Versions opens the versions of a module of engine files for what restore-backup cannot do with them. To change something, the module stays
// locked until unlock is called. Parallel is how many files are worked on at a time; 0 is the default.
func (r *Restorer) Versions(ctx context.Context, name, destination string, change bool, parallel int) (_ *filebackup.Repository, unlock func(), err error) {
	at, err := r.Find(ctx, name, destination, "")
	if err != nil {
		return nil, nil, err
	}
	if !at.InBucket() {
		return nil, nil, usage("restore-backup and module-backup shell are for those", "%s is of engine restic", at.Label())
	}
	if !change {
		repository, err := r.openBucket(ctx, at, parallel)
		return repository, func() {}, err
	}
	unlock = func() {}
	if m := at.Module; m != nil {
		held, err := exchange.Take(r.Paths, m.ID, m.User, m.Group, "file-backup")
		if err != nil {
			return nil, nil, err
		}
		unlock = func() { held.Release() }
	}
	dir := filepath.Join(r.Paths.Cache, at.Destination.ID, "restore")
	err = module.PrepareCache(dir, module.User{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())})
	var repository *filebackup.Repository
	if err == nil {
		repository, err = r.bucket(ctx, at, dir, func(c *filebackup.Config) { c.Parallel = parallel })
	}
	if err != nil {
		unlock()
		return nil, nil, err
	}
	return repository, unlock, nil
}

// versions are those of a repository of engine files. They implement source.
type versions struct {
	*filebackup.Repository
	at     Repository
	backup string                         // that saves it
	all    []filebackup.Version           // the oldest first
	looked map[string][]*filebackup.Entry // by the version's ID
	ways   map[filebackup.Hash]module.Saved
}

// openVersions opens the versions of a repository to restore from them.
func (r *Restorer) openVersions(ctx context.Context, at Repository) (*versions, error) {
	repository, err := r.openBucket(ctx, at, 0)
	if err != nil {
		return nil, err
	}
	v := &versions{Repository: repository, at: at, looked: map[string][]*filebackup.Entry{}, ways: map[filebackup.Hash]module.Saved{}}
	for _, id := range r.Config.BackupIDs() { // one at most: the configuration sees to that
		if b := r.Config.Backups[id]; at.Module != nil && b.Destination == at.Destination.ID && slices.Contains(b.Modules, at.Module.ID) {
			v.backup = id
		}
	}
	return v, nil
}

func (v *versions) close() {}

// guarded implements source: only the module's lock keeps retention away.
func (v *versions) guarded() bool { return false }

// leaves implements source: look forgets attributes security.*, and no backup knows of holes.
func (v *versions) leaves() (security, zeros bool) { return false, false }

// explain says of an error whose versions it is about.
func (v *versions) explain(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("repository %s at destination %s: %w", v.at.Name(), v.at.Destination.ID, err)
	var damage *filebackup.CorruptError
	switch {
	case errors.Is(err, filebackup.ErrDecrypt):
		return remedy(err, v.comparePassword())
	case errors.As(err, &damage):
		return remedy(err, fmt.Sprintf(`"file-backup --module %s verify --read-data" tells what else is damaged`, v.at.Label()))
	}
	return err
}

// points implements source. What is in them is not known yet.
func (v *versions) points(ctx context.Context) ([]Point, error) {
	var err error
	if v.all, err = v.Versions(ctx); err != nil {
		return nil, v.explain(err)
	}
	if len(v.all) == 0 {
		return nil, remedy(fmt.Errorf("destination %s has no version of %s: nothing was saved there yet%w", v.at.Destination.ID, v.at.Label(), silent{restic.ErrNoRepository}), "")
	}
	if err := v.unlocks(ctx); err != nil {
		return nil, err
	}
	var points []Point
	for _, one := range slices.Backward(v.all) {
		p := Point{Time: one.Time, Backup: v.backup, Snapshots: []Snapshot{{ID: one.ID, Time: one.Time, Paths: []string{}}}}
		if v.at.Module != nil {
			p.Module = v.at.Module.ID
		}
		points = append(points, p)
	}
	return points, nil
}

// unlocks tells whether the password is wrong: nothing can be decrypted. One version alone may be damaged.
func (v *versions) unlocks(ctx context.Context) error {
	for _, one := range []filebackup.Version{v.all[len(v.all)-1], v.all[0]} {
		_, err := v.Changes(ctx, one)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, filebackup.ErrDecrypt) {
			return nil // what else is wrong is told where it matters
		}
	}
	return remedy(fmt.Errorf("the destination's password does not open the repository %s at destination %s%w", v.at.Name(), v.at.Destination.ID, silent{restic.ErrWrongPassword}),
		v.comparePassword())
}

func (v *versions) comparePassword() string {
	return fmt.Sprintf(`%s; if it is right, "file-backup --module %s verify" tells what is damaged`, Remedy(restic.ErrWrongPassword), v.at.Label())
}

// look implements source: the files and each dump of a version are snapshots of its ID.
func (v *versions) look(ctx context.Context, p Point) (Point, error) {
	files := p.Snapshots[0]
	at := slices.IndexFunc(v.all, func(one filebackup.Version) bool { return one.ID == files.ID })
	entries, err := v.Files(ctx, v.all[at])
	if err != nil {
		return p, v.explain(err)
	}
	v.looked[files.ID] = entries
	c := contents{dumps: map[string]uint64{}}
	for _, e := range entries {
		maps.DeleteFunc(e.Xattrs, func(name string, _ []byte) bool { return strings.HasPrefix(name, "security.") })
		c.add(e)
	}
	p.Snapshots, err = v.snapshots(ctx, files, c)
	return p, v.explain(err)
}

// contents are what a version holds.
type contents struct {
	files, bytes uint64
	dumps        map[string]uint64 // bytes by name
	saved        *filebackup.Entry // how it was saved
}

func (c *contents) add(e *filebackup.Entry) {
	switch name := isDump(e); {
	case e.Path == module.SavedFile:
		c.saved = e
	case name != "":
		c.dumps[name] = uint64(e.Size)
	case e.Kind == filebackup.File:
		c.files, c.bytes = c.files+1, c.bytes+uint64(e.Size)
	}
}

func (c *contents) remove(e *filebackup.Entry) {
	switch name := isDump(e); {
	case e.Path == module.SavedFile:
		c.saved = nil
	case name != "":
		delete(c.dumps, name)
	case e.Kind == filebackup.File:
		c.files, c.bytes = c.files-1, c.bytes-uint64(e.Size)
	}
}

// snapshots are the files and the dumps of a version.
func (v *versions) snapshots(ctx context.Context, files Snapshot, c contents) ([]Snapshot, error) {
	files.Files, files.Bytes = &c.files, &c.bytes
	if c.saved != nil {
		saved, err := v.saved(ctx, c.saved)
		if err != nil {
			return nil, err
		}
		files.Host, files.UID, files.Paths = saved.Node, uint32(saved.UID), saved.Include
	}
	list := []Snapshot{files}
	for _, name := range sortedKeys(c.dumps) {
		one, size := uint64(1), c.dumps[name]
		list = append(list, Snapshot{ID: files.ID, Time: files.Time, Dump: name, Files: &one, Bytes: &size, Paths: []string{"/" + name}, Host: files.Host, UID: files.UID})
	}
	return list, nil
}

// measure implements source. That it cannot be done is for a check to say.
func (v *versions) measure(ctx context.Context, list []Point) {
	if len(list) == 1 {
		if p, err := v.look(ctx, list[0]); err == nil {
			list[0] = p
		}
		return
	}
	c := contents{dumps: map[string]uint64{}}
	_ = v.History(ctx, func(one filebackup.Version, steps []filebackup.Step) error {
		for _, s := range steps {
			if s.Before != nil {
				c.remove(s.Before)
			}
			if s.After != nil {
				c.add(s.After)
			}
		}
		i := slices.IndexFunc(list, func(p Point) bool { return p.Snapshots[0].ID == one.ID })
		if i < 0 {
			return nil
		}
		all, err := v.snapshots(ctx, list[i].Snapshots[0], c)
		if err == nil {
			list[i].Snapshots = all
		}
		return err
	})
}

// maxSavedBytes bounds what a version says of how it was saved.
const maxSavedBytes = 1 << 20

// saved reads how a version was saved. Most were saved alike.
func (v *versions) saved(ctx context.Context, e *filebackup.Entry) (module.Saved, error) {
	if saved, known := v.ways[e.Hash]; known {
		return saved, nil
	}
	saved := module.Saved{Include: []string{}}
	if e.Size > maxSavedBytes {
		return saved, fmt.Errorf("%s has %d bytes", e.Path, e.Size)
	}
	var text bytes.Buffer
	if err := v.Content(ctx, e, &text); err != nil {
		return saved, err
	}
	if err := json.Unmarshal(text.Bytes(), &saved); err != nil {
		return saved, fmt.Errorf("read %s: %w", e.Path, err)
	}
	for _, p := range saved.Include {
		if !path.IsAbs(p) || path.Clean(p) != p {
			return saved, fmt.Errorf("%s says that %q was saved", e.Path, p)
		}
	}
	slices.Sort(saved.Include) // as restic lists them
	v.ways[e.Hash] = saved
	return saved, nil
}

// isDump returns the name of the dump that an entry is, "" if it is none.
func isDump(e *filebackup.Entry) string {
	name, below := strings.CutPrefix(e.Path, module.DumpFolder+"/")
	if !below || e.Kind != filebackup.File || strings.ContainsRune(name, '/') { // a link in the place of one could lead restore-state elsewhere
		return ""
	}
	return name
}

// entries are those of a snapshot, a folder before what is in it; that of a dump is at the top.
func (v *versions) entries(s Snapshot) []*filebackup.Entry {
	var list []*filebackup.Entry
	for _, e := range v.looked[s.ID] {
		name := isDump(e)
		switch {
		case s.Dump == "" && name == "" && e.Path != module.SavedFile:
			list = append(list, e)
		case s.Dump != "" && name == s.Dump:
			dump := *e
			dump.Path = "/" + name
			list = append(list, &dump)
		}
	}
	return list
}

// node is an entry as restic lists it.
func node(e *filebackup.Entry) restic.Node {
	kind := map[filebackup.Kind]os.FileMode{filebackup.File: 0, filebackup.Folder: os.ModeDir, filebackup.Symlink: os.ModeSymlink}[e.Kind]
	n := restic.Node{
		Name: listed(path.Base(e.Path)), Path: listed(e.Path), Type: types[kind], UID: uint32(e.UID), GID: uint32(e.GID), MTime: e.ModTime(),
		Mode: kind | os.FileMode(e.Mode&0o777),
	}
	if e.Kind == filebackup.File {
		n.Size = uint64(e.Size)
	}
	for bit, mode := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if e.Mode&bit != 0 {
			n.Mode |= mode
		}
	}
	return n
}

// list implements source.
func (v *versions) list(ctx context.Context, s Snapshot, _ []string, each func(restic.Node) error) error {
	for _, e := range v.entries(s) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := each(node(e)); err != nil {
			return err
		}
	}
	return nil
}

// size implements source.
func (v *versions) size(_ context.Context, s Snapshot) (uint64, error) { return *s.Bytes, nil }

// fill implements source. Every content is compared with its hash on the way; entries are those that were looked at, whatever became of the bucket
// meanwhile.
func (v *versions) fill(ctx context.Context, f filling, progress func(restic.RestoreProgress)) (filled, error) {
	list := v.entries(f.Snapshot)
	if f.include != nil {
		wanted := map[string]bool{}
		for _, p := range f.include {
			wanted[p] = true
		}
		list = slices.DeleteFunc(list, func(e *filebackup.Entry) bool {
			p := e.Path
			for p != "/" && !wanted[p] {
				p = path.Dir(p)
			}
			return !wanted[p]
		})
	}
	done, err := v.DownloadEntries(ctx, list, f.to, filebackup.DownloadOptions{
		NoOwner: os.Geteuid() != 0,
		Progress: func(q filebackup.Progress) {
			percent := 0.0
			if q.TotalBytes > 0 {
				percent = 100 * float64(q.Bytes) / float64(q.TotalBytes)
			}
			progress(restic.RestoreProgress{Percent: percent, BytesDone: uint64(q.Bytes), BytesTotal: uint64(q.TotalBytes)})
		},
	})
	var out filled
	if done != nil {
		out.Warnings = done.Warnings
		out.Errors, out.ErrorCount = done.Failed[:min(len(done.Failed), maxNamed)], len(done.Failed)
	}
	if err != nil && out.ErrorCount == 0 {
		return out, v.explain(err)
	}
	if err == nil && f.verify {
		err = readBack(ctx, list, f.to, &out)
	}
	return out, err
}

// contentOf is the hash of a file's content.
func contentOf(path string) (filebackup.Hash, error) {
	f, err := os.Open(path)
	if err != nil {
		return filebackup.Hash{}, errors.Unwrap(err) // the caller knows its name
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return filebackup.Hash{}, err
	}
	return filebackup.Hash(h.Sum(nil)), nil
}

// readBack compares the contents of files with what was saved.
func readBack(ctx context.Context, list []*filebackup.Entry, top string, out *filled) error {
	for _, e := range list {
		if e.Kind != filebackup.File {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		sum, err := contentOf(filepath.Join(top, e.Path))
		if err == nil && sum != e.Hash {
			err = errors.New("has another content")
		}
		if err != nil {
			out.ErrorCount++
			if len(out.Errors) < maxNamed {
				out.Errors = append(out.Errors, fmt.Sprintf("%s: %v", e.Path, err))
			}
		}
	}
	return nil
}

// print implements source. As restic's, an archive has what is in a folder, by full paths.
func (v *versions) print(ctx context.Context, s Snapshot, at string, w io.Writer) error {
	list := v.entries(s)
	i := slices.IndexFunc(list, func(e *filebackup.Entry) bool { return e.Path == at })
	switch {
	case i < 0 && at != "/":
		return remedy(fmt.Errorf("the snapshot has no %s", at), `"restore-backup browse MODULE" lists what it has`)
	case i >= 0 && list[i].Kind == filebackup.Symlink:
		return remedy(fmt.Errorf("%s is a symbolic link to %s", at, list[i].Target), "ask for what it leads to")
	case i >= 0 && list[i].Kind == filebackup.File:
		return v.explain(v.Content(ctx, list[i], w))
	}
	archive := tar.NewWriter(w)
	for _, e := range list {
		if e.Path == at || !within(e.Path, at) {
			continue
		}
		if err := v.archive(ctx, e, archive); err != nil {
			return v.explain(err)
		}
	}
	return archive.Close()
}

// archive writes an entry into an archive.
func (v *versions) archive(ctx context.Context, e *filebackup.Entry, w *tar.Writer) error {
	h := &tar.Header{
		Name: e.Path[1:], Mode: int64(e.Mode), Uid: e.UID, Gid: e.GID, ModTime: e.ModTime(), Format: tar.FormatPAX, PAXRecords: map[string]string{},
		Typeflag: tar.TypeReg, Size: e.Size,
	}
	switch e.Kind {
	case filebackup.File:
	case filebackup.Folder:
		h.Typeflag, h.Name, h.Size = tar.TypeDir, h.Name+"/", 0
	case filebackup.Symlink:
		h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, e.Target, 0
	}
	for name, value := range e.Xattrs {
		h.PAXRecords["SCHILY.xattr."+name] = string(value)
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if e.Kind != filebackup.File {
		return nil
	}
	return v.Content(ctx, e, w)
}
