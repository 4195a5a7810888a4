package filebackup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/renameio/v2"
)

// cache is the latest version as a file: a line of JSON about it, a record of every entry in the order of paths, and a hash over
// all. It is only ever a copy of what is in the bucket, with the inodes of this machine.
type cache struct {
	cacheHead
	records []byte

	byHash  map[Hash]int // where records are, made when it is first needed
	sizes   map[int64]bool
	unsized bool
}

type cacheHead struct {
	Program  string    `json:"program"`
	Endpoint string    `json:"endpoint"`
	Bucket   string    `json:"bucket"`
	Diffs    string    `json:"diffs"`    // name of the object of diffs
	Base     string    `json:"base"`     // folder that was backed up
	ID       string    `json:"latest"`   // version ID of the diff that made it
	Modified time.Time `json:"modified"` // of that
	Sequence int       `json:"sequence"` // how many diffs there are
	Route    *route    `json:"route"`    // what the version is put together from in the bucket
	Key      string    `json:"key"`      // check value of the key that was found to be right; "": none was needed yet
	Retained time.Time `json:"retained"` // until when Object Lock keeps all of it at least; zero: nobody knows
}

const cacheProgram = "file-backup cache 1"

func (c *Config) cachePath() string          { return c.LocalManifestFile + ".file-backup" }
func (c *Config) spoolPath(of string) string { return c.LocalManifestFile + ".file-backup-" + of }
func (c *Config) journalPath() string        { return c.LocalManifestFile + ".file-backup-uploads" }

// appendRecord appends an entry.
func appendRecord(b []byte, e *Entry) []byte {
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	start := len(b)
	b = append(b, 0, 0, 0, 0) // the length
	text(e.Path)
	object := e.Object
	same := byte(0)
	if object == e.Path && object != "" {
		object, same = "", 1
	}
	b = append(b, byte(e.Kind), byte(e.has), same)
	b = append(b, e.Hash[:]...)
	b = binary.AppendVarint(b, e.Size)
	b = binary.AppendVarint(b, e.MTime)
	b = binary.AppendVarint(b, e.CTime)
	b = binary.AppendUvarint(b, e.Inode)
	b = binary.AppendUvarint(b, uint64(e.Mode))
	b = binary.AppendVarint(b, int64(e.UID))
	b = binary.AppendVarint(b, int64(e.GID))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(e.lastMod))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(e.created))
	text(object)
	text(e.ID)
	text(e.Target)
	b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
	for _, name := range slices.Sorted(mapKeys(e.Xattrs)) {
		text(name)
		text(string(e.Xattrs[name]))
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(len(b)-start-4))
	return b
}

var errDamaged = errors.New("is damaged")

// recordPath returns the path of the record at the beginning of b, and what follows the record.
func recordPath(b []byte) (path, rest []byte) {
	n := binary.LittleEndian.Uint32(b)
	rest = b[4+n:]
	length, k := binary.Uvarint(b[4:])
	return b[4+k : 4+k+int(length)], rest
}

// parseRecord reads the record at the beginning of b into e. The cache's hash says that it is as it was written.
func parseRecord(b []byte, e *Entry) {
	b = b[4:]
	text := func() string {
		n, k := binary.Uvarint(b)
		s := string(b[k : k+int(n)])
		b = b[k+int(n):]
		return s
	}
	signed := func() int64 { v, k := binary.Varint(b); b = b[k:]; return v }
	unsigned := func() uint64 { v, k := binary.Uvarint(b); b = b[k:]; return v }
	float := func() float64 { v := math.Float64frombits(binary.LittleEndian.Uint64(b)); b = b[8:]; return v }
	*e = Entry{Path: text()}
	e.Kind, e.has = Kind(b[0]), fields(b[1])
	same := b[2] == 1
	b = b[3:]
	copy(e.Hash[:], b)
	b = b[len(e.Hash):]
	e.Size, e.MTime, e.CTime = signed(), signed(), signed()
	e.Inode, e.Mode = unsigned(), uint32(unsigned())
	e.UID, e.GID = int(signed()), int(signed())
	e.lastMod, e.created = float(), float()
	if e.Object = text(); same {
		e.Object = e.Path
	}
	e.ID, e.Target = text(), text()
	if n := unsigned(); n > 0 {
		e.Xattrs = make(map[string][]byte, n)
		for range n {
			name := text()
			e.Xattrs[name] = []byte(text())
		}
	}
}

