package destination

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sdbackup/internal/credential"
	"sdbackup/internal/nodecopy"
)

// credstore is where systemd looks for encrypted credentials, systemd.exec(5), LoadCredentialEncrypted=; and where they are made.
const credstore = "credstore.encrypted"

// credentialRoots are the folders in which systemd looks for credstore and credstore.encrypted.
var credentialRoots = []string{"/etc", "/run", "/usr/lib"}

func encrypt(ctx context.Context, name string, secret []byte) ([]byte, error) {
	encrypted, said, err := credential.Encrypt(ctx, name, secret)
	return encrypted, noCredential("encrypt", name, said, err)
}

func decrypt(ctx context.Context, name string, data []byte) ([]byte, error) {
	secret, said, err := credential.Decrypt(ctx, name, data)
	return secret, noCredential("decrypt", name, said, err)
}

// noCredential says of an error of internal/credential what can be done instead.
func noCredential(verb, name, said string, err error) error {
	switch {
	case errors.Is(err, credential.ErrNotInstalled):
		return fmt.Errorf("%w, so there are no credentials here; leave --credential out", err)
	case err != nil:
		return fmt.Errorf("systemd-creds cannot %s credential %s here (%s); leave --credential out to keep secrets in files",
			verb, name, nodecopy.LastLine(said, err))
	}
	return nil
}

// readCredential finds a credential where systemd would.
func (s *Store) readCredential(ctx context.Context, name string) ([]byte, error) {
	roots := credentialRoots
	if s.credentials != "" {
		roots = []string{s.credentials}
	}
	for _, root := range roots {
		if data, err := os.ReadFile(filepath.Join(root, "credstore", name)); err == nil || !errors.Is(err, os.ErrNotExist) {
			return data, err
		}
		data, err := os.ReadFile(filepath.Join(root, credstore, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return decrypt(ctx, name, data)
	}
	return nil, fmt.Errorf("there is no credential %s in %s of %s", name, credstore, strings.Join(roots, ", "))
}

// credentialPath is where a credential is made.
func (s *Store) credentialPath(name string) string {
	root := s.credentials
	if root == "" {
		root = credentialRoots[0]
	}
	return filepath.Join(root, credstore, name)
}

// Names of the credentials of a destination.
func passwordCredential(id string) string { return "sdbackup-" + id + "-password" }
func rcloneCredential(id string) string   { return "sdbackup-" + id + "-rclone" }
