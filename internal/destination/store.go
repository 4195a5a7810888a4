package destination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
)

// Store is the configuration that destinations are kept in.
type Store struct {
	Layers []string // of the configuration, lowest first
	Dir    string   // that of the highest layer: here files are made
	User   bool     // of a user, not of the system
	Now    func() time.Time
	Getenv func(string) string

	credentials string             // in place of credentialRoots, for tests
	before      func(change) error // called before each change, for tests
}

// Open returns the store of a configuration. Nothing is read or made yet.
func Open(paths config.Paths, now func() time.Time, getenv func(string) string) (*Store, error) {
	dir, err := filepath.Abs(paths.Config[len(paths.Config)-1])
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(dir); err == nil && !info.IsDir() {
		return nil, usage("config", "%s is a file; want a folder, for a destination has a file of its own", dir)
	}
	s := &Store{Layers: slices.Clone(paths.Config), Dir: dir, User: paths.User, Now: now, Getenv: getenv}
	s.Layers[len(s.Layers)-1] = dir
	return s, nil
}

// SecretDir is the folder of the secrets.
func (s *Store) SecretDir() string { return filepath.Join(s.Dir, "secret") }

// Path is the file of a destination.
func (s *Store) Path(id string) string { return filepath.Join(s.Dir, "destination-"+id+".toml") }

// Files of secrets.
func (s *Store) passwordPath(id string) string { return filepath.Join(s.SecretDir(), id+".password") }

func (s *Store) rclonePath(id string) string { return filepath.Join(s.SecretDir(), id+".rclone.conf") }

func (s *Store) environmentPath(id string) string {
	return filepath.Join(s.SecretDir(), id+".env")
}

// load reads the configuration.
func (s *Store) load() *config.Config { return config.Load(s.existingLayers(), nil) }

// existingLayers leaves out a folder that add is about to make: of a single layer config.Load wants that it is there.
func (s *Store) existingLayers() []string {
	if _, err := os.Stat(s.Dir); errors.Is(err, fs.ErrNotExist) {
		return s.Layers[:len(s.Layers)-1]
	}
	return s.Layers
}

// preview returns what the configuration would be with some files of the highest layer changed; nil removes one.
func (s *Store) preview(files map[string][]byte) (*config.Config, error) {
	tmp, err := os.MkdirTemp("", "backup-destination-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	entries, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if _, changed := files[e.Name()]; changed || !strings.HasSuffix(e.Name(), ".toml") {
			continue
		}
		if err := os.Symlink(filepath.Join(s.Dir, e.Name()), filepath.Join(tmp, e.Name())); err != nil {
			return nil, err
		}
	}
	for name, data := range files {
		if data == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(tmp, name), data, secretMode); err != nil {
			return nil, err
		}
	}
	layers := slices.Clone(s.Layers)
	layers[len(layers)-1] = tmp
	return config.Load(layers, nil), nil
}

// verify returns in which way two configurations differ by more than the items that are named, as "destination.a" or "backup.1".
func verify(before, after *config.Config, changed ...string) error {
	for _, pair := range []struct{ old, new map[string]any }{
		{items(before), items(after)}, {items(after), items(before)},
	} {
		for name, item := range pair.old {
			if !slices.Contains(changed, name) && !reflect.DeepEqual(item, pair.new[name]) {
				return fmt.Errorf("%s would change, too", name)
			}
		}
	}
	known := map[string]int{}
	key := func(p config.Problem) string { return string(p.Kind) + " " + p.ID + " " + p.Key }
	for _, p := range before.Errors() {
		known[key(p)]++
	}
	for _, p := range after.Errors() {
		if slices.Contains(changed, string(p.Kind)+"."+p.ID) {
			continue
		}
		if known[key(p)]--; known[key(p)] < 0 {
			return fmt.Errorf("the configuration would be wrong: %s: %s", p.Key, p.Message)
		}
	}
	return nil
}

// items returns everything that a configuration defines, without where it stands.
func items(c *config.Config) map[string]any {
	all := map[string]any{"node": c.Node, "metrics": c.Metrics, "gateway": c.Gateway}
	for id, d := range c.Destinations {
		item := *d
		item.Position = config.Position{}
		all["destination."+id] = item
	}
	for id, m := range c.Modules {
		item := *m
		item.Position = config.Position{}
		all["module."+id] = item
	}
	for id, b := range c.Backups {
		item := *b
		item.Position = config.Position{}
		all["backup."+id] = item
	}
	return all
}

