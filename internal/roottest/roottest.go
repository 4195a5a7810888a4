// Package roottest runs tests of root's as a root to whom the modes of files apply.
package roottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const again = "SDBACKUP_TEST_MODES_APPLY"

// ModesApply tells whether this process is kept from reading what a file's mode forbids. If it is not, being root, the test is run by another process that is, with its
// outcome; the caller returns.
func ModesApply(t *testing.T) bool {
	t.Helper()
	closed := filepath.Join(t.TempDir(), "closed")
	if err := os.WriteFile(closed, nil, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := os.ReadFile(closed); os.IsPermission(err) {
		return true
	} else if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(again) != "" {
		t.Fatal("the modes of files do not apply even without CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH")
	}
	// The user stays the same, so the test still reaches its own files.
	const less = "-dac_override,-dac_read_search"
	cmd := exec.CommandContext(t.Context(), "setpriv", "--bounding-set="+less, "--inh-caps="+less, "--ambient-caps="+less,
		os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), again+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("%v: %s", err, out)
	}
	return false
}
