package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/webdav"

	"sdbackup/internal/config"
	"sdbackup/internal/token"
	"sdbackup/restserver"
)

// Server is the gateway. Its fields are set before it serves.
type Server struct {
	Paths         config.Paths
	Getenv        func(string) string
	Log           *slog.Logger
	AccessLog     io.Writer     // combined log format; nil for none
	MetricsNoAuth bool          // /metrics asks for no password
	StallTimeout  time.Duration // how long a client may be silent in the middle of a request; default 5m

	mu        sync.Mutex
	state     *state
	checked   time.Time
	users     *restserver.HtpasswdFile
	usersPath string

	once    sync.Once
	metrics *metrics
	auth    *authenticator
	locks   webdav.LockSystem
	active  atomic.Int64
	last    atomic.Int64 // when the last request ended, in nanoseconds
}

const defaultStallTimeout = 5 * time.Minute

func (s *Server) init() {
	s.once.Do(func() {
		s.metrics = newMetrics(s)
		s.auth = &authenticator{tokens: token.Store{Dir: s.Paths.Tokens}, now: time.Now, log: s.Log, onFailure: s.metrics.failures.Inc}
		s.locks = webdav.NewMemLS()
		if s.StallTimeout == 0 {
			s.StallTimeout = defaultStallTimeout
		}
		s.last.Store(time.Now().UnixNano())
	})
}

// Idle tells for how long nobody has asked for anything.
func (s *Server) Idle() time.Duration {
	s.init()
	if s.active.Load() > 0 {
		return 0
	}
	return time.Since(time.Unix(0, s.last.Load()))
}

// Close ends what was started for destinations.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil {
		return
	}
	for _, d := range s.state.destinations {
		d.close()
	}
	s.state = nil
}

// Purge removes for good what was deleted longer ago than it is to be kept.
func (s *Server) Purge(ctx context.Context) {
	s.init()
	for _, d := range s.current().destinations {
		if err := d.purge(ctx, time.Now()); err != nil {
			d.log.Warn("remove for good what was deleted: " + err.Error())
		}
	}
}

// ServeHTTP is the way of a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.init()
	start := time.Now()
	s.active.Add(1)
	s.metrics.inFlight.Inc()
	answer := &restserver.Recorder{ResponseWriter: w, Host: strings.Replace(remote(r), " ", ":", 1)}
	body := &counted{ReadCloser: r.Body}
	r.Body = body
	var req Request
	var who token.Principal
	known := ""
	defer func() {
		s.last.Store(time.Now().UnixNano())
		s.active.Add(-1)
		s.metrics.inFlight.Dec()
		s.metrics.observe(known, req.Protocol, r.Method, answer.Status(), time.Since(start), body.n.Load(), answer.Bytes())
		answer.User = who.Name
		s.logAccess(r, answer, start)
	}()

	st := s.current()
	if r.URL.Path == "/metrics" && s.MetricsNoAuth {
		s.metrics.handler.ServeHTTP(answer, r)
		return
	}
	who, ok := s.auth.authenticate(r, st)
	if !ok {
		answer.Header().Set("WWW-Authenticate", `Basic realm="sdbackup", charset="UTF-8"`)
		http.Error(answer, "who are you? a user and password, or a run token, is needed", http.StatusUnauthorized)
		return
	}
	if r.URL.Path == "/metrics" && (who.Node || who.Name == metricsUser) {
		s.metrics.handler.ServeHTTP(answer, r)
		return
	}
	req, err := ParseRequest(r)
	if err != nil {
		s.fail(answer, r, who, err)
		return
	}
	d := st.destinations[req.Destination]
	if d == nil && req.Destination != "" {
		st = s.fresh()
		d = st.destinations[req.Destination]
	}
	if d != nil {
		known = d.ID
		d.users.Add(1)
		defer d.users.Done()
		if d.err == nil && req.Protocol == REST && req.Object.Type == "keys" && r.Method == http.MethodPost && !who.Node {
			if req.Initialised, err = d.initialised(r, req.Repository); err != nil {
				s.fail(answer, r, who, err)
				return
			}
		}
	}
	if err := Authorize(who, req); err != nil {
		s.fail(answer, r, who, &forbiddenError{err})
		return
	}
	switch {
	case req.Destination == "":
		serveTop(answer, r, visible(who, st.names()))
		return
	case d == nil:
		s.fail(answer, r, who, fmt.Errorf("there is no destination %s here: %w", req.Destination, errNotFound))
		return
	}
	if err := d.check(); err != nil && d.folder != "" || d.err != nil {
		s.fail(answer, r, who, &unavailableError{err})
		return
	}
	if req.Protocol == WebDAV {
		err = s.webdav(answer, r, d, req)
	} else {
		err = s.rest(answer, r, st, d, req)
	}
	d.note(err)
	if err != nil {
		s.fail(answer, r, who, err)
	}
}

