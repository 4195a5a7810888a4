package gateway

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"sdbackup/restserver"
)

// upstream is a server of restic's REST protocol that holds the repositories of a destination: rclone, or another gateway. What it would
// allow does not matter: it never sees a request that replaces what is there, nor a blob whose name does not fit.
type upstream struct {
	transport http.RoundTripper
	base      *url.URL
	user      string
	password  string
	uploads   *keyed // one of a name at a time
	// look tells the size of a file, and whether it is there. rclone needs it: its server answers 404 for all that it cannot read.
	// nil where the server tells the truth.
	look func(ctx context.Context, name string) (size int64, exists bool, err error)
}

// keyed is a mutex for each key.
type keyed struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// lock waits for the key, or until ctx is done.
func (k *keyed) lock(ctx context.Context, key string) (unlock func(), err error) {
	for {
		k.mu.Lock()
		free, taken := k.held[key]
		if !taken {
			if k.held == nil {
				k.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			k.held[key] = mine
			k.mu.Unlock()
			return func() {
				k.mu.Lock()
				delete(k.held, key)
				k.mu.Unlock()
				close(mine)
			}, nil
		}
		k.mu.Unlock()
		select {
		case <-free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Errors of uploads.
var (
	errMismatch = errors.New("the content is not what its name says")
	errCut      = errors.New("the upload was cut off")
	errExists   = errors.New("it is there already, and is never replaced")
)

// statusError is an answer of the upstream that is passed on.
type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the destination answered %d: %s", e.code, e.text)
}

// buffers are for copying; none holds a whole blob.
var buffers = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}

const (
	copyBytes = 256 << 10
	// heldBytes is the end of an upload that the upstream gets only when all of it has been verified. Without it the upstream keeps nothing.
	heldBytes = 4 << 10
)

// request makes a request for an object of a repository. The path has been checked part by part.
func (u *upstream) request(r *http.Request, method, repository string, o restserver.Object, body io.Reader) *http.Request {
	location := *u.base
	location.Path += repository + "/"
	switch {
	case o.Type == "config":
		location.Path += "config"
	case o.Name != "":
		location.Path += o.Type + "/" + o.Name
	case o.Type != "":
		location.Path += o.Type + "/"
	}
	if method == http.MethodPost && o.Type == "" {
		location.RawQuery = "create=true"
	}
	req := (&http.Request{Method: method, URL: &location, Host: location.Host, Header: http.Header{}}).WithContext(r.Context())
	if body != nil {
		req.Body, req.ContentLength = io.NopCloser(body), r.ContentLength
	}
	for _, name := range []string{"Accept", "Range", "Content-Type"} {
		if v := r.Header.Get(name); v != "" {
			req.Header.Set(name, v)
		}
	}
	if u.user != "" {
		req.SetBasicAuth(u.user, u.password)
	}
	return req
}

// call makes a request whose answer has no body that matters.
func (u *upstream) call(req *http.Request) (code int, length int64, err error) {
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return 0, 0, &unavailableError{err}
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxLogLine))
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, copyBytes)) // lets the connection be used again
	if resp.StatusCode >= 500 {
		return resp.StatusCode, 0, &statusError{resp.StatusCode, strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))}
	}
	return resp.StatusCode, resp.ContentLength, nil
}

// stat returns the size of an object; false when there is none.
func (u *upstream) stat(r *http.Request, repository string, o restserver.Object) (int64, bool, error) {
	if u.look != nil {
		return u.look(r.Context(), path.Join(repository, o.Path()))
	}
	code, length, err := u.call(u.request(r, http.MethodHead, repository, o, nil))
	switch {
	case err != nil:
		return 0, false, err
	case code == http.StatusNotFound:
		return 0, false, nil
	case code != http.StatusOK:
		return 0, false, &statusError{code, http.StatusText(code)}
	}
	return length, true, nil
}

