package filebackup

import (
	"os"
	"slices"
	"strings"
)

// matchPattern is Python's fnmatch: * is any text, slashes included, ? is any character, [seq] and [!seq] one of some and of all others.
func matchPattern(pattern, name string) bool {
	if pattern == "*" {
		return true
	}
	p, s := []rune(pattern), []rune(name)
	star, from := -1, 0 // where the last * was, and what it may begin to match next
	i, j := 0, 0
	for j < len(s) {
		if i < len(p) {
			if p[i] == '*' {
				star, from = i, j
				i++
				continue
			}
			if n, ok := matchOne(p[i:], s[j]); ok {
				i += n
				j++
				continue
			}
		}
		if star < 0 {
			return false
		}
		from++
		i, j = star+1, from
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// matchOne matches a character with the beginning of a pattern, and tells how long that was.
func matchOne(p []rune, c rune) (n int, ok bool) {
	if p[0] == '?' {
		return 1, true
	}
	if p[0] != '[' {
		return 1, p[0] == c
	}
	begin := 1
	negated := begin < len(p) && p[begin] == '!'
	if negated {
		begin++
	}
	end := begin
	if end < len(p) && p[end] == ']' { // the first one stands for itself
		end++
	}
	for end < len(p) && p[end] != ']' {
		end++
	}
	if end >= len(p) { // never closed: it stands for itself
		return 1, c == '['
	}
	found := false
	for i := begin; i < end; i++ {
		if i+2 < end && p[i+1] == '-' {
			found = found || p[i] <= c && c <= p[i+2]
			i += 2
			continue
		}
		found = found || p[i] == c
	}
	return end + 1, found != negated
}

// matchAny tells whether one of the patterns matches the path.
func matchAny(patterns []string, path string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return matchPattern(p, path) })
}

// pipelineOf is what is done to the file.
func (c *Config) pipelineOf(path string) ([]string, bool) {
	for _, p := range c.FilePipeline {
		if matchPattern(p.Pattern, path) {
			return p.Words, true
		}
	}
	return nil, false
}

// ParseFilter reads a file of patterns, one a line. Empty lines and those that begin with # say nothing.
func ParseFilter(text string) []string {
	var patterns []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\r\n"); line != "" && !strings.HasPrefix(line, "#") {
			patterns = append(patterns, line)
		}
	}
	return patterns
}

// LoadFilter reads a file of patterns.
func LoadFilter(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	return ParseFilter(string(text)), err
}