func (s *Server) webdav(w http.ResponseWriter, r *http.Request, d *destination, req Request) error {
	if r.Method == "PROPFIND" && r.Header.Get("Depth") == "" {
		r.Header.Set("Depth", "1") // without it all there is would be listed, RFC 4918, 9.1
	}
	if d.KeepDeleted > 0 && !reads(r.Method) {
		if replaces, err := d.replaces(r.Context(), req); err != nil {
			return err
		} else if replaces {
			return &forbiddenError{fmt.Errorf("%s keeps what is deleted, so nothing is replaced: delete what is there first", d.ID)}
		}
	}
	if d.folder != "" {
		return d.webdavLocal(w, r, req, s.locks)
	}
	if r.Method == http.MethodDelete && d.KeepDeleted > 0 && req.File != "" {
		found, err := d.rclone.stat(r.Context(), req.File, nil)
		if err == nil && found == nil {
			err = errNotFound
		}
		if err == nil {
			err = d.hold(r.Context(), time.Now(), req.File, found.IsDir)
		}
		if err == nil {
			w.WriteHeader(http.StatusNoContent)
		}
		return err
	}
	return d.webdavProxy(w, r, req)
}

// rest serves restic's protocol, with the limits and the holding area around it.
func (s *Server) rest(w http.ResponseWriter, r *http.Request, st *state, d *destination, req Request) (err error) {
	o := req.Object
	if m := st.module(req.Repository); m != nil {
		l := st.limiters[m.ID]
		if l.upload != nil && r.Method == http.MethodPost {
			r.Body = slowReader{r.Body, r.Context(), l.upload}
		}
		if l.download != nil && r.Method == http.MethodGet {
			w = slowWriter{w, r.Context(), l.download}
		}
	}
	hold := r.Method == http.MethodDelete && d.KeepDeleted > 0 && o.Type != "locks" && (o.Name != "" || o.Type == "config" || o.Type == "")
	switch {
	case hold:
		err = s.hold(w, r, st, d, req)
	case d.folder != "":
		if r.Method == http.MethodPost && o.Type == "" {
			err = d.makeFolder(req.Repository)
		}
		if err == nil {
			err = d.store(s, req.Repository).Serve(w, r, o)
		}
	default:
		err = s.forward(w, r, st, d, req)
	}
	if err == nil && r.Method == http.MethodPost && o.Type == "snapshots" {
		s.metrics.snapshots.WithLabelValues(d.ID, req.Repository).SetToCurrentTime()
	}
	return err
}

// hold puts an object, or a whole repository, by that is to be deleted. It no longer takes room of its repository, but of its destination.
func (s *Server) hold(w http.ResponseWriter, r *http.Request, st *state, d *destination, req Request) error {
	release, err := d.leaving(r, req, limitsOf(st.limits(d, req.Repository), req.Repository))
	if err != nil {
		return err
	}
	name := req.Repository
	if req.Object.Type != "" {
		name = path.Join(name, req.Object.Path())
	}
	if err := d.hold(r.Context(), time.Now(), name, req.Object.Type == ""); err != nil {
		return err
	}
	release()
	w.WriteHeader(http.StatusOK)
	return nil
}

// limitsOf picks the limits of one key.
func limitsOf(limits []limit, key string) []limit {
	return slices.DeleteFunc(limits, func(l limit) bool { return l.key != key })
}

// forward serves from a destination that another server holds.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, st *state, d *destination, req Request) (err error) {
	u, release, err := d.upstream()
	if err != nil {
		return err
	}
	defer release()
	o := req.Object
	switch {
	case r.Method == http.MethodGet, r.Method == http.MethodHead && o.Type != "":
		return u.get(w, r, req.Repository, o)
	case r.Method == http.MethodPost && o.Type == "":
		err = u.create(r, req.Repository)
	case r.Method == http.MethodPost && (o.Name != "" || o.Type == "config"):
		err = s.upload(w, r, st, d, u, req)
	case r.Method == http.MethodDelete && (o.Name != "" || o.Type == "config" || o.Type == "" && d.rclone != nil):
		var gone func()
		if gone, err = d.leaving(r, req, st.limits(d, req.Repository)); err != nil {
			return err
		}
		if o.Type == "" {
			err = d.rclone.purge(r.Context(), req.Repository)
		} else {
			err = u.remove(r, req.Repository, o)
		}
		if err == nil {
			gone()
		}
	default:
		w.Header().Set("Allow", "GET, HEAD, POST, DELETE")
		return &statusError{http.StatusMethodNotAllowed, "this cannot be done with that"}
	}
	if err == nil {
		w.WriteHeader(http.StatusOK)
	}
	return err
}

