package remote

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"path"
	"strings"
	"time"
	"unicode/utf8"
)

// A bundle is
//
//	magic, length of the manifest (4 bytes, big endian), manifest in JSON, the files one after the other, SHA-256 of all before it
//
// There is no way to say that a file is a link, a device or anything but bytes with a name.

const (
	magic = "sdbackup bundle 1\n"

	// MaxBytes bounds what the files of a bundle take together.
	MaxBytes         = 64 << 20
	maxFiles         = 10000
	maxManifestBytes = 4 << 20
	maxNameBytes     = 1024
)

// Manifest says what a bundle is for and which files it has.
type Manifest struct {
	Remote        string        `json:"remote"`
	Configuration string        `json:"configuration"`       // the file among Files, or the folder of them
	Command       []string      `json:"command,omitempty"`   // to be run; empty where whoever fetches knows
	URL           string        `json:"url,omitempty"`       // where the receiver can fetch it again
	Keepalive     time.Duration `json:"keepalive,omitempty"` // after such a silence the sender is gone
	Nonce         string        `json:"nonce,omitempty"`     // of whoever fetches
	Created       time.Time     `json:"created,omitzero"`    // by the clock of whoever serves
	Files         []File        `json:"files"`
}

// File is a file of a bundle.
type File struct {
	Name string `json:"name"` // relative, with slashes
	Size int64  `json:"size"`
}

// Validate returns what is wrong with a manifest.
func (m *Manifest) Validate() error {
	if len(m.Files) > maxFiles {
		return fmt.Errorf("%d files; want %d or less", len(m.Files), maxFiles)
	}
	if m.Keepalive < 0 {
		return errors.New("a negative time for the keepalive")
	}
	if m.Configuration != "." {
		if err := validName(m.Configuration); err != nil {
			return err
		}
	}
	files, folders := map[string]bool{}, map[string]bool{".": true}
	var total int64
	for _, f := range m.Files {
		switch err := validName(f.Name); {
		case err != nil:
			return err
		case files[f.Name]:
			return fmt.Errorf("%q is there twice", f.Name)
		case f.Size < 0 || f.Size > MaxBytes:
			return fmt.Errorf("%q has the size %d", f.Name, f.Size)
		}
		if total += f.Size; total > MaxBytes {
			return fmt.Errorf("the files are larger than %d MiB", MaxBytes>>20)
		}
		files[f.Name] = true
		for dir := path.Dir(f.Name); !folders[dir]; dir = path.Dir(dir) {
			folders[dir] = true
		}
	}
	for name := range files {
		if folders[name] {
			return fmt.Errorf("%q is a file and a folder", name)
		}
	}
	if !files[m.Configuration] && !folders[m.Configuration] {
		return fmt.Errorf("the configuration %q is not among the files", m.Configuration)
	}
	return nil
}

// validName refuses every name that could lead out of a folder, or be written in two ways.
func validName(name string) error {
	switch {
	case name == "" || len(name) > maxNameBytes || !utf8.ValidString(name) || strings.ContainsRune(name, 0):
		return fmt.Errorf("%.100q is no name of a file", name)
	case path.IsAbs(name):
		return fmt.Errorf("%q is absolute; want a name below the configuration's folder", name)
	case name == ".." || strings.HasPrefix(name, "../") || strings.Contains(name, "/../") || strings.HasSuffix(name, "/.."):
		return fmt.Errorf("%q has \"..\" in it; want a name below the configuration's folder", name)
	case path.Clean(name) != name || name == ".":
		return fmt.Errorf("%q is no plain name; want it without needless dots and slashes", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if len(part) > 255 {
			return fmt.Errorf("%.100q is too long", part)
		}
	}
	return nil
}

// WriteBundle writes a bundle. open returns what is in a file; it must be of the size that the manifest says.
func WriteBundle(w io.Writer, m *Manifest, open func(File) (io.ReadCloser, error)) error {
	if err := m.Validate(); err != nil {
		return fmt.Errorf("this is no bundle: %w", err)
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(manifest) > maxManifestBytes {
		return fmt.Errorf("the list of files takes more than %d MiB", maxManifestBytes>>20)
	}
	digest := sha256.New()
	out := io.MultiWriter(w, digest)
	head := binary.BigEndian.AppendUint32([]byte(magic), uint32(len(manifest)))
	if _, err := out.Write(append(head, manifest...)); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	defer clear(buffer)
	for _, f := range m.Files {
		if err := writeFile(out, f, open, buffer); err != nil {
			return err
		}
	}
	_, err = w.Write(digest.Sum(nil))
	return err
}

func writeFile(w io.Writer, f File, open func(File) (io.ReadCloser, error), buffer []byte) error {
	in, err := open(f)
	if err != nil {
		return err
	}
	defer in.Close()
	n, err := io.CopyBuffer(onlyWriter{w}, io.LimitReader(in, f.Size), buffer)
	switch {
	case err != nil:
		return fmt.Errorf("send %s: %w", f.Name, err)
	case n != f.Size:
		return fmt.Errorf("%s was changed while it was sent", f.Name)
	}
	return nil
}

// onlyWriter hides other methods, by which io.CopyBuffer would pass our buffer by.
type onlyWriter struct{ io.Writer }

// ErrCut says that a bundle ended before its end.
var ErrCut = errors.New("the configuration was cut off on its way")

// ErrBundle says that what was received is no bundle.
var ErrBundle = errors.New("this is no bundle of remote-backup")

// ReadBundle reads a bundle and no byte beyond it. create makes a file; what is written to it counts only when ReadBundle returns no error.
func ReadBundle(r io.Reader, create func(File) (io.WriteCloser, error)) (*Manifest, error) {
	digest := sha256.New()
	in := io.TeeReader(r, digest)
	head := make([]byte, len(magic)+4)
	if err := readFull(in, head); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(head[len(magic):])
	if string(head[:len(magic)]) != magic || length > maxManifestBytes {
		return nil, ErrBundle
	}
	data, err := io.ReadAll(io.LimitReader(in, int64(length))) // grows with what is really there
	if err == nil && len(data) < int(length) {
		err = ErrCut
	}
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(m); err != nil || decoder.More() {
		return nil, fmt.Errorf("%w: its manifest cannot be read", ErrBundle)
	}
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBundle, err)
	}
	buffer := make([]byte, 64<<10)
	defer clear(buffer)
	for _, f := range m.Files {
		if err := readFile(in, f, create, buffer); err != nil {
			return nil, err
		}
	}
	return m, checkDigest(r, digest)
}

func readFile(r io.Reader, f File, create func(File) (io.WriteCloser, error), buffer []byte) error {
	out, err := create(f)
	if err != nil {
		return err
	}
	n, err := io.CopyBuffer(onlyWriter{out}, io.LimitReader(r, f.Size), buffer)
	if err == nil && n < f.Size {
		err = ErrCut
	}
	return errors.Join(err, out.Close())
}

func checkDigest(r io.Reader, digest hash.Hash) error {
	sum := make([]byte, sha256.Size)
	if err := readFull(r, sum); err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(sum, digest.Sum(nil)) != 1 {
		return errors.New("the configuration was damaged on its way: its digest is wrong")
	}
	return nil
}

func readFull(r io.Reader, data []byte) error {
	_, err := io.ReadFull(r, data)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCut
	}
	return err
}
