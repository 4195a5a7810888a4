package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// table reads one TOML table key by key. Every key that is asked for is known; what is left at the end is not.
type table struct {
	*loader
	file  string
	kind  Kind
	id    string
	name  string // dotted
	data  map[string]any
	known map[string]bool
}

func (t *table) position(key string) Position {
	for name := t.name + "." + key; ; {
		if line, ok := t.lines[name]; ok {
			return Position{t.file, line}
		}
		above, ok := parent(name)
		if !ok {
			return Position{File: t.file}
		}
		name = above
	}
}

// parent returns the name above a dotted one: of a list's element that of the list.
func parent(name string) (string, bool) {
	i := strings.LastIndexAny(name, ".[")
	if i < 0 {
		return "", false
	}
	return name[:i], true
}

// filled tells whether a key is there and holds anything, right or wrong.
func (t *table) filled(key string) bool {
	switch v := t.data[key].(type) {
	case nil:
		return false
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	}
	return true
}

// lack says in which way a key is not filled.
func (t *table) lack(key string) string {
	if _, ok := t.data[key]; ok {
		return "empty"
	}
	return "missing"
}

// element names an element of a list that was read, by where it stands in the file.
func (l *loader) element(table, key string, i int) string {
	if left, ok := l.elements[table+"."+key]; ok {
		i = left[i]
	}
	return fmt.Sprintf("%s[%d]", key, i)
}

// errorf notes that a key is wrong.
func (t *table) errorf(key, format string, args ...any) { t.note(false, key, format, args...) }

// warnf notes what may well be wrong about a key.
func (t *table) warnf(key, format string, args ...any) { t.note(true, key, format, args...) }

func (t *table) note(warning bool, key, format string, args ...any) {
	full := t.name
	if key != "" {
		full += "." + key
	}
	t.problems = append(t.problems, Problem{
		Position: t.position(key), Kind: t.kind, ID: t.id, Key: full, Message: fmt.Sprintf(format, args...), Warning: warning,
	})
}

func (t *table) get(key string) (any, bool) {
	t.known[key] = true
	v, ok := t.data[key]
	return v, ok
}

// typed returns the value of a key that has type T; of another type is an error.
func typed[T any](t *table, key, want string) (T, bool) {
	var zero T
	v, ok := t.get(key)
	if !ok {
		return zero, false
	}
	x, ok := v.(T)
	if !ok {
		t.errorf(key, "is %s; want %s", typeName(v), want)
		return zero, false
	}
	return x, true
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "a list"
	default:
		return "a date or time"
	}
}

func (t *table) text(key string) string {
	s, ok := typed[string](t, key, `a string, as in `+key+` = "..."`)
	if ok && !t.clean(key, s) {
		return ""
	}
	return s
}

// clean refuses what no path, name or argument can hold.
func (t *table) clean(key, s string) bool {
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		t.errorf(key, "holds a NUL byte; want text")
		return false
	}
	return true
}

func (t *table) required(key, what string) string {
	if _, ok := t.data[key]; !ok {
		t.known[key] = true
		t.errorf(key, "is missing; want %s", what)
		return ""
	}
	s := t.text(key)
	if s == "" && t.data[key] == "" {
		t.errorf(key, "is empty; want %s", what)
	}
	return s
}

func (t *table) path(key string) string {
	s := t.text(key)
	if s != "" && !strings.HasPrefix(s, "/") {
		t.errorf(key, "%q is no absolute path; want one that begins with /", s)
		return ""
	}
	return s
}

func (t *table) boolean(key string, fallback bool) bool {
	if b, ok := typed[bool](t, key, "true or false"); ok {
		return b
	}
	return fallback
}

func (t *table) number(key string, least, fallback int) int {
	n, ok := typed[int64](t, key, "a whole number")
	switch {
	case !ok:
		return fallback
	case n < int64(least):
		t.errorf(key, "is %d; want %d or more", n, least)
		return fallback
	case n > math.MaxInt32:
		t.errorf(key, "is %d; want %d or less", n, math.MaxInt32)
		return fallback
	}
	return int(n)
}

