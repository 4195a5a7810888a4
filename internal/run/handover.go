package run

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// handOverTimeout bounds how long the manager may take to read a secret.
const handOverTimeout = 30 * time.Second

// maxAddress bounds the address of a socket, unix(7).
const maxAddress = 107

// handOver lets the manager load the secrets of a configuration that another host sent, which are in memory that only this process can open.
//
// That of the system opens them where this process has them: root may. That of a user may not, for this process keeps what it has open from others
// of its user; it loads them from a socket that it is given in place of the paths, LoadCredential= of systemd.exec(5).
func (s Units) handOver(secrets *module.Secrets, unit string, log *slog.Logger) (closeSocket func(), err error) {
	all := map[string]*module.Secret{
		module.PasswordCredential: &secrets.Password, module.EnvironmentCredential: &secrets.Environment, module.CACertCredential: &secrets.CACert,
	}
	paths := map[string]string{}
	for id, secret := range all {
		switch {
		case !config.InMemory(secret.Path):
		case !s.Paths.User:
			secret.Path = strings.Replace(secret.Path, "/proc/self/", fmt.Sprintf("/proc/%d/", os.Getpid()), 1)
		// The manager tells what it loads by the address that it connects from.
		case len(fmt.Sprintf("@%016x/unit/%s/%s", 0, unit, id)) > maxAddress:
			return nil, fmt.Errorf("the IDs of backup and module are too long to hand the secrets of a user's service over: %s", unit)
		default:
			paths[id] = secret.Path
		}
	}
	if len(paths) == 0 {
		return func() {}, nil
	}
	dir := filepath.Join(filepath.Dir(s.Paths.Tokens), "handover")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("hand over the secrets: %w", err)
	}
	sweepSockets(dir)
	socket := filepath.Join(dir, newID()+".sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("hand over the secrets: %w", err)
	}
	for id := range paths {
		all[id].Path = socket
	}
	go func() {
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			if err := hand(c, unit, paths); err != nil {
				log.Error("hand over a secret: " + err.Error())
			}
			c.Close()
		}
	}()
	return func() { l.Close() }, nil // which removes the socket
}

// sweepSockets removes what runs that were killed have left.
func sweepSockets(dir string) {
	sockets, _ := filepath.Glob(filepath.Join(dir, "*.sock"))
	for _, path := range sockets {
		c, err := net.Dial("unix", path)
		if err == nil {
			c.Close()
			continue
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			_ = os.Remove(path) // litter is no reason to fail
		}
	}
}

// hand writes the secret that the manager asks for: it says by the address that it connects from which credential of which unit it loads.
func hand(c *net.UnixConn, unit string, paths map[string]string) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) { peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return err
	}
	if peerErr != nil {
		return peerErr
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		return fmt.Errorf("user %d asked for one", peer.Uid)
	}
	_, asked, ok := strings.Cut(c.RemoteAddr().String(), "/unit/")
	name, id, _ := strings.Cut(asked, "/")
	path := paths[id]
	if !ok || name != unit || path == "" {
		return fmt.Errorf("process %d asked for %q", peer.Pid, asked)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := c.SetDeadline(time.Now().Add(handOverTimeout)); err != nil {
		return err
	}
	buffer := make([]byte, 32<<10)
	defer clear(buffer)
	for {
		n, err := f.Read(buffer)
		if _, writeErr := c.Write(buffer[:n]); writeErr != nil {
			return writeErr
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}
