package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"sdbackup/internal/config"
)

// Keys are the keys by which this host shows itself, read once for all remotes.
type Keys struct {
	Getenv     func(string) string
	Passphrase func(key string) ([]byte, error) // nil: nobody can be asked

	mu     sync.Mutex
	loaded map[string]ssh.Signer
}

// load reads a private key.
func (k *Keys) load(path string) (ssh.Signer, error) {
	k.mu.Lock() // also over the question for a passphrase: one at a time, and each once
	defer k.mu.Unlock()
	if s := k.loaded[path]; s != nil {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the private key: %w", err)
	}
	defer clear(data)
	s, err := ssh.ParsePrivateKey(data)
	if encrypted := (*ssh.PassphraseMissingError)(nil); errors.As(err, &encrypted) {
		if k.Passphrase == nil {
			return nil, fmt.Errorf("the private key %s has a passphrase, and there is no terminal to ask for it; want it in ssh-agent", path)
		}
		passphrase, err := k.Passphrase(path)
		if err != nil {
			return nil, err
		}
		defer clear(passphrase)
		if s, err = ssh.ParsePrivateKeyWithPassphrase(data, passphrase); err != nil {
			return nil, fmt.Errorf("open the private key %s: wrong passphrase", path)
		}
	} else if err != nil {
		return nil, fmt.Errorf("%s is no private key: %w", path, err)
	}
	if k.loaded == nil {
		k.loaded = map[string]ssh.Signer{}
	}
	k.loaded[path] = s
	return s, nil
}

// methods are the ways to log in. close ends the connection to an agent.
func (k *Keys) methods(r *config.Remote) (methods []ssh.AuthMethod, closeAgent func(), err error) {
	closeAgent = func() {}
	var signers []ssh.Signer
	for _, path := range r.PrivateKeys {
		s, err := k.load(path)
		if err != nil {
			return nil, closeAgent, err
		}
		signers = append(signers, s)
	}
	if len(r.PrivateKeys) > 0 {
		return []ssh.AuthMethod{ssh.PublicKeys(signers...)}, closeAgent, nil
	}
	var known agent.ExtendedAgent
	if socket := k.Getenv("SSH_AUTH_SOCK"); socket != "" {
		if conn, err := net.Dial("unix", socket); err == nil {
			closeAgent = func() { conn.Close() }
			known = agent.NewClient(conn)
		}
	}
	// Asked for when the server wants one: those of files with a passphrase after all others.
	return []ssh.AuthMethod{ssh.PublicKeysCallback(func() ([]ssh.Signer, error) {
		var all []ssh.Signer
		if known != nil {
			all, _ = known.Signers() // an agent that does not answer has no keys
		}
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			path := filepath.Join(k.Getenv("HOME"), ".ssh", name)
			if _, err := os.Stat(path); err != nil {
				continue
			}
			s, err := k.load(path)
			switch {
			case err == nil:
				all = append(all, s)
			case len(all) == 0:
				return nil, err
			}
		}
		if len(all) == 0 {
			return nil, errors.New("there is no key to log in with: no agent, and none in ~/.ssh; say which in private-keys")
		}
		return all, nil
	})}, closeAgent, nil
}

// sshLink is a connection by our own client.
type sshLink struct {
	client *ssh.Client
	lost   chan struct{} // closed when the connection was given up
	over   chan struct{}
}

func dialSSH(ctx context.Context, r *config.Remote, keys *Keys) (*sshLink, error) {
	port := r.Port
	if port == 0 {
		port = 22
	}
	address := net.JoinHostPort(r.Host, strconv.Itoa(port))
	username := r.Username
	if username == "" {
		username = keys.Getenv("USER")
	}
	check, algorithms, err := hostKeys(r, address, keys.Getenv("HOME"))
	if err != nil {
		return nil, err
	}
	methods, closeAgent, err := keys.methods(r)
	if err != nil {
		return nil, err
	}
	defer closeAgent()
	dialer := net.Dialer{Timeout: r.Keepalive}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	unwatch := context.AfterFunc(ctx, func() { conn.Close() })
	err = conn.SetDeadline(time.Now().Add(r.Keepalive))
	var c ssh.Conn
	var channels <-chan ssh.NewChannel
	var requests <-chan *ssh.Request
	if err == nil {
		c, channels, requests, err = ssh.NewClientConn(conn, address, &ssh.ClientConfig{
			User: username, Auth: methods, HostKeyCallback: check, HostKeyAlgorithms: algorithms,
		})
	}
	if !unwatch() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		if refused := (*hostKeyError)(nil); errors.As(err, &refused) {
			return nil, refused
		}
		if strings.Contains(err.Error(), "unable to authenticate") {
			return nil, fmt.Errorf("%s does not let %s in with the keys that it was shown", r.Host, username)
		}
		return nil, errors.New("log in: " + strings.TrimPrefix(err.Error(), "ssh: handshake failed: "))
	}
	l := &sshLink{client: ssh.NewClient(c, channels, requests), lost: make(chan struct{}), over: make(chan struct{})}
	go l.watch(r.Keepalive)
	return l, nil
}