// get passes an object or a list on.
func (u *upstream) get(w http.ResponseWriter, r *http.Request, repository string, o restserver.Object) error {
	resp, err := u.transport.RoundTrip(u.request(r, r.Method, repository, o, nil))
	if err != nil {
		return &unavailableError{err}
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 500 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxLogLine))
		return &statusError{resp.StatusCode, strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))}
	}
	if resp.StatusCode == http.StatusNotFound && u.look != nil && (o.Name != "" || o.Type == "config") {
		if _, exists, err := u.look(r.Context(), path.Join(repository, o.Path())); err != nil {
			return err
		} else if exists {
			return &unavailableError{errors.New("what is there could not be read")}
		}
	}
	for _, name := range []string{"Content-Type", "Content-Length", "Content-Range", "Accept-Ranges", "Last-Modified"} {
		if v := resp.Header.Get(name); v != "" {
			w.Header().Set(name, v)
		}
	}
	if resp.ContentLength >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	w.WriteHeader(resp.StatusCode)
	if r.Method == http.MethodHead {
		return nil
	}
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	if n, err := io.CopyBuffer(onlyWriter{w}, resp.Body, *buffer); err != nil {
		panic(http.ErrAbortHandler) // the only way to tell the client that what it got is not all
	} else if resp.ContentLength >= 0 && n < resp.ContentLength {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// onlyWriter hides that a writer can read by itself: the buffer is to be ours.
type onlyWriter struct{ io.Writer }

// create makes a repository.
func (u *upstream) create(r *http.Request, repository string) error {
	code, _, err := u.call(u.request(r, http.MethodPost, repository, restserver.Object{}, nil))
	return failed(code, err)
}

func failed(code int, err error) error {
	if err == nil && code != http.StatusOK && code != http.StatusCreated {
		return &statusError{code, http.StatusText(code)}
	}
	return err
}

// remove deletes an object. One that is not there is as good as deleted.
func (u *upstream) remove(r *http.Request, repository string, o restserver.Object) error {
	code, _, err := u.call(u.request(r, http.MethodDelete, repository, o, nil))
	if code == http.StatusNotFound || code == http.StatusNoContent {
		return nil
	}
	return failed(code, err)
}

// put stores a new object. Of one that is there already, the identical one is taken for stored, and another one is refused.
func (u *upstream) put(r *http.Request, repository string, o restserver.Object, body io.Reader) (added bool, err error) {
	unlock, err := u.uploads.lock(r.Context(), path.Join(repository, o.Path()))
	if err != nil {
		return false, err
	}
	defer unlock()
	size, exists, err := u.stat(r, repository, o)
	switch {
	case err != nil:
		return false, err
	case exists && o.Type == "config":
		return false, u.sameConfig(r, repository, body)
	case exists && size == r.ContentLength:
		if err := verify(body, o.Name); errors.Is(err, errMismatch) {
			return false, errExists
		} else if err != nil {
			return false, err
		}
		return false, nil
	case exists:
		return false, u.mend(r, repository, o, body)
	}
	if o.Type != "config" {
		body = &verifier{source: body, hash: sha256.New(), name: o.Name}
	}
	return true, u.post(r, repository, o, body)
}

// maxConfigBytes bounds a repository's config, which takes some hundred bytes.
const maxConfigBytes = 64 << 10

// sameConfig holds a config that comes against the one that is there.
func (u *upstream) sameConfig(r *http.Request, repository string, body io.Reader) error {
	sent, err := io.ReadAll(io.LimitReader(body, maxConfigBytes))
	if err != nil {
		return errors.Join(errCut, err)
	}
	resp, err := u.transport.RoundTrip(u.request(r, http.MethodGet, repository, restserver.Object{Type: "config"}, nil))
	if err != nil {
		return &unavailableError{err}
	}
	defer resp.Body.Close()
	there, err := io.ReadAll(io.LimitReader(resp.Body, maxConfigBytes+1))
	if err != nil {
		return &unavailableError{err}
	}
	if resp.StatusCode != http.StatusOK || !bytes.Equal(sent, there) {
		return errExists
	}
	return nil
}

func (u *upstream) post(r *http.Request, repository string, o restserver.Object, body io.Reader) error {
	// rclone answers an upload that ends early as one of its own that failed: what the client did wrong is known here.
	source := &watched{Reader: body}
	code, _, err := u.call(u.request(r, http.MethodPost, repository, o, source))
	bad := source.failure()
	if bad == nil {
		bad = failed(code, err)
	}
	if bad != nil {
		// Some storages keep the beginning of what did not come to its end, for a moment or for ever. Nothing was there before.
		cleanCtx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), cleanTimeout)
		defer cancel()
		_ = u.remove(r.WithContext(cleanCtx), repository, o)
	}
	return bad
}

