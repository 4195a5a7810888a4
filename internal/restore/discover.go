package restore

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
)

// Origin is whose a repository is.
type Origin string

// The origins.
const (
	Installed Origin = "installed" // of a module in the configuration
	ThisNode  Origin = "this-node" // this node's, but the module is not in the configuration
	Foreign   Origin = "foreign"   // of another node, or nobody knows
)

// Found is a repository at a destination and what is in it.
type Found struct {
	Destination string    `json:"destination"`
	Type        string    `json:"type"`
	UUID        string    `json:"uuid"`
	Origin      Origin    `json:"origin"`
	Module      string    `json:"module,omitempty"` // ID, as installed, else as it was
	UIName      string    `json:"ui_name,omitempty"`
	Node        string    `json:"node,omitempty"` // that saved it last
	LastRun     time.Time `json:"last_run,omitzero"`
	LastSuccess *bool     `json:"last_success,omitempty"` // whether that run saved it; nil: nobody knows
	Points      []Point   `json:"points"`                 // the newest first
	Error       string    `json:"error,omitempty"`        // why the points are not known
}

// Name is TYPE/UUID.
func (f Found) Name() string { return f.Type + "/" + f.UUID }

// ListOptions say what is listed.
type ListOptions struct {
	Destination string // "": all of them
	Repository  *Repository
	Sizes       bool // ask restic for sizes that snapshots do not have: of the latest point, with Repository of all
	Backup      string
}

// Listing is what can be restored.
type Listing struct {
	Repositories []Found  `json:"repositories"`
	Notes        []string `json:"notes"`  // what could not be looked for
	Errors       []string `json:"errors"` // of destinations that could not be listed
}

// candidate is a repository that is, or may be, there.
type candidate struct {
	Repository
	metadata func(context.Context) (*run.Metadata, error) // nil: there is none
}

// List looks what can be restored. What fails with one destination, or one repository, is in the listing.
func (r *Restorer) List(ctx context.Context, o ListOptions) (Listing, error) {
	list := Listing{Repositories: []Found{}, Notes: []string{}, Errors: []string{}}
	var all []candidate
	if o.Repository != nil {
		all = []candidate{{Repository: *o.Repository}}
	} else {
		ids := r.Config.DestinationIDs()
		if o.Destination != "" {
			ids = []string{o.Destination}
		}
		for _, id := range ids {
			d := r.Config.Destinations[id]
			if d == nil {
				return list, usage("", "there is no destination %s in the configuration", id)
			}
			err := r.mistakes(config.KindDestination, id)
			if err == nil {
				var found []candidate
				var note string
				found, note, err = r.candidates(ctx, d)
				all = append(all, found...)
				if note != "" {
					list.Notes = append(list.Notes, note)
				}
			}
			if err != nil && len(ids) == 1 {
				return list, err
			}
			if err != nil {
				list.Errors = append(list.Errors, err.Error())
			}
		}
	}
	found := make([]Found, len(all))
	errs := make([]error, len(all))
	each(len(all), func(i int) { found[i], errs[i] = r.examine(ctx, all[i], o) })
	if ctx.Err() != nil {
		return list, context.Cause(ctx)
	}
	for i, f := range found {
		if errors.Is(errs[i], restic.ErrNoRepository) && o.Repository == nil {
			continue // a module that was never saved there, or a folder without a repository
		}
		if errs[i] != nil && o.Repository != nil {
			return list, errs[i]
		}
		list.Repositories = append(list.Repositories, f)
	}
	return list, nil
}

// each calls f for every number below n, so many at a time as are good for a small machine and a far destination.
func each(n int, f func(int)) {
	var wait sync.WaitGroup
	free := make(chan struct{}, parallel)
	for i := range n {
		free <- struct{}{}
		wait.Go(func() {
			defer func() { <-free }()
			f(i)
		})
	}
	wait.Wait()
}

// examine reads what a repository is and what is in it.
func (r *Restorer) examine(ctx context.Context, c candidate, o ListOptions) (Found, error) {
	f := Found{Destination: c.Destination.ID, Type: c.Type, UUID: c.UUID, Origin: Foreign, Points: []Point{}}
	if c.metadata != nil {
		if m, err := c.metadata(ctx); err == nil { // without, the snapshots tell
			f.Module, f.UIName, f.Node, f.LastRun, f.LastSuccess = m.Module, m.UIName, m.Node, m.Time, &m.Success
		}
	}
	list, err := r.points(ctx, c.Repository, o)
	if err != nil {
		f.Error = err.Error()
	}
	f.Points = append(f.Points, list...)
	if len(list) > 0 {
		last := list[0]
		if f.Module == "" {
			f.Module = last.Module
		}
		if f.Node == "" {
			f.Node = last.Snapshots[0].Host
		}
	}
	switch {
	case c.Module != nil:
		f.Origin, f.Module, f.UIName = Installed, c.Module.ID, c.Module.UIName
	case f.Node == r.Config.Node.Name:
		f.Origin = ThisNode
	}
	return f, err
}

