package destination

import (
	"errors"
	"path/filepath"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/nodecopy"
)

// FromNode makes a document of the destinations in a copy of a node. Those that have mistakes or lack a secret are in LeftOut.
func FromNode(c nodecopy.Copy) (Document, error) {
	all, problems, err := c.Destinations()
	if err != nil {
		return Document{}, err
	}
	doc := Document{Version: documentVersion, Destinations: []Exported{}, partial: true}
	for _, p := range problems {
		doc.LeftOut = append(doc.LeftOut, Reason{p.ID, p.Message})
	}
	for _, d := range all {
		e, err := exportedOf(d)
		if err != nil {
			doc.LeftOut = append(doc.LeftOut, Reason{d.ID, err.Error()})
			continue
		}
		doc.Destinations = append(doc.Destinations, e)
	}
	return doc, nil
}

func exportedOf(d nodecopy.FullDestination) (Exported, error) {
	e := Exported{
		ID: d.ID, UUID: d.UUID, Provider: providerIn(d), Repository: d.Repository, Gateway: d.Gateway,
		Password: strings.TrimSpace(string(d.Password)), Environment: string(d.Environment),
	}
	e.setOptional(d.Name, d.MaxSize, d.KeepDeleted)
	if len(d.Missing) > 0 {
		return e, errors.New(d.Missing[0].String())
	}
	if len(d.Rclone) == 0 {
		return e, nil
	}
	remote, err := findRemote(string(d.Rclone), d.Repository)
	if err != nil {
		return e, err
	}
	e.Rclone, err = remote.render()
	return e, err
}

// providerIn is providerOf for a destination of another node.
func providerIn(d nodecopy.FullDestination) string {
	if name, ok := madeFor(d.Defined); ok && filepath.Base(d.File) == "destination-"+d.ID+".toml" {
		if _, err := findProvider(name); err == nil {
			return name
		}
	}
	_, local := (&config.Destination{Repository: d.Repository}).Local()
	switch {
	case local:
		return providerLocal
	case strings.HasPrefix(d.Repository, "rest:"):
		return providerREST
	case strings.HasPrefix(d.Repository, "rclone:") && len(d.Rclone) > 0:
		return providerRclone
	}
	return providerOther
}
