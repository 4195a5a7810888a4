package schedule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"sdbackup/internal/atomicfile"
)

// unitMode is the mode of unit files: the manager warns of executable ones, and everybody may read what runs.
const unitMode = 0o644

// ErrForeignFile is why Install writes nothing: a file of that name is not one that it wrote.
var ErrForeignFile = errors.New("exists and was not written by install-units")

// Installer writes unit files and has the manager take them over.
type Installer struct {
	Folder string            // paths.Units
	Files  map[string][]byte // by name
	Header []byte            // the first line of every file of ours
	Enable []string          // names of units to be started now and at every boot

	// Manager is nil where none runs: then files are written, and nothing is enabled.
	Manager UnitManager
}

// UnitManager is what Install needs of a service manager.
type UnitManager interface {
	Reload(ctx context.Context) error
	Enable(ctx context.Context, names []string) error
	Start(ctx context.Context, name string) error
}

// Names returns the names of the files, sorted.
func (i *Installer) Names() []string { return slices.Sorted(maps.Keys(i.Files)) }

// Install writes the files that differ, and returns their paths. It looks at all of them first and writes none when one is
// not ours to replace.
func (i *Installer) Install(ctx context.Context) (written []string, err error) {
	var changed []string
	for _, name := range i.Names() {
		path := filepath.Join(i.Folder, name)
		old, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return nil, err
		case bytes.Equal(old, i.Files[name]):
			continue
		case !bytes.HasPrefix(old, i.Header):
			return nil, fmt.Errorf("%s %w", path, ErrForeignFile)
		}
		changed = append(changed, name)
	}
	if err := os.MkdirAll(i.Folder, 0o755); err != nil {
		return nil, err
	}
	for _, name := range changed {
		path := filepath.Join(i.Folder, name)
		if err := atomicfile.Write(path, i.Files[name], unitMode); err != nil {
			return written, err
		}
		written = append(written, path)
	}
	if i.Manager == nil {
		return written, nil
	}
	if err := i.Manager.Reload(ctx); err != nil {
		return written, fmt.Errorf("have the manager load the units: %w", err)
	}
	if err := i.Manager.Enable(ctx, i.Enable); err != nil {
		return written, fmt.Errorf("enable the units: %w", err)
	}
	for _, name := range i.Enable {
		if err := i.Manager.Start(ctx, name); err != nil {
			return written, fmt.Errorf("start %s: %w", name, err)
		}
	}
	return written, nil
}