// find returns a destination that is defined anywhere.
func find(cfg *config.Config, id string) (*config.Destination, error) {
	d := cfg.Destinations[id]
	if d == nil {
		return nil, &UnknownError{id}
	}
	return d, nil
}

// own returns a destination that this package made, and its provider.
func (s *Store) own(cfg *config.Config, id string) (*config.Destination, string, error) {
	d, err := find(cfg, id)
	if err != nil {
		return nil, "", err
	}
	if filepath.Clean(d.File) != s.Path(id) {
		return nil, "", &ForeignError{ID: id, Place: d.Position}
	}
	data, err := os.ReadFile(d.File)
	if err != nil {
		return nil, "", err
	}
	provider, ok := madeFor(string(data))
	if !ok {
		return nil, "", &ForeignError{ID: id, Place: d.Position}
	}
	if other := others(cfg, d); other != "" {
		return nil, "", &ForeignError{ID: id, Place: d.Position, Reason: "beside " + other + ", which somebody added to that file"}
	}
	return d, provider, nil
}

// others names something else that the file of a destination defines.
func others(cfg *config.Config, d *config.Destination) string {
	only := config.Load([]string{d.File}, nil)
	for name := range items(only) {
		switch name {
		case "destination." + d.ID:
		case "node", "metrics", "gateway": // they have defaults, so only their place tells
			if only.PositionOf(config.Kind(name), "", "").File != "" {
				return name
			}
		default:
			return name
		}
	}
	for _, p := range only.Errors() {
		if p.Kind != config.KindDestination && p.Kind != config.KindBackup && p.Kind != config.KindModule {
			return "what is wrong at " + p.Position.String()
		}
	}
	return ""
}

// providerOf tells which provider a destination has, by its file if it is ours and by its repository if not.
func (s *Store) providerOf(d *config.Destination) (name string, made bool) {
	if filepath.Clean(d.File) == s.Path(d.ID) {
		if data, err := os.ReadFile(d.File); err == nil {
			if name, ok := madeFor(string(data)); ok {
				if _, err := findProvider(name); err == nil {
					return name, true
				}
			}
		}
	}
	_, local := d.Local()
	switch {
	case local:
		return providerLocal, false
	case strings.HasPrefix(d.Repository, "rest:"):
		return providerREST, false
	case strings.HasPrefix(d.Repository, "rclone:"):
		return providerRclone, false
	}
	return providerOther, false
}

// read returns a destination with its secrets.
func (s *Store) read(ctx context.Context, d *config.Destination) (*stored, error) {
	name, _ := s.providerOf(d)
	p, err := findProvider(name)
	if err != nil {
		return nil, err
	}
	st := &stored{
		id: d.ID, name: d.Name, provider: p, repository: d.Repository, gateway: d.Gateway,
		maxSize: d.MaxSize, keepDeleted: d.KeepDeleted,
		credential: d.PasswordCredential != "" || d.RcloneCredential != "",
	}
	fail := func(err error) (*stored, error) { return nil, fmt.Errorf("destination %s: %w", d.ID, err) }
	password, err := s.readSecret(ctx, d.PasswordFile, d.PasswordCredential)
	if err != nil {
		return fail(err)
	}
	st.password = Secret(strings.TrimSpace(string(password))) // as restic does
	if st.remote, err = s.readRemote(ctx, d); err != nil {
		return fail(err)
	}
	if p.name == providerRclone && st.remote == nil {
		st.provider = &provider{name: providerOther} // rclone's own configuration of root knows the remote, which is not ours to take along
	}
	if d.EnvironmentFile != "" {
		data, err := os.ReadFile(d.EnvironmentFile)
		if err != nil {
			return fail(err)
		}
		st.environment = string(data)
	}
	return st, nil
}

// readSecret reads a file, or a credential; nothing when both have no name.
func (s *Store) readSecret(ctx context.Context, path, credential string) ([]byte, error) {
	switch {
	case path != "":
		return os.ReadFile(path)
	case credential != "":
		return s.readCredential(ctx, credential)
	}
	return nil, nil
}

// readRemote returns the remote of a destination, nil when it has none of its own.
func (s *Store) readRemote(ctx context.Context, d *config.Destination) (*Section, error) {
	if d.RcloneConfig == "" && d.RcloneCredential == "" {
		return nil, nil
	}
	data, err := s.readSecret(ctx, d.RcloneConfig, d.RcloneCredential)
	if err != nil {
		return nil, err
	}
	return findRemote(string(data), d.Repository)
}

