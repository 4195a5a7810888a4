package filebackup

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// journal is a local file of what a run has stored and not committed yet, so that the next run can go on where a dead one ended.
// It is a help and no more: without it, what was stored is garbage, and found by the log of the bucket.
type journal struct {
	mu     sync.Mutex
	f      *os.File
	synced time.Time
}

// journalLine is a line of it.
type journalLine struct {
	Run    string `json:"run,omitempty"` // a run begins
	Key    string `json:"key,omitempty"` // check value of the key that it encrypts with
	Hash   string `json:"hash,omitempty"`
	Words  string `json:"words,omitempty"` // of the pipeline
	Object string `json:"object,omitempty"`
	ID     string `json:"id,omitempty"`
	Size   int64  `json:"size,omitempty"`
	Upload string `json:"upload,omitempty"` // of parts, that has begun
}

// readJournal calls do with each line that there is; what is torn is left out.
func (c *Config) readJournal(do func(*journalLine) error) error {
	f, err := os.Open(c.journalPath())
	if err != nil {
		return nil
	}
	defer f.Close()
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return nil
		}
		var l journalLine
		if json.Unmarshal(line, &l) == nil {
			if err := do(&l); err != nil {
				return err
			}
		}
	}
}

func (c *Config) openJournal(run, key string) (*journal, error) {
	f, err := os.OpenFile(c.journalPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f}
	if _, err := f.WriteString("\n"); err != nil { // ends a torn line
		f.Close()
		return nil, err
	}
	if err := errors.Join(j.add(journalLine{Run: run, Key: key}), f.Sync()); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

const syncInterval = time.Second

// add appends a line.
func (j *journal) add(l journalLine) error {
	line, err := json.Marshal(l)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.f.Write(append(line, '\n')); err != nil {
		return err
	}
	if time.Since(j.synced) < syncInterval {
		return nil
	}
	j.synced = time.Now()
	return j.f.Sync()
}

// done removes the journal: everything in it is committed, or taken care of.
func (j *journal) done(c *Config) error {
	j.f.Close()
	return os.Remove(c.journalPath())
}

// LockedError says that another process works with the same lock file.
type LockedError struct{ Path string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("another backup is running: the lock %s is held", e.Path)
}

// localLock is a lock that is held.
type localLock struct{ f *os.File }

// Close gives it up at once: a program that this process is just starting has the open file, too, until it is executed.
func (l localLock) Close() {
	_ = unix.Flock(int(l.f.Fd()), unix.LOCK_UN)
	l.f.Close()
}

// lock takes the lock; it is given up when the file is closed, or the process is gone. The file stays: two processes could
// else hold "the" lock. rrbackup removes it, so it is looked whether the locked file is still that of the name.
func (c *Config) lock() (localLock, error) {
	for {
		f, err := os.OpenFile(c.LocalLockFile, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return localLock{}, fmt.Errorf("lock: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return localLock{}, &LockedError{c.LocalLockFile}
			}
			return localLock{}, fmt.Errorf("lock %s: %w", c.LocalLockFile, err)
		}
		ours, err := f.Stat()
		if err == nil {
			named, err2 := os.Stat(c.LocalLockFile)
			if err2 == nil && os.SameFile(ours, named) {
				return localLock{f}, nil
			}
		}
		f.Close()
	}
}

// local makes the folders that local files are in.
func (c *Config) local() error {
	for _, path := range []string{c.LocalManifestFile, c.LocalLockFile} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// localPaths are the paths of our own files that are in the folder.
func (c *Config) localPaths() map[string]bool {
	paths := map[string]bool{}
	base, err := filepath.Abs(c.BasePath)
	if err != nil {
		return paths
	}
	own := []string{c.cachePath(), c.journalPath(), c.LocalLockFile, c.LocalManifestFile}
	for _, of := range []string{"jobs", "known", "stored", "results"} {
		own = append(own, c.spoolPath(of))
	}
	for _, path := range own {
		if full, err := filepath.Abs(path); err == nil {
			if rest, ok := strings.CutPrefix(full, strings.TrimSuffix(base, "/")+"/"); ok {
				paths["/"+rest] = true
			}
		}
	}
	return paths
}
