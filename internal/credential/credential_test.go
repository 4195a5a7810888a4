package credential

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// fake puts a systemd-creds of these lines into the path, and nothing else.
func fake(t *testing.T, lines string) {
	t.Helper()
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	if err := os.WriteFile(filepath.Join(bin, "systemd-creds"), []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestArguments(t *testing.T) {
	fake(t, `read -r text; echo "$* $text"`)
	if out, said, err := Encrypt(t.Context(), "a", []byte("secret\n")); string(out) != "encrypt --name=a - - secret\n" || said != "" || err != nil {
		t.Errorf("Encrypt = %q, %q, %v", out, said, err)
	}
	if out, said, err := Decrypt(t.Context(), "b", []byte("sealed\n")); string(out) != "decrypt --name=b - - sealed\n" || said != "" || err != nil {
		t.Errorf("Decrypt = %q, %q, %v", out, said, err)
	}
}

func TestFailure(t *testing.T) {
	fake(t, "echo half; echo 'no key' >&2; exit 3")
	if out, said, err := Decrypt(t.Context(), "a", nil); out != nil || said != "no key\n" || err == nil || err.Error() != "exit status 3" {
		t.Errorf("Decrypt = %q, %q, %v", out, said, err)
	}
	t.Setenv("PATH", t.TempDir())
	if _, _, err := Decrypt(t.Context(), "a", nil); !errors.Is(err, ErrNotInstalled) {
		t.Errorf("Decrypt without systemd-creds: %v", err)
	}
}
