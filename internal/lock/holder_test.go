package lock

import (
	"os"
	"path/filepath"
	"testing"
)

func TestHolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wiki1.lock")
	held, err := TryExclusive(path, "1")
	if err != nil {
		t.Fatal(err)
	}
	if h, err := Holder(path); err != nil || h == nil || h.PID != os.Getpid() || h.Holder != "1" || h.Gone {
		t.Errorf("Holder of a lock that is held = %v, %v", h, err)
	}
	held.Release()
	if h, err := Holder(path); err != nil || h != nil {
		t.Errorf("Holder of a free lock = %v, %v", h, err)
	}
	if again, err := TryExclusive(path, "2"); err != nil {
		t.Errorf("after looking, the lock cannot be taken: %v", err)
	} else {
		again.Release()
	}
}
