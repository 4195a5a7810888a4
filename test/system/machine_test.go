//go:build systemd

package system

import (
	"os"
	"path/filepath"
)

// machine is the command line that boots another machine from the same tree and runs a command on it. It has of this one what the binds
// name, as --bind and --bind-ro of private-systemd, and the programs under test.
func (h *host) machine(binds []string, argv ...string) []string {
	h.Helper()
	exe, err := os.Executable()
	if err != nil {
		h.Fatal(err)
	}
	bin := os.Getenv("SDBACKUP_BIN")
	all := []string{
		filepath.Join(bin, "test/private-systemd"), "--root", "/run/host/root", "--bind-ro", bin, "--bind-ro", filepath.Dir(exe),
		"--setenv", "SDBACKUP_BIN", "--setenv", "PATH", "--setenv", bareMachine,
	}
	return append(append(append(all, binds...), "--"), argv...)
}
