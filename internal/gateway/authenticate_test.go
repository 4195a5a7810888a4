package gateway

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"sdbackup/internal/token"
)

func TestUnauthorized(t *testing.T) {
	f := newFixture(t, "local", "")
	resp, err := http.Get(f.http.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 || !strings.HasPrefix(resp.Header.Get("WWW-Authenticate"), "Basic realm=") {
		t.Errorf("without a password: %d, WWW-Authenticate %q", resp.StatusCode, resp.Header.Get("WWW-Authenticate"))
	}
}

func TestTokenIsGoodForItsRun(t *testing.T) {
	f := newFixture(t, "local", "")
	made, err := token.Store{Dir: f.server.Paths.Tokens}.New(token.Principal{
		Name: "wiki1", Grants: []token.Grant{{Destination: "archive", Repository: own, Mode: token.Add}},
	}, time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	text := made.Text
	f.rest(200, "wiki1:"+text, "POST", "/archive/"+own+"/?create=true", "")
	f.rest(401, "wiki2:"+text, "POST", "/archive/"+own+"/?create=true", "")
	f.rest(403, "wiki1:"+text, "GET", "/archive/"+other+"/config", "")
	if err := made.Remove(); err != nil {
		t.Fatal(err)
	}
	f.rest(401, "wiki1:"+text, "POST", "/archive/"+own+"/?create=true", "")
}

func TestHtpasswd(t *testing.T) {
	f := newFixture(t, "local", "")
	users := func(lines string) { f.write("htpasswd", lines) }
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users(fmt.Sprintf("wiki1:%s\nweb2:%s\nstranger:%s\nmetrics:%s\n", hash, hash, hash, hash))
	f.reconfigure("node.name", "gateway.htpasswd-file = \""+f.dir+"/htpasswd\"\ngateway.nodes = [\"web2\"]\nnode.name")
	f.rest(200, "wiki1:secret", "POST", "/archive/"+own+"/?create=true", "")
	f.rest(403, "wiki1:secret", "GET", "/archive/"+other+"/config", "")
	f.rest(404, "web2:secret", "GET", "/archive/"+other+"/config", "")
	for login, code := range map[string]int{"metrics:secret": 200, "web2:secret": 200, "wiki1:secret": 403} {
		if got, text := f.ask(login, "GET", "/metrics", ""); got != code || strings.Contains(text, "backup_gateway_destination_up") != (code == 200) {
			t.Errorf("/metrics for %s: %d; want %d", login, got, code)
		}
	}
	f.rest(403, "metrics:secret", "GET", "/archive/"+own+"/config", "")
	for _, login := range []string{"stranger:secret", "wiki1:wrong", "nobody:secret", "wiki1:"} {
		f.rest(401, login, "GET", "/archive/"+own+"/config", "")
	}
}

// Whoever fails again and again is held up, and logged with the address.
func TestThrottle(t *testing.T) {
	var th throttle
	now := time.Now()
	var total time.Duration
	for range 10 {
		_, wait := th.fail("192.0.2.1", now)
		total += wait
	}
	if _, wait := th.fail("192.0.2.1", now); wait != maxWait || total < 10*time.Second {
		t.Errorf("the eleventh failure waits %s, those before %s", wait, total)
	}
	if _, wait := th.fail("192.0.2.2", now); wait != 0 {
		t.Errorf("another address waits %s", wait)
	}
	if n, wait := th.fail("192.0.2.1", now.Add(forgetAfter+time.Second)); n != 1 || wait != 0 {
		t.Errorf("long after: failure %d waits %s", n, wait)
	}
	for i := range 2 * maxThrottled {
		th.fail(fmt.Sprintf("host %d", i), now)
	}
	if len(th.seen) > maxThrottled+1 {
		t.Errorf("%d addresses are remembered", len(th.seen))
	}

	f := newFixture(t, "local", "")
	start := time.Now()
	for range freeFailures + 2 {
		f.rest(401, "wiki1:wrong", "GET", "/archive/"+own+"/config", "")
	}
	if took := time.Since(start); took < firstWait+2*firstWait {
		t.Errorf("%d failures took %s", freeFailures+2, took)
	}
	if !strings.Contains(f.log.String(), "address=127.0.0.1 user=wiki1 failures=5") {
		t.Error("the log does not tell of the failures")
	}
	if _, text := f.ask(f.as("web1", ""), "GET", "/metrics", ""); !strings.Contains(text, "backup_gateway_authentication_failures_total 5") {
		t.Error("the metrics do not count the failures")
	}
}

// authority makes certificates.
type authority struct {
	*testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{T: t, dir: t.TempDir()}
	a.issue("ca", func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	return a
}

// issue writes NAME.pem and NAME.key; the first one signs the others.
func (a *authority) issue(commonName string, with func(*x509.Certificate)) tls.Certificate {
	a.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: commonName}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if with != nil {
		with(cert)
	}
	if a.cert == nil {
		a.cert, a.key = cert, key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.Fatal(err)
	}
	if a.cert == cert {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.Fatal(err)
		}
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	for file, data := range map[string][]byte{commonName + ".pem": certPEM, commonName + ".key": keyPEM} {
		if err := os.WriteFile(filepath.Join(a.dir, file), data, 0o600); err != nil {
			a.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		a.Fatal(err)
	}
	return pair
}

// serve serves as cmd/backup-gateway does, until the test ends, and returns the address.
func (f *fixture) serve(address string, config *tls.Config) string {
	f.Helper()
	listeners, activated, err := Listen([]string{address})
	if err != nil || activated {
		f.Fatalf("Listen: %v, %v", activated, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.server.Serve(ctx, listeners, config, 0) }()
	f.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.Errorf("Serve: %v", err)
		}
	})
	return listeners[0].Addr().String()
}

func TestClientCertificates(t *testing.T) {
	f := newFixture(t, "local", "")
	a, strangers := newAuthority(t), newAuthority(t)
	a.issue("gateway", nil)
	config, err := TLS{Cert: a.dir + "/gateway.pem", Key: a.dir + "/gateway.key", ClientCA: a.dir + "/ca.pem", MinVersion: tls.VersionTLS12}.Config()
	if err != nil {
		t.Fatal(err)
	}
	address := f.serve("127.0.0.1:0", config)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	get := func(path string, certificates ...tls.Certificate) int {
		t.Helper()
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: certificates}}
		defer transport.CloseIdleConnections()
		req, err := http.NewRequest("GET", "https://"+address+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", v2)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	module := a.issue("wiki1", nil)
	for what, c := range map[string]struct{ got, want int }{
		"own":       {get("/archive/"+own+"/config", module), 404},
		"other":     {get("/archive/"+other+"/config", module), 403},
		"node":      {get("/archive/"+other+"/config", a.issue("web1", nil)), 404},
		"unknown":   {get("/archive/"+own+"/config", a.issue("stranger", nil)), 401},
		"nameless":  {get("/archive/"+own+"/config", a.issue("", nil)), 401},
		"path":      {get("/archive/"+own+"/config", a.issue("wiki1..", nil)), 401},
		"none":      {get("/archive/" + own + "/config"), 401},
		"expired":   {get("/archive/"+own+"/config", a.issue("wiki2", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })), 0},
		"forged":    {get("/archive/"+own+"/config", strangers.issue("wiki1", nil)), 0}, // by an authority of the same name
		"no client": {get("/archive/"+own+"/config", a.issue("wiki2", func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })), 0},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d; want %d", what, c.got, c.want)
		}
	}
	// restic with the certificate.
	f.write("client.pem", string(read(t, a.dir+"/wiki1.pem"))+string(read(t, a.dir+"/wiki1.key")))
	cmd := exec.Command("restic", "--no-cache", "--cacert", a.dir+"/ca.pem", "--tls-client-cert", f.dir+"/client.pem",
		"-r", "rest:https://"+address+"/archive/"+own+"/", "init")
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD_FILE="+f.dir+"/password")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("restic with a client certificate: %v\n%s", err, out)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A renewed certificate is taken without a restart, and a broken one is not.
func TestCertificateIsReloaded(t *testing.T) {
	a := newAuthority(t)
	a.issue("gateway", nil)
	r := &reloaded{TLS: TLS{Cert: a.dir + "/gateway.pem", Key: a.dir + "/gateway.key"}}
	first, err := r.certificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	a.issue("gateway", nil)
	r.checked = time.Time{}
	second, err := r.certificate(nil)
	if err != nil || second == first {
		t.Errorf("after a renewal: the same, %v", err)
	}
	if err := os.WriteFile(a.dir+"/gateway.pem", []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.checked = time.Time{}
	if third, err := r.certificate(nil); err != nil || third != second {
		t.Errorf("after a broken renewal: another one, %v", err)
	}
}

// On the unix socket the user that a module runs as is the module.
func TestPeer(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	f := newFixture(t, "local", "")
	f.reconfigure("type = \"dokuwiki\"", "type = \"dokuwiki\"\nuser = \"nobody\"")
	dir, err := os.MkdirTemp("", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := dir + "/s"
	f.serve("unix:"+socket, nil)
	get := func(uid uint32, path string, more ...string) string {
		cmd := exec.Command("curl", append(more, "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--unix-socket", socket, "-H", "Accept: "+v2, "http://gateway"+path)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		return string(out)
	}
	for _, c := range []struct {
		uid        uint32
		repository string
		want       string
	}{{65534, own, "404"}, {65534, other, "403"}, {0, other, "404"}, {4711, own, "401"}} {
		if got := get(c.uid, "/archive/"+c.repository+"/config"); got != c.want {
			t.Errorf("uid %d, %s: %s; want %s", c.uid, c.repository, got, c.want)
		}
		if got := get(c.uid, "/archive/"+c.repository+"/config", "--user", ":"); got != c.want {
			t.Errorf("uid %d, %s, with an empty user and password: %s; want %s", c.uid, c.repository, got, c.want)
		}
	}
}

// A socket that a dead server has left is no hindrance, that of a living one is.
func TestListenUnix(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Listen([]string{"unix:" + path}); err == nil {
		t.Error("Listen took the socket of a server that lives")
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	list, _, err := Listen([]string{"unix:" + path})
	if err != nil {
		t.Fatal(err)
	}
	list[0].Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Listen([]string{"127.0.0.1:0", "unix:" + path}); err == nil {
		t.Error("Listen replaced a file")
	}
}