// watch gives the connection up when the other side is silent for too long.
func (l *sshLink) watch(patience time.Duration) {
	tick := time.NewTicker(patience / 3)
	defer tick.Stop()
	for {
		select {
		case <-l.over:
			return
		case <-tick.C:
		}
		answered := make(chan error, 1)
		go func() {
			_, _, err := l.client.SendRequest("keepalive@openssh.com", true, nil)
			answered <- err
		}()
		select {
		case <-l.over:
			return
		case err := <-answered:
			if err == nil {
				continue
			}
		case <-time.After(patience):
		}
		close(l.lost)
		l.client.Close()
		return
	}
}

func (l *sshLink) start(command string, stdout, stderr io.Writer) (session, error) {
	s, err := l.client.NewSession()
	if err != nil {
		return nil, fmt.Errorf("open a session: %w", err)
	}
	s.Stdout, s.Stderr = stdout, stderr
	in, err := s.StdinPipe()
	if err == nil {
		err = s.Start(command)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("start remote-backup there: %w", err)
	}
	return &sshSession{in, s, l}, nil
}

func (l *sshLink) close() {
	close(l.over)
	l.client.Close()
}

type sshSession struct {
	io.WriteCloser
	session *ssh.Session
	link    *sshLink
}

func (s *sshSession) wait() (int, error) {
	err := s.session.Wait()
	var exit *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit) && exit.Signal() != "":
		return 0, fmt.Errorf("the receiver was killed by SIG%s; the command there is ended", exit.Signal())
	case errors.As(err, &exit):
		return exit.ExitStatus(), missing(exit.ExitStatus())
	}
	return 0, errors.New("the connection was lost; the command there is ended, too")
}

// hostKeyError says why a host is not talked to.
type hostKeyError struct{ text string }

func (e *hostKeyError) Error() string { return e.text }

// hostKeys returns what judges the key of a host, and the algorithms in the order in which it should show its keys: first those that are
// known of it, or it would show one that nobody knows.
func hostKeys(r *config.Remote, address, home string) (ssh.HostKeyCallback, []string, error) {
	files := []string{r.KnownHosts}
	if r.KnownHosts == "" {
		files = []string{filepath.Join(home, ".ssh/known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	var present []string
	for _, path := range files {
		switch _, err := os.Stat(path); {
		case err == nil:
			present = append(present, path)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, nil, fmt.Errorf("read the known host keys: %w", err)
		}
	}
	known, err := knownhosts.New(present...)
	if err != nil {
		return nil, nil, fmt.Errorf("read the known host keys: %w", err)
	}
	check := func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := known(host, remote, key)
		if err == nil {
			return nil
		}
		shown := key.Type() + " " + ssh.FingerprintSHA256(key)
		var unknown *knownhosts.KeyError
		switch {
		case errors.As(err, &unknown) && len(unknown.Want) > 0:
			return &hostKeyError{fmt.Sprintf("%s shows the host key %s, but %s line %d has another one, %s: somebody may be in between",
				r.Host, shown, unknown.Want[0].Filename, unknown.Want[0].Line, ssh.FingerprintSHA256(unknown.Want[0].Key))}
		case errors.As(err, &unknown):
			return &hostKeyError{fmt.Sprintf("the host key of %s is not known: %s; if that is the fingerprint that the host itself tells (ssh-keygen -l), add the key to %s",
				r.Host, shown, files[0])}
		}
		return &hostKeyError{fmt.Sprintf("the host key of %s, %s, is refused: %v", r.Host, shown, err)}
	}
	return check, algorithms(known, address, present), nil
}

// algorithms asks what is known of a host.
func algorithms(known ssh.HostKeyCallback, address string, files []string) []string {
	all := ssh.SupportedAlgorithms().HostKeys
	for _, path := range files {
		if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "@cert-authority") {
			return all // certificates come first there
		}
	}
	var e *knownhosts.KeyError
	if !errors.As(known(address, noAddress{}, noKey{}), &e) {
		return all
	}
	var first []string
	for _, k := range e.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA:
			first = append(first, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			first = append(first, t)
		}
	}
	for _, a := range all {
		if !slices.Contains(first, a) {
			first = append(first, a)
		}
	}
	return first
}

// noKey is a key that no host has, at no address.
type (
	noKey     struct{}
	noAddress struct{}
)

func (noKey) Type() string                        { return "none" }
func (noKey) Marshal() []byte                     { return []byte("none") }
func (noKey) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }
func (noAddress) Network() string                 { return "tcp" }
func (noAddress) String() string                  { return "0.0.0.0:0" }