// upload stores an object at a destination that another server holds.
func (s *Server) upload(w http.ResponseWriter, r *http.Request, st *state, d *destination, u *upstream, req Request) (err error) {
	added := false
	if limits := st.limits(d, req.Repository); len(limits) > 0 {
		if r.ContentLength < 0 {
			return errNoLength
		}
		if err := d.measure(r.Context(), r, limits); err != nil {
			return err
		}
		if err := d.usage.reserve(r.ContentLength, limits); err != nil {
			return err
		}
		defer func() {
			if err != nil || !added {
				d.usage.release(r.ContentLength, limits)
			}
		}()
	}
	body := newPatient(w, r.Body, s.StallTimeout)
	defer body.done()
	added, err = u.put(r, req.Repository, req.Object, body)
	return err
}

var errNoLength = errors.New("the upload does not say how long it is")

// forbiddenError is what Authorize says.
type forbiddenError struct{ err error }

func (e *forbiddenError) Error() string { return e.err.Error() }

// fail answers with an error: the status code that its kind has, and its sentence.
func (s *Server) fail(w *restserver.Recorder, r *http.Request, who token.Principal, err error) {
	code := http.StatusInternalServerError
	var away *unavailableError
	var full *fullError
	var passed *statusError
	var stored *restserver.Error
	switch {
	case errors.As(err, &stored):
		code = stored.Code
		if stored.Late {
			panic(http.ErrAbortHandler)
		}
		if code >= 500 {
			s.Log.Error(err.Error(), "user", who.Name)
		}
	case errors.As(err, new(*forbiddenError)):
		code = http.StatusForbidden
		s.Log.Warn("refused: "+err.Error(), "address", remote(r), "user", who.Name, "method", r.Method)
	case errors.Is(err, errNotFound):
		code = http.StatusNotFound
	case errors.Is(err, errBadDestination), errors.Is(err, errMismatch), errors.Is(err, errCut):
		code = http.StatusBadRequest
	case errors.Is(err, errExists):
		code = http.StatusForbidden
	case errors.Is(err, errNoLength):
		code = http.StatusLengthRequired
	case errors.As(err, &full), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		code = http.StatusInsufficientStorage
		s.Log.Warn(err.Error(), "user", who.Name)
	case errors.As(err, &away):
		code = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", "5")
		s.Log.Error("destination unavailable: "+err.Error(), "user", who.Name)
	case errors.As(err, &passed):
		code = passed.code
		s.Log.Error(err.Error(), "user", who.Name)
	case errors.Is(err, fs.ErrNotExist):
		code = http.StatusNotFound
	case r.Context().Err() != nil:
		code = statusClientGone
	default:
		s.Log.Error(err.Error(), "user", who.Name)
	}
	if w.Begun() { // too late for an answer
		panic(http.ErrAbortHandler)
	}
	http.Error(w, err.Error(), code)
}

// statusClientGone is for the log: nobody is there to read it.
const statusClientGone = 499

// counted counts what is read.
type counted struct {
	io.ReadCloser
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// patient is a body that is cut off when its client stays silent for too long, and not before.
type patient struct {
	io.Reader
	control *http.ResponseController
	stall   time.Duration
}

func newPatient(w http.ResponseWriter, body io.Reader, stall time.Duration) *patient {
	return &patient{body, http.NewResponseController(w), stall}
}

func (p *patient) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(time.Now().Add(p.stall)) // not every connection can: then it waits
	return p.Reader.Read(b)
}

// done takes the deadline away: what comes now is the destination's time.
func (p *patient) done() { _ = p.control.SetReadDeadline(time.Time{}) }

// logAccess notes a request.
func (s *Server) logAccess(r *http.Request, w *restserver.Recorder, start time.Time) {
	s.Log.Debug("request", "address", remote(r), "user", w.User, "method", r.Method, "path", r.URL.Path, "code", w.Status(), "bytes", w.Bytes(),
		"seconds", time.Since(start).Seconds())
	if s.AccessLog != nil {
		_, _ = s.AccessLog.Write(w.Line(r, start))
	}
}
