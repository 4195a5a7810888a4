package systemd

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var names = []string{"backup-check@.service", "backup-drill@.service", "backup-gateway.service", "backup-gateway.socket", "backup-restore-recover.service", "backup-timers-reconcile.service", "backup-timers-settled.service", "backup-timers.path", "backup-timers.service", "backup.slice", "backup@.service", "remote-backup.service", "remote-backup.socket"}

func TestFiles(t *testing.T) {
	for _, user := range []bool{false, true} {
		list := Files(user, "/opt/sd backup/100%")
		if got := slices.Sorted(maps.Keys(list)); !slices.Equal(got, names) {
			t.Fatalf("Files(%v) = %v; want %v", user, got, names)
		}
		for name, data := range list {
			if !bytes.HasPrefix(data, []byte(Header)) {
				t.Errorf("%s does not begin with the header", name)
			}
			for line := range strings.Lines(string(data)) {
				command, isCommand := strings.CutPrefix(line, "Exec")
				_, command, _ = strings.Cut(command, "=")
				if isCommand && !strings.HasPrefix(command, `"/opt/sd backup/100%%/`) {
					t.Errorf("%s: %s has another folder", name, line)
				}
				if isCommand && slices.Contains(strings.Fields(command), "--user") != user {
					t.Errorf("%s: %s is for the wrong manager", name, line)
				}
				// Both take privileges that a user's manager has not, or name units that only the system's has.
				if user && (strings.HasPrefix(line, "Protect") || strings.HasPrefix(line, "StateDirectory") || strings.Contains(line, "network-online")) {
					t.Errorf("%s of a user has %s", name, line)
				}
			}
		}
	}
}

// What the preset names is there, and can be enabled.
func TestEnabled(t *testing.T) {
	names := Enabled()
	if !slices.Equal(names, []string{"backup-timers.service", "backup-timers.path", "backup-restore-recover.service"}) {
		t.Errorf("enabled are %v; want the timers, a look at every change and the recovery of restores", names)
	}
	for _, user := range []bool{false, true} {
		list := Files(user, "")
		for _, name := range names {
			if !bytes.Contains(list[name], []byte("[Install]")) {
				t.Errorf("%s of user %v cannot be enabled", name, user)
			}
		}
	}
}

func TestFilesAsShipped(t *testing.T) {
	for name, data := range Files(false, "") {
		shipped, err := os.ReadFile(name)
		if err != nil || !bytes.Equal(data, shipped) {
			t.Errorf("%s differs from what is shipped: %v", name, err)
		}
		if got := Files(false, "/usr/bin")[name]; !bytes.Equal(got, shipped) {
			t.Errorf("%s for /usr/bin differs from what is shipped", name)
		}
	}
}

func TestQuote(t *testing.T) {
	for path, want := range map[string]string{
		"/usr/bin/x": "/usr/bin/x", "/a b": `"/a b"`, "/100%": "/100%%", `/q"\'`: `"/q\"\\'"`,
	} {
		if got := quote(path); got != want {
			t.Errorf("quote(%s) = %s; want %s", path, got, want)
		}
	}
}
