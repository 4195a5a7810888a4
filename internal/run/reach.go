package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/token"
)

// ReadSecrets finds what reading a module's repository takes, also of a module that only its type and UUID are known of. For a destination
// behind the gateway that is a token which may read this repository until forget is called.
func ReadSecrets(ctx context.Context, cfg *config.Config, paths config.Paths, d *config.Destination, m *config.Module) (_ module.Secrets, forget func(), err error) {
	job := Job{Plan: module.Plan{Module: m.ID}, Module: m, Destination: d, Gateway: cfg.Gateway}
	return job.secretsFor(ctx, paths, token.Read)
}

// Unreachable tells whether the error is that nobody answers at the gateway's address.
func Unreachable(err error) bool { return errors.As(err, new(*gatewayError)) }

// NodeClient asks the gateway in the name of the node.
type NodeClient struct {
	client *http.Client
	base   string
	name   string
	token  token.Token
}

// nodeTime is how long a NodeClient's token is good.
const nodeTime = time.Hour

// NewNodeClient returns a client that Close must be called of. It looks first whether the gateway is there.
func NewNodeClient(ctx context.Context, cfg *config.Config, paths config.Paths) (*NodeClient, error) {
	if err := knock(ctx, cfg.Gateway); err != nil {
		return nil, &gatewayError{err}
	}
	return newNodeClient(cfg, paths, nodeTime)
}

func newNodeClient(cfg *config.Config, paths config.Paths, timeout time.Duration) (*NodeClient, error) {
	client, base, err := gatewayClient(cfg.Gateway)
	if err != nil {
		return nil, err
	}
	made, err := newToken(paths, token.Principal{Name: cfg.Node.Name, Node: true}, timeout)
	if err != nil {
		return nil, err
	}
	return &NodeClient{client, base, cfg.Node.Name, made}, nil
}

// Do makes a request without a body; the path begins with a slash. The answer may be any.
func (c *NodeClient) Do(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	return c.send(ctx, method, path, header, nil)
}

func (c *NodeClient) send(ctx context.Context, method, path string, header http.Header, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, fmt.Errorf("ask the gateway: %w", err)
	}
	if header != nil {
		req.Header = header
	}
	req.SetBasicAuth(c.name, c.token.Text)
	return c.client.Do(req)
}

// Close ends the client and its token.
func (c *NodeClient) Close() {
	c.client.CloseIdleConnections()
	_ = c.token.Remove() // it ends with this process at the latest
}
