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
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/internal/atomicfile"
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
// It is on a tmpfs, so a reboot ends them all.
type Store struct{ Dir string }

// file is what a token's file says.
type file struct {
	Principal
	Expires time.Time `json:"expires"`
}

// New makes a token that is good until it expires, or until remove is called.
func (s Store) New(p Principal, expires time.Time) (token string, remove func() error, err error) {
	random := make([]byte, 32)
	_, _ = rand.Read(random) // never fails
	token = prefix + base64.RawURLEncoding.EncodeToString(random)
	data, err := json.Marshal(file{p, expires})
	if err != nil {
		return "", nil, fmt.Errorf("make a run token: %w", err)
	}
	if err := s.makeDir(); err != nil {
		return "", nil, fmt.Errorf("make a run token: %w", err)
	}
	s.sweep(time.Now())
	path := s.path(token)
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return "", nil, fmt.Errorf("make a run token: %w", err)
	}
	return token, func() error { return os.Remove(path) }, nil
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

func (s Store) read(path string) (file, error) {
	var found file
	info, err := os.Stat(path)
	if err != nil {
		return found, err
	}
	if info.Size() > maxFileBytes {
		return found, fmt.Errorf("%s is too large for a token", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return found, err
	}
	return found, json.Unmarshal(data, &found)
}

// sweep removes what runs that were killed have left.
func (s Store) sweep(now time.Time) {
	atomicfile.Sweep(s.Dir)
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(s.Dir, e.Name())
		if found, err := s.read(path); err == nil && !now.Before(found.Expires) {
			_ = os.Remove(path) // litter is no reason to fail
		}
	}
}
