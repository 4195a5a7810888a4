package gateway

import (
	"context"
	"crypto/rand"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/webdav"

	"sdbackup/internal/token"
)

// serveTop answers for "/": the destinations that the principal may look into, as a folder.
func serveTop(w http.ResponseWriter, r *http.Request, names []string) {
	switch r.Method {
	case http.MethodOptions:
		w.Header().Set("Allow", "OPTIONS, GET, HEAD, PROPFIND")
		w.Header().Set("DAV", "1")
	case http.MethodGet, http.MethodHead:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		for _, name := range names {
			_, _ = io.WriteString(w, name+"/\n")
		}
	case "PROPFIND":
		if depth := r.Header.Get("Depth"); depth == "0" {
			names = nil
		}
		answer := multistatus{Namespace: "DAV:", Responses: []folder{newFolder("/")}}
		for _, name := range names {
			answer.Responses = append(answer.Responses, newFolder("/"+name+"/"))
		}
		w.Header().Set("Content-Type", "application/xml; charset=utf-8")
		w.WriteHeader(http.StatusMultiStatus)
		_, _ = io.WriteString(w, xml.Header)
		_ = xml.NewEncoder(w).Encode(answer)
	default:
		w.Header().Set("Allow", "OPTIONS, GET, HEAD, PROPFIND")
		http.Error(w, "this is no folder that can be changed", http.StatusMethodNotAllowed)
	}
}

// multistatus is the answer to PROPFIND, RFC 4918, 14.16.
type multistatus struct {
	XMLName   xml.Name `xml:"D:multistatus"`
	Namespace string   `xml:"xmlns:D,attr"`
	Responses []folder `xml:"D:response"`
}

type folder struct {
	Href   string   `xml:"D:href"`
	Kind   struct{} `xml:"D:propstat>D:prop>D:resourcetype>D:collection"`
	Status string   `xml:"D:propstat>D:status"`
}

func newFolder(href string) folder {
	return folder{Href: (&url.URL{Path: href}).EscapedPath(), Status: "HTTP/1.1 200 OK"}
}

// webdavLocal serves a local destination's folder.
func (d *destination) webdavLocal(w http.ResponseWriter, r *http.Request, req Request, locks webdav.LockSystem) error {
	root, err := os.OpenRoot(d.folder)
	if err != nil {
		return &unavailableError{fmt.Errorf("open the destination's folder: %w", err)}
	}
	defer root.Close()
	if req.To != "" {
		r.Header.Set("Destination", (&url.URL{Path: "/" + d.ID + "/" + req.To}).String()) // as it was judged
	}
	body := &wholeBody{ReadCloser: r.Body, length: r.ContentLength}
	r.Body = body
	handler := webdav.Handler{
		Prefix: "/" + d.ID, FileSystem: rootFS{root, body, d.KeepDeleted > 0}, LockSystem: locks,
		Logger: func(_ *http.Request, err error) {
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				d.log.Debug("webdav: " + err.Error())
			}
		},
	}
	handler.ServeHTTP(w, r)
	return nil
}

// wholeBody knows whether all of a body was read.
type wholeBody struct {
	io.ReadCloser
	length int64
	whole  atomic.Bool
}

func (b *wholeBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.whole.Store(true)
	}
	return n, err
}

// rootFS is a folder for golang.org/x/net/webdav that no symbolic link leads out of, and in which files are replaced as a whole, and only
// by uploads that came to their end.
type rootFS struct {
	root *os.Root
	body *wholeBody
	hold bool // what is removed goes to the holding area
}

func (f rootFS) name(name string) string {
	if name = strings.Trim(path.Clean(name), "/"); name == "" {
		return "."
	}
	return name
}

func (f rootFS) Mkdir(_ context.Context, name string, _ os.FileMode) error {
	return f.root.Mkdir(f.name(name), 0o755)
}

func (f rootFS) OpenFile(_ context.Context, name string, flag int, _ os.FileMode) (webdav.File, error) {
	name = f.name(name)
	if flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return f.root.Open(name)
	}
	if info, err := f.root.Stat(name); err == nil && info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	temporary := path.Join(path.Dir(name), "."+path.Base(name)+"."+rand.Text())
	file, err := f.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return &upload{File: file, fs: f, temporary: temporary, name: name}, nil
}

