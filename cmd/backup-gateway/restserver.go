package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"syscall"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/gateway"
	"sdbackup/internal/journal"
	"sdbackup/restserver"
)

// restServer has the flags of rest-server 0.14, with their meanings and defaults.
type restServer struct {
	Path                 string `placeholder:"DIR" help:"Folder of the repositories. Default: restic in the folder for temporary files, whose contents do not last: say another one." predictor:"file"`
	Listen               string `default:":8000" placeholder:"ADDRESS" help:"Where to listen: [HOST]:PORT, or unix:PATH; default :8000. Where systemd passes a socket, that counts."`
	NoAuth               bool   `help:"Ask for no password."`
	HtpasswdFile         string `placeholder:"FILE" help:"Users and their passwords. Default: .htpasswd in the folder of the repositories." predictor:"file"`
	ProxyAuthUsername    string `placeholder:"HEADER" help:"Header in which a proxy, which has asked for the password, names the user."`
	AppendOnly           bool   `help:"Delete nothing but locks."`
	PrivateRepos         bool   `help:"Let users into the folder of their own name only."`
	GroupAccessibleRepos bool   `help:"Make files and folders that their group can read and write."`
	MaxSize              int64  `placeholder:"BYTES" help:"How much all repositories may take together."`
	NoVerifyUpload       bool   `help:"Store what comes without holding it against the hash that is its name."`
	TLS                  bool   `name:"tls" help:"Encrypt connections."`
	TLSCert              string `name:"tls-cert" placeholder:"FILE" help:"Certificate, in PEM. Default: public_key in the folder of the repositories." predictor:"file"`
	TLSKey               string `name:"tls-key" placeholder:"FILE" help:"Its key, in PEM. Default: private_key in the folder of the repositories." predictor:"file"`
	TLSMinVer            string `name:"tls-min-ver" enum:"1.2,1.3" default:"1.2" help:"Lowest version of TLS, 1.2 or 1.3."`
	Log                  string `placeholder:"FILE" help:"Write a line for every request in the combined log format; - is standard output." predictor:"file"`
	Prometheus           bool   `help:"Serve metrics at /metrics."`
	PrometheusNoAuth     bool   `help:"Let anybody read the metrics."`
	Debug                bool   `help:"Log every request."`
	CPUProfile           string `name:"cpu-profile" placeholder:"FILE" help:"Write a profile of where the processor's time goes." predictor:"file"`
}

// Help is shown by kong.
func (restServer) Help() string {
	return `A drop-in for restic's rest-server: the same flags, folders, users, answers and metrics.

Example: backup-gateway rest-server --path /srv/restic --append-only --private-repos`
}

func (c *restServer) Run(ctx context.Context, env *cli.Env) (err error) {
	if c.Path == "" {
		c.Path = filepath.Join(os.TempDir(), "restic")
	}
	path, err := filepath.Abs(c.Path)
	if err != nil {
		return fmt.Errorf("find the folder of the repositories: %w", err)
	}
	if within(path, os.TempDir()) {
		env.Log.Warn("the repositories are in a folder for temporary files, which may be emptied at any time: say --path", "path", path)
	}
	tlsConfig, err := c.tls(path)
	if err != nil {
		return err
	}
	server := &restserver.Server{
		Path: path, Listen: c.Listen, Log: c.Log,
		NoAuth: c.NoAuth, HtpasswdPath: c.HtpasswdFile, ProxyAuthUsername: c.ProxyAuthUsername, PrivateRepos: c.PrivateRepos,
		AppendOnly: c.AppendOnly, GroupAccessibleRepos: c.GroupAccessibleRepos, MaxRepoSize: c.MaxSize, NoVerifyUpload: c.NoVerifyUpload,
		Prometheus: c.Prometheus, PrometheusNoAuth: c.PrometheusNoAuth, Debug: c.Debug, Logger: env.Log,
	}
	handler, err := restserver.NewHandler(server)
	if err != nil {
		return err
	}
	env.Log.Info(fmt.Sprintf("repositories in %s; authentication %s, append-only %s, private repositories %s, group access %s",
		path, onOff(!c.NoAuth), onOff(c.AppendOnly), onOff(c.PrivateRepos), onOff(c.GroupAccessibleRepos)))
	listener, err := c.listen()
	if err != nil {
		return err
	}
	if c.CPUProfile != "" {
		stop, err := profile(c.CPUProfile)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	go reloadOnHangup(ctx, server, env)
	go clean(ctx, server, env)
	env.Log.Info("serving at " + listener.Addr().String())
	journal.Notify("READY=1")
	defer journal.Notify("STOPPING=1")
	return gateway.ServeHandler(ctx, handler, []net.Listener{listener}, tlsConfig, env.Log, nil)
}

// listen returns the socket that systemd has passed, or else listens. Unlike with gateway.Listen, the umask says who may connect to a
// unix socket: there may be no other authentication.
func (c *restServer) listen() (net.Listener, error) {
	passed, activated, err := gateway.Listen(nil)
	switch {
	case err != nil:
		return nil, err
	case len(passed) > 1:
		return nil, fmt.Errorf("systemd passed %d sockets; want one", len(passed))
	case activated:
		return passed[0], nil
	}
	path, isUnix := strings.CutPrefix(c.Listen, "unix:")
	if !isUnix {
		l, err := net.Listen("tcp", c.Listen)
		if err != nil {
			return nil, fmt.Errorf("listen at %s: %w", c.Listen, err)
		}
		return l, nil
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		// A server that was killed leaves its socket; one that lives answers.
		if conn, dialErr := net.Dial("unix", path); dialErr == nil {
			conn.Close()
		} else if errors.Is(dialErr, syscall.ECONNREFUSED) && os.Remove(path) == nil {
			l, err = net.Listen("unix", path)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("listen at %s: %w", c.Listen, err)
	}
	return l, nil
}

// cleanAge is how old the temporary file of an upload must be to be nobody's: another server may be at work in the same folder.
const cleanAge = 24 * time.Hour

// clean removes what is left of uploads that a server did not live to end.
func clean(ctx context.Context, server *restserver.Server, env *cli.Env) {
	n, err := server.Clean(ctx, cleanAge)
	if n > 0 {
		env.Log.Info("removed temporary files of uploads that were cut off", "files", n)
	}
	if err != nil && ctx.Err() == nil {
		env.Log.Warn("remove temporary files: " + err.Error())
	}
}

// tls reads what the flags for TLS mean together.
func (c *restServer) tls(path string) (*tls.Config, error) {
	if !c.TLS {
		if c.TLSCert != "" || c.TLSKey != "" {
			return nil, errors.New("--tls-cert and --tls-key mean nothing without --tls")
		}
		return nil, nil
	}
	t := gateway.TLS{Cert: c.TLSCert, Key: c.TLSKey, MinVersion: tls.VersionTLS12}
	if t.Cert == "" {
		t.Cert = filepath.Join(path, "public_key")
	}
	if t.Key == "" {
		t.Key = filepath.Join(path, "private_key")
	}
	if c.TLSMinVer == "1.3" {
		t.MinVersion = tls.VersionTLS13
	}
	return t.Config()
}

// reloadOnHangup reads the users again on SIGHUP.
func reloadOnHangup(ctx context.Context, server *restserver.Server, env *cli.Env) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			if err := server.Reload(); err != nil {
				env.Log.Error("the users stay as they were: " + err.Error())
				continue
			}
			env.Log.Info("read the users again")
		}
	}
}

// profile writes a profile of the processor's time until it is stopped.
func profile(path string) (stop func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("write the profile: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("write the profile: %w", err)
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
