// Package systemd holds the unit files that we ship: those of the system in this folder, those of a user in user/. Packages
// install them as they are; where there is none, "schedule-backup install-units" writes them.
package systemd

import (
	"embed"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

// Header is the first line of every unit file.
const Header = "# Written by sdbackup. Changes go into drop-ins: systemctl edit UNIT.\n"

// preset is what is enabled where the units are installed, systemd.preset(5).
//
//go:embed sdbackup.preset
var preset string

// Enabled returns the units that are started at every boot, by the preset.
func Enabled() []string {
	var names []string
	for line := range strings.Lines(preset) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "enable "); ok {
			names = append(names, name)
		}
	}
	return names
}

//go:embed *.service *.socket *.path *.slice user
var files embed.FS

// packaged finds the programs in the files as they are shipped.
var packaged = regexp.MustCompile(`(?m)^(Exec\w+=)/usr/bin/([\w-]+)`)

// Files returns the unit files of the system, or of a user, by name. BinDir is the folder of the programs; "" leaves it as
// packages have it.
func Files(user bool, binDir string) map[string][]byte {
	folder := "."
	if user {
		folder = "user"
	}
	out := map[string][]byte{}
	entries, _ := fs.ReadDir(files, folder) // what is embedded can be read
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		text, _ := files.ReadFile(path.Join(folder, e.Name()))
		if binDir != "" {
			text = packaged.ReplaceAllFunc(text, func(match []byte) []byte {
				part := packaged.FindSubmatch(match)
				return append(part[1], quote(filepath.Join(binDir, string(part[2])))...)
			})
		}
		out[e.Name()] = text
	}
	return out
}

// quote writes a path as a word of a command line, systemd.service(5): without specifiers, and as one word.
func quote(path string) string {
	path = strings.ReplaceAll(path, "%", "%%")
	if !strings.ContainsAny(path, " \t\"'\\;") {
		return path
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(path) + `"`
}
