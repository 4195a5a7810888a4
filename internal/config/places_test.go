package config

import (
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
)

func TestPlaces(t *testing.T) {
	const text = `# a comment, [not.a.table]
version = 1
[module.wiki1] # another
type = "dokuwiki"
include = [ # one, ["two"
  "data",

  "conf", "a]b", # "x",
  'c'
]
ui-name = """
[module.not]
x = 1 \"""
"""
literal = '''
[module.not]
'''''
"quoted key" = 1
'its' = 1
dotted . "and quoted".key = 1
uuid = "a \" # b"
  [[module.wiki1.dump]]
  command = ["a",
    "b"]
  filename = "x"
  [[module.wiki1.dump]]
  filename = "y"
  [module.wiki1.dump.sub]
  z = 1

[ module . "a.b" ]
user = 'u'
dump = [{filename = "p", command = ["q"]},
  {filename = "r"}]
[backup."1"]
retention = {keep-last = 1, keep-within = "1d"}
[backup."tw\u006f"]
schedule = 2020-01-01 10:00:00
backup.enabled = true
[node]
`
	want := map[string]int{
		"version": 2, "module": 3, "module.wiki1": 3, "module.wiki1.type": 4, "module.wiki1.include": 5,
		"module.wiki1.include[0]": 6, "module.wiki1.include[1]": 8, "module.wiki1.include[2]": 8, "module.wiki1.include[3]": 9,
		"module.wiki1.ui-name": 11, "module.wiki1.literal": 15, "module.wiki1.quoted key": 18, "module.wiki1.its": 19,
		"module.wiki1.dotted": 20, "module.wiki1.dotted.and quoted": 20, "module.wiki1.dotted.and quoted.key": 20,
		"module.wiki1.uuid": 21,
		"module.wiki1.dump": 22, "module.wiki1.dump[0]": 22, "module.wiki1.dump[0].command": 23,
		"module.wiki1.dump[0].command[0]": 23, "module.wiki1.dump[0].command[1]": 24, "module.wiki1.dump[0].filename": 25,
		"module.wiki1.dump[1]": 26, "module.wiki1.dump[1].filename": 27, "module.wiki1.dump[1].sub": 28, "module.wiki1.dump[1].sub.z": 29,
		"module.a": 31, "module.a.b": 31, "module.a.b.user": 32, "module.a.b.dump": 33, "module.a.b.dump[0]": 33,
		"module.a.b.dump[0].filename": 33, "module.a.b.dump[0].command": 33, "module.a.b.dump[0].command[0]": 33,
		"module.a.b.dump[1]": 34, "module.a.b.dump[1].filename": 34,
		"backup": 35, "backup.1": 35, "backup.1.retention": 36, "backup.1.retention.keep-last": 36, "backup.1.retention.keep-within": 36,
		"backup.two": 37, "backup.two.schedule": 38, "backup.two.backup": 39, "backup.two.backup.enabled": 39, "node": 40,
	}
	if err := toml.Unmarshal([]byte(text), new(map[string]any)); err != nil {
		t.Fatal(err)
	}
	for _, variant := range []string{text, strings.ReplaceAll(text, "\n", "\r\n"), "\ufeff" + text} {
		got := places(variant)
		for name, line := range want {
			if got[name] != line {
				t.Errorf("%s: line %d, want %d", name, got[name], line)
			}
		}
		for name, line := range got {
			if _, ok := want[name]; !ok {
				t.Errorf("%s: line %d, want none", name, line)
			}
		}
	}
}

func TestParseTimeSpan(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "90": 90 * time.Second, "1h 30min": 90 * time.Minute, "1h30min": 90 * time.Minute, " 2 h\t": 2 * time.Hour,
		"1.5h": 90 * time.Minute, ".5s": 500 * time.Millisecond, "5m": 5 * time.Minute, "1M": 2629800 * time.Second, "1y": 31557600 * time.Second,
		"7d": 168 * time.Hour, "1 week 2days": 216 * time.Hour, "3us": 3 * time.Microsecond, "3µs": 3 * time.Microsecond,
		"20msec": 20 * time.Millisecond, "55s500ms": 55500 * time.Millisecond, "300ms20s 5day": 120*time.Hour + 20300*time.Millisecond,
		"infinity": 0, "1 2": 3 * time.Second,
	} {
		if got, err := ParseTimeSpan(text); err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":              `"" is no time span`,
		" ":             `" " is no time span`,
		"h":             `"h" is no time span`,
		"-1h":           `"-1h" is no time span`,
		"1.2.3h":        `"1.2.3h" is no time span`,
		"1 fortnight":   `"1 fortnight" is no time span: "fortnight" is no unit of time`,
		"1H":            `"1H" is no time span: "H" is no unit of time`,
		"1h infinity":   `"1h infinity" is no time span`,
		"1e3":           `"1e3" is no time span: "e" is no unit of time`,
		"300y":          `"300y" is too long`,
		"200y 92y 100y": `"200y 92y 100y" is too long`,
	} {
		if got, err := ParseTimeSpan(text); err == nil || err.Error() != want {
			t.Errorf("%q: %v, %v; want %s", text, got, err, want)
		}
	}
}

func FuzzPlaces(f *testing.F) {
	f.Add("[a.\"b\"]\nc = [1, {d = '''x\n''', e = \"\"\"\\\"\"\"\"}]\n[[f]]\n[f.g]\n")
	f.Add("a = [[[{b = [")
	f.Add("\ufeff[\"\\u0041\\")
	f.Fuzz(func(t *testing.T, text string) {
		lines := 1 + strings.Count(text, "\n")
		for name, line := range places(text) {
			if line < 1 || line > lines {
				t.Errorf("%q at line %d of %d", name, line, lines)
			}
		}
	})
}

func FuzzParseTimeSpan(f *testing.F) {
	for _, text := range []string{"1h 30min", "infinity", ".5", "9223372036.854775807s", "1\u00b5s", "106751d 23h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseTimeSpan(text)
		if d < 0 || err != nil && d != 0 {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	})
}
