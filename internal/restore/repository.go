package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
)

// Repository is a repository at a destination: of a module of this configuration, or of another one.
type Repository struct {
	Destination *config.Destination
	Type, UUID  string
	Module      *config.Module // nil: no module that is installed

	as string // the module that is to read it, when it is another one
}

// Name names the repository at its destination.
func (r Repository) Name() string { return r.Type + "/" + r.UUID }

// Label is what the user calls it: the module's ID, or TYPE/UUID.
func (r Repository) Label() string {
	if r.Module != nil {
		return r.Module.ID
	}
	return r.Name()
}

// module is the module, or one that stands for it where none is installed.
func (r Repository) module() *config.Module {
	m := &config.Module{ID: "restore", Type: r.Type, UUID: r.UUID}
	if r.Module != nil {
		m = r.Module
	}
	if r.as != "" {
		other := *m
		other.ID, m = r.as, &other
	}
	return m
}

// Find finds the repository of MODULE or TYPE/UUID, whose UUID may be cut short. The destination and the backup may be "" where that leaves only one.
func (r *Restorer) Find(ctx context.Context, name, destination, backup string) (Repository, error) {
	found := Repository{}
	typ, uuid, foreign := strings.Cut(name, "/")
	if !foreign {
		if found.Module = r.Config.Modules[name]; found.Module == nil {
			return found, usage(`"restore-backup list" shows what can be restored; of modules that are not installed say TYPE/UUID`, "there is no module %s in the configuration", name)
		}
		if err := r.mistakes(config.KindModule, name); err != nil {
			return found, err
		}
		typ, uuid = found.Module.Type, found.Module.UUID
	}
	if !config.ValidID(typ) || !config.ValidID(uuid) {
		return found, usage("say it as restore-backup list does, as in dokuwiki/3792c7db", "%q is neither a module nor TYPE/UUID", name)
	}
	d, err := r.destination(found.Module, destination, backup)
	if err != nil {
		return found, err
	}
	found.Destination, found.Type, found.UUID = d, typ, uuid
	if foreign && len(uuid) < uuidLength {
		if found.UUID, err = r.complete(ctx, d, typ, uuid); err != nil {
			return found, err
		}
	}
	if foreign {
		found.Module = r.installed(typ, found.UUID)
	}
	return found, nil
}

// uuidLength is that of a UUID with its hyphens.
const uuidLength = 36