// cacheHead is what belongs to this configuration.
func (c *Config) cacheHead() cacheHead {
	base, err := filepath.Abs(c.BasePath)
	if err != nil {
		base = c.BasePath
	}
	return cacheHead{Program: cacheProgram, Endpoint: c.S3.Endpoint, Bucket: c.S3.Bucket, Diffs: c.RemoteManifestDiffFile, Base: base}
}

// loadCache reads the cache. Nil means that there is none, or none that is of use; the reason is for people.
func (c *Config) loadCache() (*cache, error) {
	data, err := os.ReadFile(c.cachePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	n := len(data) - sha256.Size
	line := bytes.IndexByte(data, '\n')
	if n < 0 || line < 0 || line >= n {
		return nil, errDamaged
	}
	if sum := sha256.Sum256(data[:n]); !bytes.Equal(sum[:], data[n:]) {
		return nil, errDamaged
	}
	k := &cache{records: data[line+1 : n : n]}
	if json.Unmarshal(data[:line], &k.cacheHead) != nil {
		return nil, errDamaged
	}
	want := c.cacheHead()
	got := k.cacheHead
	got.ID, got.Modified, got.Sequence, got.Route, got.Key, got.Retained = "", time.Time{}, 0, nil, "", time.Time{}
	if got.Base = want.Base; got != want {
		return nil, fmt.Errorf("is of another bucket or program")
	}
	if k.Base != want.Base {
		return nil, fmt.Errorf("is of %s", k.Base)
	}
	return k, nil
}

// cacheOf makes the cache of a manifest.
func cacheOf(head cacheHead, m *Manifest) *cache {
	k := &cache{cacheHead: head}
	for _, e := range m.Sorted() {
		k.records = appendRecord(k.records, e)
	}
	return k
}

// save writes the cache with another head and with these changes, so that there is always a whole one on disk. Changes calls do with what
// is new, or nil for a path that is no more, in the order of paths. The cache itself stays as it is.
func (k *cache) save(c *Config, head cacheHead, changes func(do func(path string, e *Entry) error) error) error {
	line, err := json.Marshal(head)
	if err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(c.cachePath(), renameio.WithTempDir(filepath.Dir(c.cachePath())), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	h := sha256.New()
	w := bufio.NewWriterSize(io.MultiWriter(f, h), 256<<10)
	_, _ = w.Write(append(line, '\n')) // its error comes with Flush
	rest := k.records
	if changes != nil {
		var record []byte
		err = changes(func(path string, e *Entry) error {
			from := rest
			for len(rest) > 0 {
				old, after := recordPath(rest)
				if comparePaths(string(old), path) >= 0 {
					break
				}
				rest = after
			}
			_, _ = w.Write(from[:len(from)-len(rest)])
			if len(rest) > 0 {
				if old, after := recordPath(rest); string(old) == path {
					rest = after
				}
			}
			if e != nil {
				record = appendRecord(record[:0], e)
				_, _ = w.Write(record)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	_, _ = w.Write(rest)
	if err := w.Flush(); err != nil {
		return err
	}
	if _, err := f.Write(h.Sum(nil)); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// each calls do with every entry, in the order of paths. It is to be copied by who keeps it.
func (k *cache) each(do func(*Entry)) {
	var e Entry
	for rest := k.records; len(rest) > 0; {
		parseRecord(rest, &e)
		_, rest = recordPath(rest)
		do(&e)
	}
}

// manifest is what the cache holds.
func (k *cache) manifest() *Manifest {
	m := newManifest()
	k.each(func(e *Entry) {
		kept := *e
		m.entries[e.Path] = &kept
	})
	return m
}

// entryOf returns a file with that content, or nil.
func (k *cache) entryOf(h Hash) *Entry {
	if k.byHash == nil {
		k.byHash = map[Hash]int{}
		var e Entry
		for rest := k.records; len(rest) > 0; {
			at := len(k.records) - len(rest)
			parseRecord(rest, &e)
			_, rest = recordPath(rest)
			if e.Kind == File && e.Object != "" {
				if _, known := k.byHash[e.Hash]; !known {
					k.byHash[e.Hash] = at
				}
			}
		}
	}
	at, ok := k.byHash[h]
	if !ok {
		return nil
	}
	e := new(Entry)
	parseRecord(k.records[at:], e)
	return e
}

// hasSize tells whether some file has that size, or may have it. It is only asked for sizes over least.
func (k *cache) hasSize(size, least int64) bool {
	if k.sizes == nil {
		k.sizes = map[int64]bool{}
		k.each(func(e *Entry) {
			if e.Kind == File && e.Size > least {
				k.sizes[e.Size] = true
			}
			k.unsized = k.unsized || e.Kind == File && e.has&hasSize == 0
		})
	}
	return k.unsized || k.sizes[size]
}
