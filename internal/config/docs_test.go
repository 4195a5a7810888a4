package config

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	tableHeading = regexp.MustCompile(`^###? \[+[a-z]+(\.ID)?(\.[a-z]+)?\]+$`)
	keyCell      = regexp.MustCompile("`([a-z-]+)`")
)

// The manual has the keys of every table that are known, and no others. It is also what sdbackup.toml(5) is made of.
func TestManual(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string][]string{} // by the heading of a table, as in "[[module.ID.dump]]"
	var heading string
	inKeys := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			heading = ""
			if tableHeading.MatchString(line) {
				heading = strings.TrimLeft(line, "# ")
			}
		}
		switch {
		case strings.HasPrefix(line, "| key |"):
			inKeys = true
		case !strings.HasPrefix(line, "|"):
			inKeys = false
		case inKeys && heading != "" && strings.Contains(line, "`"):
			cell, _, _ := strings.Cut(strings.Trim(line, "| "), "|")
			for _, m := range keyCell.FindAllStringSubmatch(cell, -1) {
				documented[heading] = append(documented[heading], m[1])
			}
		}
	}
	if len(documented) < 9 {
		t.Fatalf("the manual has the tables %v; want all of them", documented)
	}

	const unknown = "zzzzzzzzzzzz" // resembles no key, so that all of them are listed
	for heading, keys := range documented {
		table := strings.ReplaceAll(heading, "ID", "x")
		file := filepath.Join(t.TempDir(), "x.toml")
		if err := os.WriteFile(file, []byte(table+"\n"+unknown+" = 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		var known []string
		for _, p := range Load([]string{file}, nil).Problems {
			if _, list, ok := strings.Cut(p.Message, "; known are "); ok && strings.HasSuffix(p.Key, "."+unknown) {
				known = strings.Split(list, ", ")
			}
		}
		slices.Sort(keys)
		if !slices.Equal(known, keys) {
			t.Errorf("%s\nknows   %v\nmanual: %v", heading, known, keys)
		}
	}
}
