package remote

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/coreos/go-systemd/v22/activation"

	"sdbackup/internal/config"
)

const (
	plainType     = "application/vnd.sdbackup.bundle"
	encryptedType = "application/vnd.sdbackup.bundle+age"
	nonceHeader   = "Sdbackup-Nonce"
	minNonceBytes = 16
	maxNonceBytes = 128

	// workFactor makes scrypt take 16 MiB. Keys are made by a machine, see minKeyBytes: nobody can try them all.
	workFactor  = 14
	minKeyBytes = 32
	// maxEncrypting bounds how many bundles are encrypted at a time: anybody may ask for one.
	maxEncrypting = 2

	requestTimeout  = 30 * time.Second
	writeTimeout    = 5 * time.Minute
	shutdownTimeout = 30 * time.Second
)

// Server offers configurations to remotes that fetch theirs. The configuration is read again for every request, so that a remote whose
// table or certificate is taken away gets nothing any more.
type Server struct {
	Load func() *config.Config
	Log  *slog.Logger

	encrypting chan struct{}
}

// Serve answers until ctx is done: at the sockets that systemd passed, else at those of [serve]. ready is called when it listens.
func (s *Server) Serve(ctx context.Context, ready func()) error {
	listeners, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("take over the sockets of systemd: %w", err)
	}
	if len(listeners) == 0 {
		for _, address := range s.Load().Serve.Listen {
			l, err := net.Listen("tcp", address)
			if err != nil {
				return fmt.Errorf("listen at %s: %w", address, err)
			}
			listeners = append(listeners, l)
		}
	}
	s.encrypting = make(chan struct{}, maxEncrypting)
	server := &http.Server{
		Handler: s, ReadTimeout: requestTimeout, ReadHeaderTimeout: requestTimeout, WriteTimeout: writeTimeout, IdleTimeout: requestTimeout,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelWarn),
	}
	server.SetKeepAlivesEnabled(false) // each request is judged by what is configured now, its certificate included
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		if l == nil {
			return errors.New("systemd passed a socket that cannot be listened at: want ListenStream=")
		}
		go func() { ended <- server.Serve(newEither(l, s.tls())) }()
	}
	ready()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		return server.Close()
	}
	return nil
}

// tls is the configuration of TLS, made for every connection by what the files say then.
func (s *Server) tls() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		serve := s.Load().Serve
		if serve.CertificateFile == "" || serve.KeyFile == "" || serve.ClientCAFile == "" {
			return nil, errors.New("no https here: [serve] has not all of certificate-file, key-file and client-ca-file")
		}
		pair, err := tls.LoadX509KeyPair(serve.CertificateFile, serve.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate: %w", err)
		}
		pem, err := os.ReadFile(serve.ClientCAFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificates that vouch for remotes: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", serve.ClientCAFile)
		}
		return &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
			SessionTicketsDisabled: true, // a ticket would outlive its certificate
		}, nil
	}}
}

// ServeHTTP answers GET /configuration/REMOTE.
func (s *Server) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	id, ok := strings.CutPrefix(req.URL.Path, "/configuration/")
	subject := ""
	if req.TLS != nil {
		subject = req.TLS.PeerCertificates[0].Subject.CommonName
	}
	nonce := req.Header.Get(nonceHeader)
	refuse := func(code int, why string) {
		s.Log.Warn(fmt.Sprintf("%s %.100q of %s: %s", req.Method, req.URL.Path, req.RemoteAddr, why), "subject", subject)
		http.Error(w, why, code)
	}
	switch {
	case !ok || strings.Contains(id, "/"):
		refuse(http.StatusNotFound, "there is only /configuration/REMOTE here")
		return
	case req.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		refuse(http.StatusMethodNotAllowed, "want GET")
		return
	case len(nonce) < minNonceBytes || len(nonce) > maxNonceBytes:
		refuse(http.StatusBadRequest, "want a header "+nonceHeader)
		return
	}
	cfg := s.Load()
	r := cfg.Remotes[id]
	switch {
	case req.TLS != nil && subject != id:
		refuse(http.StatusForbidden, "the certificate is not that of this remote")
		return
	case r == nil, req.TLS != nil && !r.Fetches(), req.TLS == nil && r.PreSharedKeyFile == "": // who asks learns not which
		refuse(http.StatusForbidden, "there is nothing for this remote here")
		return
	}
	if errs := cfg.ErrorsOf(config.KindRemote, id); len(errs) > 0 {
		s.Log.Error(errs[0].String())
		http.Error(w, "its configuration has errors, see the log here", http.StatusInternalServerError)
		return
	}
	p, err := Pack(r, nil)
	if err != nil {
		s.Log.Error(err.Error())
		http.Error(w, "its configuration cannot be read, see the log here", http.StatusInternalServerError)
		return
	}
	defer p.Close()
	if err := s.answer(w, req, r, p, nonce); err != nil {
		s.Log.Error(fmt.Sprintf("remote %s at %s: %v", id, req.RemoteAddr, err))
		panic(http.ErrAbortHandler) // so that what was sent is no whole answer
	}
	s.Log.Info(fmt.Sprintf("remote %s at %s has fetched its configuration", id, req.RemoteAddr))
}

