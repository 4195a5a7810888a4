package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// BenchmarkLoad reads 1,000 backups of one module.
func BenchmarkLoad(b *testing.B) {
	var text strings.Builder
	text.WriteString("[destination.a]\nrepository = \"/srv/backup\"\npassword-credential = \"a\"\n" +
		"[module.w]\ntype = \"wiki\"\nuuid = \"3792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/etc\"]\n")
	for i := range 1000 {
		fmt.Fprintf(&text, "[backup.%d]\nschedule = \"daily\"\ndestination = \"a\"\nmodules = [\"w\"]\nretention = 3\n", i)
	}
	path := filepath.Join(b.TempDir(), "backups.toml")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if c := Load([]string{path}, nil); len(c.Problems) > 0 {
			b.Fatal(c.Problems[0])
		}
	}
}
