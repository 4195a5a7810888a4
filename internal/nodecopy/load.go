package nodecopy

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sdbackup/internal/config"
)

// layersIn puts files of a configuration into a temporary folder, one folder a layer, where internal/config can read them.
type layersIn struct {
	dir    string   // temporary, for nobody else
	layers []string // to load
	names  []string // pairs of a folder in dir and the one that it stands for
}

func newLayers() (*layersIn, error) {
	dir, err := os.MkdirTemp("", "node-backup-")
	if err != nil {
		return nil, err
	}
	return &layersIn{dir: dir}, nil
}

func (l *layersIn) remove() { os.RemoveAll(l.dir) }

// add makes a layer that stands for another one, a folder or a single file; files are by their base names. With link, what is in the
// folder already is in it too, but for those files.
func (l *layersIn) add(layer string, single bool, files map[string][]byte, link bool) error {
	folder := layer
	if single {
		folder = filepath.Dir(layer)
	}
	dir, err := os.MkdirTemp(l.dir, "layer-")
	if err != nil {
		return err
	}
	l.names = append(l.names, dir+"/", strings.TrimSuffix(folder, "/")+"/", dir, folder)
	if link {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			if _, ours := files[e.Name()]; ours || !isLayerFile(e.Name()) {
				continue
			}
			if err := os.Symlink(filepath.Join(folder, e.Name()), filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, secretMode); err != nil {
			return err
		}
	}
	if single {
		dir = filepath.Join(dir, filepath.Base(layer))
	}
	l.layers = append(l.layers, dir)
	return nil
}

// load reads the layers. Places, in problems too, are those that the layers stand for.
func (l *layersIn) load() *config.Config {
	cfg := config.Load(l.layers, nil)
	r := strings.NewReplacer(l.names...)
	for i, p := range cfg.Problems {
		p.File, p.Message = r.Replace(p.File), r.Replace(p.Message)
		cfg.Problems[i] = p
	}
	for i, f := range cfg.Files {
		cfg.Files[i] = r.Replace(f)
	}
	for _, d := range cfg.Destinations {
		d.File = r.Replace(d.File)
	}
	for _, m := range cfg.Modules {
		m.File = r.Replace(m.File)
	}
	for _, b := range cfg.Backups {
		b.File = r.Replace(b.File)
	}
	return cfg
}

// layerOf returns which layer of the copy a file belongs to; false: none, so it is one that the configuration names.
func (c Copy) layerOf(path string) (layer int, ok bool) {
	for i, l := range c.Manifest.Layers {
		if path == l || filepath.Dir(path) == l && isLayerFile(filepath.Base(path)) {
			return i, true
		}
	}
	return 0, false
}

// single tells whether a layer of the copy is a single file, of --config.
func (c Copy) single(layer int) bool {
	for _, f := range c.Files {
		if f.Path == c.Manifest.Layers[layer] {
			return true
		}
	}
	return false
}

// config loads the configuration in the copy, without the files that are left out.
func (c Copy) config(without map[string]bool) (*config.Config, error) {
	l, err := newLayers()
	if err != nil {
		return nil, err
	}
	defer l.remove()
	for i, layer := range c.Manifest.Layers {
		files := map[string][]byte{}
		for _, f := range c.Files {
			if of, ok := c.layerOf(f.Path); ok && of == i && !without[f.Path] {
				files[filepath.Base(f.Path)] = f.Data
			}
		}
		if err := l.add(layer, c.single(i), files, false); err != nil {
			return nil, err
		}
	}
	return l.load(), nil
}
