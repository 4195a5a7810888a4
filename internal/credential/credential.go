// Package credential runs systemd-creds(1), which encrypts a credential so that only this machine can read it. Where credentials are, its
// callers know.
package credential

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"time"
)

// ErrNotInstalled tells that systemd-creds is not there.
var ErrNotInstalled = errors.New("systemd-creds is not installed")

// timeout bounds systemd-creds: a TPM takes seconds, and one that hangs must not hold up a backup.
const timeout = 30 * time.Second

// Encrypt encrypts with the key of this machine, its TPM or both, as systemd-creds finds them. When that fails, said is what it says about it.
func Encrypt(ctx context.Context, name string, plain []byte) (encrypted []byte, said string, err error) {
	return run(ctx, "encrypt", name, plain)
}

// Decrypt returns what an encrypted credential of that name says. When that fails, said is what systemd-creds says about it.
func Decrypt(ctx context.Context, name string, encrypted []byte) (plain []byte, said string, err error) {
	return run(ctx, "decrypt", name, encrypted)
}

func run(ctx context.Context, verb, name string, data []byte) (out []byte, said string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "systemd-creds", verb, "--name="+name, "-", "-")
	cmd.Stdin = bytes.NewReader(data)
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err = cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		err = ErrNotInstalled
	}
	if err != nil {
		return nil, stderr.String(), err
	}
	return out, "", nil
}
