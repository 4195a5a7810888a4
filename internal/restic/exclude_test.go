package restic

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// restic itself leaves out what Exclusion says.
func TestExclusionIsRestics(t *testing.T) {
	dir := t.TempDir()
	r := Repository{Location: dir + "/repo", PasswordFile: dir + "/password", CacheDir: dir + "/cache", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := os.WriteFile(r.PasswordFile, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	top := dir + "/data"
	var all []string
	for _, a := range []string{"a", "b", "cache", "x.tmp", ".h", "[z]", "ü"} {
		for _, b := range []string{"a", "cache", "y.tmp", "B", "a b", "*"} {
			if err := os.MkdirAll(filepath.Join(top, a, b), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, c := range []string{"a", "z.tmp", "cache", "-x", "?"} {
				all = append(all, filepath.Join(top, a, b, c))
				if err := os.WriteFile(all[len(all)-1], []byte("x"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	lists := [][]string{
		{"cache"},
		{"*.tmp"},
		{top + "/a"},
		{top + "/*/a"},
		{"a/cache"},
		{"**/B/a"},
		{top + "/**/z.tmp"},
		{"a/**/a"},
		{"a/**"},
		{"[ab]"},
		{"*", "!" + top + "/a"},
		{"cache", "!z.tmp"},
		{"*.tmp", "!y.tmp"},
		{`\*`},
		{"?"},
		{"a/"},
		{"./a"},
		{"/a"},
		{"a//cache"},
		{"x/../cache"},
		{"data"},
		{"A"},
		{"**"},
		{"!a"},
		{"**/**/a"},
		{"$HOME"},
		{`\[z\]`},
		{"ü"},
		{".."},
		{"."},
		{"/"},
		{"[a-b]/[^c]"},
	}
	parts := []string{"a", "b", "*", "**", "?", "[ac]", "cache", "*.tmp", "data", "B", "-x", "!a", "a*", "", ".."}
	random := rand.New(rand.NewPCG(1, 2))
	for range 10 {
		var list []string
		for range 1 + random.IntN(3) {
			var text []string
			for range 1 + random.IntN(3) {
				text = append(text, parts[random.IntN(len(parts))])
			}
			list = append(list, []string{"", "", "/", top + "/", "!"}[random.IntN(5)]+strings.Join(text, "/"))
		}
		if !slices.ContainsFunc(list, func(s string) bool { return s == "!" }) {
			lists = append(lists, list)
		}
	}
	if testing.Short() {
		lists = lists[:10]
	}
	for _, list := range lists {
		x, err := NewExclusion(list)
		if err != nil {
			t.Errorf("%q: %v", list, err)
			continue
		}
		got := map[string]bool{}
		sum, err := r.Backup(context.WithoutCancel(t.Context()), Source{Host: "h", Paths: []string{top}, Exclude: list}, nil)
		if err == nil {
			err = r.Ls(t.Context(), sum.Snapshot, nil, func(n Node) error { got[n.Path] = true; return nil })
		}
		if err != nil && !strings.Contains(err.Error(), "snapshot is empty") {
			t.Errorf("%q: %v", list, err)
			continue
		}
		for _, path := range all {
			excluded := false
			for at := path; len(at) >= len(top); at = filepath.Dir(at) {
				excluded = excluded || x.Matches(at)
			}
			if excluded == got[path] {
				t.Errorf("%q: Matches says of %s %v, and restic saved it: %v", list, strings.TrimPrefix(path, top), excluded, got[path])
				break
			}
		}
	}
}

func TestExclusionRefuses(t *testing.T) {
	if _, err := NewExclusion([]string{"ok", "[a"}); err == nil || !strings.Contains(err.Error(), "[a") {
		t.Errorf("NewExclusion = %v", err)
	}
}

func FuzzExclusion(f *testing.F) {
	for _, s := range []string{"a", "**/a", "!a\nb", "/a/**/b*", "[a", "", "!", "//", "**/**/**"} {
		f.Add(s, "/a/b")
	}
	f.Fuzz(func(t *testing.T, text, path string) {
		x, err := NewExclusion(strings.Split(text, "\n"))
		path = filepath.Clean("/" + path)
		if err != nil || strings.Count(text, "**") > 6 || strings.Count(path, "/") > 20 {
			return
		}
		if !strings.Contains(text, "!") && x.Matches(path) && path != "/" && !x.Matches(path+"/below") && !strings.Contains(text, "..") {
			t.Errorf("%q excludes %q, and not what is below", text, path)
		}
	})
}
