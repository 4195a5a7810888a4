package gateway

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

const (
	readHeaderTimeout = 30 * time.Second
	keepAliveTimeout  = 2 * time.Minute
	// shutdownTimeout is what requests under way have to come to their end.
	shutdownTimeout = 30 * time.Second
	maxHeaderBytes  = 64 << 10
)

// Listen returns the sockets that systemd has passed, sd_listen_fds(3), or else listens at the addresses: HOST:PORT or unix:PATH.
func Listen(addresses []string) (listeners []net.Listener, activated bool, err error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, false, fmt.Errorf("take over the sockets of systemd: %w", err)
	}
	for _, l := range passed {
		if l == nil {
			return nil, false, errors.New("systemd passed a socket that cannot be listened at: want ListenStream=")
		}
	}
	if len(passed) > 0 {
		return passed, true, nil
	}
	for _, address := range addresses {
		l, err := listen(address)
		if err != nil {
			for _, l := range listeners {
				l.Close()
			}
			return nil, false, err
		}
		listeners = append(listeners, l)
	}
	return listeners, false, nil
}

func listen(address string) (net.Listener, error) {
	path, ok := strings.CutPrefix(address, "unix:")
	if !ok {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, fmt.Errorf("listen at %s: %w", address, err)
		}
		return l, nil
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("remove the socket that a dead server left: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	// Anybody may knock: who it is, is known by the peer.
	if err := os.Chmod(path, 0o666); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen at %s: %w", address, err)
	}
	return l, nil
}

// abandoned tells whether a socket's server is gone.
func abandoned(path string) bool {
	if info, err := os.Lstat(path); err != nil || info.Mode().Type() != fs.ModeSocket {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// TLS is how connections by TCP are encrypted.
type TLS struct {
	Cert, Key  string // files in PEM; read again when they change, so that a renewed certificate is taken without a restart
	ClientCA   string // certificates in PEM that vouch for clients; "": clients need none
	MinVersion uint16
}

// Config makes the configuration of crypto/tls.
func (t TLS) Config() (*tls.Config, error) {
	pair := &reloaded{TLS: t}
	if _, err := pair.certificate(nil); err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: t.MinVersion, GetCertificate: pair.certificate, NextProtos: []string{"h2", "http/1.1"}}
	if t.ClientCA == "" {
		return cfg, nil
	}
	pem, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("read the certificates that vouch for clients: %w", err)
	}
	cfg.ClientCAs = x509.NewCertPool()
	if !cfg.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", t.ClientCA)
	}
	cfg.ClientAuth = tls.VerifyClientCertIfGiven // others may have a password
	return cfg, nil
}

// Serve serves until ctx is done, or, if exitIdle is not 0, until nobody has asked for anything for so long. Requests under way come to
// their end first.
func (s *Server) Serve(ctx context.Context, listeners []net.Listener, tlsConfig *tls.Config, exitIdle time.Duration) error {
	s.init()
	defer s.Close()
	return ServeHandler(ctx, s, listeners, tlsConfig, s.Log, func(ended <-chan error) error { return s.wait(ctx, ended, exitIdle) })
}

// ServeHandler serves until wait returns, which is told of listeners that fail; nil waits for ctx. Requests under way come to their end.
func ServeHandler(ctx context.Context, handler http.Handler, listeners []net.Listener, tlsConfig *tls.Config, log *slog.Logger,
	wait func(ended <-chan error) error,
) error {
	server := &http.Server{
		Handler: handler, ConnContext: ConnContext, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: keepAliveTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		if _, isTCP := l.(*net.TCPListener); isTCP && tlsConfig != nil {
			l = tls.NewListener(l, tlsConfig)
		}
		go func() { ended <- server.Serve(l) }()
	}
	var err error
	if wait != nil {
		err = wait(ended)
	} else {
		select {
		case <-ctx.Done():
		case err = <-ended:
		}
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if shutdownErr := server.Shutdown(stopCtx); shutdownErr != nil {
		log.Warn("requests under way were cut off: " + shutdownErr.Error())
		server.Close()
	}
	return err
}

// purgeInterval is how often what was deleted long enough ago is removed for good.
const purgeInterval = time.Hour

// wait returns when serving is to end.
func (s *Server) wait(ctx context.Context, ended <-chan error, exitIdle time.Duration) error {
	go s.Purge(ctx)
	purge := time.NewTicker(purgeInterval)
	defer purge.Stop()
	var idle <-chan time.Time
	if exitIdle > 0 {
		ticker := time.NewTicker(min(exitIdle, 10*time.Second))
		defer ticker.Stop()
		idle = ticker.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return fmt.Errorf("serve: %w", err)
		case <-purge.C:
			go s.Purge(ctx)
		case <-idle:
			if s.Idle() >= exitIdle {
				return nil
			}
		}
	}
}
