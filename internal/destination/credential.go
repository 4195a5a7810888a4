package destination

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sdbackup/internal/nodecopy"
)

// credstore is where systemd looks for encrypted credentials, systemd.exec(5), LoadCredentialEncrypted=; and where they are made.
const credstore = "credstore.encrypted"

// credentialRoots are the folders in which systemd looks for credstore and credstore.encrypted.
var credentialRoots = []string{"/etc", "/run", "/usr/lib"}

// encrypt encrypts a credential with the key of this machine, its TPM or both, as systemd-creds(1) finds them.
func encrypt(ctx context.Context, name string, secret []byte) ([]byte, error) {
	return systemdCreds(ctx, secret, "encrypt", "--name="+name, "-", "-")
}

func decrypt(ctx context.Context, name string, data []byte) ([]byte, error) {
	return systemdCreds(ctx, data, "decrypt", "--name="+name, "-", "-")
}

func systemdCreds(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "systemd-creds", args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("systemd-creds is not installed, so there are no credentials here; leave --credential out")
	case err != nil:
		return nil, fmt.Errorf("systemd-creds cannot %s credential %s here (%s); leave --credential out to keep secrets in files",
			args[0], strings.TrimPrefix(args[1], "--name="), nodecopy.LastLine(stderr.String(), err))
	}
	return out, nil
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
