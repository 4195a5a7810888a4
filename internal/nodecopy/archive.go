package nodecopy

import (
	"archive/tar"
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"sdbackup/internal/config"
)

// Bounds of a copy, for writers and readers.
const (
	maxPlainBytes    = 64 << 20 // of the archive
	maxEntries       = 10_000
	maxManifestBytes = 4 << 20
	maxNameBytes     = 4096 // PATH_MAX, limits.h
	maxElementBytes  = 255  // NAME_MAX
	maxElements      = 64   // of a name
)

// Where things are in the archive.
const (
	manifestName     = "manifest.json"
	credentialFolder = "credentials/"
	fileFolder       = "files/"
	recordFolder     = "status/"
)

const (
	secretMode = 0o600
	publicMode = 0o644
)

var uuidPattern = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// entry is one file of the archive.
type entry struct {
	name string
	mode fs.FileMode
	data []byte
}

// entries returns what the archive holds, in its order: the manifest first, so that a reader knows the format before all else.
func (c Copy) entries() []entry {
	var all []entry
	for _, f := range c.Files {
		all = append(all, entry{fileFolder + strings.TrimPrefix(f.Path, "/"), f.Mode, f.Data})
	}
	for _, cr := range c.Credentials {
		all = append(all, entry{credentialFolder + cr.Name, secretMode, cr.Data})
	}
	for _, r := range c.Records {
		all = append(all, entry{recordFolder + r.Name, secretMode, r.Data})
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.name, b.name) })
	manifest, _ := json.MarshalIndent(c.Manifest, "", "  ") // strings, numbers and booleans always encode
	return slices.Insert(all, 0, entry{manifestName, publicMode, append(manifest, '\n')})
}

// pack writes the archive. It refuses what unpack would refuse.
func (c Copy) pack(w io.Writer) error {
	all := c.entries()
	if len(all) > maxEntries {
		return ErrTooLarge
	}
	var names nameSet
	limited := &limitedWriter{w: w, left: maxPlainBytes}
	archive := tar.NewWriter(limited)
	for _, e := range all {
		if err := names.add(e.name); err != nil {
			return err
		}
		if e.name == manifestName && len(e.data) > maxManifestBytes {
			return ErrTooLarge
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Mode: int64(e.mode.Perm()), Size: int64(len(e.data)), ModTime: time.Unix(0, 0)}
		if err := archive.WriteHeader(h); err != nil {
			return fmt.Errorf("%q: %w", e.name, err)
		}
		if _, err := archive.Write(e.data); err != nil {
			return err
		}
	}
	return archive.Close()
}

// limitedWriter fails with ErrTooLarge instead of passing on more than it may.
type limitedWriter struct {
	w    io.Writer
	left int64
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > l.left {
		return 0, ErrTooLarge
	}
	n, err := l.w.Write(p)
	l.left -= int64(n)
	return n, err
}

// limitedReader fails with ErrTooLarge where more follows than may.
type limitedReader struct {
	r    io.Reader
	left int64
}

func (l *limitedReader) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1] // one more tells the end from too much
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

// compress writes the archive as gzip, RFC 1952, without a name and a time.
func (c Copy) compress(w io.Writer) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestCompression)
	if err != nil {
		return err
	}
	if err := c.pack(z); err != nil {
		return err
	}
	return z.Close()
}

// decompress reads what compress wrote, to its end: the checksum is there.
func decompress(r io.Reader) (Copy, error) {
	b := bufio.NewReader(r) // gzip reads no byte behind its end from one
	z, err := gzip.NewReader(b)
	if err != nil {
		return Copy{}, foreign("what is in it is no tar.gz")
	}
	z.Multistream(false)
	c, err := unpack(z)
	if err != nil {
		return Copy{}, err
	}
	if _, err := b.ReadByte(); !errors.Is(err, io.EOF) {
		return Copy{}, foreign("something follows the end of its archive")
	}
	return c, nil
}

// unpack reads an archive to its end and judges all of it.
func unpack(r io.Reader) (Copy, error) {
	limited := &limitedReader{r: r, left: maxPlainBytes}
	archive := tar.NewReader(limited)
	var c Copy
	var names nameSet
	left := int64(maxPlainBytes)
	for n := 0; ; n++ {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Copy{}, unpackError(err)
		}
		if n == maxEntries || h.Size > left { // of a sparse file, Size is what it would be here
			return Copy{}, ErrTooLarge
		}
		left -= h.Size
		if h.Typeflag != tar.TypeReg {
			return Copy{}, foreign("its entry %q is no regular file", h.Name)
		}
		if h.Mode&0o7000 != 0 {
			return Copy{}, foreign("its entry %q has mode %04o", h.Name, h.Mode&0o7777)
		}
		if (n == 0) != (h.Name == manifestName) {
			return Copy{}, foreign("its first entry, and no other, is to be %s", manifestName)
		}
		if err := names.add(h.Name); err != nil {
			return Copy{}, err
		}
		if n == 0 && h.Size > maxManifestBytes {
			return Copy{}, ErrTooLarge
		}
		data, err := io.ReadAll(archive)
		if err != nil {
			return Copy{}, unpackError(err)
		}
		if n == 0 {
			if c.Manifest, err = readManifest(data); err != nil {
				return Copy{}, err
			}
			continue
		}
		c.take(entry{h.Name, fs.FileMode(h.Mode).Perm(), data})
	}
	if c.Manifest.Format == 0 {
		return Copy{}, foreign("it is empty")
	}
	if err := onlyZeros(limited); err != nil {
		return Copy{}, err
	}
	c.sort()
	return c, nil
}

