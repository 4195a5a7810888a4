package destination

import (
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// tableLines is one table of a TOML text: from its header to the end of its last key, in bytes, in whole lines. Comments and blank lines behind
// that belong to nobody.
type tableLines struct {
	path       []string
	start, end int
}

// cutTables takes tables out of a TOML text; every other byte stays. Comments between two tables of the same item go with them.
// It does not see what is defined without a header of its own: the caller must look whether everything is gone.
func cutTables(text string, item func(path []string) (name string, drop bool)) string {
	var b strings.Builder
	from := 0
	last := ""
	for _, t := range findTables(text) {
		name, drop := item(t.path)
		if !drop {
			last = ""
			continue
		}
		if name != last {
			b.WriteString(text[from:t.start])
		}
		from, last = t.end, name
	}
	b.WriteString(text[from:])
	return b.String()
}

// findTables finds the tables of a text that is TOML.
func findTables(text string) []tableLines {
	s := &tomlScanner{text: text}
	var tables []tableLines
	for {
		s.skipBlank()
		if s.pos >= len(text) {
			return tables
		}
		start := s.lineStart()
		if text[s.pos] == '[' {
			header := s.header()
			s.restOfLine()
			tables = append(tables, tableLines{path: headerPath(header), start: start, end: s.pos})
			continue
		}
		s.pair()
		s.restOfLine()
		if n := len(tables); n > 0 {
			tables[n-1].end = s.pos
		}
	}
}

// headerPath returns the keys of [a."b.c"] or [[a.b]].
func headerPath(header string) []string {
	var tree map[string]any
	if _, err := toml.Decode(header, &tree); err != nil {
		return nil
	}
	var path []string
	for len(tree) == 1 {
		for key, value := range tree {
			path = append(path, key)
			switch value := value.(type) {
			case map[string]any:
				tree = value
			case []map[string]any:
				tree = nil
				if len(value) == 1 {
					tree = value[0]
				}
			default:
				tree = nil
			}
		}
	}
	return path
}

type tomlScanner struct {
	text string
	pos  int
}

func (s *tomlScanner) lineStart() int { return strings.LastIndexByte(s.text[:s.pos], '\n') + 1 }

// restOfLine moves behind the line's end.
func (s *tomlScanner) restOfLine() {
	if i := strings.IndexByte(s.text[s.pos:], '\n'); i >= 0 {
		s.pos += i + 1
	} else {
		s.pos = len(s.text)
	}
}

// skipBlank moves over blanks, line ends and comments.
func (s *tomlScanner) skipBlank() {
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case strings.IndexByte(" \t\r\n", c) >= 0 || strings.HasPrefix(s.text[s.pos:], "\ufeff"):
			s.pos++
			if c == 0xef {
				s.pos += 2
			}
		case c == '#':
			s.restOfLine()
		default:
			return
		}
	}
}

// header moves over [..] or [[..]] and returns it.
func (s *tomlScanner) header() string {
	start := s.pos
	for s.pos < len(s.text) {
		switch s.text[s.pos] {
		case '"', '\'':
			s.quoted()
		case ']':
			s.pos++
			if s.pos < len(s.text) && s.text[s.pos] == ']' && strings.HasPrefix(s.text[start:], "[[") {
				s.pos++
			}
			return s.text[start:s.pos]
		case '\n':
			return s.text[start:s.pos]
		default:
			s.pos++
		}
	}
	return s.text[start:s.pos]
}

// pair moves over key = value, however many lines that has, up to what is left of its last one.
func (s *tomlScanner) pair() {
	depth := 0
	for s.pos < len(s.text) {
		switch c := s.text[s.pos]; {
		case c == '"' || c == '\'':
			s.quoted()
		case c == '#':
			if depth == 0 {
				return
			}
			s.restOfLine()
		case c == '\n' && depth == 0:
			return
		default:
			if c == '[' || c == '{' {
				depth++
			}
			if c == ']' || c == '}' {
				depth--
			}
			s.pos++
		}
	}
}

// quoted moves over a string of any of the four kinds.
func (s *tomlScanner) quoted() {
	quote := s.text[s.pos : s.pos+1]
	if long := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.pos:], long) {
		quote = long
	}
	s.pos += len(quote)
	for s.pos < len(s.text) {
		switch {
		case s.text[s.pos] == '\\' && quote[0] == '"':
			s.pos = min(s.pos+2, len(s.text))
		case strings.HasPrefix(s.text[s.pos:], quote):
			s.pos += len(quote)
			for n := 0; n < 2 && len(quote) == 3 && s.pos < len(s.text) && s.text[s.pos] == quote[0]; n++ {
				s.pos++ // up to two quotes may stand before the closing three
			}
			return
		case len(quote) == 1 && s.text[s.pos] == '\n':
			return
		default:
			s.pos++
		}
	}
}

// cutBackups takes the tables of backups out of a text.
func cutBackups(text string, ids []string) string {
	return cutTables(text, func(path []string) (string, bool) {
		if len(path) < 2 || path[0] != "backup" || !slices.Contains(ids, path[1]) {
			return "", false
		}
		return path[1], true
	})
}
