package destination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
)

// Request says what to add, or what to alter of what is there.
type Request struct {
	ID         string
	Provider   string            // of Alter: "" or the same
	Parameters map[string]string // by the names of flags; of Alter: those that change, "" takes one away
	Secret     Secret            // of the provider; of Alter: "" keeps it
	Password   Secret            // of the restic repositories; of Add: "" has one made, of Alter: "" keeps it

	RcloneConfig Secret // of provider rclone: text of an rclone.conf, plain or in base64
	Remote       string // which of its remotes

	Name        *string // of Alter: nil keeps
	MaxSize     *string
	KeepDeleted *string
	Gateway     *bool
	Credential  *bool
}

// Result is what became of a request.
type Result struct {
	ID       string
	UUID     string
	Files    []string // that were written
	Password Secret   // that was made, if one was
	Kept     string   // where a restic password is kept that is no longer used; "": none is
	Loads    string   // the credential that backup-gateway.service must load to serve it; "": none
}

// Add makes a destination. A *UsageError says what is wrong with the request, an *ExistsError that it is there already.
func (s *Store) Add(ctx context.Context, r Request) (Result, error) {
	if !config.ValidID(r.ID) {
		return Result{}, usage("", "%q is no ID; want up to 64 letters, digits, _, . and -, the first one a letter or digit", r.ID)
	}
	p, err := findProvider(r.Provider)
	if err != nil {
		return Result{}, err
	}
	if p.name == providerOther {
		return Result{}, usage("provider", "there is no %q; want one of %s", r.Provider, strings.Join(providerNames(), ", "))
	}
	d := &stored{id: r.ID, provider: p, password: r.Password}
	if err := d.request(ctx, r); err != nil {
		return Result{}, err
	}
	if r.Gateway == nil {
		d.gateway = gatewayDefault(d.repository)
	}
	result := Result{ID: r.ID, UUID: d.uuid(), Loads: d.loads()}
	if d.password == "" {
		d.password = newPassword()
		result.Password = d.password
	}
	if err := d.judge(); err != nil {
		return Result{}, err
	}
	if err := makeFolder(s.Dir, publicFolder); err != nil {
		return Result{}, err
	}
	unlock, err := lock.Folder(s.Dir)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	cfg := s.load()
	if err := s.free(ctx, cfg, d); err != nil {
		return Result{}, err
	}
	changes, err := s.changes(ctx, d)
	if err != nil {
		return Result{}, err
	}
	if err := s.judge(cfg, d, changes[len(changes)-1].data); err != nil {
		return Result{}, err
	}
	changes, result.Kept, err = s.keepPassword(s.passwordAt(d.id, d.credential), changes) // of a writer that died, or of a backup of old
	if err != nil {
		return Result{}, err
	}
	s.sweep(d.id)
	if _, err := s.apply(changes); err != nil {
		return Result{}, fmt.Errorf("add destination %s: %w", d.id, err)
	}
	result.Files = paths(changes)
	return result, nil
}

