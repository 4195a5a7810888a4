package destination

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
)

// Removal says how to remove.
type Removal struct {
	ID             string
	Force          bool // the backups that go there, too
	ForgetPassword bool // else the restic password is kept: what is stored cannot be read without it
}

// Removed is what became of it.
type Removed struct {
	ID         string
	Repository string   // where what is stored still is
	Backups    []string // that were removed, too
	Files      []string // that were changed for it
	Kept       string   // where the restic password is kept; "": it is gone
}

// usedBy returns the backups that go to a destination.
func usedBy(cfg *config.Config, id string) []string {
	var ids []string
	for _, b := range cfg.BackupIDs() {
		if cfg.Backups[b].Destination == id {
			ids = append(ids, b)
		}
	}
	return ids
}

// Remove removes a destination that Add made, with its secrets. Nothing that is stored there is touched. An *InUseError says which
// backups go there.
func (s *Store) Remove(ctx context.Context, r Removal) (Removed, error) {
	if _, _, err := s.own(s.load(), r.ID); err != nil {
		return Removed{}, err
	}
	unlock, err := lock.Folder(s.Dir)
	if err != nil {
		return Removed{}, err
	}
	defer unlock()
	cfg := s.load()
	d, _, err := s.own(cfg, r.ID)
	if err != nil {
		return Removed{}, err
	}
	result := Removed{ID: r.ID, Repository: d.Repository, Backups: usedBy(cfg, r.ID)}
	if len(result.Backups) > 0 && !r.Force {
		return Removed{}, &InUseError{r.ID, result.Backups}
	}
	changes, files, err := s.withoutBackups(cfg, result.Backups)
	if err != nil {
		return Removed{}, fmt.Errorf("remove destination %s: %w; nothing was changed", r.ID, err)
	}
	// Backups first, then the destination that they name, then its secrets.
	result.Files = paths(changes)
	changes = append(changes, change{path: s.Path(r.ID)})
	files[filepath.Base(s.Path(r.ID))] = nil
	if err := s.checkRemoval(cfg, r.ID, result.Backups, files); err != nil {
		return Removed{}, fmt.Errorf("remove destination %s: %w; nothing was changed", r.ID, err)
	}
	password := s.passwordAt(r.ID, d.PasswordCredential != "")
	for _, path := range s.secretPaths(r.ID) {
		switch {
		case !exists(path):
		case path == password && !r.ForgetPassword:
			if result.Kept, err = s.retired(path); err != nil {
				return Removed{}, err
			}
			changes = append(changes, change{path: path, moveTo: result.Kept})
		default:
			changes = append(changes, change{path: path})
		}
	}
	if err := ctx.Err(); err != nil {
		return Removed{}, context.Cause(ctx)
	}
	s.sweep(r.ID)
	if _, err := s.apply(changes); err != nil {
		return Removed{}, fmt.Errorf("remove destination %s: %w", r.ID, err)
	}
	return result, nil
}

// withoutBackups returns the files that define backups as they are without them, as changes and by the names that they have in the folder.
func (s *Store) withoutBackups(cfg *config.Config, ids []string) (changes []change, files map[string][]byte, err error) {
	byFile := map[string][]string{}
	files = map[string][]byte{}
	for _, id := range ids {
		file := filepath.Clean(cfg.Backups[id].File)
		if filepath.Dir(file) != s.Dir {
			return nil, nil, fmt.Errorf("backup %s is defined at %s, a layer that others write; mask that file with one of the same name in %s",
				id, cfg.Backups[id].Position, s.Dir)
		}
		byFile[file] = append(byFile[file], id)
	}
	for _, file := range slices.Sorted(maps.Keys(byFile)) {
		target, err := filepath.EvalSymlinks(file) // a link stays one
		if err != nil {
			return nil, nil, err
		}
		info, err := os.Stat(target)
		if err != nil {
			return nil, nil, err
		}
		old, err := os.ReadFile(target)
		if err != nil {
			return nil, nil, err
		}
		cut := cutBackups(string(old), byFile[file])
		after, err := loadText(file, cut)
		if err != nil {
			return nil, nil, err
		}
		for _, id := range byFile[file] {
			if after.PositionOf(config.KindBackup, id, "").File != "" || cut == string(old) {
				return nil, nil, fmt.Errorf("backup %s at %s is not written as tables of its own, [backup.%s] and the like; edit that file",
					id, cfg.Backups[id].Position, tomlKey(id))
			}
		}
		files[filepath.Base(file)] = []byte(cut)
		changes = append(changes, change{path: target, data: []byte(cut), mode: info.Mode().Perm()})
	}
	return changes, files, nil
}

// loadText reads a text as if it were a file.
func loadText(name, text string) (*config.Config, error) {
	tmp, err := os.MkdirTemp("", "backup-destination-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	path := filepath.Join(tmp, filepath.Base(name))
	if err := os.WriteFile(path, []byte(text), secretMode); err != nil {
		return nil, err
	}
	return config.Load([]string{path}, nil), nil
}

// checkRemoval reads the configuration as it would be with these files: exactly the destination and its backups must be gone.
func (s *Store) checkRemoval(cfg *config.Config, id string, backups []string, files map[string][]byte) error {
	gone := []string{"destination." + id}
	for _, b := range backups {
		gone = append(gone, "backup."+b)
	}
	after, err := s.preview(files)
	if err != nil {
		return err
	}
	if err := verify(cfg, after, gone...); err != nil {
		return err
	}
	if after.Destinations[id] != nil {
		return errors.New("it would still be there: another layer defines it, too")
	}
	for _, b := range backups {
		if after.Backups[b] != nil {
			return fmt.Errorf("backup %s would still be there: edit %s", b, cfg.Backups[b].Position)
		}
	}
	return nil
}