func (s *Server) answer(w http.ResponseWriter, req *http.Request, r *config.Remote, p *Package, nonce string) error {
	if req.TLS != nil {
		w.Header().Set("Content-Type", plainType)
		return p.write(w, nonce)
	}
	key, err := readKey(r.PreSharedKeyFile)
	if err != nil {
		http.Error(w, "its key cannot be read, see the log here", http.StatusInternalServerError)
		return err
	}
	select {
	case s.encrypting <- struct{}{}:
		defer func() { <-s.encrypting }()
	case <-req.Context().Done():
		return req.Context().Err()
	}
	recipient, err := age.NewScryptRecipient(key)
	if err != nil {
		return err
	}
	recipient.SetWorkFactor(workFactor)
	w.Header().Set("Content-Type", encryptedType)
	body, err := age.Encrypt(w, recipient)
	if err != nil {
		return err
	}
	if err := p.write(body, nonce); err != nil {
		return err
	}
	return body.Close()
}

// readKey reads a pre-shared key.
func readKey(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the pre-shared key: %w", err)
	}
	return checkKey(string(data))
}

func checkKey(text string) (string, error) {
	key := strings.TrimSpace(text)
	if len(key) < minKeyBytes || strings.ContainsAny(key, "\n\x00") {
		return "", fmt.Errorf("the pre-shared key is no line of %d or more characters; make one with: head -c 32 /dev/urandom | base64", minKeyBytes)
	}
	return key, nil
}

// either is a listener for TLS and for HTTP without. What a client begins with tells: a TLS record of a handshake begins with 22.
type either struct {
	net.Listener
	tls    *tls.Config
	ready  chan net.Conn
	failed chan error
}

func newEither(l net.Listener, cfg *tls.Config) *either {
	e := &either{Listener: l, tls: cfg, ready: make(chan net.Conn), failed: make(chan error, 1)}
	go e.run()
	return e
}

// maxPeeking bounds how many connections may wait for their first byte.
const maxPeeking = 256

func (e *either) run() {
	slots := make(chan struct{}, maxPeeking)
	for {
		c, err := e.Listener.Accept()
		if err != nil {
			if temporary, ok := err.(interface{ Temporary() bool }); ok && temporary.Temporary() {
				time.Sleep(100 * time.Millisecond)
				continue
			}
			e.failed <- err
			return
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			e.peek(c)
		}()
	}
}

func (e *either) peek(c net.Conn) {
	buffered := bufio.NewReaderSize(c, 1024)
	_ = c.SetReadDeadline(time.Now().Add(requestTimeout)) // of a connection that is gone, the next call tells
	first, err := buffered.Peek(1)
	if err != nil {
		c.Close()
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	var conn net.Conn = &peeked{c, buffered}
	if first[0] == 22 {
		conn = tls.Server(conn, e.tls)
	}
	select {
	case e.ready <- conn:
	case <-time.After(requestTimeout):
		c.Close()
	}
}

func (e *either) Accept() (net.Conn, error) {
	select {
	case c := <-e.ready:
		return c, nil
	case err := <-e.failed:
		e.failed <- err
		return nil, err
	}
}

type peeked struct {
	net.Conn
	in io.Reader
}

func (p *peeked) Read(data []byte) (int, error) { return p.in.Read(data) }
