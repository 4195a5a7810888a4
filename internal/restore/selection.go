package restore

import (
	"path"
	"slices"
	"strings"

	"sdbackup/internal/config"
)

// selection is what of a snapshot is wanted: everything, or some paths in it and what is below them. Paths are as restic lists them.
type selection struct {
	all   bool
	paths []string
	vague map[string]bool // those of paths that may list another name, too, because they are no UTF-8
}

// isVague tells whether a wanted path is perhaps another one that is listed alike.
func (s selection) isVague(p string) bool {
	return slices.ContainsFunc(s.paths, func(q string) bool { return s.vague[q] && within(p, q) })
}

// wants tells whether a path is wanted, and whether it is a folder on the way to one that is.
func (s selection) wants(p string) (wanted, above bool) {
	if s.all {
		return true, false
	}
	for _, q := range s.paths {
		if within(p, q) {
			return true, false
		}
		above = above || within(q, p)
	}
	return false, above
}

// within tells whether a clean path is another one, or below it.
func within(p, top string) bool {
	return top == "/" || p == top || strings.HasPrefix(p, top+"/")
}

// asked is one --path, and what it may mean in a snapshot of files.
type asked struct {
	text  string
	paths []string // as given to restic, the likelier first
	dump  string   // or: the dump of that name
	found bool
}

// newAsked: an absolute path may be as it is in the snapshot, or as it is on the machine, where a link may lead elsewhere; a relative one
// begins in the module's directory, or beside what was saved.
func newAsked(text string, m *config.Module, saved []string) asked {
	a := asked{text: text, dump: strings.TrimPrefix(text, dumpFolder+"/")}
	add := func(p string) {
		if p = path.Clean(p); !slices.Contains(a.paths, p) {
			a.paths = append(a.paths, p)
		}
	}
	relative := text
	if path.IsAbs(text) {
		add(text)
		if m == nil || m.Directory == "" || !within(path.Clean(text), path.Clean(m.Directory)) {
			return a
		}
		relative = strings.TrimPrefix(path.Clean(text), path.Clean(m.Directory))
	}
	if m != nil && m.Directory != "" {
		add(path.Join(m.Directory, relative))
	}
	for _, s := range saved {
		add(path.Join(path.Dir(s), relative))
	}
	if path.Clean("/"+relative) != "/" || len(a.paths) == 0 {
		add("/" + relative)
	}
	return a
}

// listed is a path as restic lists it: it has U+FFFD for every byte that is not UTF-8.
func listed(p string) string { return string([]rune(p)) }
