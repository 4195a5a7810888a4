package restserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// MaxFolderDepth is how many folders there may be above a repository: it is at /, /a/ or /a/b/.
const MaxFolderDepth = 2

// metricsUser is the only one who may see metrics where repositories are private.
const metricsUser = "metrics"

// Server is the options of a server of many repositories: those of rest-server 0.14, with its names and meanings. They are set before
// NewHandler, and not changed after.
//
// It answers as rest-server does, but for this: a 401 says what is wanted (WWW-Authenticate); passwords that were right are really
// remembered; symbolic links do not lead out of Path; the config counts for MaxRepoSize; a refused upload leaves nothing behind, and
// what a server leaves that is killed, Clean removes; a client that is silent in the midst of a transfer is not waited for longer than
// StallTimeout; and a path that is not clean is 404, not a redirect.
type Server struct {
	Path   string // the folder of all repositories; made when it is missing
	Listen string // address; for whoever listens, not used here
	Log    string // file for the log of requests, appended to; "-": standard output; "": none

	NoAuth            bool
	HtpasswdPath      string // ".htpasswd" in Path when empty
	ProxyAuthUsername string // header in which a proxy names the user; then passwords are the proxy's affair. Not with NoAuth
	PrivateRepos      bool   // the first folder must be named as the user

	AppendOnly           bool
	GroupAccessibleRepos bool
	MaxRepoSize          int64 // bytes of everything below Path; 0: no limit
	NoVerifyUpload       bool
	RemoveRepos          bool                 // DELETE of a repository removes it, as the protocol has it; rest-server has not: 405
	StallTimeout         time.Duration        // as in Store
	Prometheus           bool                 // serve /metrics
	PrometheusNoAuth     bool                 // to anybody
	Debug                bool                 // log each request
	Logger               *slog.Logger         // of what goes on; nil: none
	Registry             *prometheus.Registry // for the metrics; nil: a new one, with those of Go and of the process

	users   *HtpasswdFile
	limit   *Limit
	metrics *metrics
	shared  shared
	access  io.Writer
}

// NewHandler prepares the server and returns it, as a handler. It fails when there is no file of users, and NoAuth does not say that
// none is wanted.
func NewHandler(s *Server) (http.Handler, error) {
	if s.Logger == nil {
		s.Logger = slog.New(slog.DiscardHandler)
	}
	if s.Path == "" {
		return nil, errors.New("the folder of the repositories is not given")
	}
	if err := os.MkdirAll(s.Path, s.store().dirMode()); err != nil {
		return nil, fmt.Errorf("make the folder of the repositories: %w", err)
	}
	if !s.NoAuth && s.ProxyAuthUsername == "" {
		if s.HtpasswdPath == "" {
			s.HtpasswdPath = filepath.Join(s.Path, ".htpasswd")
		}
		var err error
		if s.users, err = NewHtpasswd(s.HtpasswdPath, s.Logger); err != nil {
			return nil, fmt.Errorf("%w (authentication must be switched off where it is not wanted)", err)
		}
		s.Logger.Info("read the users", "path", s.HtpasswdPath)
	}
	if s.MaxRepoSize > 0 {
		s.Logger.Info("measuring what is stored, which can take a while", "path", s.Path)
		var err error
		if s.limit, err = NewLimit(s.Path, s.MaxRepoSize); err != nil {
			return nil, err
		}
		s.Logger.Info("measured what is stored", "path", s.Path, "used-bytes", s.limit.Used(), "max-bytes", s.MaxRepoSize)
	}
	if s.Prometheus {
		if s.Registry == nil {
			s.Registry = newRegistry()
		}
		var err error
		if s.metrics, err = newMetrics(s.Registry); err != nil {
			return nil, err
		}
	}
	switch s.Log {
	case "":
	case "-":
		s.access = os.Stdout
	default:
		f, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open the log of requests: %w", err)
		}
		s.access = f
	}
	return s, nil
}

// Reload reads the file of users again, as for SIGHUP.
func (s *Server) Reload() error {
	if s.users == nil {
		return nil
	}
	return s.users.Reload()
}

