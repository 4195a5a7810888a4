package restserver

import (
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// Limit is a Quota of so many bytes for all that lies in a folder. What others than this server put there or remove, it does not see.
type Limit struct {
	max int64

	mu   sync.Mutex
	used int64
}

// NewLimit returns a limit of maxBytes for a folder. It walks through the folder, which can take minutes, and adds up its regular
// files.
func NewLimit(dir string, maxBytes int64) (*Limit, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", dir, err)
	}
	defer root.Close()
	l := &Limit{max: maxBytes}
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		l.used += info.Size()
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("measure %s: %w", dir, err)
	}
	return l, nil
}

// ignoreMissing is for what is removed while a folder is walked through.
func ignoreMissing(err error) error {
	if missing(err) {
		return nil
	}
	return err
}

// Used returns how many bytes are taken.
func (l *Limit) Used() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.used
}

// Reserve implements Quota.
func (l *Limit) Reserve(n int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n > l.max-l.used {
		return fmt.Errorf("%w: %d bytes more than %d of %d", ErrQuota, n, l.used, l.max)
	}
	l.used += n
	return nil
}

// Release implements Quota.
func (l *Limit) Release(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = max(0, l.used-n)
}