func (f rootFS) RemoveAll(_ context.Context, name string) error {
	if name = f.name(name); name == "." {
		return fs.ErrPermission // the destination's own folder stays
	}
	if f.hold {
		return holdLocal(f.root, name, held(time.Now(), name))
	}
	return f.root.RemoveAll(name)
}

func (f rootFS) Rename(_ context.Context, from, to string) error {
	from, to = f.name(from), f.name(to)
	if from == "." || to == "." {
		return fs.ErrPermission
	}
	return f.root.Rename(from, to)
}

func (f rootFS) Stat(_ context.Context, name string) (os.FileInfo, error) {
	return f.root.Stat(f.name(name))
}

// upload is a file that gets its name when all of it is there.
type upload struct {
	*os.File
	fs        rootFS
	temporary string
	name      string
	failed    bool
}

func (u *upload) Write(p []byte) (int, error) {
	n, err := u.File.Write(p)
	u.failed = u.failed || err != nil
	return n, err
}

// ReadFrom keeps io.Copy from going past Write.
func (u *upload) ReadFrom(r io.Reader) (int64, error) {
	return io.Copy(onlyWriter{u}, r)
}

func (u *upload) Close() (err error) {
	defer func() {
		if err != nil {
			_ = u.fs.root.Remove(u.temporary)
		}
	}()
	switch {
	case u.failed || !u.fs.body.whole.Load() && u.fs.body.length != 0:
		return errors.Join(errCut, u.File.Close())
	default:
		if err := u.File.Sync(); err != nil {
			u.File.Close()
			return err
		}
	}
	if err := u.File.Close(); err != nil {
		return err
	}
	if err := u.fs.root.Rename(u.temporary, u.name); err != nil {
		return err
	}
	folder, err := u.fs.root.Open(path.Dir(u.name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// webdavProxy hands a request to the WebDAV server of a destination that is not local.
func (d *destination) webdavProxy(w http.ResponseWriter, r *http.Request, req Request) error {
	base, user, password := &url.URL{}, "", ""
	var transport http.RoundTripper
	prefix := "/" + d.ID
	if d.remote != nil {
		base, user, password, transport = d.remote.base, d.remote.user, d.remote.password, d.remote.transport
		prefix = strings.TrimSuffix(base.Path, "/")
	} else {
		p, release, err := d.rclone.dav.use(time.Now())
		if err != nil {
			return err
		}
		defer release()
		base, user, password, transport = p.base, p.user, p.password, p.transport
	}
	var failure error
	proxy := httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(out *httputil.ProxyRequest) {
			u := *base
			u.Path = prefix + "/" + req.File
			if strings.HasSuffix(out.In.URL.Path, "/") && req.File != "" {
				u.Path += "/"
			}
			u.RawQuery = ""
			out.Out.URL, out.Out.Host = &u, u.Host
			for _, name := range []string{"Authorization", "Cookie", "Referer", "X-Forwarded-For", "Forwarded"} {
				out.Out.Header.Del(name)
			}
			if req.To != "" {
				to := u
				to.Path = prefix + "/" + req.To
				out.Out.Header.Set("Destination", to.String())
			}
			if user != "" {
				out.Out.SetBasicAuth(user, password)
			}
		},
		ModifyResponse: func(resp *http.Response) error {
			if resp.StatusCode == http.StatusUnauthorized {
				return errors.New("the destination refuses the gateway's password")
			}
			resp.Header.Del("Set-Cookie")
			return nil
		},
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) { failure = &unavailableError{err} },
	}
	proxy.ServeHTTP(w, r)
	return failure
}

// visible are the destinations that a principal may look into.
func visible(p token.Principal, all []string) []string {
	if p.Node {
		return all
	}
	var names []string
	for _, name := range all {
		if slices.ContainsFunc(p.Grants, func(g token.Grant) bool { return g.Destination == name }) {
			names = append(names, name)
		}
	}
	return names
}
