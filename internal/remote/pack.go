package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
)

// Package is a bundle that can be written any number of times: a manifest, and where its files are.
type Package struct {
	Manifest

	folder *os.Root
}

// Pack finds everything that a remote's configuration consists of, and returns all that is wrong with that.
func Pack(r *config.Remote, command []string) (*Package, error) {
	root, err := os.OpenRoot(r.Folder)
	if err != nil {
		return nil, fmt.Errorf("remote %s: %w", r.ID, err)
	}
	p := &Package{folder: root, Manifest: Manifest{
		Remote: r.ID, Configuration: filepath.ToSlash(r.Configuration), Command: command, URL: r.URL, Keepalive: r.Keepalive,
	}}
	names, err := p.configuration()
	errs := []error{err}
	for _, name := range r.SendFiles {
		if name = filepath.ToSlash(name); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		f, err := p.open(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		info, err := f.Stat()
		f.Close()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.Files = append(p.Files, File{Name: name, Size: info.Size()})
	}
	if err = errors.Join(errs...); err == nil {
		err = p.Validate()
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("remote %s: %w", r.ID, err)
	}
	return p, nil
}

// configuration lists the files of the configuration: of a folder what is read of one.
func (p *Package) configuration() ([]string, error) {
	info, err := p.folder.Lstat(p.Configuration)
	switch {
	case err != nil:
		return nil, p.explain(p.Configuration, err)
	case !info.IsDir():
		return []string{p.Configuration}, nil
	}
	dir, err := p.folder.Open(p.Configuration)
	if err != nil {
		return nil, p.explain(p.Configuration, err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, p.explain(p.Configuration, err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && e.Name()[0] != '.' {
			names = append(names, path.Join(p.Configuration, e.Name()))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s has no *.toml in it", p.path(p.Configuration))
	}
	slices.Sort(names)
	return names, nil
}

func (p *Package) path(name string) string { return filepath.Join(p.folder.Name(), name) }

func (p *Package) explain(name string, err error) error {
	if e := (*os.PathError)(nil); errors.As(err, &e) {
		err = e.Err
	}
	return fmt.Errorf("%s: %w", p.path(name), err)
}

// open opens a regular file, and through no link: what is sent is what was named.
func (p *Package) open(name string) (*os.File, error) {
	info, err := p.folder.Lstat(name)
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file, and nothing else is sent", p.path(name))
	}
	var f *os.File
	if err == nil {
		f, err = p.folder.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, p.explain(name, err)
	}
	return f, nil
}

// write writes the bundle. What whoever fetches it asked for is in nonce.
func (p *Package) write(w io.Writer, nonce string) error {
	m := p.Manifest
	m.Nonce = nonce
	if nonce != "" {
		m.Created = time.Now().UTC()
	}
	return WriteBundle(w, &m, func(f File) (io.ReadCloser, error) { return p.open(f.Name) })
}

// Close lets go of the folder.
func (p *Package) Close() { p.folder.Close() }

// Bytes is how large the files are together.
func (p *Package) Bytes() int64 {
	var n int64
	for _, f := range p.Files {
		n += f.Size
	}
	return n
}