// request lays what a request says over the destination.
func (d *stored) request(ctx context.Context, r Request) error {
	parameters, secret := d.parameters()
	parameters = merge(parameters, r.Parameters)
	if r.Secret != "" {
		secret = r.Secret
	}
	var errs []error
	if d.provider.name != providerOther || len(r.Parameters) > 0 || r.Secret != "" {
		errs = append(errs, d.provider.judge(parameters, secret))
	}
	switch {
	case d.provider.name != providerRclone:
		if r.RcloneConfig != "" || r.Remote != "" {
			errs = append(errs, usage("rclone-config", "is not for provider %s; %s", d.provider.name, d.provider.flags()))
		}
	case r.RcloneConfig != "":
		remote, err := pickRemote(string(r.RcloneConfig), r.Remote, d.id, rcloneTypes(ctx))
		if err != nil {
			errs = append(errs, usage("rclone-config", "%v", err))
		} else {
			d.remote = remote
		}
	case r.Remote != "":
		errs = append(errs, usage("remote", "picks one of the remotes in --rclone-config, which is missing"))
	case d.remote == nil:
		errs = append(errs, usage("rclone-config", "is missing; want an rclone.conf with one remote, or - for standard input"))
	}
	if r.Name != nil {
		d.name = *r.Name
	}
	if r.Gateway != nil {
		d.gateway = *r.Gateway
	}
	if r.Credential != nil {
		d.credential = *r.Credential
	}
	var err error
	if r.MaxSize != nil {
		d.maxSize, err = parseSize("max-size", *r.MaxSize)
		errs = append(errs, err)
	}
	if r.KeepDeleted != nil {
		d.keepDeleted, err = parseSpan("keep-deleted", *r.KeepDeleted)
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	d.set(parameters, secret)
	return nil
}

// free returns why a destination cannot be added: its ID is taken, or the same place is there under another one.
func (s *Store) free(ctx context.Context, cfg *config.Config, d *stored) error {
	if err := s.unnamed(cfg, d.id); err != nil {
		return err
	}
	if id := s.uuids(ctx, cfg)[d.uuid()]; id != "" {
		return &ExistsError{ID: id, Place: cfg.Destinations[id].Position, Same: true}
	}
	return nil
}

// unnamed returns why an ID is taken.
func (s *Store) unnamed(cfg *config.Config, id string) error {
	if old := cfg.Destinations[id]; old != nil {
		return &ExistsError{ID: id, Place: old.Position}
	}
	if exists(s.Path(id)) {
		return &ExistsError{ID: id, Place: config.Position{File: s.Path(id)}}
	}
	return nil
}

// uuids returns the destinations by their UUIDs. Those that somebody wrote by hand have one as well, as far as they can be read.
func (s *Store) uuids(ctx context.Context, cfg *config.Config) map[string]string {
	ids := map[string]string{}
	for id, d := range cfg.Destinations {
		uuid := d.UUID
		if uuid == "" {
			st, err := s.read(ctx, d)
			if err != nil {
				continue
			}
			uuid = st.uuid()
		}
		if old, taken := ids[uuid]; !taken || id < old {
			ids[uuid] = id
		}
	}
	return ids
}

// keepPassword puts before the changes one that copies the file with a restic password which they replace or remove: what is stored may be
// readable by that password only. It returns where the copy is.
func (s *Store) keepPassword(path string, changes []change) (all []change, kept string, err error) {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return changes, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	for _, c := range changes {
		if c.path == path && bytes.Equal(c.data, old) {
			return changes, "", nil
		}
	}
	if kept, err = s.retired(path); err != nil {
		return nil, "", err
	}
	return append([]change{{path: kept, data: old, mode: secretMode, folder: secretFolder}}, changes...), kept, nil
}

// passwordAt is where the restic password of a destination of ours is, or shall be.
func (s *Store) passwordAt(id string, credential bool) string {
	if credential {
		return s.credentialPath(passwordCredential(id))
	}
	return s.passwordPath(id)
}

// Alter changes a destination that Add made. What the request does not mention stays as it is; the provider cannot change.
func (s *Store) Alter(ctx context.Context, r Request) (Result, error) {
	cfg := s.load()
	if _, _, err := s.own(cfg, r.ID); err != nil {
		return Result{}, err
	}
	unlock, err := lock.Folder(s.Dir)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	cfg = s.load()
	old, provider, err := s.own(cfg, r.ID)
	if err != nil {
		return Result{}, err
	}
	if r.Provider != "" && r.Provider != provider {
		return Result{}, usage("provider", "destination %s has provider %s, and another one would be another place; add it as a destination of its own", r.ID, provider)
	}
	d, err := s.read(ctx, old)
	if err != nil {
		return Result{}, err
	}
	oldPassword, oldPath := d.password, s.passwordAt(r.ID, d.credential)
	wasDefault := d.gateway == gatewayDefault(d.repository)
	if err := d.request(ctx, r); err != nil {
		return Result{}, err
	}
	if r.Gateway == nil && wasDefault {
		d.gateway = gatewayDefault(d.repository)
	}
	if r.Password != "" {
		d.password = r.Password
	}
	if err := d.judge(); err != nil {
		return Result{}, err
	}
	if id := s.uuids(ctx, cfg)[d.uuid()]; id != "" && id != r.ID {
		return Result{}, &ExistsError{ID: id, Place: cfg.Destinations[id].Position, Same: true}
	}
	changes, err := s.changes(ctx, d)
	if err != nil {
		return Result{}, err
	}
	if err := s.judge(cfg, d, changes[len(changes)-1].data); err != nil {
		return Result{}, err
	}
	result := Result{ID: r.ID, UUID: d.uuid(), Files: paths(changes), Loads: d.loads()}
	for _, path := range s.secretPaths(r.ID) { // of the other kind, and those no longer needed
		if !slices.Contains(result.Files, path) && exists(path) {
			changes = append(changes, change{path: path})
		}
	}
	if d.password != oldPassword {
		if changes, result.Kept, err = s.keepPassword(oldPath, changes); err != nil {
			return Result{}, err
		}
	}
	s.sweep(r.ID)
	if _, err := s.apply(changes); err != nil {
		return Result{}, fmt.Errorf("alter destination %s: %w", r.ID, err)
	}
	return result, nil
}

// secretPaths are all files in which secrets of a destination of ours can be.
func (s *Store) secretPaths(id string) []string {
	files := []string{s.passwordPath(id), s.rclonePath(id), s.environmentPath(id)}
	if !s.User {
		files = append(files, s.credentialPath(passwordCredential(id)), s.credentialPath(rcloneCredential(id)))
	}
	return files
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// paths are the files that changes write.
func paths(changes []change) []string {
	var files []string
	for _, c := range changes {
		if c.data != nil {
			files = append(files, c.path)
		}
	}
	return files
}
