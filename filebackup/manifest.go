package filebackup

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind is what an entry of a version is.
type Kind uint8

// The kinds.
const (
	File Kind = iota
	Folder
	Symlink
)

func (k Kind) String() string { return [...]string{"file", "folder", "symlink"}[k] }

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Hash is the SHA-256 of a file's content.
type Hash [32]byte

func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// emptyHash is that of a file without content.
var emptyHash = Hash{
	0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
}

// Entry is a file, a folder or a symbolic link of a version.
type Entry struct {
	Path   string // begins with a slash; any bytes but NUL
	Kind   Kind
	Hash   Hash // of files
	Size   int64
	Object string // path of the object below the folder of files; "" where there is none, because the file is empty
	ID     string // version ID of the object
	Target string // of symbolic links

	MTime  int64 // nanoseconds since 1970
	CTime  int64
	UID    int
	GID    int
	Mode   uint32 // st_mode's permission bits with setuid, setgid and sticky
	Xattrs map[string][]byte
	Inode  uint64 // known of what was seen on this machine only

	has     fields
	lastMod float64 // seconds as rrbackup has them, where MTime is not known
	created float64
}

// fields says what is known of an entry: rrbackup records less.
type fields uint8

const (
	hasSize  fields = 1 << iota
	hasMTime        // in nanoseconds
	hasMode         // and owner and extended attributes
	hasInode        // and CTime

	hasFound = hasSize | hasMTime | hasMode | hasInode // what a scan finds
)

// ModTime is when the file was last modified.
func (e *Entry) ModTime() time.Time {
	if e.has&hasMTime != 0 {
		return time.Unix(0, e.MTime)
	}
	s, ns := math.Modf(e.lastMod)
	return time.Unix(int64(s), int64(ns*1e9))
}

// HasMode tells whether mode, owner and extended attributes are known: rrbackup does not record them.
func (e *Entry) HasMode() bool { return e.has&hasMode != 0 }

// HasSize tells whether the size is known: rrbackup does not record it.
func (e *Entry) HasSize() bool { return e.has&hasSize != 0 }

// seconds are nanoseconds as Python has the time of a file.
func seconds(ns int64) float64 {
	s, rest := ns/1e9, ns%1e9
	if rest < 0 {
		s, rest = s-1, rest+1e9
	}
	return float64(s) + float64(1e-9*float64(rest))
}

func (e *Entry) lastModified() float64 {
	if e.has&hasMTime != 0 {
		return seconds(e.MTime)
	}
	return e.lastMod
}

func (e *Entry) createdAt() float64 {
	if e.CTime != 0 {
		return seconds(e.CTime)
	}
	return e.created
}

// Statuses of changes. rrbackup ignores all but the first four.
const (
	statusNew     = "new"
	statusChanged = "changed"
	statusDeleted = "deleted"
	statusMoved   = "moved"
	statusExtra   = "recorded" // a folder or a symbolic link
	statusDropped = "dropped"  // one that is no more
	statusCommit  = "commit"   // the first of a diff: which one it is, and what it follows
)

// Change is one of the changes that make a version of the one before.
type Change struct {
	Status string // new, changed, deleted, moved; recorded and dropped of folders and symbolic links
	Entry  Entry
	From   string // of moved ones
}

// commit is what a diff says of itself.
type commit struct {
	ID     string // random
	Parent string // version ID of the diff before; "" of the first
	Host   string
	Time   int64 // seconds since 1970
}

