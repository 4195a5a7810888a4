package destination

import (
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Section is one remote of an rclone.conf.
type Section struct {
	Name    string
	Options []Option // in the order of the file
}

// Option is one key and its value.
type Option struct{ Key, Value string }

// maxRcloneConfig bounds an rclone.conf that is handed in, in characters.
const maxRcloneConfig = 100_000

var (
	optionName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// interpolation is what rclone's parser replaces by another option's value. It has no escape.
	interpolation = regexp.MustCompile(`%\([^)]+\)s`)
)

// Get returns the value of an option, "" when there is none.
func (s *Section) Get(key string) string {
	for _, o := range s.Options {
		if o.Key == key {
			return o.Value
		}
	}
	return ""
}

// Set sets an option, in its place or at the end; an empty value removes it.
func (s *Section) Set(key, value string) {
	i := slices.IndexFunc(s.Options, func(o Option) bool { return o.Key == key })
	switch {
	case value == "" && i >= 0:
		s.Options = slices.Delete(s.Options, i, i+1)
	case value == "":
	case i >= 0:
		s.Options[i].Value = value
	default:
		s.Options = append(s.Options, Option{key, value})
	}
}

// clone returns a copy that can be changed.
func (s *Section) clone() *Section { return &Section{s.Name, slices.Clone(s.Options)} }

// parseRcloneConfig reads an rclone.conf as rclone does: what a section of the same name, or an option of the same key, says later counts.
// Errors name the line by its number only: it may hold a secret.
func parseRcloneConfig(text string) ([]Section, error) {
	var sections []Section
	current := -1
	n := 0
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		n++
		line = strings.TrimSpace(line)
		switch {
		case !utf8.ValidString(line):
			return nil, fmt.Errorf("line %d is not UTF-8", n)
		case line == "" || line[0] == '#' || line[0] == ';':
			continue
		case strings.HasPrefix(line, "RCLONE_ENCRYPT_V"):
			return nil, errors.New(`is encrypted; want it in the clear, as "rclone config show" prints it`)
		case line[0] == '[' && line[len(line)-1] == ']':
			name := strings.TrimSpace(line[1 : len(line)-1])
			if name == "" {
				return nil, fmt.Errorf("line %d has a section without a name", n)
			}
			if current = slices.IndexFunc(sections, func(s Section) bool { return s.Name == name }); current < 0 {
				current = len(sections)
				sections = append(sections, Section{Name: name})
			}
			continue
		case current < 0:
			return nil, fmt.Errorf("line %d stands before the first [section]", n)
		}
		o, err := parseOption(line)
		if err != nil {
			return nil, fmt.Errorf("line %d %w", n, err)
		}
		s := &sections[current]
		if i := slices.IndexFunc(s.Options, func(old Option) bool { return old.Key == o.Key }); i >= 0 {
			s.Options[i] = o
		} else {
			s.Options = append(s.Options, o)
		}
	}
	return sections, nil
}

// parseOption reads a line KEY = VALUE; = may be :, and both sides may be quoted.
func parseOption(line string) (Option, error) {
	noOption := errors.New("is neither [section], nor key = value, nor a comment")
	from, quote := 0, ""
	for _, q := range []string{`"""`, `"`, "`"} {
		if strings.HasPrefix(line, q) && (len(q) == 1 || len(line) >= 2*len(q)) {
			quote = q
			break
		}
	}
	var key string
	if quote != "" {
		end := strings.Index(line[len(quote):], quote)
		if end < 0 {
			return Option{}, noOption
		}
		from = len(quote) + end
		key = line[len(quote):from]
	}
	separator := strings.IndexAny(line[from:], "=:")
	if separator <= 0 {
		return Option{}, noOption
	}
	if quote == "" {
		key = strings.TrimSpace(line[:separator])
	}
	if !optionName.MatchString(key) {
		return Option{}, errors.New("has a key that is no option of rclone's")
	}
	value := strings.TrimSpace(line[from+separator+1:])
	for _, q := range []string{"`", `"""`} {
		if !strings.HasPrefix(value, q) || len(value) < 2*len(q) {
			continue
		}
		end := strings.LastIndex(value[len(q):], q)
		if end < 0 {
			return Option{}, errors.New("has a quote that does not end")
		}
		value = value[len(q) : len(q)+end]
		break
	}
	if err := checkValue(value); err != nil {
		return Option{}, err
	}
	return Option{key, value}, nil
}

