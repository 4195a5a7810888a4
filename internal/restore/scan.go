package restore

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
)

// part is one snapshot of a point and what is wanted of it.
type part struct {
	Snapshot
	selection
	include []string // for restic; nil: everything
	has     counts
}

// counts is what is to be restored of a snapshot.
type counts struct {
	Files, Others uint64 // others: folders, links, devices
	Bytes         uint64 // hard links count once for each name
	largest       uint64
	symlinks      uint64
	specials      uint64 // devices and pipes
	longest       int    // bytes of the longest name
	reserved      string // a name that Windows' file systems do not take
	clash         string // a path that differs from another one by case only
	tops          map[string]bool
	under         map[string]uint64 // bytes below each path that was saved
	beyond        string            // the first node that is refused, and why
}

// scan reads what the point holds and finds the paths that were asked for. The owner is who gets it, if that is not root.
func scan(ctx context.Context, from source, p Point, wanted []string, m *config.Module, cases bool, owner *module.User) ([]part, error) {
	var ask []asked
	for _, text := range wanted {
		ask = append(ask, newAsked(text, m, p.saved()))
	}
	var parts []part
	for _, s := range p.Snapshots {
		one := part{Snapshot: s, selection: selection{all: len(ask) == 0}}
		var candidates []string
		for i, a := range ask {
			switch {
			case s.Dump == "":
				candidates = append(candidates, a.paths...)
			case a.dump == s.Dump:
				ask[i].found, one.all = true, true
			}
		}
		if s.Dump != "" && !one.all {
			continue
		}
		one.vague = map[string]bool{}
		for _, c := range candidates {
			one.paths = append(one.paths, listed(c))
			one.vague[listed(c)] = one.vague[listed(c)] || listed(c) != c
		}
		present := map[string]bool{}
		if slices.Contains(one.paths, "/") {
			present["/"] = true
		}
		names := map[string]bool{}
		err := from.list(ctx, s, nil, func(n restic.Node) error {
			if wanted, above := one.wants(n.Path); wanted || above {
				one.has.count(n, wanted)
				if wanted {
					one.has.place(n, s.Paths, owner)
				}
			}
			if slices.Contains(one.paths, n.Path) {
				present[n.Path] = true
			}
			if wanted, _ := one.wants(n.Path); cases && wanted {
				low := strings.ToLower(n.Path)
				if names[low] {
					one.has.clash = n.Path
				}
				names[low] = true
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		for i, a := range ask {
			for _, c := range a.paths {
				if s.Dump == "" && present[listed(c)] {
					ask[i].found = true
					one.include = append(one.include, c)
				}
			}
		}
		if slices.Contains(one.include, "/") {
			one.include, one.selection = nil, selection{all: true}
		}
		if one.all || len(one.include) > 0 {
			parts = append(parts, one)
		}
	}
	for _, a := range ask {
		if !a.found {
			return parts, remedy(fmt.Errorf("the snapshot has no %s", a.text), `"restore-backup browse MODULE" lists what it has; a relative path begins in the module's directory`)
		}
	}
	return parts, nil
}

// count counts a node, or a folder on the way to one, and notes what a file system must be able to hold.
func (p *counts) count(n restic.Node, wanted bool) {
	if p.tops == nil {
		p.tops = map[string]bool{}
	}
	top, _, _ := strings.Cut(n.Path[1:], "/")
	p.tops[top] = true
	p.longest = max(p.longest, len(n.Name))
	if strings.ContainsAny(n.Name, `\:*?"<>|`) || strings.TrimRight(n.Name, ". ") != n.Name {
		p.reserved = n.Path
	}
	if !wanted {
		p.Others++
		return
	}
	switch n.Type {
	case "file":
		p.Files++
		p.Bytes += n.Size
		p.largest = max(p.largest, n.Size)
	case "symlink":
		p.symlinks++
		p.Others++
	case "dir":
		p.Others++
	default:
		p.specials++
		p.Others++
	}
}

// place counts a node where it is to be put in place.
func (p *counts) place(n restic.Node, saved []string, owner *module.User) {
	if p.under == nil {
		p.under = map[string]uint64{}
	}
	for _, s := range saved {
		if n.Type == "file" && within(n.Path, s) {
			p.under[s] += n.Size
		}
	}
	if p.beyond == "" && owner != nil {
		p.beyond = beyond(n, *owner)
	}
}

// beyond says of a node why it would give a user more than it has; "": it could have saved such a one itself.
func beyond(n restic.Node, u module.User) string {
	switch {
	case n.Type == "dev" || n.Type == "chardev":
		return fmt.Sprintf("the snapshot has a device, %s, which its user %s could not have made", n.Path, u.Name)
	case n.Type == "file" && (n.Mode&os.ModeSetuid != 0 && n.UID != u.UID || n.Mode&os.ModeSetgid != 0 && n.GID != u.GID && !slices.Contains(u.Groups, n.GID)):
		return fmt.Sprintf("the snapshot has %s, which would run with the rights of another user than %s", n.Path, u.Name)
	}
	return ""
}

// dumpFolder is where dumps go, beside the files.
const dumpFolder = "dumps"

// dumpsIn is the folder of dumps below a target: another name where the files have one of that name.
func dumpsIn(target string, parts []part) string {
	name := dumpFolder
	for i := 1; ; i++ {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.Dump == "" && p.has.tops[name] }) {
			return path.Join(target, name)
		}
		name = fmt.Sprintf("%s.%d", dumpFolder, i)
	}
}
