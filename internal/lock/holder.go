package lock

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Holder tells who holds a lock, nil when nobody does. It neither takes the lock nor waits for it, but for the moment of looking: who
// tries to take it just then finds it held.
func Holder(path string) (*HeldError, error) {
	f, err := open(path, os.O_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	defer f.Close()
	err = flock(f, unix.LOCK_SH|unix.LOCK_NB)
	if err == nil {
		return nil, nil
	}
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return heldBy(f, path), nil
}

// heldBy reads who holds a lock.
func heldBy(f *os.File, path string) *HeldError {
	data, _ := io.ReadAll(io.LimitReader(f, maxHolderBytes))
	held := parseHolder(string(data))
	held.Path = path
	held.Gone = held.PID != 0 && errors.Is(unix.Kill(held.PID, 0), unix.ESRCH)
	return held
}
