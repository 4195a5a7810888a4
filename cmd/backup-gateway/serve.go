package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/gateway"
	"sdbackup/internal/journal"
)

type serve struct {
	cli.Location
	Listen        []string `placeholder:"ADDRESS" help:"Where to listen, HOST:PORT or unix:PATH; may be repeated. Where systemd passes sockets, those count. Default: 127.0.0.1:4694 and the unix socket gateway.sock below /run/sdbackup."`
	TLS           bool     `name:"tls" help:"Encrypt connections by TCP."`
	TLSCert       string   `name:"tls-cert" placeholder:"FILE" help:"Certificate, in PEM." predictor:"file"`
	TLSKey        string   `name:"tls-key" placeholder:"FILE" help:"Its key, in PEM." predictor:"file"`
	TLSMinVersion string   `name:"tls-min-version" enum:"1.2,1.3" default:"1.2" help:"Lowest version of TLS, 1.2 or 1.3."`
	TLSClientCA   string   `name:"tls-client-ca" placeholder:"FILE" help:"Certificates that vouch for clients: the common name of a client's certificate is who it is." predictor:"file"`
	ExitIdleTime  string   `default:"5min" placeholder:"TIME" help:"Exit when nobody has asked for anything for so long, where systemd starts it again by its socket; infinity: never."`
	AccessLog     string   `placeholder:"FILE" help:"Write a line for every request in the combined log format; - is standard output." predictor:"file"`
	MetricsNoAuth bool     `help:"Let anybody read /metrics."`
}

// Help is shown by kong.
func (serve) Help() string {
	return `Destinations are served as /DESTINATION/TYPE/UUID/, by restic's REST protocol and by WebDAV.

Example: backup-gateway serve --listen 0.0.0.0:4694 --tls --tls-cert gw.pem --tls-key gw.key --tls-client-ca hosts.pem`
}

func (c *serve) Run(ctx context.Context, env *cli.Env) error {
	tlsConfig, idle, err := c.check()
	if err != nil {
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	}
	paths := c.Paths(env)
	addresses := c.Listen
	if len(addresses) == 0 {
		addresses = []string{strings.TrimPrefix(config.DefaultGatewayURL, "http://"), "unix:" + paths.Socket}
	}
	accessLog, closeLog, err := openLog(c.AccessLog, env)
	if err != nil {
		return err
	}
	defer closeLog()
	listeners, activated, err := gateway.Listen(addresses)
	if err != nil {
		return err
	}
	if !activated {
		idle = 0
	}
	server := &gateway.Server{Paths: paths, Getenv: env.Getenv, Log: env.Log, AccessLog: accessLog, MetricsNoAuth: c.MetricsNoAuth}
	env.Log.Info("serving at " + join(listeners))
	journal.Notify("READY=1\nSTATUS=Serving at " + join(listeners))
	defer journal.Notify("STOPPING=1")
	return server.Serve(ctx, listeners, tlsConfig, idle)
}

// check reads what the flags mean together.
func (c *serve) check() (*tls.Config, time.Duration, error) {
	idle, err := config.ParseTimeSpan(c.ExitIdleTime)
	if err != nil {
		return nil, 0, fmt.Errorf("--exit-idle-time: %w", err)
	}
	if !c.TLS {
		if c.TLSCert != "" || c.TLSKey != "" || c.TLSClientCA != "" {
			return nil, 0, errors.New("--tls-cert, --tls-key and --tls-client-ca mean nothing without --tls")
		}
		return nil, idle, nil
	}
	if c.TLSCert == "" || c.TLSKey == "" {
		return nil, 0, errors.New("--tls needs --tls-cert and --tls-key")
	}
	version := uint16(tls.VersionTLS12)
	if c.TLSMinVersion == "1.3" {
		version = tls.VersionTLS13
	}
	made, err := gateway.TLS{Cert: c.TLSCert, Key: c.TLSKey, ClientCA: c.TLSClientCA, MinVersion: version}.Config()
	return made, idle, err
}

// openLog opens a log that lines are appended to; "" is none.
func openLog(path string, env *cli.Env) (io.Writer, func(), error) {
	switch path {
	case "":
		return nil, func() {}, nil
	case "-":
		return env.Stdout, func() {}, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, nil, fmt.Errorf("open the log: %w", err)
	}
	return f, func() { f.Close() }, nil
}

func join(listeners []net.Listener) string {
	var names []string
	for _, l := range listeners {
		names = append(names, l.Addr().String())
	}
	return strings.Join(names, ", ")
}
