package destination

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"sdbackup/internal/config"
)

// restProber examines a server of restic's REST protocol: it makes a repository of its own there, with nothing but a lock in it. What is not
// in the protocol, removing that repository, is asked for all the same; some servers know it.
type restProber struct {
	client     *http.Client
	repository string // with a slash at its end
	user       string
	password   string
	lock       string // name of the object, which is its hash
	made       bool   // the repository is there
}

// maxProbe bounds what is read of an answer.
const maxProbe = 64 << 10

func newRESTProber(address, environment string) (prober, error) {
	if err := checkURL(strings.TrimRight(address, "/")); err != nil {
		return nil, fmt.Errorf("its address %w", err)
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("its address is none")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if file := getVariable(environment, "RESTIC_CACERT"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", file)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	return &restProber{
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // restic does not follow, with good reason
		},
		repository: strings.TrimRight(u.String(), "/") + "/",
		user:       getVariable(environment, restUsername), password: getVariable(environment, restPassword),
	}, nil
}

// call makes a request and returns the body of an answer 2xx.
func (p *restProber) call(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	var reader io.Reader
	if body != nil {
		reader = bytes.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.repository+path, reader)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.x.restic.rest.v2")
	if p.user != "" {
		req.SetBasicAuth(p.user, p.password)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		if e := (*url.Error)(nil); errors.As(err, &e) {
			err = e.Err // the address is known
		}
		return nil, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxProbe))
	if resp.StatusCode >= 300 {
		text := method + ": " + resp.Status
		if line := firstLine(data); line != "" && !strings.HasSuffix(resp.Status, line) {
			text += ": " + line
		}
		return nil, &statusError{resp.StatusCode, text}
	}
	return data, err
}

type statusError struct {
	code int
	text string
}

func (e *statusError) Error() string { return e.text }

func firstLine(data []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(strings.ToValidUTF8(string(data), "?")), "\n")
	if strings.HasPrefix(line, "<") || len(line) > 200 {
		return "" // a page for browsers
	}
	return line
}

func status(err error) int {
	if e := (*statusError)(nil); errors.As(err, &e) {
		return e.code
	}
	return 0
}

// list asks for what there is in the repository; before it is made, for something that cannot be there.
func (p *restProber) list(ctx context.Context) error {
	if p.lock != "" {
		_, err := p.call(ctx, http.MethodGet, "locks/", nil)
		if status(err) == http.StatusNotFound { // nothing could be stored, but that much it says
			return nil
		}
		return err
	}
	if _, err := p.call(ctx, http.MethodHead, "sdbackup-probe/"+config.NewUUID()+"/config", nil); err != nil && status(err) != http.StatusNotFound {
		return err
	}
	return errNotYet
}

func (p *restProber) create(ctx context.Context, name string, data []byte) error {
	p.repository += name + "/" + config.NewUUID() + "/"
	sum := sha256.Sum256(data)
	p.lock = hex.EncodeToString(sum[:])
	if _, err := p.call(ctx, http.MethodPost, "?create=true", nil); err != nil {
		return err
	}
	p.made = true
	_, err := p.call(ctx, http.MethodPost, "locks/"+p.lock, data)
	return err
}

func (p *restProber) read(ctx context.Context, _ string) ([]byte, error) {
	return p.call(ctx, http.MethodGet, "locks/"+p.lock, nil)
}

func (p *restProber) remove(ctx context.Context, _ string) error {
	if _, err := p.call(ctx, http.MethodDelete, "locks/"+p.lock, nil); err != nil && status(err) != http.StatusNotFound {
		return err
	}
	return nil
}

// close removes the repository. Where the server cannot, its empty folders stay.
func (p *restProber) close(ctx context.Context, name string) (leftover string) {
	defer p.client.CloseIdleConnections()
	if !p.made {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, tidyTimeout)
	defer cancel()
	if _, err := p.call(ctx, http.MethodDelete, "", nil); err != nil && status(err) != http.StatusNotFound {
		return name
	}
	return ""
}
