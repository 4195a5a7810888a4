package destination

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
)

// Document is what Export writes and Import reads. It holds every secret.
type Document struct {
	Version      int        `json:"version"`
	Destinations []Exported `json:"destinations"`

	LeftOut []Reason `json:"-"` // what a copy of a node has and cannot be imported
	partial bool     // a destination whose ID is taken keeps no other from being imported
}

// Reason is why a destination is not imported.
type Reason struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// Only returns the document with these destinations alone; with no IDs, all of it.
func (doc Document) Only(ids []string) (Document, error) {
	if len(ids) == 0 {
		return doc, nil
	}
	var errs []error
	for _, id := range ids {
		if !slices.ContainsFunc(doc.Destinations, func(e Exported) bool { return e.ID == id }) &&
			!slices.ContainsFunc(doc.LeftOut, func(r Reason) bool { return r.ID == id }) {
			errs = append(errs, usage("", "there is no destination %s in it", id))
		}
	}
	doc.Destinations = slices.DeleteFunc(slices.Clone(doc.Destinations), func(e Exported) bool { return !slices.Contains(ids, e.ID) })
	doc.LeftOut = slices.DeleteFunc(slices.Clone(doc.LeftOut), func(r Reason) bool { return !slices.Contains(ids, r.ID) })
	return doc, errors.Join(errs...)
}

// documentVersion is that of the format.
const documentVersion = 1

// maxDocument bounds a document that is read.
const maxDocument = 16 << 20

// Exported is one destination of a Document.
type Exported struct {
	ID          string `json:"id"`
	Name        string `json:"name,omitempty"`
	UUID        string `json:"uuid"`
	Provider    string `json:"provider"`
	Repository  string `json:"repository"`
	Gateway     bool   `json:"gateway"`
	MaxSize     string `json:"max-size,omitempty"`
	KeepDeleted string `json:"keep-deleted,omitempty"`
	Password    string `json:"password"`
	Rclone      string `json:"rclone,omitempty"`      // an rclone.conf with the one remote
	Environment string `json:"environment,omitempty"` // lines NAME=value
}

// setOptional sets what is left out where it says nothing.
func (e *Exported) setOptional(name string, maxSize int64, keepDeleted time.Duration) {
	if name != e.ID {
		e.Name = name
	}
	if maxSize > 0 {
		e.MaxSize = formatSize(maxSize)
	}
	if keepDeleted > 0 {
		e.KeepDeleted = formatSpan(keepDeleted)
	}
}