func unpackError(err error) error {
	if errors.Is(err, ErrTooLarge) {
		return err
	}
	return foreign("its archive cannot be read")
}

// onlyZeros reads on behind the last entry, where tar fills up with zeros.
func onlyZeros(r io.Reader) error {
	var block [32 << 10]byte
	for {
		n, err := r.Read(block[:])
		if slices.ContainsFunc(block[:n], func(b byte) bool { return b != 0 }) {
			return foreign("something follows the last entry of its archive")
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return unpackError(err)
		}
	}
}

// take puts an entry, whose name has been judged, where it belongs.
func (c *Copy) take(e entry) {
	if name, ok := strings.CutPrefix(e.name, fileFolder); ok {
		c.Files = append(c.Files, File{"/" + name, e.mode, e.data})
	} else if name, ok := strings.CutPrefix(e.name, credentialFolder); ok {
		c.Credentials = append(c.Credentials, Credential{name, e.data})
	} else if name, ok := strings.CutPrefix(e.name, recordFolder); ok {
		c.Records = append(c.Records, Record{name, e.data})
	}
}

// readManifest does not mind keys that it does not know: who adds some that matter counts the format up.
func readManifest(data []byte) (Manifest, error) {
	var version struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(data, &version) != nil || version.Format < 1 {
		return Manifest{}, foreign("its manifest cannot be read")
	}
	if version.Format > format {
		return Manifest{}, fmt.Errorf("%w: it has format %d, and this program knows %d", ErrNewer, version.Format, format)
	}
	var m Manifest
	if json.Unmarshal(data, &m) != nil {
		return Manifest{}, foreign("its manifest cannot be read")
	}
	if !uuidPattern.MatchString(m.Node.UUID) {
		return Manifest{}, foreign("its manifest names no node")
	}
	if len(m.Layers) == 0 || slices.ContainsFunc(m.Layers, func(l string) bool { return checkPath(l) != nil }) {
		return Manifest{}, foreign("its manifest names no folder of the configuration")
	}
	for _, module := range m.Modules {
		if !config.ValidID(module.ID) {
			return Manifest{}, foreign("its manifest names a module %q", module.ID)
		}
	}
	for _, d := range m.Destinations {
		if !config.ValidID(d.ID) {
			return Manifest{}, foreign("its manifest names a destination %q", d.ID)
		}
	}
	return m, nil
}

// checkPath returns what is wrong with an absolute path.
func checkPath(p string) error {
	if !strings.HasPrefix(p, "/") || p == "/" || path.Clean(p) != p {
		return fmt.Errorf("%q is no absolute path in its shortest form", p)
	}
	return checkName(p[1:])
}

// checkName returns what is wrong with the name of an entry. Names are printed and become paths, so they are plain: relative, without
// empty, . and .. elements, in UTF-8 and without control characters.
func checkName(name string) error {
	switch {
	case !utf8.ValidString(name):
		return foreign("its entry %q has a name that is not UTF-8", name)
	case strings.ContainsFunc(name, unicode.IsControl):
		return foreign("its entry %q has a control character in its name", name)
	case len(name) > maxNameBytes-len("/"):
		return foreign("an entry has a name of %d bytes", len(name))
	}
	n := 0
	for element := range strings.SplitSeq(name, "/") {
		if n++; n > maxElements {
			return foreign("its entry %q is too deep", name)
		}
		if element == "" || element == "." || element == ".." || len(element) > maxElementBytes {
			return foreign("its entry %q has a name that is not allowed", name)
		}
	}
	return nil
}

// validCredential tells whether a text can be the name of a credential, systemd.exec(5); internal/config has the same rule.
func validCredential(name string) bool {
	return name != "" && name[0] != '.' && !strings.ContainsAny(name, "/:") && checkName(name) == nil
}

// validRecord tells whether a text can be the name of a record.
func validRecord(name string) bool {
	stem, ok := strings.CutSuffix(name, ".json")
	first, second, two := strings.Cut(stem, "/")
	return ok && config.ValidID(first) && (!two || config.ValidID(second))
}

// nameSet are the names of an archive so far. None may be there twice, and none may be a folder of another.
type nameSet map[string]bool // false: of a folder

func (s *nameSet) add(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	folder, rest, _ := strings.Cut(name, "/")
	switch folder + "/" {
	case manifestName + "/":
		if rest != "" || name != manifestName {
			return foreign("its entry %q is not known", name)
		}
	case fileFolder:
		if rest == "" {
			return foreign("its entry %q is not known", name)
		}
	case credentialFolder:
		if !validCredential(rest) {
			return foreign("its entry %q is no credential", name)
		}
	case recordFolder:
		if !validRecord(rest) {
			return foreign("its entry %q is no record", name)
		}
	default:
		return foreign("its entry %q is not known", name)
	}
	if *s == nil {
		*s = nameSet{}
	}
	if _, taken := (*s)[name]; taken {
		return foreign("its entry %q is there twice", name)
	}
	(*s)[name] = true
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if (*s)[dir] {
			return foreign("its entry %q is a file and a folder", dir)
		}
		(*s)[dir] = false
	}
	return nil
}
