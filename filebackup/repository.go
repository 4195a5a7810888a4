package filebackup

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Repository is a bucket with the versions of a folder.
type Repository struct {
	c      *Config
	s      *store
	budget *budget

	mu     sync.Mutex
	keys   *keys   // nil until the salt is known
	others []*keys // of other versions of the salt object; nil until they are looked for
}

// TamperError says that the bucket is not as this program left it.
type TamperError struct{ What string }

func (e *TamperError) Error() string { return "suspected tampering: " + e.What }

// Open prepares to work with a bucket. It sends nothing yet.
func Open(c *Config) (*Repository, error) {
	copied := *c
	if err := copied.validate(); err != nil {
		return nil, err
	}
	s, err := newStore(&copied)
	if err != nil {
		return nil, &ConfigError{[]string{err.Error()}}
	}
	s.fault = copied.Fault
	return &Repository{c: &copied, s: s, budget: newBudget(bufferBudget)}, nil
}

// Requests is how many requests were sent.
func (r *Repository) Requests() int64 { return r.s.requests.Load() }

// key returns the keys, reading the salt when they are first needed. With create true a bucket that has no salt gets one.
func (r *Repository) key(ctx context.Context, create bool) (*keys, error) {
	if r.c.Crypto.Password == "" {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys != nil {
		return r.keys, nil
	}
	name := r.c.Crypto.RemoteSaltFile
	data, v, err := r.s.get(ctx, name, "")
	if err != nil && !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	missing := err != nil
	k := &keys{password: r.c.Crypto.Password}
	if !missing {
		k.derivation, err = parseSalt(data)
	}
	if err != nil {
		others, failed := r.replacedKeys(ctx, v.ID)
		switch n := len(others); {
		case failed != nil:
			return nil, failed
		case n > 0:
			k = others[n-1]
		case !missing:
			return nil, &CorruptError{name, "", err}
		default:
			if k.derivation, err = r.newKey(ctx, create); err != nil {
				return nil, err
			}
		}
	}
	r.keys = k
	return k, nil
}

// keysFor returns the keys that an object is encrypted with, or others where they are not known.
func (r *Repository) keysFor(ctx context.Context, h header) (*keys, error) {
	k, err := r.key(ctx, false)
	if err != nil || k == nil || h.encryption.equal(k.derivation) {
		return k, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	others, err := r.replacedKeys(ctx, "")
	for _, other := range others {
		if h.encryption.equal(other.derivation) {
			return other, nil
		}
	}
	return k, err
}

// newKey says how keys are derived where there is no salt object, and with create makes one.
func (r *Repository) newKey(ctx context.Context, create bool) (d derivation, err error) {
	name := r.c.Crypto.RemoteSaltFile
	// Objects say how their keys are derived, too.
	object, _, err := r.s.get(ctx, r.c.RemoteManifestDiffFile, "")
	switch {
	case err == nil:
		h, err := readFrame(bytes.NewReader(object))
		if err != nil {
			return d, &CorruptError{r.c.RemoteManifestDiffFile, "", err}
		}
		if h.encryption != nil {
			r.c.Log.Warn("the salt object is missing; the newest manifest diff has the salt, too", "object", name)
			return *h.encryption, nil
		}
	case !errors.Is(err, ErrNotFound):
		return d, err
	}
	if !create {
		return d, fmt.Errorf("the salt object %q is missing: nothing encrypted can be read", name)
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	d = newDerivation(salt)
	if r.c.Crypto.KeyDerivation == "argon2i" {
		d = rrbackupDerivation(salt)
	}
	_, err = r.s.put(ctx, name, formatSalt(d), true)
	return d, err
}

// maxSalts is how many versions of the salt object are of use: deriving a key takes much memory.
const maxSalts = 8

// replacedKeys are those of the versions of the salt object but the latest, the oldest first: who may write can put another one over it, which must
// not keep anybody from what was stored before.
func (r *Repository) replacedKeys(ctx context.Context, latest string) ([]*keys, error) {
	if r.others != nil {
		return r.others, nil
	}
	name := r.c.Crypto.RemoteSaltFile
	versions, err := r.s.keyVersions(ctx, name, nil)
	if err != nil && !errors.Is(err, errAccess) {
		return nil, err
	}
	list := []*keys{}
	for _, v := range slices.Backward(versions) {
		if v.Marker || v.ID == latest || len(list) == maxSalts {
			continue
		}
		data, _, err := r.s.get(ctx, name, v.ID)
		if err != nil && !errors.Is(err, errAccess) {
			return nil, err
		}
		if d, err := parseSalt(data); err == nil {
			list = append(list, &keys{password: r.c.Crypto.Password, derivation: d})
		}
	}
	if len(list) > 0 {
		r.c.Log.Warn("the salt object was replaced or deleted, which file-backup never does; its older versions are used, too", "object", name)
	}
	r.others = list
	return list, nil
}

// getMeta reads an object of metadata.
func (r *Repository) getMeta(ctx context.Context, key, id string) ([]byte, objectVersion, error) {
	text, v, err := r.getOwnMeta(ctx, key, id)
	if text != nil && errors.Is(err, errUnencrypted) {
		r.c.Log.Warn("this metadata is not encrypted, although the configuration says that it is", "object", key, "version", v.ID)
		err = nil
	}
	return text, v, err
}

// errUnencrypted is what is wrong with metadata that could be by somebody who has no password.
var errUnencrypted = errors.New("it is not encrypted, although the configuration says that metadata is")

// getOwnMeta does so with metadata that says of what is stored already how it is to be taken. Beside the error errUnencrypted there is the text.
func (r *Repository) getOwnMeta(ctx context.Context, key, id string) ([]byte, objectVersion, error) {
	object, v, err := r.s.get(ctx, key, id)
	if err != nil {
		return nil, v, err
	}
	h, err := readFrame(bytes.NewReader(object))
	if err != nil {
		return nil, v, &CorruptError{key, v.ID, err}
	}
	var k *keys
	if h.encryption != nil {
		if k, err = r.keysFor(ctx, h); err != nil {
			return nil, v, err
		}
	}
	text, encrypted, err := openMeta(object, k)
	if err != nil {
		return nil, v, &CorruptError{key, v.ID, err}
	}
	if !encrypted && slices.Contains(r.c.MetaPipeline, pipeEncrypt) {
		return text, v, &CorruptError{key, v.ID, errUnencrypted}
	}
	return text, v, nil
}

// putMeta stores an object of metadata, whose text write writes, perhaps twice.
func (r *Repository) putMeta(ctx context.Context, key string, write func(io.Writer) error) (id string, err error) {
	var k *keys
	if slices.Contains(r.c.MetaPipeline, pipeEncrypt) {
		if k, err = r.key(ctx, true); err != nil {
			return "", err
		}
	}
	object, err := sealMeta(metaHeader(r.c.MetaPipeline, k), k, write)
	if err != nil {
		return "", err
	}
	return r.s.put(ctx, key, object, key == r.c.RemoteManifestDiffFile)
}

// Version is a state of the folder that was saved.
type Version struct {
	ID   string    `json:"id"` // the version ID of its manifest diff
	Time time.Time `json:"time"`
	Size int64     `json:"-"`
}

// diffVersions are the diffs, the oldest first, from the one after after on; "" is all of them.
func (r *Repository) diffVersions(ctx context.Context, after string) (list []Version, hidden, found bool, err error) {
	found = after == ""
	all, err := r.s.keyVersions(ctx, r.c.RemoteManifestDiffFile, func(v objectVersion) bool {
		found = found || v.ID == after && !v.Marker
		return after != "" && found
	})
	for _, v := range all {
		switch {
		case v.Marker:
			hidden = hidden || v.Latest
		case v.ID != after || after == "":
			list = append(list, Version{ID: v.ID, Time: v.Modified, Size: v.Size})
		}
	}
	// The server lists the latest first: ListObjectVersions. Times tell less: they are whole seconds on some servers, and change on others.
	slices.Reverse(list)
	return list, hidden, found, err
}

// Versions are all versions, the oldest first, without those that have expired.
func (r *Repository) Versions(ctx context.Context) ([]Version, error) {
	all, err := r.allVersions(ctx)
	if err != nil {
		return nil, err
	}
	expired, err := r.expired(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(v Version) bool { return expired[v.ID] }), nil
}

func (r *Repository) allVersions(ctx context.Context) ([]Version, error) {
	all, hidden, _, err := r.diffVersions(ctx, "")
	if err != nil {
		return nil, err
	}
	if hidden {
		r.c.Log.Warn("the manifest was deleted; its versions are still there, and undelete brings it back", "object", r.c.RemoteManifestDiffFile)
	}
	return all, nil
}

// ErrNoVersion says that a version does not exist.
var ErrNoVersion = errors.New("no such version")

// Find returns the version that a name means: an ID, "latest", or the last one up to a time, as in 2026-11-20 or "2026-11-20 03:00".
func (r *Repository) Find(ctx context.Context, name string) (Version, error) {
	expired, err := r.expired(ctx)
	if err != nil {
		return Version{}, err
	}
	looking := newSearch(name)
	err = r.eachVersion(ctx, func(v Version) bool { return expired[v.ID] || looking.at(v) }) // only as far as is needed
	if err != nil {
		return Version{}, err
	}
	return looking.result()
}

// search looks through versions, of which the newest comes first.
type search struct {
	name         string
	time         time.Time
	noTime       error
	first, found Version
}

func newSearch(name string) *search {
	s := &search{name: name}
	s.time, s.noTime = parseTime(name)
	return s
}

// at looks at a version and tells whether to look on.
func (s *search) at(v Version) (more bool) {
	s.first = v
	if s.name == Latest || v.ID == s.name || s.noTime == nil && !v.Time.After(s.time) {
		s.found = v
	}
	return s.found.ID == ""
}

func (s *search) result() (Version, error) {
	switch {
	case s.found.ID != "":
		return s.found, nil
	case s.first.ID == "":
		return Version{}, fmt.Errorf("%w: there is none at all", ErrNoVersion)
	case s.noTime != nil:
		return Version{}, fmt.Errorf("%w: %q is no version's ID, nor a time as in \"2026-11-20 03:00\"", ErrNoVersion, s.name)
	}
	return Version{}, fmt.Errorf("%w: the first is of %s", ErrNoVersion, s.first.Time.Local().Format(time.DateTime))
}

// parseTime reads a time of this machine's zone, or with one; a day alone means its end.
func parseTime(s string) (time.Time, error) {
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t.AddDate(0, 0, 1).Add(-1), nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateTime, "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, errors.New("is no time")
}

// diff is a diff that has been read.
type diff struct {
	version Version
	commit  *commit
	changes []Change
}

func (r *Repository) readDiff(ctx context.Context, v Version) (diff, error) {
	text, _, err := r.getMeta(ctx, r.c.RemoteManifestDiffFile, v.ID)
	if err != nil {
		return diff{}, err
	}
	c, changes, err := decodeDiff(bytes.NewReader(text))
	if err != nil {
		return diff{}, &CorruptError{r.c.RemoteManifestDiffFile, v.ID, err}
	}
	return diff{v, c, changes}, nil
}

// eachDiff reads diffs, several at a time, and hands them out in their order.
func (r *Repository) eachDiff(ctx context.Context, list []Version, each func(diff) error) error {
	return inOrder(ctx, r.c.parallel(), len(list), func(ctx context.Context, i int) (diff, error) { return r.readDiff(ctx, list[i]) }, each)
}

// chain applies diffs, and looks whether each follows the one before.
type chain struct {
	m        *Manifest
	last     string // version ID; "?" is unknown
	commits  map[string]bool
	newest   string // ID of the last commit
	problems []string
}

func (c *chain) apply(d diff) {
	if d.commit != nil {
		if c.commits[d.commit.ID] {
			if d.commit.ID != c.newest { // else it is a request that was sent twice
				c.problems = append(c.problems, fmt.Sprintf("the manifest diff %s repeats an older one", d.version.ID))
			}
			c.last = d.version.ID
			return
		}
		c.commits[d.commit.ID], c.newest = true, d.commit.ID
		if c.last != "?" && d.commit.Parent != c.last {
			c.problems = append(c.problems, fmt.Sprintf("the manifest diff %s says that it follows %s, but %s comes before it", d.version.ID, or(d.commit.Parent, "none"), or(c.last, "none")))
		}
	} else {
		c.newest = ""
		c.m.giveWay(d.changes)
	}
	c.m.apply(d.changes)
	c.last = d.version.ID
}

// giveWay drops the links and folders that cannot be where a diff of rrbackup has files: it knows of nothing else, and follows links.
func (m *Manifest) giveWay(changes []Change) {
	var files []string // that were folders
	for i := range changes {
		c := &changes[i]
		if c.Status != statusNew && c.Status != statusChanged && c.Status != statusMoved {
			continue
		}
		if old := m.entries[c.Entry.Path]; old != nil && old.Kind == Folder {
			files = append(files, c.Entry.Path+"/")
		}
		for dir := path.Dir(c.Entry.Path); dir != "/"; dir = path.Dir(dir) {
			if above := m.entries[dir]; above != nil && above.Kind == Symlink {
				delete(m.entries, dir)
			}
		}
	}
	if len(files) == 0 {
		return
	}
	maps.DeleteFunc(m.entries, func(p string, e *Entry) bool {
		return e.Kind != File && slices.ContainsFunc(files, func(f string) bool { return strings.HasPrefix(p, f) })
	})
}

// Manifest returns what a version holds.
func (r *Repository) Manifest(ctx context.Context, v Version) (*Manifest, error) {
	m, _, _, problems, err := r.assemble(ctx, v.ID)
	for _, p := range problems {
		r.c.Log.Warn((&TamperError{p}).Error())
	}
	return m, err
}

// Changes returns what a version changed.
func (r *Repository) Changes(ctx context.Context, v Version) ([]Change, error) {
	if r.c.WriteOnly {
		return nil, errWriteOnly
	}
	d, err := r.readDiff(ctx, v)
	return slices.DeleteFunc(d.changes, func(c Change) bool {
		switch c.Status {
		case statusNew, statusChanged, statusDeleted, statusMoved, statusExtra, statusDropped:
			return false
		}
		return true
	}), err
}

// current returns the cache of the latest version: what is on disk, or what the bucket says. It changes nothing.
func (r *Repository) current(ctx context.Context) (k *cache, fresh bool, err error) {
	k, err = r.c.loadCache()
	if err != nil {
		r.c.Log.Warn("the local manifest is of no use and is made again from the bucket", "file", r.c.cachePath(), "error", err)
		k = nil
	}
	if k == nil || k.ID == "" {
		k, err = r.fresh(ctx, false)
		return k, false, err
	}
	latest, err := r.s.head(ctx, r.c.RemoteManifestDiffFile)
	switch {
	case errors.Is(err, ErrNotFound):
		list, hidden, _, err := r.diffVersions(ctx, "")
		switch {
		case err != nil:
			return nil, false, err
		case hidden:
			return nil, false, r.hidden(list)
		}
		return nil, false, r.gone(k)
	case err != nil:
		return nil, false, err
	}
	if k.ID == latest.ID {
		return k, true, nil
	}
	newer, _, found, err := r.diffVersions(ctx, k.ID)
	if err != nil {
		return nil, false, err
	}
	if !found {
		return nil, false, r.gone(k)
	}
	if len(newer) == 0 { // the list lags behind; what is committed looks again
		return k, true, nil
	}
	if len(newer) > r.c.SnapshotInterval {
		k, err = r.fresh(ctx, false)
		return k, false, err
	}
	head := k.cacheHead
	c := chain{m: k.manifest(), last: k.ID, commits: map[string]bool{}}
	err = r.eachDiff(ctx, newer, func(d diff) error {
		c.apply(d)
		head.Route = head.Route.plus(r.c.RemoteManifestDiffFile, d.version.ID, len(d.changes))
		return nil
	})
	if err != nil {
		return nil, false, err
	}
	if len(c.problems) > 0 {
		return nil, false, &TamperError{strings.Join(c.problems, "; ")}
	}
	head.Sequence, head.Retained = head.Sequence+len(newer), time.Time{}
	head.ID, head.Modified = newer[len(newer)-1].ID, newer[len(newer)-1].Time // since latest was looked at there may be another one
	return cacheOf(head, c.m), false, nil
}

// gone says that a version which was here is not in the bucket any more.
func (r *Repository) gone(k *cache) error {
	return &TamperError{fmt.Sprintf("version %s of %s, which this machine knows, is not in the bucket %q any more. Nothing was changed; if that is right, remove %s",
		k.ID, k.Modified.Local().Format(time.DateTime), r.c.S3.Bucket, r.c.cachePath())}
}

// expired are the IDs of versions that have expired.
func (r *Repository) expired(ctx context.Context) (map[string]bool, error) {
	ids := map[string]bool{}
	text, v, err := r.getOwnMeta(ctx, r.c.RemoteExpiredFile, "")
	if errors.Is(err, errUnencrypted) { // what it names would else be taken for garbage
		r.c.Log.Warn("the list of versions that have expired is ignored; \"expire\" makes it again", "error", err)
		return ids, nil
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, errAccess) {
		return ids, nil
	}
	if err != nil {
		return nil, err
	}
	list, err := decodeIDs(text)
	if err != nil {
		return nil, &CorruptError{r.c.RemoteExpiredFile, v.ID, err}
	}
	for _, id := range list {
		ids[id] = true
	}
	return ids, nil
}

// randomID is one that nobody else has.
func randomID() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// objectPath is where the object of a file is, below the folder of files. A name that could not be that of an object everywhere
// gives way to its hash; the manifest knows it.
func (r *Repository) objectPath(path string, pipeline []string, k *keys) string {
	if slices.Contains(pipeline, pipeHash) {
		return "/" + k.hashName(path)
	}
	if !plainKey(r.c.RemoteBasePath + path) {
		return hashedPath(path)
	}
	return path
}

func hashedPath(path string) string { return "/.names/" + hashText(path) }

// plural is a number of things.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}
