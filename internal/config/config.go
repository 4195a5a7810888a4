// Package config reads the configuration: TOML in layers, to typed values, with everything that is wrong with it.
//
// Load never fails. Whatever cannot be used is a Problem with its place, all of them at once, and what can be used is returned
// beside them: a mistake in one item must not stop the others. No process is started and nothing is asked of the network, so
// that a configuration can be judged anywhere; what only systemd can judge, OnCalendar expressions, is left to the caller.
package config

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)

// ValidID tells whether a text can be the ID of a destination, module or backup.
func ValidID(id string) bool { return idPattern.MatchString(id) }

func (p Problem) String() string {
	text := p.Position.String() + ": "
	if p.Warning {
		text += "warning: "
	}
	if p.Key != "" {
		text += p.Key + ": "
	}
	return strings.Map(func(r rune) rune { // keys and values may hold anything, and a problem is one line
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, text+p.Message)
}

// Add adds a problem that somebody else found, in its place.
func (c *Config) Add(problems ...Problem) {
	c.Problems = append(c.Problems, problems...)
	slices.SortStableFunc(c.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
}

// Errors returns the problems that are more than warnings.
func (c *Config) Errors() []Problem { return c.problems(func(p Problem) bool { return !p.Warning }) }

// Warnings returns the others.
func (c *Config) Warnings() []Problem { return c.problems(func(p Problem) bool { return p.Warning }) }

// Hides tells whether for this problem a file, or a part of one, is not known at all: nobody can tell what else would be there.
func (p Problem) Hides() bool { return !p.Warning && p.Kind == KindFile && p.Key == "" }

// ErrorsOf returns the errors of one item.
func (c *Config) ErrorsOf(kind Kind, id string) []Problem {
	return c.problems(func(p Problem) bool { return !p.Warning && p.Kind == kind && p.ID == id })
}

// BackupErrors returns the errors that make every run of a backup impossible: those of its own table and of its destination.
// Those of a module are not among them: they fail that module only.
func (c *Config) BackupErrors(job string) []Problem {
	id, _ := JobOf(job)
	errs := c.problems(func(p Problem) bool {
		return !p.Warning && p.Kind == KindBackup && p.ID == id && !strings.HasPrefix(p.Key, "backup."+id+".modules[")
	})
	if b := c.Backups[id]; b != nil && b.Destination != "" {
		errs = append(errs, c.ErrorsOf(KindDestination, b.Destination)...)
	}
	return errs
}

func (c *Config) problems(keep func(Problem) bool) []Problem {
	var out []Problem
	for _, p := range c.Problems {
		if keep(p) {
			out = append(out, p)
		}
	}
	return out
}

// PositionOf returns where a key of an item stands, and where the item does when the key is not there.
func (c *Config) PositionOf(kind Kind, id, key string) Position {
	item := itemName(kind, id)
	full := item + "." + key
	if p, ok := c.places[full]; ok {
		return p
	}
	if list, ok := parent(full); ok && len(list) > len(item) { // schedule[0] of schedule = "daily"
		if p, ok := c.places[list]; ok {
			return p
		}
	}
	return c.places[item]
}

func itemName(kind Kind, id string) string {
	if id == "" {
		return string(kind)
	}
	return string(kind) + "." + id
}

// BackupIDs returns the IDs of all backups, 2 before 10.
func (c *Config) BackupIDs() []string { return sorted(c.Backups) }

// ModuleIDs returns the IDs of all modules likewise.
func (c *Config) ModuleIDs() []string { return sorted(c.Modules) }

// DestinationIDs returns the IDs of all destinations likewise.
func (c *Config) DestinationIDs() []string { return sorted(c.Destinations) }

func sorted[T any](m map[string]T) []string {
	ids := make([]string, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, compareNatural)
	return ids
}

// compareNatural compares runs of digits as numbers, and is a total order all the same.
func compareNatural(a, b string) int {
	x, y := a, b
	for x != "" && y != "" {
		dx, dy := digits(x), digits(y)
		if dx > 0 && dy > 0 {
			nx, ny := strings.TrimLeft(x[:dx], "0"), strings.TrimLeft(y[:dy], "0")
			if c := cmp.Or(cmp.Compare(len(nx), len(ny)), cmp.Compare(nx, ny)); c != 0 {
				return c
			}
			x, y = x[dx:], y[dy:]
			continue
		}
		if c := cmp.Compare(x[0], y[0]); c != 0 {
			return c
		}
		x, y = x[1:], y[1:]
	}
	return cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(a, b))
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// Uncovered returns the modules that no enabled backup saves.
func (c *Config) Uncovered() []string {
	covered := map[string]bool{}
	for _, b := range c.Backups {
		for _, id := range b.Modules {
			covered[id] = covered[id] || b.Enabled
		}
	}
	var ids []string
	for _, id := range c.ModuleIDs() {
		if !covered[id] {
			ids = append(ids, id)
		}
	}
	return ids
}

// RepositoryOf returns the module's restic repository at the destination, <repository>/<type>/<uuid>, or for engine files a name that says where
// in the bucket its versions are.
func (d *Destination) RepositoryOf(m *Module) string {
	suffix := path.Join(m.Type, m.UUID)
	if m.Engine == EngineFiles && d.Bucket != nil {
		return d.Bucket.String(suffix)
	}
	scheme, rest, _ := strings.Cut(d.Repository, ":")
	switch {
	case scheme == "rest":
		return strings.TrimRight(d.Repository, "/") + "/" + suffix + "/"
	case buckets[scheme] && strings.Count(rest, ":") == 0:
		return strings.TrimRight(d.Repository, "/") + ":/" + suffix
	case strings.HasSuffix(d.Repository, ":") && !buckets[scheme]: // the home of sftp:host: or the top of rclone:remote:
		return d.Repository + suffix
	}
	return strings.TrimRight(d.Repository, "/") + "/" + suffix
}

// buckets are the kinds of repository that want a colon between the bucket, or container, and the folder in it.
var buckets = map[string]bool{"b2": true, "azure": true, "gs": true, "swift": true}

// Local returns the folder of a destination that is one.
func (d *Destination) Local() (string, bool) {
	p := strings.TrimPrefix(d.Repository, "local:")
	return p, strings.HasPrefix(p, "/")
}

// hasPassword tells whether a repository's URL holds a password, as in rest:https://user:password@host/. It does not parse the
// URL: a password with a character that a URL cannot have is one all the same.
func hasPassword(repository string) bool {
	_, authority, isURL := strings.Cut(repository, "://")
	if !isURL {
		var ok bool
		if authority, ok = strings.CutPrefix(repository, "sftp:"); !ok {
			return false
		}
	}
	authority, _, _ = strings.Cut(authority, "/")
	at := strings.LastIndexByte(authority, '@')
	return at >= 0 && strings.Contains(authority[:at], ":")
}

// EmptySecretFile tells whether a file can be read and holds nothing but white space.
func EmptySecretFile(path string) bool {
	const most = 1 << 10
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > most {
		return false
	}
	data, err := os.ReadFile(path)
	return err == nil && len(bytes.TrimSpace(data)) == 0
}

// CheckSecretFile returns what is wrong with a file that holds a secret: it must be a regular file of root or of the caller that
// group and others can neither read nor write. An error that is fs.ErrPermission says that the caller cannot examine it.
func CheckSecretFile(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is no regular file", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s has mode %04o, so others may use it; want 0600: chmod 600 %s", path, mode, strconv.Quote(path))
	}
	if owner := ownerOf(info); owner != 0 && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d; want root: chown root %s", path, owner, strconv.Quote(path))
	}
	return nil
}
