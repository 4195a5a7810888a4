package gateway

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"sdbackup/restserver"
)

// Protocol is what a client speaks.
type Protocol string

// The protocols.
const (
	REST   Protocol = "rest"   // restic's, https://restic.readthedocs.io/en/stable/REST_backend.html
	WebDAV Protocol = "webdav" // RFC 4918
)

// Request is what a client wants, read from its HTTP request once; everything after goes by it.
type Request struct {
	Protocol    Protocol
	Method      string
	Destination string // "": the top, of WebDAV only

	// REST
	Repository  string // folders below the destination, TYPE/UUID
	Object      restserver.Object
	Initialised bool // the repository has a config; only looked up where it counts

	// WebDAV
	File string // below the destination, without a slash at its ends; "": the destination's own folder
	To   string // the same, of the Destination header of MOVE and COPY; they stay within one destination
}

// Errors of requests that name nothing.
var (
	errNotFound       = errors.New("there is no such path")
	errBadDestination = errors.New("the Destination header does not name a path of the same destination")
)

// ParseRequest reads what is wanted. The path is judged as the client sent it: one that is not clean is refused rather than cleaned,
// for two readers of it could clean it differently.
func ParseRequest(r *http.Request) (Request, error) {
	req := Request{Protocol: WebDAV, Method: r.Method}
	if isREST(r) {
		req.Protocol = REST
	}
	parts, ok := split(r.URL)
	if !ok {
		return req, errNotFound
	}
	if len(parts) > 0 {
		req.Destination = parts[0]
	}
	if req.Protocol == REST {
		folders, object, ok := restserver.ParsePath(r.URL.Path)
		if !ok || len(folders) < 2 || folders[0] != req.Destination {
			return req, errNotFound
		}
		req.Repository, req.Object = strings.Join(folders[1:], "/"), object
		return req, nil
	}
	if len(parts) > 1 {
		req.File = strings.Join(parts[1:], "/")
	}
	switch header := r.Header.Values("Destination"); {
	case r.Method != "MOVE" && r.Method != "COPY":
	case len(header) != 1:
		return req, errBadDestination
	default:
		// Only its path counts: behind a proxy, scheme and host are of the proxy.
		u, err := url.Parse(header[0])
		if err != nil {
			return req, errBadDestination
		}
		to, ok := split(u)
		if !ok || len(to) < 2 || to[0] != req.Destination {
			return req, errBadDestination
		}
		req.To = strings.Join(to[1:], "/")
	}
	return req, nil
}

// isREST tells restic from WebDAV: it names its protocol in Accept, but not where it makes a repository.
func isREST(r *http.Request) bool {
	for _, accept := range r.Header.Values("Accept") {
		if strings.Contains(accept, "application/vnd.x.restic.rest.v") {
			return true
		}
	}
	return r.URL.Query().Get("create") == "true"
}

// split returns the parts of a URL's path, of which none is empty, ".", ".." or holds a slash, a backslash or a NUL. A slash may end it.
func split(u *url.URL) ([]string, bool) {
	p := u.Path
	escaped := strings.ToLower(u.EscapedPath())
	if !strings.HasPrefix(p, "/") || strings.Contains(escaped, "%2f") || strings.Contains(escaped, "%5c") {
		return nil, false
	}
	p = strings.TrimSuffix(p[1:], "/")
	if p == "" {
		return nil, u.Path == "/"
	}
	if p[0] == '/' || path.Clean(p) != p || strings.ContainsAny(p, "\x00\\") || !utf8.ValidString(p) {
		return nil, false
	}
	parts := strings.Split(p, "/")
	if slices.Contains(parts, "..") || slices.Contains(parts, ".") {
		return nil, false
	}
	return parts, true
}