// appendString appends a JSON string as Python writes it: in ASCII. What is no UTF-8 becomes the surrogates that Python makes of it.
func appendString(b []byte, s string) []byte {
	const digits = "0123456789abcdef"
	unit := func(u rune) {
		b = append(b, '\\', 'u', digits[u>>12&15], digits[u>>8&15], digits[u>>4&15], digits[u&15])
	}
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\r':
				b = append(b, '\\', 'r')
			case c == '\t':
				b = append(b, '\\', 't')
			case c == '\f':
				b = append(b, '\\', 'f')
			case c == '\b':
				b = append(b, '\\', 'b')
			case c < ' ' || c == 0x7f:
				unit(rune(c))
			default:
				b = append(b, c)
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			unit(0xdc00 + rune(c))
		case r >= 0x10000:
			unit(0xd800 + (r-0x10000)>>10)
			unit(0xdc00 + (r-0x10000)&0x3ff)
		default:
			unit(r)
		}
		i += n
	}
	return append(b, '"')
}

// appendFloat appends a number as Python writes it.
func appendFloat(b []byte, f float64) []byte {
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	start := len(b)
	b = strconv.AppendFloat(b, f, 'f', -1, 64)
	if !slices.Contains(b[start:], '.') {
		b = append(b, ".0"...)
	}
	return b
}

// appendEntry appends the fields of an entry that rrbackup has, without the braces. The status comes where it does there.
func (e *Entry) appendJSON(b []byte, status string, deleted bool) []byte {
	b = appendString(append(b, `{"path": `...), e.Path)
	b = appendFloat(append(b, `, "created": `...), e.createdAt())
	b = appendFloat(append(b, `, "last_mod": `...), e.lastModified())
	if status != "" && !deleted {
		b = append(append(append(b, `, "status": "`...), status...), '"')
	}
	hash := e.Hash
	if e.Kind != File {
		hash = emptyHash
	}
	b = hex.AppendEncode(append(b, `, "hash": "`...), hash[:])
	b = append(b, '"')
	if e.Object == "" {
		b = append(b, `, "empty": true`...)
	} else {
		b = appendString(append(b, `, "real_path": `...), e.Object)
		b = appendString(append(b, `, "version_id": `...), e.ID)
	}
	if deleted {
		b = append(append(append(b, `, "status": "`...), status...), '"')
	}
	if !utf8.ValidString(e.Path) {
		b = base64.StdEncoding.AppendEncode(append(b, `, "path_base64": "`...), []byte(e.Path))
		b = append(b, '"')
	}
	if e.Kind != File {
		b = append(append(append(b, `, "kind": "`...), e.Kind.String()...), '"')
	}
	if deleted {
		return append(b, '}')
	}
	if e.has&hasSize != 0 && e.Kind == File {
		b = strconv.AppendInt(append(b, `, "size": `...), e.Size, 10)
	}
	if e.has&hasMTime != 0 {
		b = strconv.AppendInt(append(b, `, "mtime_ns": `...), e.MTime, 10)
	}
	if e.has&hasMode != 0 {
		b = strconv.AppendUint(append(b, `, "mode": `...), uint64(e.Mode), 10)
		b = strconv.AppendInt(append(b, `, "uid": `...), int64(e.UID), 10)
		b = strconv.AppendInt(append(b, `, "gid": `...), int64(e.GID), 10)
	}
	if e.Kind == Symlink {
		b = base64.StdEncoding.AppendEncode(append(b, `, "target_base64": "`...), []byte(e.Target))
		b = append(b, '"')
	}
	if len(e.Xattrs) > 0 {
		b = append(b, `, "xattrs": {`...)
		for i, name := range slices.Sorted(mapKeys(e.Xattrs)) {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = append(appendString(b, name), `: "`...)
			b = append(base64.StdEncoding.AppendEncode(b, e.Xattrs[name]), '"')
		}
		b = append(b, '}')
	}
	return append(b, '}')
}

// diffWriter writes the text of a diff.
type diffWriter struct {
	w   *bufio.Writer
	buf []byte
	any bool
}