// Clean removes the temporary files of uploads that a server did not live to end: those in all repositories that nobody has written to
// for as long as age, which must be longer than StallTimeout. It returns how many. The quota gets their room back.
func (s *Server) Clean(ctx context.Context, age time.Duration) (removed int, err error) {
	var errs []error
	var clean func(sub string, depth int)
	clean = func(sub string, depth int) {
		if ctx.Err() != nil {
			return
		}
		store := s.store()
		store.Sub = sub
		n, err := store.Clean(age)
		removed += n
		errs = append(errs, err)
		if depth == 0 {
			return
		}
		entries, err := os.ReadDir(filepath.Join(s.Path, sub))
		errs = append(errs, ignoreMissing(err))
		for _, e := range entries {
			if e.IsDir() && !isFolderType(e.Name()) {
				clean(path.Join(sub, e.Name()), depth-1)
			}
		}
	}
	clean("", MaxFolderDepth)
	return removed, errors.Join(append(errs, ctx.Err())...)
}

// ServeHTTP answers a request, once NewHandler has prepared the server.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.Debug {
		s.Logger.Info("request", "method", r.Method, "url", r.URL.String(), "client", r.RemoteAddr)
	}
	rec := &Recorder{ResponseWriter: w}
	if s.access != nil {
		start := time.Now()
		// Also of an answer that was cut: then it panics.
		defer func() { _, _ = s.access.Write(rec.Line(r, start)) }()
	}
	store := s.store()
	// What is left of a body must not be waited for for ever, either.
	newBody(w, r, store.stallTimeout())

	user, ok := s.authenticate(r)
	if s.metrics != nil && r.URL.Path == "/metrics" {
		if !s.PrometheusNoAuth && (!ok || s.PrivateRepos && !s.NoAuth && user != metricsUser) {
			s.unauthorized(rec)
			return
		}
		rec.User = user
		s.metrics.handler.ServeHTTP(rec, r)
		return
	}
	if !ok {
		s.unauthorized(rec)
		return
	}
	rec.User = user
	folders, object, ok := ParsePath(r.URL.Path)
	switch {
	case !ok || len(folders) > MaxFolderDepth:
		answer(rec, http.StatusNotFound, http.StatusText(http.StatusNotFound))
		return
	case s.PrivateRepos && !s.NoAuth && (len(folders) == 0 || folders[0] != user):
		s.unauthorized(rec)
		return
	}
	store.Sub = strings.Join(folders, "/")
	if s.metrics != nil {
		store.Count = s.metrics.observer(user, store.Sub)
	}
	err := store.Serve(rec, r, object)
	if err == nil {
		return
	}
	if e := errorOf(err); e.Code >= http.StatusInternalServerError {
		s.Logger.Error("request failed: "+err.Error(), "method", r.Method, "path", r.URL.Path, "user", user, "code", e.Code)
	} else if s.Debug {
		s.Logger.Info("request refused: "+err.Error(), "method", r.Method, "path", r.URL.Path, "user", user, "code", e.Code)
	}
	Answer(rec, err)
}

// store is the store of the repository at the top.
func (s *Server) store() *Store {
	store := &Store{
		Dir: s.Path, NoVerify: s.NoVerifyUpload, GroupAccessible: s.GroupAccessibleRepos, AppendOnly: s.AppendOnly, NoRemove: !s.RemoveRepos,
		CountUnknown: true, StallTimeout: s.StallTimeout, Log: s.Logger, with: &s.shared,
	}
	if s.limit != nil { // not an interface around nil
		store.Quota = s.limit
	}
	return store
}

// authenticate tells who makes a request: nobody in particular where nobody is asked.
func (s *Server) authenticate(r *http.Request) (user string, ok bool) {
	switch {
	case s.NoAuth:
		return "", true
	case s.ProxyAuthUsername != "":
		user = r.Header.Get(s.ProxyAuthUsername)
		return user, user != ""
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return "", false
	}
	if !s.users.Validate(user, password) {
		s.Logger.Warn("wrong user or password", "user", user, "client", r.RemoteAddr)
		return "", false
	}
	return user, true
}

func (s *Server) unauthorized(w http.ResponseWriter) {
	if s.users != nil {
		w.Header().Set("WWW-Authenticate", `Basic realm="rest-server", charset="UTF-8"`)
	}
	answer(w, http.StatusUnauthorized, http.StatusText(http.StatusUnauthorized))
}
