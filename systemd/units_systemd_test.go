//go:build systemd

package systemd

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// write writes the unit files and programs that do nothing, and returns the paths of the files.
func write(t *testing.T, user bool) []string {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "b in")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"run-backup", "restore-backup", "schedule-backup", "backup-gateway", "remote-backup"} {
		if err := os.Symlink("/bin/true", filepath.Join(bin, program)); err != nil {
			t.Fatal(err)
		}
	}
	files := Files(user, bin)
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		paths = append(paths, filepath.Join(dir, name))
		if err := os.WriteFile(paths[len(paths)-1], files[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return paths
}

// systemd itself finds nothing to say against the files.
func TestSystemdVerify(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	for manager, user := range map[string]bool{"--system": false, "--user": true} {
		args := append([]string{"verify", manager, "--man=no"}, write(t, user)...)
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", manager, err, out)
		}
	}
}

// The services are exposed no more than their hooks need; systemd-analyze(1), security.
func TestSystemdSecurity(t *testing.T) {
	// In tenths; a service without any of it has 96. What is open, and for what, is said in each unit; test/system tries it.
	const hooks, drill, gateway = "60", "62", "29" // a drill restores set-user-ID files and devices, too
	for _, path := range write(t, false) {
		if filepath.Ext(path) != ".service" {
			continue
		}
		threshold := hooks
		switch filepath.Base(path) {
		case "backup-drill@.service":
			threshold = drill
		case "backup-gateway.service":
			threshold = gateway
		}
		out, err := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold="+threshold, path).CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	}
}
