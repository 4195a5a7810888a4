package run

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
	"sdbackup/internal/token"
)

// tokenTime is how long a run token is good when the attempt has no timeout.
const tokenTime = 7 * 24 * time.Hour

// secrets finds what the attempt needs. For a destination behind the gateway that is a token, good for this repository and until forget
// is called.
func (j Job) secrets(ctx context.Context, paths config.Paths) (s module.Secrets, forget func(), err error) {
	mode := token.All
	if j.Plan.AddOnly {
		mode = token.Add
	}
	return j.secretsFor(ctx, paths, mode)
}

// secretsFor is secrets with a token of that mode.
func (j Job) secretsFor(ctx context.Context, paths config.Paths, mode token.Mode) (s module.Secrets, forget func(), err error) {
	s, err = module.FindSecrets(j.Destination, os.Getenv)
	if err != nil || !j.Destination.Gateway {
		return s, func() {}, err
	}
	if config.InMemory(j.Gateway.CAFile) {
		s.CACert.Path = j.Gateway.CAFile
	}
	// restic from 0.17 on would try for a quarter of an hour to reach a gateway that is not there.
	if err := knock(ctx, j.Gateway); err != nil {
		return s, nil, &gatewayError{err}
	}
	if strings.HasPrefix(j.Gateway.URL, "unix:") {
		return s, func() {}, nil
	}
	made, err := newToken(paths, token.Principal{
		Name: j.Plan.Module, Grants: []token.Grant{{Destination: j.Destination.ID, Repository: j.Module.Type + "/" + j.Module.UUID, Mode: mode}},
	}, j.Plan.Timeout)
	if err != nil {
		return s, nil, err
	}
	// Beside the tokens, for root alone: the manager reads it when it starts the unit.
	dir := filepath.Join(filepath.Dir(paths.Tokens), "attempts")
	path := filepath.Join(dir, made.Name())
	err = os.MkdirAll(dir, 0o700)
	if err == nil {
		sweepAttempts(dir, paths.Tokens)
		err = atomicfile.Write(path, []byte(j.Gateway.RepositoryAt(j.Destination, j.Module, j.Plan.Module+":"+made.Text)), 0o600)
	}
	if err != nil {
		return s, nil, errors.Join(fmt.Errorf("hand over the run token: %w", err), made.Remove())
	}
	s.Repository.Path = path
	return s, func() {
		_ = made.Remove() // it ends with this process at the latest
		_ = os.Remove(path)
	}, nil
}

// gatewayError says that the gateway cannot be reached.
type gatewayError struct{ err error }

func (e *gatewayError) Error() string { return "the gateway cannot be reached: " + e.err.Error() }
func (e *gatewayError) Unwrap() error { return e.err }

// knockTimeout bounds how long the gateway may take to accept a connection.
const knockTimeout = 30 * time.Second

// knock connects to the gateway, which starts it where its socket is systemd's.
func knock(ctx context.Context, g config.Gateway) error {
	ctx, cancel := context.WithTimeout(ctx, knockTimeout)
	defer cancel()
	network, address := "unix", strings.TrimPrefix(g.URL, "unix:")
	if address == g.URL {
		u, err := url.Parse(g.URL)
		if err != nil {
			return err
		}
		network, address = "tcp", u.Host
		if u.Port() == "" {
			address = net.JoinHostPort(u.Hostname(), u.Scheme) // services(5) knows both
		}
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil {
		return err
	}
	return c.Close()
}

// sweepAttempts removes what runs that were killed have left: their tokens are gone or good for nothing.
func sweepAttempts(dir, tokens string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // somebody is writing it: attempts begin side by side
		}
		if _, err := os.Stat(filepath.Join(tokens, e.Name())); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(filepath.Join(dir, e.Name())) // litter is no reason to fail
		}
	}
}

func newToken(paths config.Paths, p token.Principal, timeout time.Duration) (token.Token, error) {
	if timeout == 0 {
		timeout = tokenTime
	}
	return token.Store{Dir: paths.Tokens}.New(p, time.Now().Add(timeout+stopTimeout))
}

// Metadata is what is written beside a module's repository, as TYPE/UUID.json: it tells who looks at the destination without this
// configuration what the repository is.
type Metadata struct {
	Module  string    `json:"module"`
	UIName  string    `json:"ui_name"`
	Type    string    `json:"type"`
	UUID    string    `json:"uuid"`
	Node    string    `json:"node"`
	Backup  string    `json:"backup"`
	Time    time.Time `json:"time"`
	Success bool      `json:"success"`
}

// metadataTimeout bounds the writing of one.
const metadataTimeout = time.Minute

// describe writes the metadata of a module that was saved, or could not be, beside its repository. That this fails changes no verdict.
func (r *Runner) describe(ctx context.Context, job Job, result *status.Result, log *slog.Logger) {
	if !job.Destination.Gateway || job.Plan.Check != nil || job.Backup.IsDrill() || result.Outcome == status.Conflict || result.Retry || result.RetentionDue {
		return
	}
	if err := r.putMetadata(context.WithoutCancel(ctx), job, result); err != nil {
		log.Warn(fmt.Sprintf("module %s: write what its repository is beside it: %v", job.Plan.Module, err))
	}
}

func (r *Runner) putMetadata(ctx context.Context, job Job, result *status.Result) error {
	d, m := job.Destination, job.Module
	data, err := json.MarshalIndent(Metadata{
		Module: m.ID, UIName: m.UIName, Type: m.Type, UUID: m.UUID, Node: r.Config.Node.Name, Backup: result.Backup, Time: result.End,
		Success: result.Outcome == status.Success || result.Outcome == status.Partial,
	}, "", "  ")
	if err != nil {
		return err
	}
	client, err := newNodeClient(r.Config, r.Paths, metadataTimeout)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, metadataTimeout)
	defer cancel()
	ask := func(method, path string, body []byte) (int, error) {
		resp, err := client.send(ctx, method, path, nil, bytes.NewReader(body))
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		if resp.StatusCode < 300 {
			return resp.StatusCode, nil
		}
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return resp.StatusCode, fmt.Errorf("the gateway answered %s: %s", resp.Status, strings.TrimSpace(strings.ToValidUTF8(string(text), "?")))
	}
	folder := "/" + d.ID + "/" + m.Type
	file := folder + "/" + m.UUID + ".json"
	code, err := ask(http.MethodPut, file, append(data, '\n'))
	if code == http.StatusConflict || code == http.StatusNotFound { // its folder is not there: nothing of the type was ever saved
		if _, err := ask("MKCOL", folder, nil); err != nil {
			return err
		}
		_, err = ask(http.MethodPut, file, append(data, '\n'))
	}
	return err
}

// gatewayClient returns a client for the gateway, and what its URLs begin with.
func gatewayClient(g config.Gateway) (*http.Client, string, error) {
	transport := &http.Transport{}
	base := g.URL
	if socket, ok := strings.CutPrefix(g.URL, "unix:"); ok {
		base = "http://gateway"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	if g.CAFile != "" {
		pem, err := os.ReadFile(g.CAFile)
		if err != nil {
			return nil, "", fmt.Errorf("read the gateway's ca-file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, "", fmt.Errorf("%s holds no certificate", g.CAFile)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport}, base, nil
}