// newDiffWriter begins a diff. The commit may be nil, as in those of rrbackup.
func newDiffWriter(w io.Writer, c *commit) *diffWriter {
	d := &diffWriter{w: bufio.NewWriterSize(w, 64<<10)}
	_ = d.w.WriteByte('[') // its error comes with Flush
	if c == nil {
		return d
	}
	b := append(d.buf[:0], `{"path": "", "status": "commit", "empty": true, "id": `...)
	b = appendString(b, c.ID)
	b = appendString(append(b, `, "parent": `...), c.Parent)
	b = appendString(append(b, `, "host": `...), c.Host)
	b = strconv.AppendInt(append(b, `, "time": `...), c.Time, 10)
	d.element(append(b, '}'))
	return d
}

// element adds an element of the list.
func (d *diffWriter) element(b []byte) {
	if d.any {
		_, _ = d.w.WriteString(", ")
	}
	d.any = true
	_, _ = d.w.Write(b)
	d.buf = b
}

func (d *diffWriter) add(status string, e *Entry) {
	d.element(e.appendJSON(d.buf[:0], status, status == statusDeleted || status == statusDropped))
}

func (d *diffWriter) close() error {
	_ = d.w.WriteByte(']')
	return d.w.Flush()
}

// jsonEntry is an element of a diff.
type jsonEntry struct {
	Path       pythonString      `json:"path"`
	PathBytes  []byte            `json:"path_base64"`
	Created    float64           `json:"created"`
	LastMod    float64           `json:"last_mod"`
	Status     string            `json:"status"`
	Hash       string            `json:"hash"`
	RealPath   string            `json:"real_path"`
	VersionID  string            `json:"version_id"`
	Empty      bool              `json:"empty"`
	MovedFrom  pythonString      `json:"moved_from"`
	Kind       string            `json:"kind"`
	Size       *int64            `json:"size"`
	MTime      *int64            `json:"mtime_ns"`
	Mode       *uint32           `json:"mode"`
	UID        int               `json:"uid"`
	GID        int               `json:"gid"`
	Target     []byte            `json:"target_base64"`
	Xattrs     map[string][]byte `json:"xattrs"`
	CommitID   string            `json:"id"`
	Parent     string            `json:"parent"`
	Host       string            `json:"host"`
	CommitTime int64             `json:"time"`
}

// decodeDiff reads the text of a diff. The commit is nil where rrbackup wrote it.
func decodeDiff(r io.Reader) (c *commit, changes []Change, err error) {
	d := json.NewDecoder(r)
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, nil, errors.New("it holds no list of changes")
	}
	for n := 0; d.More(); n++ {
		var j jsonEntry
		if err := d.Decode(&j); err != nil {
			return nil, nil, fmt.Errorf("change %d: %w", n+1, cutOff(err))
		}
		if j.Status == statusCommit {
			if n > 0 {
				return nil, nil, fmt.Errorf("change %d: only the first may say which diff it is", n+1)
			}
			c = &commit{j.CommitID, j.Parent, j.Host, j.CommitTime}
			continue
		}
		change, err := j.change()
		if err != nil {
			return nil, nil, fmt.Errorf("change %d: %w", n+1, err)
		}
		changes = append(changes, change)
	}
	if _, err := d.Token(); err != nil {
		return nil, nil, cutOff(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("something follows the list of changes")
	}
	return c, changes, nil
}

