package nodecopy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// Bounds of what is taken. Of files, internal/config reads no larger ones; and records, which nothing depends on, leave room for what matters.
const (
	maxReadBytes    = 16 << 20
	maxRecordsBytes = 16 << 20
	maxRecords      = 5_000
)

// Collect takes a copy of this node: the files of all layers, also those that a higher layer replaces or that have mistakes; the secrets that cfg
// names; and the records. What cannot be read is in the manifest's Missing, and no error. getenv finds the credentials of this
// service; version is that of the program. Nobody else's lock is needed, for all that is read is replaced as a whole.
func Collect(ctx context.Context, cfg *config.Config, paths config.Paths, getenv func(string) string, version string) (Copy, error) {
	return collect(ctx, cfg, paths, version, func(name string) (module.Secret, error) { return module.FindCredential(name, getenv) })
}

func collect(ctx context.Context, cfg *config.Config, paths config.Paths, version string, find findCredential) (Copy, error) {
	uuid, err := NodeUUID(cfg.Node)
	if err != nil {
		return Copy{}, err
	}
	c := &collector{cfg: cfg, taken: map[string]bool{}}
	c.Manifest = Manifest{
		Format: format, Version: version, Node: Node{cfg.Node.Name, uuid}, User: paths.User,
		Layers: []string{}, Modules: []Module{}, Destinations: []Destination{},
	}
	for _, layer := range paths.Config {
		if layer, err = filepath.Abs(layer); err != nil {
			return Copy{}, err
		}
		c.Manifest.Layers = append(c.Manifest.Layers, layer)
		c.layer(layer)
	}
	if len(c.Files) == 0 {
		return Copy{}, errors.New("there is no configuration to copy: no file could be read in " + strings.Join(paths.Config, ", "))
	}
	for _, id := range cfg.ModuleIDs() {
		m := cfg.Modules[id]
		c.Manifest.Modules = append(c.Manifest.Modules, Module{ID: id, Type: m.Type, UUID: m.UUID, UIName: m.UIName})
	}
	for _, id := range cfg.DestinationIDs() {
		c.Manifest.Destinations = append(c.Manifest.Destinations, Destination{ID: id, UUID: cfg.Destinations[id].UUID})
	}
	files, credentials := secretsOf(cfg)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if sameFile(path, cfg.Node.PassphraseFile) {
			c.missing("file", path, "it is the passphrase of the copies, which is no part of them")
			continue
		}
		c.file(path)
	}
	for _, name := range slices.Sorted(maps.Keys(credentials)) {
		if name == cfg.Node.PassphraseCredential {
			c.missing("credential", name, "it is the passphrase of the copies, which is no part of them")
			continue
		}
		data, err := readCredential(ctx, name, find)
		if ctx.Err() != nil {
			return Copy{}, context.Cause(ctx)
		}
		if err == nil && !validCredential(name) {
			err = errors.New("its name is not allowed")
		}
		if err != nil {
			c.missing("credential", name, reason(err))
			continue
		}
		c.Credentials = append(c.Credentials, Credential{name, data})
	}
	c.records(filepath.Join(paths.State, "status"))
	slices.SortFunc(c.Manifest.Missing, func(a, b Missing) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	c.sort()
	return c.Copy, c.pack(io.Discard) // too much is told now, and not when it is written
}

// secretsOf returns the files and credentials that a configuration names, but for the passphrase of the copies. Those of which the value is true
// are secrets that nobody else may read.
func secretsOf(cfg *config.Config) (files, credentials map[string]bool) {
	files, credentials = map[string]bool{}, map[string]bool{}
	add := func(all map[string]bool, secret bool, names ...string) {
		for _, name := range names {
			if name != "" {
				all[name] = all[name] || secret
			}
		}
	}
	for _, d := range cfg.Destinations {
		for _, path := range []string{d.PasswordFile, d.EnvironmentFile, d.RcloneConfig} {
			if path != "" {
				add(files, true, filepath.Clean(path))
			}
		}
		add(credentials, true, d.PasswordCredential, d.RcloneCredential)
	}
	for _, path := range []string{cfg.Gateway.HtpasswdFile, cfg.Gateway.CAFile} {
		if path != "" {
			add(files, false, filepath.Clean(path))
		}
	}
	return files, credentials
}

type collector struct {
	Copy
	cfg   *config.Config
	taken map[string]bool // paths
}

func (c *collector) missing(kind, name, reason string) {
	c.Manifest.Missing = append(c.Manifest.Missing, Missing{kind, printable(name), reason})
}

// layer takes the files of a layer, by the rules of internal/config.
func (c *collector) layer(layer string) {
	info, err := os.Stat(layer)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return
	case err != nil:
		c.missing("file", layer, reason(err))
		return
	case !info.IsDir():
		c.file(layer)
		return
	}
	entries, err := os.ReadDir(layer)
	if err != nil {
		c.missing("file", layer, reason(err))
	}
	for _, e := range entries {
		if isLayerFile(e.Name()) {
			c.file(filepath.Join(layer, e.Name()))
		}
	}
}

// isLayerFile tells whether internal/config reads a file of that name in a folder.
func isLayerFile(name string) bool { return strings.HasSuffix(name, ".toml") && name[0] != '.' }

// file takes a file. A symbolic link is taken as what it leads to; one to /dev/null, which masks a file of a lower layer, as an empty file,
// which does so too.
func (c *collector) file(path string) {
	if c.taken[path] {
		return
	}
	c.taken[path] = true
	if checkPath(path) != nil {
		c.missing("file", path, "its name is not allowed: it is too long, not UTF-8 or has a control character")
		return
	}
	if target, err := filepath.EvalSymlinks(path); err == nil && target == os.DevNull {
		c.Files = append(c.Files, File{Path: path, Mode: publicMode})
		return
	}
	data, mode, err := readFile(path)
	if err != nil {
		c.missing("file", path, reason(err))
		return
	}
	c.Files = append(c.Files, File{path, mode, data})
}

// readFile reads a regular file of a bearable size, and never waits for the other end of a pipe.
func readFile(path string) ([]byte, fs.FileMode, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("it is no regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxReadBytes+1))
	if err == nil && len(data) > maxReadBytes {
		err = fmt.Errorf("it is larger than %d MiB", maxReadBytes>>20)
	}
	return data, info.Mode().Perm(), err
}

// reason says why something is missing, the same way every time, without the path that stands beside it.
func reason(err error) string {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		if errors.Is(err, fs.ErrNotExist) {
			return "it does not exist"
		}
		err = e.Err
	}
	return printable(err.Error())
}

// records takes the records of backups and modules that are whole.
func (c *collector) records(dir string) {
	var names []string
	list := func(below string) (folders []string) {
		entries, _ := os.ReadDir(filepath.Join(dir, below)) // before the first run there is none
		for _, e := range entries {
			name := filepath.Join(below, e.Name())
			switch {
			case e.IsDir():
				folders = append(folders, name)
			case e.Type().IsRegular() && validRecord(name):
				names = append(names, name)
			}
		}
		return folders
	}
	for _, folder := range list("") {
		list(folder)
	}
	total := 0
	var records []Record
	for _, name := range names {
		data, _, err := readFile(filepath.Join(dir, name))
		if err != nil || !json.Valid(data) {
			continue // internal/status tells of damaged ones
		}
		total += len(data)
		records = append(records, Record{name, data})
	}
	if total > maxRecordsBytes || len(records) > maxRecords {
		c.missing("records", dir, fmt.Sprintf("there are more than %d MiB or %d files of them", maxRecordsBytes>>20, maxRecords))
		return
	}
	c.Records = records
}
