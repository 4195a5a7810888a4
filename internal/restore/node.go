package restore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/nodecopy"
	"sdbackup/internal/run"
)

// uuidStart is how much of a UUID is taken for one, and not for a name: up to its first dash.
const uuidStart = 8

// NodeCopy finds a copy of a node's configuration at a destination and opens it. The node is its UUID, or the beginning of that, or its
// name; "": the only one that is there.
func (r *Restorer) NodeCopy(ctx context.Context, destination, node string, passphrase []byte) (nodecopy.Copy, error) {
	d := r.Config.Destinations[destination]
	if d == nil {
		return nodecopy.Copy{}, usage(`"backup-destination add" makes it known`, "there is no destination %s in the configuration", destination)
	}
	if err := r.mistakes(config.KindDestination, destination); err != nil {
		return nodecopy.Copy{}, err
	}
	at, err := r.copiesAt(ctx, d)
	if err != nil {
		return nodecopy.Copy{}, listing(d, err)
	}
	defer at.close()
	var uuids []string // of a node there is one copy, and perhaps one that is on its way
	for _, name := range at.names {
		if uuid, _, ok := nodecopy.ParseFileName(name); ok && !slices.Contains(uuids, uuid) {
			uuids = append(uuids, uuid)
		}
	}
	slices.Sort(uuids)
	if len(uuids) == 0 {
		return nodecopy.Copy{}, remedy(fmt.Errorf("no node has left a copy of its configuration at destination %s", destination),
			"copies are written by runs of backups to it, where [node] names a passphrase")
	}
	chosen := uuids
	if node != "" {
		chosen = slices.DeleteFunc(slices.Clone(uuids), func(uuid string) bool {
			return len(node) < uuidStart || !strings.HasPrefix(uuid, strings.ToLower(node))
		})
	}
	switch {
	case len(chosen) == 1:
		return at.open(ctx, chosen[0], passphrase)
	case len(chosen) > 1:
		return nodecopy.Copy{}, usage("say which with --node, by its UUID or its name", "%d nodes have left copies at destination %s: %s",
			len(chosen), destination, strings.Join(chosen, ", "))
	}
	// Names are told to those only who have the passphrase.
	var found []nodecopy.Copy
	var errs []error
	for _, uuid := range uuids {
		c, err := at.open(ctx, uuid, passphrase)
		switch {
		case ctx.Err() != nil:
			return nodecopy.Copy{}, context.Cause(ctx)
		case err != nil:
			errs = append(errs, err)
		case c.Manifest.Node.Name == node:
			found = append(found, c)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nodecopy.Copy{}, usage("say which with --node, by its UUID", "%d nodes of the name %s have left copies at destination %s", len(found), node, destination)
	}
	if len(errs) == len(uuids) {
		return nodecopy.Copy{}, errs[0]
	}
	text := fmt.Sprintf("no node %s has left a copy at destination %s; there are those of %s", node, destination, strings.Join(uuids, ", "))
	if len(errs) > 0 {
		text += fmt.Sprintf(", of which %d cannot be opened", len(errs))
	}
	return nodecopy.Copy{}, usage("", "%s", text)
}

// copies are the files at the top of a destination.
type copies struct {
	names []string
	read  func(ctx context.Context, name string) (nodecopy.Copy, error)
	close func()

	passphrase []byte
}

// open opens the copy of a node. The one that is on its way counts where the other one is missing or damaged.
func (c *copies) open(ctx context.Context, uuid string, passphrase []byte) (nodecopy.Copy, error) {
	c.passphrase = passphrase
	name, staged := nodecopy.FileName(uuid), nodecopy.StagedName(uuid)
	if !slices.Contains(c.names, name) {
		return c.read(ctx, staged)
	}
	found, err := c.read(ctx, name)
	if err != nil && ctx.Err() == nil && slices.Contains(c.names, staged) {
		if other, otherErr := c.read(ctx, staged); otherErr == nil {
			return other, nil
		}
	}
	return found, err
}

func (r *Restorer) copiesAt(ctx context.Context, d *config.Destination) (*copies, error) {
	c := &copies{close: func() {}}
	if folder, local := d.Local(); local && !d.Gateway {
		entries, err := os.ReadDir(folder)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				c.names = append(c.names, e.Name())
			}
		}
		c.read = func(_ context.Context, name string) (nodecopy.Copy, error) {
			f, err := os.Open(filepath.Join(folder, name))
			if err != nil {
				return nodecopy.Copy{}, err
			}
			defer f.Close()
			return nodecopy.Decrypt(f, c.passphrase)
		}
		return c, nil
	}
	if !d.Gateway {
		return nil, errors.New("it is neither a folder nor behind the gateway, so there are no copies")
	}
	client, err := run.NewNodeClient(ctx, r.Config, r.Paths)
	if err != nil {
		return nil, err
	}
	entries, err := propfind(ctx, client, "/"+d.ID+"/")
	if err != nil {
		client.Close()
		return nil, err
	}
	for _, e := range entries {
		if !e.folder {
			c.names = append(c.names, e.name)
		}
	}
	c.close = client.Close
	c.read = func(ctx context.Context, name string) (nodecopy.Copy, error) {
		resp, err := client.Do(ctx, http.MethodGet, "/"+d.ID+"/"+name, nil)
		if err != nil {
			return nodecopy.Copy{}, err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return nodecopy.Copy{}, answer(resp)
		}
		return nodecopy.Decrypt(resp.Body, c.passphrase)
	}
	return c, nil
}