// cleanTimeout bounds the removal of what a failed upload has left.
const cleanTimeout = 30 * time.Second

// mend replaces a blob of another size than the one that comes under its name: an upload that its storage kept although it was cut
// off. That happens only once what came is known to be right.
func (u *upstream) mend(r *http.Request, repository string, o restserver.Object, body io.Reader) error {
	f, err := os.CreateTemp("", "sdbackup-mend")
	if err != nil {
		return fmt.Errorf("keep an upload: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("keep an upload: %w", err)
	}
	if err := verify(io.TeeReader(body, f), o.Name); errors.Is(err, errMismatch) {
		return errExists
	} else if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("keep an upload: %w", err)
	}
	if err := u.remove(r, repository, o); err != nil {
		return err
	}
	return u.post(r, repository, o, f)
}

// list returns the sizes of the objects of one type.
func (u *upstream) list(r *http.Request, repository, kind string) (total int64, err error) {
	req := u.request(r, http.MethodGet, repository, restserver.Object{Type: kind}, nil)
	req.Header.Set("Accept", "application/vnd.x.restic.rest.v2")
	req.Header.Del("Range")
	resp, err := u.transport.RoundTrip(req)
	if err != nil {
		return 0, &unavailableError{err}
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return 0, nil
	}
	if resp.StatusCode != http.StatusOK {
		return 0, &statusError{resp.StatusCode, resp.Status}
	}
	decoder := json.NewDecoder(resp.Body)
	if _, err := decoder.Token(); err != nil {
		return 0, fmt.Errorf("read a list: %w", err)
	}
	for decoder.More() {
		var object struct {
			Size int64 `json:"size"`
		}
		if err := decoder.Decode(&object); err != nil {
			return 0, fmt.Errorf("read a list: %w", err)
		}
		total += object.Size
	}
	return total, nil
}

// verify reads all of the body and holds it against its name.
func verify(body io.Reader, name string) error {
	h := sha256.New()
	buffer := buffers.Get().(*[]byte)
	defer buffers.Put(buffer)
	if _, err := io.CopyBuffer(h, body, *buffer); err != nil {
		return errors.Join(errCut, err)
	}
	if hex.EncodeToString(h.Sum(nil)) != name {
		return errMismatch
	}
	return nil
}

// verifier passes a body on while it computes its hash, and keeps its end back until all of it is known to be what its name says.
type verifier struct {
	source     io.Reader
	hash       hash.Hash
	name       string
	buffer     []byte
	start, end int   // of what is read and not yet passed on
	ended      bool  // all of the source is read and right
	err        error // what is wrong with it
}

func (v *verifier) Read(p []byte) (int, error) {
	for {
		ready := v.end - v.start
		if !v.ended {
			ready -= heldBytes
		}
		switch {
		case v.err != nil:
			return 0, v.err
		case ready > 0:
			n := copy(p, v.buffer[v.start:v.start+ready])
			v.start += n
			return n, nil
		case v.ended:
			return 0, io.EOF
		}
		v.fill()
	}
}

// fill reads more of the source.
func (v *verifier) fill() {
	if v.buffer == nil {
		v.buffer = make([]byte, heldBytes+copyBytes/4)
	}
	v.end = copy(v.buffer, v.buffer[v.start:v.end]) // at most heldBytes
	v.start = 0
	n, err := v.source.Read(v.buffer[v.end:])
	v.hash.Write(v.buffer[v.end : v.end+n])
	v.end += n
	switch {
	case errors.Is(err, io.EOF) && hex.EncodeToString(v.hash.Sum(nil)) != v.name:
		v.err = errMismatch
	case errors.Is(err, io.EOF):
		v.ended = true
	case err != nil:
		v.err = errors.Join(errCut, err)
	}
}

// watched remembers how reading failed.
type watched struct {
	io.Reader
	mu  sync.Mutex
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.mu.Lock()
		w.err = err
		w.mu.Unlock()
	}
	return n, err
}

func (w *watched) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
