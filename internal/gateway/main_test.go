package gateway

import (
	"flag"
	"os"
	"testing"
)

// The tests that are parallel mostly wait: for restic, which pauses before it tries again, and for a storage that is slow. So there are
// more of them at a time than processors.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
