package remote

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/remote/remotetest"
)

// world is a server with two remotes, and the folder of its configuration.
type world struct {
	*testing.T
	dir, address string
	ca           *remotetest.Authority
	log          *bytes.Buffer
}

const psk = "0123456789abcdef0123456789abcdef0123"

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{T: t, dir: t.TempDir(), ca: remotetest.New(t, "test CA"), log: new(bytes.Buffer)}
	key, cert := w.ca.Issue(t, "127.0.0.1", time.Now().Add(time.Hour))
	w.write("server.key", key)
	w.write("server.crt", cert)
	w.write("clients.crt", w.ca.PEM())
	w.write("web2.psk", psk+"\n")
	w.write("web2.toml", "[node]\nname = \"fetched\"\n")
	w.write("archive.password", "planted\n")
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.address = probe.Addr().String()
	probe.Close()
	w.configure(`[remote.web2]
connection = "https"
configuration = "web2.toml"
send-files = ["archive.password"]

[remote.web3]
connection = "http"
configuration = "web2.toml"
pre-shared-key-file = "web2.psk"
`)
	server := &Server{Load: func() *config.Config { return config.Load([]string{filepath.Join(w.dir, "remotes.toml")}, nil) }, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- server.Serve(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) write(name, data string) {
	w.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, name), []byte(data), 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) configure(remotes string) {
	w.Helper()
	w.write("remotes.toml", "[serve]\nlisten = \""+w.address+"\"\ncertificate-file = \"server.crt\"\nkey-file = \"server.key\"\nclient-ca-file = \"clients.crt\"\n\n"+remotes)
}

// fetch fetches with a credential, and returns what the configuration and the password were.
func (w *world) fetch(url, credential string) (string, error) {
	w.Helper()
	dir := w.TempDir()
	if err := os.WriteFile(filepath.Join(dir, CredentialName), []byte(credential), 0o600); err != nil {
		w.Fatal(err)
	}
	f := &Fetcher{LinksDir: w.TempDir(), Getenv: func(name string) string {
		if name == "CREDENTIALS_DIRECTORY" {
			return dir
		}
		return ""
	}}
	fetched, err := f.Fetch(w.Context(), url)
	if err != nil {
		return "", err
	}
	defer fetched.Close()
	data, err := os.ReadFile(fetched.Config)
	return string(data), err
}

func (w *world) want(err error, fragment string) {
	w.Helper()
	if err == nil || !strings.Contains(err.Error(), fragment) {
		w.Errorf("error %v; want one that says %q", err, fragment)
	}
}

func TestFetchWithCertificate(t *testing.T) {
	w := newWorld(t)
	url := "https://" + w.address + "/configuration/web2"
	key, cert := w.ca.Issue(t, "web2", time.Now().Add(time.Hour))
	good := key + cert + w.ca.PEM()
	data, err := w.fetch(url, good)
	if err != nil || data != "[node]\nname = \"fetched\"\n" {
		t.Fatalf("fetch = %q, %v", data, err)
	}
	_, err = w.fetch("https://"+w.address+"/configuration/web3", good)
	w.want(err, "403")
	_, err = w.fetch("https://"+w.address+"/configuration/web9", good)
	w.want(err, "403")
	_, err = w.fetch("http://"+w.address+"/configuration/web2", psk)
	w.want(err, "403")

	key, cert = w.ca.Issue(t, "stranger", time.Now().Add(time.Hour))
	_, err = w.fetch(url, key+cert+w.ca.PEM())
	w.want(err, "403")
	key, cert = w.ca.Issue(t, "web2", time.Now().Add(-time.Hour))
	_, err = w.fetch(url, key+cert+w.ca.PEM())
	w.want(err, "expired")
	other := remotetest.New(t, "other CA")
	key, cert = other.Issue(t, "web2", time.Now().Add(time.Hour))
	_, err = w.fetch(url, key+cert+w.ca.PEM())
	w.want(err, "certificate")
	key, cert = w.ca.Issue(t, "web2", time.Now().Add(time.Hour))
	_, err = w.fetch(url, key+cert+other.PEM())
	w.want(err, "unknown authority")

	w.configure("[remote.web4]\nconnection = \"https\"\nconfiguration = \"web2.toml\"\n") // web2 is taken away
	_, err = w.fetch(url, good)
	w.want(err, "403")
}

func TestFetchWithKey(t *testing.T) {
	w := newWorld(t)
	url := "http://" + w.address + "/configuration/web3"
	data, err := w.fetch(url, psk+"\n")
	if err != nil || data != "[node]\nname = \"fetched\"\n" {
		t.Fatalf("fetch = %q, %v", data, err)
	}
	_, err = w.fetch(url, strings.Replace(psk, "0", "1", 1))
	w.want(err, "not encrypted with this host's pre-shared key")
	_, err = w.fetch(url, "short")
	w.want(err, "32 or more characters")

	// Somebody in between records an answer, and plays it again, or changes it.
	var recorded []byte
	replay := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		rw.Header().Set("Content-Type", encryptedType)
		rw.Write(recorded)
	}))
	defer replay.Close()
	req, _ := http.NewRequest(http.MethodGet, url, nil)
	req.Header.Set(nonceHeader, strings.Repeat("n", minNonceBytes))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	whole, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if bytes.Contains(whole, []byte("fetched")) {
		t.Error("the answer is not encrypted")
	}
	recorded = whole
	_, err = w.fetch(replay.URL+"/configuration/web3", psk)
	w.want(err, "that to another request")
	for _, at := range []int{len(whole) - 1, len(whole) / 2, len(whole) - 40, 200} {
		recorded = bytes.Clone(whole)
		recorded[at] ^= 1
		if _, err := w.fetch(replay.URL+"/configuration/web3", psk); err == nil || strings.Contains(err.Error(), "another request") {
			t.Errorf("an answer with a flipped bit at %d: %v", at, err)
		}
	}
	for _, n := range []int{0, 100, len(whole) - 1, len(whole) - 20} {
		recorded = whole[:n]
		if _, err := w.fetch(replay.URL+"/configuration/web3", psk); err == nil || strings.Contains(err.Error(), "another request") {
			t.Errorf("an answer of which %d bytes are left: %v", n, err)
		}
	}
}

func TestFresh(t *testing.T) {
	now := time.Now()
	for name, c := range map[string]struct {
		nonce   string
		created time.Time
		want    string
	}{
		"fresh": {"n", now, ""}, "another": {"m", now, "another request"}, "old": {"n", now.Add(-time.Hour), "clocks"}, "of the future": {"n", now.Add(time.Hour), "clocks"},
	} {
		err := fresh(&Manifest{Nonce: c.nonce, Created: c.created}, "n", now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

func TestServeRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		method, path, nonce string
		want                int
	}{
		{http.MethodGet, "/", strings.Repeat("n", 16), http.StatusNotFound},
		{http.MethodGet, "/configuration/a/b", strings.Repeat("n", 16), http.StatusNotFound},
		{http.MethodPost, "/configuration/web3", strings.Repeat("n", 16), http.StatusMethodNotAllowed},
		{http.MethodGet, "/configuration/web3", "", http.StatusBadRequest},
		{http.MethodGet, "/configuration/web2", strings.Repeat("n", 16), http.StatusForbidden},
	} {
		req, _ := http.NewRequest(c.method, "http://"+w.address+c.path, nil)
		req.Header.Set(nonceHeader, c.nonce)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.want {
			t.Errorf("%s %s: %s; want %d", c.method, c.path, resp.Status, c.want)
		}
	}
}
