package gateway

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/token"
)

// Authorize decides whether the principal may make the request; an error says why not. It looks at nothing but its arguments.
func Authorize(p token.Principal, r Request) error {
	if !reads(r.Method) && (within(r.File, config.HoldingArea) || within(r.To, config.HoldingArea) || within(r.Repository, config.HoldingArea)) {
		return errors.New("what is kept of what was deleted is for nobody to change: it goes when its time is over")
	}
	if p.Node {
		return nil
	}
	if r.Protocol == WebDAV {
		return authorizeWebDAV(p, r)
	}
	g, ok := grantOf(p, r.Destination, r.Repository)
	if !ok {
		return fmt.Errorf("%s may not use %s/%s", p.Name, r.Destination, r.Repository)
	}
	what := r.Object.Type
	switch {
	case r.Method == http.MethodGet, r.Method == http.MethodHead:
		return nil
	case what == "locks" && (r.Method == http.MethodPost || r.Method == http.MethodDelete) && r.Object.Name != "":
		return nil // who reads must lock, too
	case g.Mode == token.Read:
		return fmt.Errorf("%s may only read %s/%s", p.Name, r.Destination, r.Repository)
	case r.Method == http.MethodPost && g.Mode == token.Add && what == "keys" && r.Initialised:
		return fmt.Errorf("%s may not add keys to a repository that is there", p.Name)
	case r.Method == http.MethodPost:
		return nil
	case r.Method == http.MethodDelete && g.Mode == token.All && what != "":
		return nil
	}
	return fmt.Errorf("%s may add to %s/%s, but not remove", p.Name, r.Destination, r.Repository)
}

// authorizeWebDAV: all that is not a node may only read, the top, its own repositories, and what is written beside them.
func authorizeWebDAV(p token.Principal, r Request) error {
	if !reads(r.Method) {
		return fmt.Errorf("%s may only read by WebDAV", p.Name)
	}
	if r.Destination == "" {
		return nil
	}
	for _, g := range p.Grants {
		if g.Destination == r.Destination && (within(r.File, g.Repository) || r.File == g.Repository+".json") {
			return nil
		}
	}
	return fmt.Errorf("%s may not read %s/%s", p.Name, r.Destination, r.File)
}

// reads tells whether a method changes nothing.
func reads(method string) bool {
	return slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, "PROPFIND"}, method)
}

func grantOf(p token.Principal, destination, repository string) (token.Grant, bool) {
	for _, g := range p.Grants {
		if g.Destination == destination && within(repository, g.Repository) {
			return g, true
		}
	}
	return token.Grant{}, false
}

// within tells whether a clean path is another one, or below it.
func within(path, top string) bool {
	return top != "" && (path == top || strings.HasPrefix(path, top+"/"))
}
