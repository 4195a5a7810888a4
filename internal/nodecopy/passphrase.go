package nodecopy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"

	"sdbackup/internal/config"
	"sdbackup/internal/credential"
	"sdbackup/internal/module"
)

// maxPassphraseBytes is what gpg takes from --passphrase-file.
const maxPassphraseBytes = 255

// Passphrase reads the passphrase of a node's copies: the one line of its file, or of its credential. ErrNoPassphrase tells that there
// is none, and so no copy. No error quotes it.
func Passphrase(ctx context.Context, node config.Node, getenv func(string) string) ([]byte, error) {
	return passphraseOf(ctx, node, func(name string) (module.Secret, error) { return module.FindCredential(name, getenv) })
}

// ReadPassphrase reads the passphrase from a file or a credential, or asks for it where neither is given.
func ReadPassphrase(ctx context.Context, file, credential string, getenv func(string) string, ask func() (string, error)) ([]byte, error) {
	if file != "" || credential != "" {
		return Passphrase(ctx, config.Node{PassphraseFile: file, PassphraseCredential: credential}, getenv)
	}
	text, err := ask()
	if err != nil {
		return nil, err
	}
	return []byte(text), checkPassphrase([]byte(text))
}

func passphraseOf(ctx context.Context, node config.Node, find findCredential) (data []byte, err error) {
	switch {
	case node.PassphraseFile != "":
		if err := config.CheckSecretFile(node.PassphraseFile); err != nil {
			return nil, fmt.Errorf("passphrase: %w", err)
		}
		data, _, err = readFile(node.PassphraseFile)
	case node.PassphraseCredential != "":
		data, err = readCredential(ctx, node.PassphraseCredential, find)
	default:
		return nil, ErrNoPassphrase
	}
	if err != nil {
		return nil, fmt.Errorf("passphrase: %w", err)
	}
	data = bytes.TrimSuffix(data, []byte("\n"))
	return data, checkPassphrase(data)
}

// checkPassphrase refuses what gpg would take for another passphrase, or cannot be given: it reads one line.
func checkPassphrase(passphrase []byte) error {
	switch {
	case len(passphrase) == 0:
		return errors.New("the passphrase is empty; want it on one line")
	case len(passphrase) > maxPassphraseBytes:
		return fmt.Errorf("the passphrase has %d bytes; want up to %d, as gpg has it", len(passphrase), maxPassphraseBytes)
	case bytes.ContainsAny(passphrase, "\r\n\x00"):
		return errors.New("the passphrase holds a line break or a NUL byte; want it on one line")
	case !utf8.Valid(passphrase):
		return errors.New("the passphrase is not UTF-8") // gpg may convert it, depending on the locale
	}
	return nil
}

// findCredential finds a credential as module.FindCredential does.
type findCredential func(name string) (module.Secret, error)

// readCredential returns what a credential says. Of one that is encrypted, only this machine can tell.
func readCredential(ctx context.Context, name string, find findCredential) ([]byte, error) {
	where, err := find(name)
	if err != nil {
		return nil, err
	}
	data, _, err := readFile(where.Path)
	if err != nil || !where.Encrypted {
		return data, err
	}
	plain, said, err := credential.Decrypt(ctx, name, data)
	switch {
	case errors.Is(err, credential.ErrNotInstalled):
		return nil, fmt.Errorf("it is encrypted, and %w", err)
	case err != nil:
		return nil, fmt.Errorf("it is encrypted, and systemd-creds cannot decrypt it here (%s)", LastLine(said, err))
	}
	return plain, nil
}

// LastLine is the last line that says anything, or the error.
func LastLine(text string, err error) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return printable(last)
	}
	return err.Error()
}

// sameFile tells whether two paths lead to one file.
func sameFile(a, b string) bool {
	if a == "" || b == "" {
		return false
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return a == b || errA == nil && errB == nil && os.SameFile(infoA, infoB)
}
