package promfile

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The manual lists every metric, and its example is what is really written.
func TestManual(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "metrics.md")
	manual, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const fence = "\n```\n"
	parts := strings.Split(string(manual), fence)
	if len(parts) != 3 {
		t.Fatalf("%s has %d fences; want the two of the example", path, len(parts)-1)
	}
	example := strings.TrimSuffix(string(format(t, samples()["failed"])), "\n")
	if *update {
		parts[1] = example
		if err := os.WriteFile(path, []byte(strings.Join(parts, fence)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if parts[1] != example {
		t.Errorf("the example in %s is not what is written; rewrite it with -update", path)
	}
	described := parts[0] + parts[2]
	rows := strings.Count(described, "| `node_backup_")
	if want := len(backupMetrics) + len(moduleMetrics) + len(checkMetrics) + len(moduleCheckMetrics) + len(moduleDrillMetrics); rows != want {
		t.Errorf("%s has %d metrics; want %d", path, rows, want)
	}
	for _, m := range slices.Concat(backupMetrics, checkMetrics) {
		if !strings.Contains(described, "| `"+m.name+"` |") {
			t.Errorf("%s does not describe %s", path, m.name)
		}
	}
	for _, m := range slices.Concat(moduleMetrics, moduleCheckMetrics) {
		if !strings.Contains(described, "| `"+m.name+"` |") {
			t.Errorf("%s does not describe %s", path, m.name)
		}
	}
	for _, m := range moduleDrillMetrics {
		if !strings.Contains(described, "| `"+m.name+"` |") {
			t.Errorf("%s does not describe %s", path, m.name)
		}
	}
}
