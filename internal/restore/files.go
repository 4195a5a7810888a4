package restore

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

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
	return r.Destination.Repository == "" && r.Destination.Bucket != nil
}

// notInBucket refuses what is for restic's repositories alone.
func notInBucket(at Repository) error {
	return usage(fmt.Sprintf(`"file-backup --module %s" lists its files, prints and fetches them`, at.Label()), "%s is of engine files: it can only be listed, and restored into a folder", at.Label())
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

// explainBucket says of an error whose versions it is about.
func explainBucket(at Repository, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("repository %s at destination %s: %w", at.Name(), at.Destination.ID, err)
}

// versionPoints are the points of a repository of engine files, the newest first. That of a version's dumps are not known yet.
func (r *Restorer) versionPoints(ctx context.Context, at Repository, repository *filebackup.Repository) ([]Point, []filebackup.Version, error) {
	list, err := repository.Versions(ctx)
	if err != nil {
		return nil, nil, explainBucket(at, err)
	}
	if len(list) == 0 {
		return nil, nil, remedy(fmt.Errorf("destination %s has no repository %s%w", at.Destination.ID, at.Name(), silent{restic.ErrNoRepository}), Remedy(restic.ErrNoRepository))
	}
	backup := ""
	for _, id := range r.Config.BackupIDs() { // one at most: the configuration sees to that
		if b := r.Config.Backups[id]; at.Module != nil && b.Destination == at.Destination.ID && slices.Contains(b.Modules, at.Module.ID) {
			backup = id
		}
	}
	var points []Point
	for _, v := range slices.Backward(list) {
		p := Point{Time: v.Time, Backup: backup, Snapshots: []Snapshot{{ID: v.ID, Time: v.Time, Paths: []string{}}}}
		if at.Module != nil {
			p.Module = at.Module.ID
		}
		points = append(points, p)
	}
	return points, list, nil
}

// versions lists a repository of engine files; sizes are those of the latest version.
func (r *Restorer) versions(ctx context.Context, at Repository, o ListOptions) ([]Point, error) {
	repository, err := r.openBucket(ctx, at, 0)
	if err != nil {
		return nil, err
	}
	points, list, err := r.versionPoints(ctx, at, repository)
	if err != nil {
		return nil, err
	}
	if o.Sizes {
		// That it fails is for a check to say.
		if entries, err := repository.Files(ctx, list[len(list)-1]); err == nil {
			var files, bytes uint64
			for _, e := range entries {
				if e.Kind == filebackup.File {
					files, bytes = files+1, bytes+uint64(e.Size)
				}
			}
			points[0].Snapshots[0].Files, points[0].Snapshots[0].Bytes = &files, &bytes
		}
	}
	if o.Backup != "" {
		points = slices.DeleteFunc(points, func(p Point) bool { return p.Backup != o.Backup })
	}
	return points, nil
}

// inBucket is what a plan knows of a version that is to be restored.
type inBucket struct {
	repository *filebackup.Repository
	version    filebackup.Version
	entries    []*filebackup.Entry
	paths      []string // that are wanted; nil: everything
}

// checkBucket opens the repository and finds the version.
func (r *Restorer) checkBucket(ctx context.Context, p *Plan) error {
	if p.Request.InPlace || p.As != "" {
		return notInBucket(p.Repository)
	}
	repository, err := r.openBucket(ctx, p.Repository, 0)
	if err != nil {
		return err
	}
	points, list, err := r.versionPoints(ctx, p.Repository, repository)
	if err != nil {
		return err
	}
	point, err := choose(points, p.Choice)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Label(), err)
	}
	b := &inBucket{repository: repository}
	for _, v := range list {
		if v.ID == point.Snapshots[0].ID {
			b.version = v
		}
	}
	if b.entries, err = repository.Files(ctx, b.version); err != nil {
		return explainBucket(p.Repository, err)
	}
	p.Point, p.bucket = point, b
	return nil
}

// isDump returns the name of the dump that an entry is, "" if it is none.
func isDump(e *filebackup.Entry) string {
	name, _ := strings.CutPrefix(e.Path, module.DumpFolder+"/")
	if name == e.Path {
		return ""
	}
	return name
}

// scanVersion finds the paths that were asked for, and counts what is to be restored: the files are one part, each dump another.
func (p *Plan) scanVersion() ([]part, error) {
	b := p.bucket
	var ask []asked
	for _, text := range p.Only {
		ask = append(ask, newAsked(text, p.Module, nil))
	}
	snapshot := p.Point.Snapshots[0]
	files := part{Snapshot: snapshot, selection: selection{all: len(ask) == 0}}
	var dumps []part
	names := map[string]bool{}
	for _, e := range b.entries {
		if name := isDump(e); name != "" {
			wanted := len(ask) == 0
			for i := range ask {
				if ask[i].dump == name {
					wanted, ask[i].found = true, true
				}
			}
			if wanted {
				one := part{Snapshot: snapshot, selection: selection{all: true}}
				one.Dump = name
				one.has.count(node(e), true)
				dumps = append(dumps, one)
				if ask != nil {
					b.paths = append(b.paths, e.Path)
				}
			}
			continue
		}
		wanted := files.all
		for i := range ask {
			for _, c := range ask[i].paths {
				if e.Path == c || c == "/" {
					ask[i].found = true
					if !slices.Contains(files.paths, c) {
						files.paths, b.paths = append(files.paths, c), append(b.paths, c)
					}
				}
				wanted = wanted || within(e.Path, c)
			}
		}
		if !wanted {
			continue
		}
		files.has.count(node(e), true)
		if low := strings.ToLower(e.Path); p.target.fs.caseless {
			if names[low] {
				files.has.clash = e.Path
			}
			names[low] = true
		}
	}
	for _, a := range ask {
		if !a.found {
			return nil, remedy(fmt.Errorf("the snapshot has no %s", a.text),
				fmt.Sprintf(`"file-backup --module %s list-files %s" lists what it has; a relative path begins in the module's directory`, p.Label(), snapshot.ID))
		}
	}
	if files.all || len(files.paths) > 0 {
		return append([]part{files}, dumps...), nil
	}
	return dumps, nil
}

