// Package systemd holds the unit files that are shipped, for packages to install and for `schedule-backup install-units` to write
// where there is no package.
package systemd

import (
	"embed"
	"io/fs"
	"strings"
)

// Header is the first line of every unit file.
const Header = "# Written by sdbackup. Changes go into drop-ins: systemctl edit UNIT.\n"

//go:embed *.service *.path *.slice
var files embed.FS

// packaged is the folder of the binaries in the files as they are shipped.
const packaged = "/usr/bin/"

// systemOnly begins the lines that a manager of a user cannot do, or must not: sandboxing takes privileges, and the units that
// they name are the system's.
var systemOnly = []string{"Protect", "Private", "Restrict", "LockPersonality=", "SystemCall", "After=", "Wants=", "StateDirectory"}

// Files returns the unit files by name, with the folder that the binaries are in. Those for a user leave out what only the
// system's manager can do.
func Files(user bool, binDir string) map[string][]byte {
	out := map[string][]byte{}
	names, _ := fs.Glob(files, "*.*") // the pattern is right
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			continue // embedded files can be read
		}
		text := strings.ReplaceAll(string(data), packaged, strings.TrimSuffix(binDir, "/")+"/")
		if user {
			text = forUser(text)
		}
		out[name] = []byte(text)
	}
	return out
}

func forUser(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		drop := false
		for _, prefix := range systemOnly {
			drop = drop || strings.HasPrefix(line, prefix)
		}
		switch {
		case drop:
		case strings.HasPrefix(line, "Exec"):
			command, rest, _ := strings.Cut(line, " ")
			b.WriteString(command + " --user " + rest)
		case strings.HasPrefix(line, "PathChanged=/etc/sdbackup"):
			b.WriteString("PathChanged=%E/sdbackup\n") // $XDG_CONFIG_HOME, systemd.unit(5)
		case strings.HasPrefix(line, "PathChanged="):
		case strings.HasPrefix(line, "WantedBy=multi-user.target"):
			b.WriteString("WantedBy=default.target\n")
		default:
			b.WriteString(line)
		}
	}
	return b.String()
}