// duration returns a time span that has an end.
func (t *table) duration(key string, fallback time.Duration) time.Duration {
	if text, ok := t.data[key].(string); ok && strings.TrimSpace(text) == "infinity" {
		t.known[key] = true
		t.errorf(key, "is infinity; want a time span that ends, say \"1h 30min\"") // it would be 0, the opposite of what is meant
		return fallback
	}
	return t.limit(key, fallback)
}

// limit returns a time span of which 0, or "infinity", means none.
func (t *table) limit(key string, fallback time.Duration) time.Duration {
	v, ok := t.get(key)
	if !ok {
		return fallback
	}
	text := ""
	switch v := v.(type) {
	case string:
		text = v
	case int64:
		text = fmt.Sprint(v)
	default:
		t.errorf(key, `is %s; want a time span, as in "1h 30min"`, typeName(v))
		return fallback
	}
	d, err := ParseTimeSpan(text)
	if err != nil {
		t.errorf(key, `%v; want a time span as in systemd.time(7), say "1h 30min"`, err)
		return fallback
	}
	return d
}

// list returns a list of strings. A single string is a list of one where that is allowed.
func (t *table) list(key string, single bool) []string {
	v, ok := t.get(key)
	if !ok {
		return nil
	}
	if s, ok := v.(string); ok && single {
		v = []any{s}
	}
	values, ok := v.([]any)
	if !ok {
		want := `a list of strings, as in ["a", "b"]`
		if single {
			want = "a string, or " + want
		}
		t.errorf(key, "is %s; want %s", typeName(v), want)
		return nil
	}
	out := []string{}
	var left []int
	for i, v := range values {
		element := fmt.Sprintf("%s[%d]", key, i)
		switch s, ok := v.(string); {
		case !ok:
			t.errorf(element, "is %s; want a string", typeName(v))
		case s == "":
			t.errorf(element, "is empty; want text, or leave it out")
		case t.clean(element, s):
			out = append(out, s)
			left = append(left, i)
		}
	}
	if len(out) < len(values) {
		t.elements[t.name+"."+key] = left
	}
	return out
}

// command returns an argument vector. Nothing is given to a shell.
func (t *table) command(key string) []string {
	if s, ok := t.data[key].(string); ok {
		t.known[key] = true
		t.errorf(key, `is a string; want the program and its arguments as a list, as in [%q]: no shell reads it`, s)
		return nil
	}
	argv := t.list(key, false)
	if argv != nil && !t.filled(key) {
		t.errorf(key, "is empty; want the program and its arguments, or leave it out")
	}
	return argv
}

// sub returns a table within the table, nil when it is not there.
func (t *table) sub(key string) *table {
	data, ok := typed[map[string]any](t, key, "a table")
	if !ok {
		return nil
	}
	return &table{loader: t.loader, file: t.file, kind: t.kind, id: t.id, name: t.name + "." + key, data: data, known: map[string]bool{}}
}

// finish reports the keys that nobody asked for.
func (t *table) finish() {
	for _, key := range slices.Sorted(maps.Keys(t.data)) {
		if t.known[key] {
			continue
		}
		message := "is not a key that is known here"
		if near := nearest(key, slices.Sorted(maps.Keys(t.known))); near != "" {
			message += "; did you mean " + near + "?"
		} else {
			message += "; known are " + strings.Join(slices.Sorted(maps.Keys(t.known)), ", ")
		}
		t.errorf(key, "%s", message)
	}
}

// nearest returns the word that may have been meant, "" when none is near.
func nearest(word string, words []string) string {
	best, bestDistance := "", 1+len(word)/3
	for _, w := range words {
		if d := distance(strings.ToLower(word), strings.ToLower(w)); d <= bestDistance {
			best, bestDistance = w, d-1
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost++
			}
			last = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
