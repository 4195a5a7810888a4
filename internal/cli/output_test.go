package cli

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

func TestTable(t *testing.T) {
	for name, c := range map[string]struct {
		header []string
		rows   [][]string
		limit  int
		want   string
	}{
		"aligned": {
			[]string{"MODULE", "SIZE"},
			[][]string{{"wiki1", "3.8 MiB"}, {"a-long-one", "-"}},
			0,
			"MODULE      SIZE\nwiki1       3.8 MiB\na-long-one  -\n",
		},
		"no blanks at the end":   {[]string{"A", "B"}, [][]string{{"x", ""}, {"", ""}, {"y  ", ""}}, 0, "A    B\nx\n\ny\n"},
		"no rows":                {[]string{"A", "B"}, nil, 0, "A  B\n"},
		"short row":              {[]string{"A", "B"}, [][]string{{"x"}}, 0, "A  B\nx\n"},
		"control characters":     {[]string{"A"}, [][]string{{"x\ny\x1b[2J\u009bz"}, {"\xff"}}, 0, "A\nx y [2J z\n?\n"},
		"direction of writing":   {[]string{"A"}, [][]string{{"a\u202egpj.exe"}}, 0, "A\na gpj.exe\n"},
		"wide runes":             {[]string{"A", "B"}, [][]string{{"日本", "x"}, {"abcd", "y"}}, 0, "A     B\n日本  x\nabcd  y\n"},
		"combined runes":         {[]string{"A", "B"}, [][]string{{"e\u0301", "x"}, {"ab", "y"}}, 0, "A   B\ne\u0301   x\nab  y\n"},
		"fits":                   {[]string{"A", "B"}, [][]string{{"abcdef", "x"}}, 9, "A       B\nabcdef  x\n"},
		"cut":                    {[]string{"A", "B"}, [][]string{{"abcdefgh", "x"}}, 9, "A       B\nabcde…  x\n"},
		"the widest is cut":      {[]string{"A", "B"}, [][]string{{"abcdefgh", "01234567890123456789"}}, 20, "A         B\nabcdefgh  012345678…\n"},
		"wide runes are cut":     {[]string{"A"}, [][]string{{"日本日本"}}, 6, "A\n日本…\n"},
		"headers are whole":      {[]string{"MODULE", "B"}, [][]string{{"abcdefgh", "x"}}, 3, "MODULE  B\nabcde…  x\n"},
		"never below four":       {[]string{"A"}, [][]string{{"abcdefgh"}}, 1, "A\nabc…\n"},
		"only as far as it must": {[]string{"A", "B"}, [][]string{{"abcdefgh", "abcdefgh"}}, 17, "A        B\nabcdef…  abcdefgh\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := table(&b, c.header, c.rows, c.limit); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("table =\n%s\nwant\n%s", b.String(), c.want)
			}
		})
	}
}

func TestTableIsWholeWhereThereIsNoTerminal(t *testing.T) {
	var b bytes.Buffer
	long := strings.Repeat("x", 1000)
	if err := Table(&b, []string{"A"}, [][]string{{long}}); err != nil || b.String() != "A\n"+long+"\n" {
		t.Errorf("Table = %.50q, %v; want the whole text", b.String(), err)
	}
}

type full struct{}

var errFull = errors.New("no space left")

func (full) Write([]byte) (int, error) { return 0, errFull }

func TestOutputErrors(t *testing.T) {
	if err := Table(full{}, []string{"A"}, nil); !errors.Is(err, errFull) {
		t.Errorf("Table to a full disk: %v; want %v", err, errFull)
	}
	if err := JSON(full{}, 1); !errors.Is(err, errFull) {
		t.Errorf("JSON to a full disk: %v; want %v", err, errFull)
	}
}

func TestJSON(t *testing.T) {
	var b bytes.Buffer
	if err := JSON(&b, map[string]int{"a": 1}); err != nil || b.String() != "{\n  \"a\": 1\n}\n" {
		t.Errorf("JSON = %q, %v; want it indented", b.String(), err)
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		4000013: "3.8 MiB", 1 << 30: "1.0 GiB", 1 << 40: "1.0 TiB", 1 << 50: "1.0 PiB", 1 << 60: "1.0 EiB", math.MaxUint64: "16.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q; want %q", n, got, want)
		}
	}
}

