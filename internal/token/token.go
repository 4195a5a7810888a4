// Package token has the run tokens: run-backup makes one for each attempt, and the gateway knows by its file whose it is and what it is
// good for. Nothing is kept but its hash, and nothing of it is left when the attempt has ended.
package token

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix tells run tokens from passwords.
const prefix = "sdbt_"

// maxFileBytes bounds a token's file.
const maxFileBytes = 64 << 10

// Mode is what a grant allows in a repository.
type Mode string

// The modes. None of them replaces an object that is there: restic's protocol has no such thing.
const (
	Add  Mode = "add"  // read, and add: what a module may
	Read Mode = "read" // read: what a restore may of another module's repository
	All  Mode = "all"  // read, add and remove: retention
)

// Grant allows something in one repository, and in those in folders of it.
type Grant struct {
	Destination string `json:"destination"`
	Repository  string `json:"repository"` // TYPE/UUID
	Mode        Mode   `json:"mode"`
}

// Principal is who makes a request of the gateway.
type Principal struct {
	Name   string  `json:"principal"`
	Node   bool    `json:"node,omitempty"` // may do everything
	Grants []Grant `json:"grants,omitempty"`
}

// Store is the folder of run tokens: one file each, named by the SHA-256 of the token in hex. Who reads the folder learns no token.
// Its maker keeps the file locked, flock(2): a file without a lock is of a run that was killed, and good for nothing. The folder is on a
// tmpfs, so a reboot ends them all.
type Store struct{ Dir string }

// Token is a run token that this process has made. It is good until it expires, Remove is called, or the process has ended.
type Token struct {
	Text string // the secret
	path string
	fd   int // holds the lock; the number itself, for no collector of garbage may close it
}

// Name names the token without betraying it.
func (t Token) Name() string { return filepath.Base(t.path) }

// Remove ends the token.
func (t Token) Remove() error {
	err := os.Remove(t.path)
	return errors.Join(err, unix.Close(t.fd))
}

// file is what a token's file says.
type file struct {
	Principal
	Expires time.Time `json:"expires"`
}

// New makes a token that is good until it expires, at the latest.
func (s Store) New(p Principal, expires time.Time) (t Token, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make a run token: %w", err)
		}
	}()
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	text := prefix + base64.RawURLEncoding.EncodeToString(random)
	data, err := json.Marshal(file{p, expires})
	if err != nil {
		return t, err
	}
	if err := s.makeDir(); err != nil {
		return t, err
	}
	s.sweep(time.Now())
	// It appears as a whole and locked, so that nobody takes it for a dead one's.
	fd, err := unix.Open(s.Dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return t, &fs.PathError{Op: "make a file in", Path: s.Dir, Err: err}
	}
	t = Token{Text: text, path: s.path(text), fd: fd}
	if err = unix.Flock(fd, unix.LOCK_EX); err == nil {
		_, err = unix.Write(fd, data)
	}
	if err == nil {
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, t.path, unix.AT_SYMLINK_FOLLOW)
	}
	if err != nil {
		return Token{}, errors.Join(&fs.PathError{Op: "write", Path: t.path, Err: err}, unix.Close(fd))
	}
	return t, nil
}

// makeDir makes the folder for its owner alone, and the one above it, whatever the umask, for everybody: the gateway's socket is there.
func (s Store) makeDir() error {
	above := filepath.Dir(s.Dir)
	if err := os.Mkdir(above, 0o755); err == nil {
		err = os.Chmod(above, 0o755)
		if err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := os.Mkdir(s.Dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Lookup returns whose token it is; false for one that is unknown or has expired.
func (s Store) Lookup(token string, now time.Time) (Principal, bool) {
	if !strings.HasPrefix(token, prefix) {
		return Principal{}, false
	}
	found, err := s.read(s.path(token))
	if err != nil || !now.Before(found.Expires) {
		return Principal{}, false
	}
	return found.Principal, true
}

func (s Store) path(token string) string {
	sum := sha256.Sum256([]byte(token))
	return filepath.Join(s.Dir, hex.EncodeToString(sum[:]))
}

// errDead says that whoever made the token has ended.
var errDead = errors.New("the run of the token has ended")

func (s Store) read(path string) (file, error) {
	var found file
	f, err := os.Open(path)
	if err != nil {
		return found, err
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return found, errors.Join(errDead, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return found, err
	}
	if len(data) > maxFileBytes {
		return found, fmt.Errorf("%s is too large for a token", path)
	}
	return found, json.Unmarshal(data, &found)
}

// sweep removes what runs that were killed have left.
func (s Store) sweep(now time.Time) {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(s.Dir, e.Name())
		if found, err := s.read(path); errors.Is(err, errDead) || err == nil && !now.Before(found.Expires) {
			_ = os.Remove(path) // litter is no reason to fail
		}
	}
}
