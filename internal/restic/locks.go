package restic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// staleAfter is when restic itself takes a lock for stale that nobody has renewed.
const staleAfter = 30 * time.Minute

// Lock is a lock in a repository, as restic wrote it.
type Lock struct {
	ID        string    `json:"-"`
	Time      time.Time `json:"time"` // when it was made, or renewed
	Exclusive bool      `json:"exclusive"`
	Host      string    `json:"hostname"`
	User      string    `json:"username"`
	PID       int       `json:"pid"`
}

// Stale tells, as restic does, whether whoever made the lock is gone: nobody has renewed it, or the process on this host has ended.
func (l Lock) Stale(now time.Time, host string) bool {
	return now.Sub(l.Time) > staleAfter || l.Host == host && l.PID > 0 && errors.Is(unix.Kill(l.PID, 0), unix.ESRCH)
}

// Locks lists the locks of the repository, and takes none. Opening it, it also tells whether the password is right.
func (r Repository) Locks(ctx context.Context) ([]Lock, error) {
	var out bytes.Buffer
	if err := r.run(ctx, call{args: []string{"list", "locks", "--no-lock", "--quiet"}, output: &out}); err != nil {
		return nil, err
	}
	var locks []Lock
	for _, id := range strings.Fields(out.String()) {
		var text bytes.Buffer
		if err := r.run(ctx, call{args: []string{"cat", "lock", id, "--no-lock", "--quiet"}, output: &text}); err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			continue // it was removed meanwhile, or is being renewed
		}
		l, err := parseLock(text.Bytes())
		if err != nil {
			return nil, err
		}
		l.ID = id
		locks = append(locks, l)
	}
	return locks, nil
}

func parseLock(data []byte) (Lock, error) {
	var l Lock
	if err := json.Unmarshal(data, &l); err != nil {
		return l, fmt.Errorf("read a lock of restic's: %w", err)
	}
	return l, nil
}