// checkValue refuses what rclone could not read back as it is.
func checkValue(value string) error {
	if err := checkLine(strings.ReplaceAll(value, "\t", " ")); err != nil {
		return err
	}
	if interpolation.MatchString(value) {
		return errors.New("holds %(...)s, which rclone would replace; there is no way to write that")
	}
	return nil
}

// render writes the section as an rclone.conf of its own.
func (s *Section) render() (string, error) {
	if s.Name == "" || s.Name != strings.TrimSpace(s.Name) || strings.ContainsAny(s.Name, "[]\r\n") || checkLine(s.Name) != nil {
		return "", fmt.Errorf("%q is no name of a remote", s.Name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "[%s]\n", s.Name)
	for _, o := range s.Options {
		if !optionName.MatchString(o.Key) {
			return "", fmt.Errorf("%q is no option of rclone's", o.Key)
		}
		if err := checkValue(o.Value); err != nil {
			return "", fmt.Errorf("%s %w", o.Key, err)
		}
		value := o.Value
		if value != strings.TrimSpace(value) || strings.HasPrefix(value, "`") || strings.HasPrefix(value, `"""`) {
			value = "`" + value + "`" // it ends at the last one of the line
		}
		b.WriteString(strings.TrimRight(o.Key+" = "+value, " ") + "\n")
	}
	return b.String(), nil
}

// builtOn finds a remote that an option of this one refers to, as alias, crypt and union do.
var builtOn = regexp.MustCompile(`^[\p{L}\p{N}_][\p{L}\p{N}_.+@ -]*:`)

// pickRemote takes one remote out of an rclone.conf, plain or in base64, and gives it the name of a destination.
func pickRemote(text, remote, id string, knownTypes []string) (*Section, error) {
	if n := utf8.RuneCountInString(text); n > maxRcloneConfig {
		return nil, fmt.Errorf("has %d characters; want at most %d", n, maxRcloneConfig)
	}
	if plain, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err == nil && len(plain) > 0 {
		text = string(plain) // no rclone.conf is base64: brackets are none of its letters
	}
	sections, err := parseRcloneConfig(text)
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(sections))
	for _, s := range sections {
		names = append(names, s.Name)
	}
	i := 0
	switch {
	case len(sections) == 0:
		return nil, errors.New("has no [section]; want that of one remote")
	case remote != "":
		if i = slices.Index(names, remote); i < 0 {
			return nil, fmt.Errorf("has no remote %q; it has %s", remote, strings.Join(names, ", "))
		}
	case len(sections) > 1:
		return nil, fmt.Errorf("has the remotes %s; want one, or its name with --remote", strings.Join(names, ", "))
	}
	picked := sections[i].clone()
	picked.Name = id
	switch kind := picked.Get("type"); {
	case kind == "":
		return nil, fmt.Errorf("has no type for remote %s; want type = ..., as \"rclone config\" writes it", sections[i].Name)
	case knownTypes != nil && !slices.Contains(knownTypes, kind):
		return nil, fmt.Errorf("has type %q, which the rclone that is installed does not know; is it spelt right, or rclone too old?", kind)
	}
	for _, o := range picked.Options {
		if o.Key != "remote" && o.Key != "remotes" && o.Key != "upstreams" {
			continue
		}
		for _, part := range strings.Fields(o.Value) {
			if _, behind, ok := strings.Cut(part, "="); ok && o.Key == "upstreams" {
				part = behind // combine: folder=remote:path
			}
			if m := builtOn.FindString(part); m != "" {
				return nil, fmt.Errorf("has remote %s that builds on another, %s which would be left behind; want one that stands alone", sections[i].Name, m)
			}
		}
	}
	return picked, nil
}