// points reads the points of a repository.
func (r *Restorer) points(ctx context.Context, at Repository, o ListOptions) ([]Point, error) {
	from, err := r.source(ctx, at)
	if err != nil {
		return nil, err
	}
	defer from.close()
	all, err := from.points(ctx)
	if err != nil {
		return nil, err
	}
	if o.Backup != "" {
		all = slices.DeleteFunc(all, func(p Point) bool { return p.Backup != o.Backup })
	}
	if o.Sizes {
		measured := all
		if o.Repository == nil {
			measured = all[:min(1, len(all))]
		}
		from.measure(ctx, measured)
	}
	return all, nil
}

// measure counts what is in the snapshots that do not say it themselves, as newer ones do: hard links count once for each name. Where that
// fails it stays unknown.
func (o *opened) measure(ctx context.Context, list []Point) {
	var unknown []*Snapshot
	for _, p := range list {
		for i := range p.Snapshots {
			if p.Snapshots[i].Bytes == nil {
				unknown = append(unknown, &p.Snapshots[i])
			}
		}
	}
	each(len(unknown), func(i int) {
		var files, bytes uint64
		err := o.Ls(ctx, unknown[i].ID, nil, func(n restic.Node) error {
			if n.Type == "file" {
				files, bytes = files+1, bytes+n.Size
			}
			return nil
		})
		if err == nil {
			unknown[i].Files, unknown[i].Bytes = &files, &bytes
		}
	})
}

// candidates lists the repositories at a destination, and says what could not be looked for.
func (r *Restorer) candidates(ctx context.Context, d *config.Destination) ([]candidate, string, error) {
	if d.Gateway {
		found, err := r.webdav(ctx, d)
		if errors.Is(err, errNoListing) {
			return r.configured(d), fmt.Sprintf("destination %s: it cannot be listed, so only the modules of the configuration are shown", d.ID), nil
		}
		if err != nil {
			return nil, "", fmt.Errorf("list destination %s: %w", d.ID, err)
		}
		return found, "", nil
	}
	if folder, local := d.Local(); local {
		found, err := r.local(d, folder)
		if err != nil {
			return nil, "", listing(d, err)
		}
		found = slices.DeleteFunc(found, func(c candidate) bool { return c.InBucket() }) // of restic, before it had that engine
		for _, c := range r.configured(d) {
			if c.InBucket() {
				found = append(found, c)
			}
		}
		return found, "", nil
	}
	return r.configured(d), fmt.Sprintf("destination %s: without the gateway only the modules of the configuration are known", d.ID), nil
}

// listing is the error of a destination that cannot be listed.
func listing(d *config.Destination, err error) error {
	if folder, local := d.Local(); local && !d.Gateway && errors.Is(err, fs.ErrNotExist) {
		return noFolder(d, folder)
	}
	return fmt.Errorf("list destination %s: %w", d.ID, err)
}

func noFolder(d *config.Destination, folder string) error {
	return fmt.Errorf("destination %s: there is no folder %s; is its disk mounted?", d.ID, folder)
}

// configured are the repositories that the configuration knows at a destination.
func (r *Restorer) configured(d *config.Destination) []candidate {
	var list []candidate
	for _, id := range r.Config.ModuleIDs() {
		m := r.Config.Modules[id]
		used := slices.ContainsFunc(r.Config.BackupIDs(), func(b string) bool {
			return r.Config.Backups[b].Destination == d.ID && slices.Contains(r.Config.Backups[b].Modules, id)
		})
		if used && config.ValidID(m.Type) && config.ValidID(m.UUID) {
			list = append(list, candidate{Repository: Repository{Destination: d, Type: m.Type, UUID: m.UUID, Module: m}})
		}
	}
	return list
}

// maxMetadataBytes bounds a TYPE/UUID.json.
const maxMetadataBytes = 64 << 10

// local lists a folder.
func (r *Restorer) local(d *config.Destination, folder string) ([]candidate, error) {
	types, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	var list []candidate
	for _, t := range types {
		if !t.IsDir() || !config.ValidID(t.Name()) {
			continue
		}
		entries, err := os.ReadDir(filepath.Join(folder, t.Name()))
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			path := filepath.Join(folder, t.Name(), e.Name())
			if !e.IsDir() || !config.ValidID(e.Name()) {
				continue
			}
			if _, err := os.Stat(filepath.Join(path, "config")); errors.Is(err, os.ErrNotExist) {
				continue
			}
			c := candidate{Repository: Repository{Destination: d, Type: t.Name(), UUID: e.Name(), Module: r.installed(t.Name(), e.Name())}}
			c.metadata = func(context.Context) (*run.Metadata, error) {
				f, err := os.Open(path + ".json")
				if err != nil {
					return nil, err
				}
				defer f.Close()
				return readMetadata(f)
			}
			list = append(list, c)
		}
	}
	return list, nil
}

