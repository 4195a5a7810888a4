package restic

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// Exclusion tells what the patterns of --exclude keep out of a backup. It follows restic's package internal/filter, which all versions
// share: a pattern matches a path that has it as consecutive parts, and whatever is below; ** stands for any number of parts; after ! a
// pattern takes back what those before it exclude.
type Exclusion struct{ patterns []pattern }

type pattern struct {
	parts   []string // "": any number of parts
	negated bool
}

// NewExclusion reads patterns. Those that restic refuses are an error.
func NewExclusion(texts []string) (Exclusion, error) {
	var x Exclusion
	for _, text := range texts {
		rest, negated := strings.CutPrefix(text, "!")
		if text == "" {
			continue
		}
		p := pattern{negated: negated}
		for _, part := range splitPath(path.Clean(rest)) {
			if _, err := path.Match(part, ""); err != nil {
				return x, fmt.Errorf("exclude pattern %q: %w", text, err)
			}
			if part == "**" {
				part = ""
			}
			p.parts = append(p.parts, part)
		}
		x.patterns = append(x.patterns, p)
	}
	return x, nil
}

// Matches tells whether a clean, absolute path is excluded, if none of its folders is.
func (x Exclusion) Matches(name string) bool {
	matched := false
	names := splitPath(name)
	for _, p := range x.patterns {
		if p.negated {
			matched = matched && !matchParts(p.parts, names)
		} else {
			matched = matched || matchParts(p.parts, names)
		}
	}
	return matched
}

// splitPath splits a path; the first part of an absolute one is "/".
func splitPath(p string) []string {
	parts := strings.Split(p, "/")
	if parts[0] == "" {
		parts[0] = "/"
	}
	return parts
}

// matchParts tells whether the parts of a pattern match consecutive names: the first ones, if it begins at the top.
func matchParts(parts, names []string) bool {
	if at := slices.Index(parts, ""); at >= 0 {
		for n := 0; n <= len(names)-len(parts)+1; n++ {
			wide := append(slices.Clone(parts[:at]), slices.Repeat([]string{"*"}, n)...)
			if matchParts(append(wide, parts[at+1:]...), names) {
				return true
			}
		}
		return false
	}
	if len(parts) == 0 || len(parts) > len(names) {
		return len(parts) == len(names)
	}
	first, last := 0, len(names)-len(parts)
	if parts[0] == "/" {
		last = 0
	} else if names[0] == "/" {
		first = 1
	}
	for at := first; at <= last; at++ {
		if matchEach(parts, names[at:]) {
			return true
		}
	}
	return false
}

// matchEach tells whether each part matches the name at its place.
func matchEach(parts, names []string) bool {
	for i, part := range parts {
		if ok, _ := path.Match(part, names[i]); !ok {
			return false
		}
	}
	return true
}