func (j *jsonEntry) change() (Change, error) {
	e := Entry{Path: string(j.Path), created: j.Created, lastMod: j.LastMod}
	if len(j.PathBytes) > 0 {
		e.Path = string(j.PathBytes)
	}
	switch j.Status {
	case statusNew, statusChanged, statusDeleted, statusMoved, statusExtra, statusDropped:
	case "":
		return Change{}, errors.New("has no status")
	default: // a newer program's; like rrbackup, we let pass what is not about files
		return Change{Status: j.Status, Entry: e}, nil
	}
	if err := checkPath(e.Path); err != nil {
		return Change{}, err
	}
	switch j.Kind {
	case "":
	case "folder":
		e.Kind = Folder
	case "symlink":
		e.Kind, e.Target = Symlink, string(j.Target)
	default:
		return Change{}, fmt.Errorf("%q is a %q, which is not known", e.Path, j.Kind)
	}
	extra := j.Status == statusExtra || j.Status == statusDropped
	if extra != (e.Kind != File) {
		return Change{}, fmt.Errorf("%q, a %v, is %s", e.Path, e.Kind, j.Status)
	}
	if j.Size != nil {
		e.Size, e.has = *j.Size, e.has|hasSize
		if e.Size < 0 {
			return Change{}, fmt.Errorf("%q has %d bytes", e.Path, e.Size)
		}
	}
	if j.MTime != nil {
		e.MTime, e.has = *j.MTime, e.has|hasMTime
	}
	if j.Mode != nil {
		e.Mode, e.UID, e.GID, e.Xattrs, e.has = *j.Mode&0o7777, j.UID, j.GID, j.Xattrs, e.has|hasMode
	}
	if e.Kind != File {
		return Change{Status: j.Status, Entry: e}, nil
	}
	if j.Hash != "" || j.Status != statusDeleted {
		h, err := hex.DecodeString(j.Hash)
		if err != nil || len(h) != len(e.Hash) {
			return Change{}, fmt.Errorf("%q has the hash %q", e.Path, j.Hash)
		}
		copy(e.Hash[:], h)
	}
	if j.Empty {
		e.Size, e.has = 0, e.has|hasSize
	} else {
		e.Object, e.ID = j.RealPath, j.VersionID
		if e.Object == e.Path {
			e.Object = e.Path // one string, not two
		}
		if j.Status != statusDeleted && (e.Object == "" || e.ID == "") {
			return Change{}, fmt.Errorf("%q has no object", e.Path)
		}
	}
	return Change{Status: j.Status, Entry: e, From: string(j.MovedFrom)}, nil
}

// checkPath refuses paths that could lead out of the folder that they are restored into.
func checkPath(path string) error {
	if !strings.HasPrefix(path, "/") || path == "/" || strings.ContainsRune(path, 0) {
		return fmt.Errorf("the path %q is refused", path)
	}
	for part := range strings.SplitSeq(path[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("the path %q is refused: it could lead elsewhere", path)
		}
	}
	return nil
}

// Manifest is all that a version holds.
type Manifest struct {
	entries map[string]*Entry
}

func newManifest() *Manifest { return &Manifest{entries: map[string]*Entry{}} }

// Len is the number of entries.
func (m *Manifest) Len() int { return len(m.entries) }

// Entry is that of a path, or nil.
func (m *Manifest) Entry(path string) *Entry { return m.entries[path] }

// Sorted are all entries, so that a folder comes before what is in it.
func (m *Manifest) Sorted() []*Entry {
	list := make([]*Entry, 0, len(m.entries))
	for _, e := range m.entries {
		list = append(list, e)
	}
	slices.SortFunc(list, func(a, b *Entry) int { return comparePaths(a.Path, b.Path) })
	return list
}

// comparePaths orders paths as a walk finds them that goes through the names of a folder in their order: a slash comes before all else.
func comparePaths(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if x, y := a[i], b[i]; x != y {
			switch {
			case x == '/':
				return -1
			case y == '/':
				return 1
			}
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// apply makes the manifest that of the next version.
func (m *Manifest) apply(changes []Change) {
	for i := range changes {
		c := &changes[i]
		switch c.Status {
		case statusNew, statusChanged, statusMoved, statusDeleted:
			delete(m.entries, c.Entry.Path)
			if c.Status == statusMoved {
				delete(m.entries, c.From)
			}
		case statusDropped:
			if old := m.entries[c.Entry.Path]; old != nil && old.Kind != File {
				delete(m.entries, c.Entry.Path)
			}
		}
	}
	for i := range changes {
		c := &changes[i]
		switch c.Status {
		case statusNew, statusChanged, statusMoved, statusExtra:
			m.entries[c.Entry.Path] = &c.Entry
		}
	}
}