func readMetadata(from io.Reader) (*run.Metadata, error) {
	m := new(run.Metadata)
	if err := json.NewDecoder(io.LimitReader(from, maxMetadataBytes)).Decode(m); err != nil {
		return nil, fmt.Errorf("read what a repository is: %w", err)
	}
	return m, nil
}

// errNoListing says that the destination behind the gateway is a server which has no listings.
var errNoListing = errors.New("it has no listing")

// webdav lists a destination behind the gateway: the folders of types, all their folders at a time, and what is written beside those.
func (r *Restorer) webdav(ctx context.Context, d *config.Destination) ([]candidate, error) {
	client, err := run.NewNodeClient(ctx, r.Config, r.Paths)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	types, err := propfind(ctx, client, "/"+d.ID+"/")
	if err != nil {
		return nil, err
	}
	types = slices.DeleteFunc(types, func(e entry) bool { return !e.folder || !config.ValidID(e.name) })
	inside := make([][]entry, len(types))
	errs := make([]error, len(types))
	each(len(types), func(i int) { inside[i], errs[i] = propfind(ctx, client, "/"+d.ID+"/"+types[i].name+"/") })
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var list []candidate
	var described []int // those that have a file beside them
	for i, t := range types {
		for _, e := range inside[i] {
			if !e.folder || !config.ValidID(e.name) {
				continue
			}
			if slices.Contains(inside[i], entry{name: e.name + ".json"}) {
				described = append(described, len(list))
			}
			list = append(list, candidate{Repository: Repository{Destination: d, Type: t.name, UUID: e.name, Module: r.installed(t.name, e.name)}})
		}
	}
	each(len(described), func(i int) {
		c := &list[described[i]]
		m, err := getMetadata(ctx, client, "/"+d.ID+"/"+c.Name()+".json")
		c.metadata = func(context.Context) (*run.Metadata, error) { return m, err }
	})
	return list, nil
}

func getMetadata(ctx context.Context, client *run.NodeClient, path string) (*run.Metadata, error) {
	resp, err := client.Do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, answer(resp)
	}
	return readMetadata(resp.Body)
}

// answer is the error that the gateway answered.
func answer(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
	return fmt.Errorf("the gateway answered %s: %s", resp.Status, strings.TrimSpace(strings.ToValidUTF8(string(text), "?")))
}

// entry is what is in a folder.
type entry struct {
	name   string
	folder bool
}

// maxListingBytes bounds an answer to PROPFIND.
const maxListingBytes = 64 << 20

// propfind lists a folder by WebDAV, RFC 4918, 9.1.
func propfind(ctx context.Context, client *run.NodeClient, path string) ([]entry, error) {
	resp, err := client.Do(ctx, "PROPFIND", path, http.Header{"Depth": {"1"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusMultiStatus:
	case http.StatusMethodNotAllowed, http.StatusNotImplemented, http.StatusNotFound:
		return nil, fmt.Errorf("%w: %w", errNoListing, answer(resp))
	default:
		return nil, answer(resp)
	}
	return parseListing(io.LimitReader(resp.Body, maxListingBytes))
}

// parseListing reads an answer to PROPFIND of depth 1. The folder itself is the one with the shortest path.
func parseListing(from io.Reader) ([]entry, error) {
	var status struct {
		Responses []struct {
			Href   string    `xml:"DAV: href"`
			Folder *struct{} `xml:"DAV: propstat>prop>resourcetype>collection"`
		} `xml:"DAV: response"`
	}
	if err := xml.NewDecoder(from).Decode(&status); err != nil {
		return nil, fmt.Errorf("read a WebDAV listing: %w", err)
	}
	var list []entry
	var depths []int
	shallowest := 0
	for i, one := range status.Responses {
		u, err := url.Parse(one.Href)
		if err != nil {
			return nil, fmt.Errorf("read a WebDAV listing: %w", err)
		}
		path := strings.Trim(u.Path, "/")
		depth := strings.Count(path, "/")
		if i == 0 || depth < shallowest || path == "" {
			shallowest = depth
			if path == "" {
				shallowest = -1
			}
		}
		depths = append(depths, depth)
		list = append(list, entry{path[strings.LastIndexByte(path, '/')+1:], one.Folder != nil})
	}
	var below []entry
	for i, e := range list {
		if depths[i] == shallowest+1 && e.name != "" {
			below = append(below, e)
		}
	}
	return below, nil
}