// complete finds the only UUID of a type at the destination that begins so.
func (r *Restorer) complete(ctx context.Context, d *config.Destination, typ, prefix string) (string, error) {
	all, _, err := r.candidates(ctx, d)
	if err != nil {
		return "", err
	}
	var found []string
	for _, c := range all {
		if c.Type == typ && strings.HasPrefix(c.UUID, prefix) {
			found = append(found, c.UUID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", remedy(fmt.Errorf("destination %s has no repository %s/%s", d.ID, typ, prefix), fmt.Sprintf(`see "restore-backup list --destination %s", or give the whole UUID`, d.ID))
	}
	return "", usage("give more of the UUID", "at destination %s more than one repository begins with %s/%s", d.ID, typ, prefix)
}

// mistakes are the errors that the configuration has in one item.
func (r *Restorer) mistakes(kind config.Kind, id string) error {
	var errs []error
	for _, p := range r.Config.ErrorsOf(kind, id) {
		errs = append(errs, &UsageError{text: p.String()})
	}
	return errors.Join(errs...)
}

// destination is the one that is meant.
func (r *Restorer) destination(m *config.Module, id, backup string) (*config.Destination, error) {
	var ids []string
	for _, b := range r.Config.BackupIDs() {
		found := r.Config.Backups[b]
		if (backup == "" || b == backup) && (m == nil || backup != "" || slices.Contains(found.Modules, m.ID)) && !slices.Contains(ids, found.Destination) {
			ids = append(ids, found.Destination)
		}
	}
	if m == nil && backup == "" { // it may be at any of them
		ids = r.Config.DestinationIDs()
	}
	switch {
	case backup != "" && r.Config.Backups[backup] == nil:
		return nil, usage("", "there is no backup %s in the configuration", backup)
	case id != "":
		ids = []string{id}
	case len(ids) == 0 && m != nil:
		return nil, usage("say where it is with --destination", "no backup saves module %s", m.ID)
	case len(ids) == 0:
		return nil, usage("", "the configuration has no destination")
	case len(ids) > 1:
		return nil, usage("say which with --destination", "it may be at the destinations %s", strings.Join(ids, ", "))
	}
	d := r.Config.Destinations[ids[0]]
	if d == nil {
		return nil, usage("", "there is no destination %s in the configuration", ids[0])
	}
	return d, r.mistakes(config.KindDestination, d.ID)
}

// installed is the module of that type and UUID.
func (r *Restorer) installed(typ, uuid string) *config.Module {
	for _, id := range r.Config.ModuleIDs() {
		if m := r.Config.Modules[id]; m.Type == typ && m.UUID == uuid {
			return m
		}
	}
	return nil
}

// opened is a repository that restic can be run on.
type opened struct {
	restic.Repository
	at     Repository
	noLock bool // a lock of ours would be in the way of its owner
	end    func()

	version restic.Version // when a point was looked at
}

// open finds what reaching the repository takes. Close ends it, and a token with it.
func (r *Restorer) open(ctx context.Context, at Repository) (*opened, error) {
	d, m := at.Destination, at.module()
	secrets, forget, err := run.ReadSecrets(ctx, r.Config, r.Paths, d, m)
	if err != nil {
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	if secrets.Password.Encrypted {
		forget()
		return nil, remedy(fmt.Errorf("destination %s: its password is an encrypted credential, which only a service is given", d.ID),
			"run it by systemd-run with -p LoadCredentialEncrypted="+d.PasswordCredential)
	}
	o := &opened{at: at, end: forget, Repository: restic.Repository{
		Location: module.RepositoryOf(r.Config, d, m), LocationFile: secrets.Repository.Path, PasswordFile: secrets.Password.Path,
		CacheDir: filepath.Join(r.Paths.Cache, d.ID, "restore"), Log: slog.New(quiet{r.Log.Handler()}),
	}}
	if d.Gateway {
		o.CACert = r.Config.Gateway.CAFile
	}
	if err := o.secrets(secrets); err != nil {
		forget()
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	if err := o.inherit(); err != nil {
		o.close()
		return nil, fmt.Errorf("reach destination %s: %w", d.ID, err)
	}
	if err := module.PrepareCache(o.CacheDir, module.User{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}); err != nil {
		o.close()
		return nil, err
	}
	if prefix, local := d.Local(); local && !d.Gateway {
		if _, err := os.Stat(prefix); err != nil {
			o.close()
			if errors.Is(err, fs.ErrNotExist) {
				return nil, noFolder(d, prefix)
			}
			return nil, fmt.Errorf("destination %s: %w", d.ID, err)
		}
		folder, _ := (&config.Destination{Repository: o.Location}).Local()
		o.noLock = !ownAndWritable(folder)
	}
	return o, nil
}

func (o *opened) close() { o.end() }

// inherit lets restic inherit what only this process can open, of a configuration that another host sent.
func (o *opened) inherit() error {
	for _, path := range []*string{&o.PasswordFile, &o.CACert} {
		if !config.InMemory(*path) {
			continue
		}
		closeCopy, err := module.InheritSecret(&o.Inherit, path)
		if err != nil {
			return err
		}
		forget := o.end
		o.end = func() { closeCopy(); forget() }
	}
	return nil
}

// secrets reads the environment of the destination, and what is never to be told.
func (o *opened) secrets(s module.Secrets) error {
	password, err := os.ReadFile(s.Password.Path)
	if err != nil {
		return fmt.Errorf("read the password: %w", err)
	}
	if s.Environment.Path != "" {
		if o.Environment, err = module.ReadEnvironment(s.Environment.Path); err != nil {
			return err
		}
	}
	var repository []byte
	if s.Repository.Path != "" {
		if repository, err = os.ReadFile(s.Repository.Path); err != nil {
			return fmt.Errorf("read the run token: %w", err)
		}
	}
	o.Secrets = module.Masks(string(password), string(repository), o.Environment)
	return nil
}

// ownAndWritable tells whether a folder is the caller's and can be written to. In another one no lock is made: the module could not even
// read it, and would fail while it is there.
func ownAndWritable(folder string) bool {
	info, err := os.Stat(folder)
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid() && unix.Access(folder, unix.W_OK) == nil
}

// explain says of an error of restic's whose repository it is about.
func (o *opened) explain(err error) error {
	where := fmt.Sprintf("repository %s at destination %s", o.at.Name(), o.at.Destination.ID)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, restic.ErrNoRepository):
		return remedy(fmt.Errorf("destination %s has no repository %s%w", o.at.Destination.ID, o.at.Name(), silent{err}), Remedy(restic.ErrNoRepository))
	case errors.Is(err, restic.ErrWrongPassword):
		return fmt.Errorf("the destination's password does not open the %s%w", where, silent{err})
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", where, err)
	}
	return fmt.Errorf("%s: %w", where, err)
}

// silent is an error that has been said in other words.
type silent struct{ error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.error }

// quiet takes what restic prints for details: what matters of it is in errors.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }
