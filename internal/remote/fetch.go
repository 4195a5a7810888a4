package remote

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"

	"sdbackup/internal/credential"
)

// CredentialName is the systemd credential by which a host shows itself where it fetches its configuration: in PEM a private key, its
// certificate, and if need be the certificates that vouch for the server; or a pre-shared key.
const CredentialName = "sdbackup.remote"

const (
	fetchTimeout = 2 * time.Minute
	// maxSkew is how far two clocks may be apart.
	maxSkew = 5 * time.Minute
	// retryFor is how long a service tries again to reach the server: at boot, the network may just be coming up.
	retryFor      = 2 * time.Minute
	retryInterval = 2 * time.Second
	// maxBodyBytes bounds an answer.
	maxBodyBytes = MaxBytes + maxManifestBytes + 1<<20
)

// Fetcher fetches the configuration of this host.
type Fetcher struct {
	Getenv   func(string) string
	User     bool   // the credential is in the user's own store
	LinksDir string // for Memory
}

// Fetched is a configuration in memory.
type Fetched struct {
	*Memory
	Config string // its path
}

// Fetch fetches the configuration at the URL into memory.
func (f *Fetcher) Fetch(ctx context.Context, address string) (*Fetched, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%q is not where a configuration is; want https://HOST:PORT/configuration/REMOTE", address)
	}
	credential, err := f.credential(ctx)
	if err != nil {
		return nil, err
	}
	defer clear(credential)
	client, key, err := f.client(u, credential)
	if err != nil {
		return nil, err
	}
	memory, err := NewMemory(f.LinksDir)
	if err != nil {
		return nil, err
	}
	Harden()
	m, err := f.get(ctx, client, u, key, memory)
	if err != nil {
		memory.Close()
		return nil, fmt.Errorf("fetch the configuration from %s: %w", address, err)
	}
	return &Fetched{memory, filepath.Join(memory.Path, filepath.FromSlash(m.Configuration))}, nil
}

// credential reads what this host shows itself by.
func (f *Fetcher) credential(ctx context.Context) ([]byte, error) {
	if dir := f.Getenv("CREDENTIALS_DIRECTORY"); dir != "" {
		if data, err := os.ReadFile(filepath.Join(dir, CredentialName)); err == nil {
			return data, nil
		}
	}
	stores := []string{"/etc", "/run"}
	if f.User {
		config := f.Getenv("XDG_CONFIG_HOME")
		if config == "" {
			config = filepath.Join(f.Getenv("HOME"), ".config")
		}
		stores = []string{config}
	}
	for _, store := range stores {
		path := filepath.Join(store, "credstore", CredentialName)
		if info, err := os.Stat(path); err == nil {
			if info.Mode().Perm()&0o077 != 0 {
				return nil, fmt.Errorf("others may use %s; want mode 0600: chmod 600 %s", path, path)
			}
			return os.ReadFile(path)
		}
		path = filepath.Join(store, "credstore.encrypted", CredentialName)
		if _, err := os.Stat(path); err != nil {
			continue
		}
		encrypted, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		// A service is given it; for a person it is decrypted, which only root can.
		data, said, err := credential.Decrypt(ctx, CredentialName, encrypted)
		if err != nil {
			return nil, fmt.Errorf("decrypt %s: %w %s", path, err, strings.TrimSpace(said))
		}
		return data, nil
	}
	return nil, fmt.Errorf("there is no credential %s by which this host could show itself: neither of this service nor in %s/credstore",
		CredentialName, stores[0])
}

// client makes a client that shows the certificate, or for http returns the pre-shared key.
func (f *Fetcher) client(u *url.URL, credential []byte) (*http.Client, string, error) {
	transport := &http.Transport{TLSHandshakeTimeout: requestTimeout, ResponseHeaderTimeout: fetchTimeout, DisableKeepAlives: true, DisableCompression: true}
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if u.Scheme == "http" {
		key, err := checkKey(string(credential))
		return client, key, err
	}
	pair, pool, err := splitPEM(credential)
	if err != nil {
		return nil, "", fmt.Errorf("the credential %s: %w", CredentialName, err)
	}
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, RootCAs: pool}
	return client, "", nil
}

// splitPEM reads a key, its certificate, and further certificates, which vouch for the server; a nil pool is that of the system.
func splitPEM(data []byte) (pair tls.Certificate, pool *x509.CertPool, err error) {
	pair, err = tls.X509KeyPair(data, data)
	if err != nil {
		return pair, nil, fmt.Errorf("want a private key and its certificate in PEM, the certificate before any other: %w", err)
	}
	certificates := 0
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			clear(block.Bytes)
			continue
		}
		if certificates++; certificates == 1 {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return pair, nil, err
		}
		if pool == nil {
			pool = x509.NewCertPool()
		}
		pool.AddCert(c)
	}
	return pair, pool, nil
}

// get asks the server, and puts what it answers into memory.
func (f *Fetcher) get(ctx context.Context, client *http.Client, u *url.URL, key string, memory *Memory) (*Manifest, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fetchTimeout+retryFor, errors.New("the server takes too long"))
	defer cancel()
	nonce := rand.Text()
	resp, err := f.reach(ctx, client, u, nonce)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, maxBodyBytes)
	want := plainType
	if u.Scheme == "http" {
		want = encryptedType
	}
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(body, 500))
		return nil, fmt.Errorf("the server answered %s: %s", resp.Status, strings.TrimSpace(strings.ToValidUTF8(string(text), "?")))
	}
	if got := resp.Header.Get("Content-Type"); got != want {
		return nil, fmt.Errorf("the server answered with %.100q; want %q", got, want)
	}
	if u.Scheme == "http" {
		if body, err = decrypt(body, key); err != nil {
			return nil, err
		}
	}
	m, err := ReadBundle(body, memory.Create)
	if err != nil {
		return nil, err
	}
	if rest, err := io.Copy(io.Discard, body); rest > 0 || err != nil { // what age has not authenticated to the end is nothing
		return nil, fmt.Errorf("%w: there is more than a bundle", ErrBundle)
	}
	return m, fresh(m, nonce, time.Now())
}

func decrypt(body io.Reader, key string) (io.Reader, error) {
	identity, err := age.NewScryptIdentity(key)
	if err != nil {
		return nil, err
	}
	identity.SetMaxWorkFactor(workFactor + 4)
	decrypted, err := age.Decrypt(body, identity)
	if err != nil {
		return nil, fmt.Errorf("the answer is not encrypted with this host's pre-shared key: %w", err)
	}
	return decrypted, nil
}

// fresh refuses what was made for another request.
func fresh(m *Manifest, nonce string, now time.Time) error {
	switch skew := now.Sub(m.Created); {
	case m.Nonce != nonce:
		return errors.New("the answer is that to another request: somebody may have recorded it")
	case skew > maxSkew || skew < -maxSkew:
		return fmt.Errorf("the answer was made at %s, and here it is %s: is one of the clocks wrong?", m.Created.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// noAnswer tells whether an error is that no connection was made.
func noAnswer(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// reach asks the server; a service asks again for some time when nobody answers.
func (f *Fetcher) reach(ctx context.Context, client *http.Client, u *url.URL, nonce string) (*http.Response, error) {
	begun := time.Now()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set(nonceHeader, nonce)
		resp, err := client.Do(req)
		var cause *url.Error
		if errors.As(err, &cause) {
			err = cause.Err
		}
		if err == nil || f.Getenv("INVOCATION_ID") == "" || time.Since(begun) > retryFor || !noAnswer(err) {
			return resp, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(retryInterval):
		}
	}
}
