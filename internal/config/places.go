package config

import (
	"fmt"
	"strconv"
	"strings"
)

// places returns the line of every table and key of a TOML text, by dotted name as in `backup.1.retention.keep-last`;
// elements of an array of tables are numbered from 0, as in `module.wiki1.dump[0].command`. The text has been parsed already,
// so it need not be judged here: of nonsense the result is nonsense, too, but never a panic.
func places(text string) map[string]int {
	text = strings.TrimPrefix(text, "\ufeff")
	s := &scanner{text: text, line: 1, found: map[string]int{}, counts: map[string]int{}}
	table := ""
	for !s.end() {
		s.blank(true)
		switch {
		case s.end():
		case s.peek() == '[':
			line := s.line
			array := strings.HasPrefix(s.text[s.pos:], "[[")
			s.pos++
			if array {
				s.pos++
			}
			table = s.name(s.key())
			if array {
				name := fmt.Sprintf("%s[%d]", table, s.counts[table])
				s.note(table, line)
				s.counts[table]++
				table = name
			}
			s.note(table, line)
			s.restOfLine()
		default:
			s.pair(table)
			s.restOfLine()
		}
	}
	return s.found
}

type scanner struct {
	text   string
	pos    int
	line   int
	found  map[string]int
	counts map[string]int // elements so far of an array of tables
}

func (s *scanner) end() bool  { return s.pos >= len(s.text) }
func (s *scanner) peek() byte { return s.text[s.pos] }

// next passes over one byte.
func (s *scanner) next() {
	if s.peek() == '\n' {
		s.line++
	}
	s.pos++
}

// note remembers the first line of a name, and of the tables above it that have none yet.
func (s *scanner) note(name string, line int) {
	for {
		if _, ok := s.found[name]; !ok {
			s.found[name] = line
		}
		i := strings.LastIndexByte(name, '.')
		if i < 0 {
			return
		}
		name = name[:i]
	}
}

// blank passes over white space, and over line ends and comments, too, when asked to.
func (s *scanner) blank(lines bool) {
	for !s.end() {
		switch c := s.peek(); {
		case c == ' ' || c == '\t' || c == '\r', lines && c == '\n':
			s.next()
		case lines && c == '#':
			s.restOfLine()
		default:
			return
		}
	}
}

func (s *scanner) restOfLine() {
	for !s.end() && s.peek() != '\n' {
		s.pos++
	}
}

// key reads a dotted key and returns its parts.
func (s *scanner) key() []string {
	var parts []string
	for {
		s.blank(false)
		if s.end() {
			return parts
		}
		switch c := s.peek(); {
		case c == '"' || c == '\'':
			part := s.quoted()
			if plain, err := strconv.Unquote(`"` + part + `"`); err == nil && c == '"' {
				part = plain
			}
			parts = append(parts, part)
		default:
			start := s.pos
			for !s.end() && !strings.ContainsRune(" \t\r\n.=]#\"'", rune(s.peek())) {
				s.pos++
			}
			parts = append(parts, s.text[start:s.pos])
		}
		s.blank(false)
		if s.end() || s.peek() != '.' {
			return parts
		}
		s.pos++
	}
}

// name joins the parts of a table's key; a part that is an array of tables stands for its last element.
func (s *scanner) name(parts []string) string {
	name := ""
	for i, p := range parts {
		if i > 0 {
			if n := s.counts[name]; n > 0 {
				name = fmt.Sprintf("%s[%d]", name, n-1)
			}
			name += "."
		}
		name += p
	}
	return name
}

// pair reads key = value in a table.
func (s *scanner) pair(table string) {
	line, start := s.line, s.pos
	name := strings.Join(s.key(), ".")
	if table != "" {
		name = table + "." + name
	}
	s.note(name, line)
	s.blank(false)
	if !s.end() && s.peek() == '=' {
		s.pos++
		s.value(name)
	}
	if s.pos == start && !s.end() {
		s.next() // nonsense: get on
	}
}

func (s *scanner) value(name string) {
	s.blank(false)
	if s.end() {
		return
	}
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[':
		s.list(name, ']')
	case '{':
		s.list(name, '}')
	default:
		for !s.end() && !strings.ContainsRune(",]}#\n", rune(s.peek())) {
			s.pos++
		}
	}
}

// list reads an array, or an inline table, to its end.
func (s *scanner) list(name string, last byte) {
	s.pos++
	for i := 0; ; i++ {
		s.blank(true)
		if s.end() {
			return
		}
		start := s.pos
		switch {
		case s.peek() == last:
			s.pos++
			return
		case s.peek() == ',':
			s.pos++
			i--
		case last == '}':
			s.pair(name)
		default:
			element := fmt.Sprintf("%s[%d]", name, i)
			s.note(element, s.line)
			s.value(element)
		}
		if s.pos == start {
			s.next()
		}
	}
}

// quoted reads a string of any of TOML's four kinds and returns what stands between its quotes.
func (s *scanner) quoted() string {
	quote := s.text[s.pos : s.pos+1]
	if long := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.pos:], long) {
		quote = long
	}
	s.pos += len(quote)
	start := s.pos
	for !s.end() {
		switch {
		case s.peek() == '\\' && quote[0] == '"' && s.pos+1 < len(s.text):
			s.next()
			s.next()
			continue
		case strings.HasPrefix(s.text[s.pos:], quote):
			text := s.text[start:s.pos]
			s.pos += len(quote)
			for len(quote) == 3 && !s.end() && s.peek() == quote[0] { // up to two quotes may stand before the closing ones
				s.pos++
			}
			return text
		case s.peek() == '\n' && len(quote) == 1:
			return s.text[start:s.pos]
		}
		s.next()
	}
	return s.text[min(start, len(s.text)):]
}