// node is an entry as restic would list it, as far as counting needs it.
func node(e *filebackup.Entry) restic.Node {
	kind := map[filebackup.Kind]string{filebackup.File: "file", filebackup.Folder: "dir", filebackup.Symlink: "symlink"}[e.Kind]
	return restic.Node{Name: filepath.Base(e.Path), Path: e.Path, Type: kind, Size: uint64(e.Size)}
}

// restoreVersion downloads what is wanted of a version. Every content is compared with its hash on the way.
func (p *Plan) restoreVersion(ctx context.Context, result *Result, progress func(Progress)) error {
	b := p.bucket
	if len(p.parts) == 0 {
		return nil
	}
	done, err := b.repository.Download(ctx, b.version, p.Target, filebackup.DownloadOptions{
		Paths: b.paths, NoOwner: os.Geteuid() != 0,
		Progress: func(q filebackup.Progress) {
			percent := 0.0
			if q.TotalBytes > 0 {
				percent = 100 * float64(q.Bytes) / float64(q.TotalBytes)
			}
			progress(Progress{Phase: "restore", Percent: percent, BytesDone: uint64(q.Bytes), BytesTotal: uint64(q.TotalBytes)})
		},
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if done != nil {
		result.Warnings = append(result.Warnings, done.Warnings...)
		result.Errors, result.ErrorCount = append(result.Errors, done.Failed[:min(len(done.Failed), maxNamed)]...), result.ErrorCount+len(done.Failed)
		if len(done.Failed) > 0 {
			return fmt.Errorf("%d files could not be restored%s", len(done.Failed), first(done.Failed))
		}
	}
	if err != nil {
		return explainBucket(p.Repository, err)
	}
	dumps := filepath.Join(p.Target, module.DumpFolder)
	if result.Dumps != "" {
		if err := errors.Join(os.Chmod(dumps, 0o700), os.Rename(dumps, result.Dumps)); err != nil {
			return fmt.Errorf("put the dumps where they belong: %w", err)
		}
	}
	if !p.Verify {
		return nil
	}
	progress(Progress{Phase: "verify", Percent: 100, BytesDone: p.Bytes, BytesTotal: p.Bytes})
	var wrong []string
	for _, e := range b.entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		path := filepath.Join(p.Target, e.Path)
		if name := isDump(e); name != "" {
			path = filepath.Join(result.Dumps, name)
			if result.Dumps == "" {
				continue
			}
		}
		if b.paths != nil && !slices.ContainsFunc(b.paths, func(q string) bool { return within(e.Path, q) }) {
			continue
		}
		if err := differs(path, e); err != nil {
			wrong = append(wrong, fmt.Sprintf("%s: %v", e.Path, err))
		}
	}
	if len(wrong) > 0 {
		result.Errors, result.ErrorCount = append(result.Errors, wrong[:min(len(wrong), maxNamed)]...), result.ErrorCount+len(wrong)
		return fmt.Errorf("%d files or folders are not as they are in the snapshot%s", len(wrong), first(wrong))
	}
	result.Verified = true
	return nil
}

// differs reads back what was restored, and says what is not as it was saved.
func differs(path string, e *filebackup.Entry) error {
	info, err := os.Lstat(path)
	if err != nil {
		return errors.Unwrap(err)
	}
	kinds := map[fs.FileMode]filebackup.Kind{0: filebackup.File, fs.ModeDir: filebackup.Folder, fs.ModeSymlink: filebackup.Symlink}
	if kind, known := kinds[info.Mode().Type()]; !known || kind != e.Kind {
		return errors.New("is of another type")
	}
	if e.Kind != filebackup.Symlink && e.HasMode() {
		want := fs.FileMode(e.Mode & 0o777)
		if info.Mode().Perm() != want {
			return fmt.Errorf("has mode %04o, and had %04o", info.Mode().Perm(), want)
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (int(st.Uid) != e.UID || int(st.Gid) != e.GID) {
			return errors.New("belongs to somebody else")
		}
	}
	if e.Kind != filebackup.File {
		if target, _ := os.Readlink(path); target != e.Target {
			return errors.New("leads elsewhere")
		}
		return nil
	}
	if !info.ModTime().Equal(e.ModTime()) {
		return errors.New("has another time")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if filebackup.Hash(h.Sum(nil)) != e.Hash {
		return errors.New("has another content")
	}
	return nil
}