// Export returns destinations with their secrets, all without IDs.
func (s *Store) Export(ctx context.Context, wanted []string) (Document, error) {
	chosen, err := choose(s.load(), wanted)
	if err != nil {
		return Document{}, err
	}
	doc := Document{Version: documentVersion, Destinations: []Exported{}}
	var errs []error
	for _, d := range chosen {
		st, err := s.read(ctx, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		e := Exported{
			ID: st.id, UUID: st.uuid(), Provider: st.provider.name, Repository: st.repository, Gateway: st.gateway,
			Password: string(st.password), Environment: st.environment,
		}
		e.setOptional(st.name, st.maxSize, st.keepDeleted)
		if st.remote != nil {
			if e.Rclone, err = st.remote.render(); err != nil {
				errs = append(errs, fmt.Errorf("destination %s: its rclone.conf: %w", d.ID, err))
			}
		}
		doc.Destinations = append(doc.Destinations, e)
	}
	if err := errors.Join(errs...); err != nil {
		return Document{}, err
	}
	return doc, nil
}

// ReadDocument reads what Export wrote. Errors say nothing of what is in it.
func ReadDocument(r io.Reader) (Document, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return Document{}, err
	}
	if len(data) > maxDocument {
		return Document{}, usage("", "the document is larger than %d MiB", maxDocument>>20)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var doc Document
	if err := dec.Decode(&doc); err != nil {
		if e := (*json.SyntaxError)(nil); errors.As(err, &e) {
			return Document{}, usage("", "the document is not JSON, at byte %d; want what \"backup-destination export\" wrote", e.Offset)
		}
		return Document{}, usage("", "the document is not what \"backup-destination export\" writes")
	}
	if doc.Version != documentVersion {
		return Document{}, usage("", "the document has version %d; this program knows %d", doc.Version, documentVersion)
	}
	return doc, nil
}

// Imported is what became of a document.
type Imported struct {
	Added   []string
	Skipped []string // IDs in the document of what is there already
	LeftOut []Reason // of a copy of a node: what stands for another place here, or lacks a secret
	Files   []string
	Loads   []string // credentials that backup-gateway.service must load
}

// Import adds the destinations that are not there, by their UUIDs. All are judged before any is written, and when one cannot be
// written, none is.
func (s *Store) Import(ctx context.Context, doc Document, credential bool) (Imported, error) {
	var all []*stored
	var errs []error
	for i, e := range doc.Destinations {
		d, err := e.stored(credential)
		if err != nil && doc.partial {
			doc.LeftOut = append(slices.Clone(doc.LeftOut), Reason{e.ID, strings.ReplaceAll(err.Error(), "\n", "; ")})
			continue
		}
		if err != nil {
			label := e.ID
			if !config.ValidID(label) {
				label = fmt.Sprintf("%d of the document", i+1)
			}
			errs = append(errs, inDestination(label, err))
			continue
		}
		all = append(all, d)
	}
	if err := errors.Join(errs...); err != nil {
		return Imported{}, err
	}
	if err := makeFolder(s.Dir, publicFolder); err != nil {
		return Imported{}, err
	}
	unlock, err := lock.Folder(s.Dir)
	if err != nil {
		return Imported{}, err
	}
	defer unlock()
	cfg := s.load()
	known := s.uuids(ctx, cfg)
	result := Imported{Added: []string{}, Skipped: []string{}, LeftOut: append([]Reason{}, doc.LeftOut...)}
	var changes []change
	files := map[string][]byte{}
	var changed []string
	for _, d := range all {
		if known[d.uuid()] != "" {
			result.Skipped = append(result.Skipped, d.id)
			continue
		}
		if slices.Contains(result.Added, d.id) {
			errs = append(errs, usage("", "destination %s is in the document twice; take one of them out", d.id))
			continue
		}
		if err := s.unnamed(cfg, d.id); err != nil && doc.partial {
			result.LeftOut = append(result.LeftOut, Reason{d.id, err.Error()})
			continue
		} else if err != nil {
			errs = append(errs, fmt.Errorf("%w; nothing was imported", err))
			continue
		}
		known[d.uuid()] = d.id
		c, err := s.changes(ctx, d)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		toml := c[len(c)-1].data
		if err := s.judge(cfg, d, toml); err != nil {
			errs = append(errs, err)
			continue
		}
		if c, _, err = s.keepPassword(s.passwordAt(d.id, d.credential), c); err != nil {
			errs = append(errs, err)
			continue
		}
		changes = append(changes, c...)
		files["destination-"+d.id+".toml"] = toml
		changed = append(changed, "destination."+d.id)
		result.Added = append(result.Added, d.id)
		if name := d.loads(); name != "" {
			result.Loads = append(result.Loads, name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Imported{}, err
	}
	after, err := s.preview(files)
	if err != nil {
		return Imported{}, err
	}
	if err := verify(cfg, after, changed...); err != nil {
		return Imported{}, fmt.Errorf("import: %w; nothing was imported", err)
	}
	for _, id := range result.Added {
		s.sweep(id)
	}
	if _, err := s.apply(changes); err != nil {
		return Imported{}, fmt.Errorf("import: %w", err)
	}
	result.Files = paths(changes)
	return result, nil
}

// inDestination says of each error which destination of a document it is about.
func inDestination(label string, err error) error {
	var errs []error
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return usage("", "destination %s: %v", label, err)
	}
	for _, e := range joined.Unwrap() {
		errs = append(errs, inDestination(label, e))
	}
	return errors.Join(errs...)
}

// stored judges one destination of a document and returns it as it is to be written here.
func (e Exported) stored(credential bool) (*stored, error) {
	if !config.ValidID(e.ID) {
		return nil, usage("", "%q is no ID", e.ID)
	}
	p, err := findProvider(e.Provider)
	if err != nil {
		return nil, usage("", "there is no provider %q", e.Provider)
	}
	d := &stored{
		id: e.ID, name: e.Name, provider: p, repository: e.Repository, gateway: e.Gateway, credential: credential,
		password: Secret(e.Password), environment: e.Environment,
	}
	var errs []error
	if d.maxSize, err = parseSize("max-size", e.MaxSize); err != nil {
		errs = append(errs, err)
	}
	if d.keepDeleted, err = parseSpan("keep-deleted", e.KeepDeleted); err != nil {
		errs = append(errs, err)
	}
	isRclone := strings.HasPrefix(e.Repository, "rclone:")
	if e.Rclone != "" {
		if d.remote, err = pickRemote(e.Rclone, "", e.ID, nil); err != nil {
			errs = append(errs, fmt.Errorf("its rclone.conf %w", err))
		}
	}
	_, local := (&config.Destination{Repository: e.Repository}).Local()
	switch {
	case p.name == providerOther:
	case p.name == providerLocal && !local,
		p.name == providerREST && !strings.HasPrefix(e.Repository, "rest:"),
		p.kind != "" && (!isRclone || d.remote == nil || d.remote.Get("type") != p.kind),
		p.name == providerRclone && (!isRclone || d.remote == nil):
		errs = append(errs, errors.New("its repository and its provider do not fit; export it again"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if isRclone && d.remote != nil {
		d.repository = "rclone:" + d.id + ":" + d.location() // the remote has that name from now on
	}
	parameters, secret := d.parameters()
	if p.name != providerOther {
		if err := p.judge(parameters, secret); err != nil {
			return nil, err
		}
		d.set(parameters, secret)
	}
	return d, d.judge()
}