// findRemote returns the remote that a repository names.
func findRemote(rcloneConf, repository string) (*Section, error) {
	sections, err := parseRcloneConfig(rcloneConf)
	if err != nil {
		return nil, fmt.Errorf("its rclone.conf %w", err)
	}
	remote := remoteOf(repository)
	for i := range sections {
		if sections[i].Name == remote {
			return &sections[i], nil
		}
	}
	return nil, fmt.Errorf("its rclone.conf has no [%s], which its repository names", remote)
}

// remoteOf returns the remote in rclone:REMOTE:FOLDER.
func remoteOf(repository string) string {
	rest, _ := strings.CutPrefix(repository, "rclone:")
	remote, _, _ := strings.Cut(rest, ":")
	return remote
}

// changes returns what has to be written for a destination, secrets first, and the keys that name them.
func (s *Store) changes(ctx context.Context, d *stored) ([]change, error) {
	var k keys
	var changes []change
	put := func(path, credential string, file, name *string, data []byte) error {
		if !d.credential {
			*file = path
			changes = append(changes, change{path: path, data: data, mode: secretMode, folder: secretFolder})
			return nil
		}
		*name = credential
		target := s.credentialPath(credential)
		// Encrypted again it would look different, so one that says the same stays.
		if old, err := os.ReadFile(target); err == nil {
			if plain, err := decrypt(ctx, credential, old); err == nil && bytes.Equal(plain, data) {
				changes = append(changes, change{path: target, data: old, mode: secretMode, folder: secretFolder})
				return nil
			}
		}
		encrypted, err := encrypt(ctx, credential, data)
		if err != nil {
			return err
		}
		changes = append(changes, change{path: target, data: encrypted, mode: secretMode, folder: secretFolder})
		return nil
	}
	if d.credential && s.User {
		return nil, usage("credential", "credentials are the system's; leave it out, or leave out --user")
	}
	if err := put(s.passwordPath(d.id), passwordCredential(d.id), &k.passwordFile, &k.passwordCredential, []byte(d.password+"\n")); err != nil {
		return nil, err
	}
	if d.remote != nil {
		text, err := d.remote.render()
		if err != nil {
			return nil, err
		}
		if err := put(s.rclonePath(d.id), rcloneCredential(d.id), &k.rcloneConfig, &k.rcloneCredential, []byte(text)); err != nil {
			return nil, err
		}
	}
	if d.environment != "" {
		k.environmentFile = s.environmentPath(d.id)
		changes = append(changes, change{path: k.environmentFile, data: []byte(d.environment), mode: secretMode, folder: secretFolder})
	}
	changes = append(changes, change{path: s.Path(d.id), data: d.toml(k), mode: publicMode, folder: publicFolder})
	return changes, nil
}

// judge returns what internal/config thinks of a destination that is about to be written, and whether anything else would change.
func (s *Store) judge(cfg *config.Config, d *stored, text []byte) error {
	files := map[string][]byte{filepath.Base(s.Path(d.id)): text}
	after, err := s.preview(files)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range after.ErrorsOf(config.KindDestination, d.id) {
		switch key := strings.TrimPrefix(strings.TrimPrefix(p.Key, "destination."+d.id), "."); key {
		case "password-file", "rclone-config", "environment-file": // they are not there yet
		case "":
			errs = append(errs, usage("", "destination %s: %s", d.id, p.Message))
		default:
			message := strings.ReplaceAll(p.Message, "gateway = true", "gateway = true (--gateway)")
			errs = append(errs, usage("", "destination %s: %s: %s", d.id, key, message))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := verify(cfg, after, "destination."+d.id); err != nil {
		return fmt.Errorf("destination %s: %s: %w", d.id, s.Path(d.id), err)
	}
	return nil
}

// sweep removes what dead writers left: it may hold secrets.
func (s *Store) sweep(id string) {
	atomicfile.Sweep(s.SecretDir(), id+".password", id+".rclone.conf", id+".env")
	atomicfile.Sweep(s.Dir, filepath.Base(s.Path(id)))
}

// retired is a name under which to keep a restic password that is no longer used: what is stored may be readable by it only.
func (s *Store) retired(path string) (string, error) {
	base := path + "." + s.Now().UTC().Format("20060102T150405Z")
	for name, n := base, 1; ; name, n = fmt.Sprintf("%s-%d", base, n), n+1 {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
}