func TestDuration(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0: "0ms", time.Nanosecond: "0ms", 1500 * time.Microsecond: "1ms", 999 * time.Millisecond: "999ms", time.Second: "1s",
		1499 * time.Millisecond: "1s", 59600 * time.Millisecond: "1min", 200 * time.Second: "3min 20s", time.Hour: "1h",
		time.Hour + time.Second: "1h", 90 * time.Minute: "1h 30min", 52 * time.Hour: "2d 4h", 7 * day: "1w", 8*day + time.Hour: "1w 1d",
		365 * day: "1y", 380 * day: "1y 2w", -time.Minute: "1min", math.MaxInt64: "292y 24w",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%d) = %q; want %q", d, got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		text string
		n    int
		want string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "ab…"},
		{"abcd", 1, "…"},
		{"abcd", 0, ""},
		{"abcd", -1, ""},
		{"", 0, ""},
		{"日本日本", 5, "日本…"},
		{"日本日本", 4, "日…"},
		{"e\u0301e\u0301e\u0301", 2, "e\u0301…"},
	} {
		if got := cut(c.text, c.n); got != c.want {
			t.Errorf("cut(%q, %d) = %q; want %q", c.text, c.n, got, c.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add("wiki1", 3)
	f.Add("日本\x1b[2J\xff", 2)
	f.Add("👩‍👩‍👧🇩🇪e\u0301", 3)
	f.Fuzz(func(t *testing.T, text string, n int) {
		safe := clean(text)
		if !utf8.ValidString(safe) || strings.ContainsFunc(safe, unicode.IsControl) {
			t.Errorf("clean(%q) = %q; want text for one line", text, safe)
		}
		if clean(safe) != safe {
			t.Errorf("clean(%q) = %q, and cleaned again %q; want the same", text, safe, clean(safe))
		}
		got := cut(safe, n)
		if wide := uniseg.StringWidth(got); wide > max(n, 0) {
			t.Errorf("cut(%q, %d) = %q, %d columns wide", safe, n, got, wide)
		}
		if got != safe && !strings.HasPrefix(safe, strings.TrimSuffix(got, "…")) {
			t.Errorf("cut(%q, %d) = %q; want its beginning", safe, n, got)
		}
	})
}

func TestDescribe(t *testing.T) {
	for want, items := range map[string]map[string]item{
		"":                               {},
		"wiki1 25% (1.0 KiB of 4.0 KiB)": {"wiki1": {25, 1024, 4096}},
		"wiki1 0%":                       {"wiki1": {}},
		"mail 50%, wiki1 25%":            {"wiki1": {25, 1024, 4096}, "mail": {50, 1, 2}},
		strings.Repeat("x", 44) + "…":    {strings.Repeat("x", 60): {}},
		"a [2J 1%":                       {"a\x1b[2J": {1, 0, 0}},
	} {
		if got := describe(items); got != want {
			t.Errorf("describe(%v) = %q; want %q", items, got, want)
		}
	}
}

func TestProgressIsSilentWhereThereIsNoTerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&Env{Stderr: &b, Getenv: func(string) string { return "" }})
	p.Update("wiki1", 50, 1, 2)
	p.Remove("wiki1")
	p.Done()
	p.Update("late", 50, 1, 2)
	if b.Len() > 0 {
		t.Errorf("Progress wrote %q; want nothing", b.String())
	}
}

func TestProgressBar(t *testing.T) {
	var b bytes.Buffer
	p := &Progress{items: map[string]item{}, bar: newBar(&b, false)}
	p.Update("wiki1", 50, 1, 2)
	p.Update("mail1", 150, 3, 2) // restic may say so
	if got := b.String(); !strings.Contains(got, "wiki1 50% (1 B of 2 B)") || !strings.Contains(got, "mail1 150%, wiki1 50%") || strings.Contains(got, "\n") {
		t.Errorf("Progress wrote %q; want one line that says how far all are", got)
	}
	p.Remove("wiki1")
	p.Remove("mail1")
	p.Done()
	p.Done()
	n := b.Len()
	p.Update("late", 50, 1, 2)
	if b.Len() != n {
		t.Error("Progress writes after Done")
	}
}
