package filebackup

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// spoolMemory is how many bytes of a spool are kept in memory.
const spoolMemory = 1 << 20

// spool is a list of records. What does not fit into a little memory is in a file without a name, which is gone with the process.
type spool struct {
	path string // of the file, while it has a name

	mu   sync.Mutex
	ends []int64 // of the records
	tail []byte  // the last of them, which are not in the file
	file *os.File
	size int64 // of the file
}

// add adds a record and returns its number.
func (s *spool) add(record []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tail = append(s.tail, record...)
	s.ends = append(s.ends, s.size+int64(len(s.tail)))
	if len(s.tail) < spoolMemory {
		return len(s.ends) - 1, nil
	}
	if s.file == nil {
		var err error
		// Whoever was killed before he removed it has left an empty one.
		if s.file, err = os.OpenFile(s.path, os.O_CREATE|os.O_TRUNC|os.O_RDWR|unix.O_NOFOLLOW, 0o600); err != nil {
			return 0, err
		}
		if err := os.Remove(s.path); err != nil {
			return 0, err
		}
	}
	if _, err := s.file.WriteAt(s.tail, s.size); err != nil {
		return 0, err
	}
	s.size += int64(len(s.tail))
	s.tail = s.tail[:0]
	return len(s.ends) - 1, nil
}

// len is the number of records.
func (s *spool) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ends)
}

// get reads a record, into buf where it has room for it.
func (s *spool) get(i int, buf []byte) ([]byte, error) {
	s.mu.Lock()
	start := int64(0)
	if i > 0 {
		start = s.ends[i-1]
	}
	n := int(s.ends[i] - start)
	if start >= s.size {
		defer s.mu.Unlock()
		at := start - s.size
		return append(buf[:0], s.tail[at:at+int64(n)]...), nil
	}
	s.mu.Unlock()
	if cap(buf) < n {
		buf = make([]byte, n, 2*n)
	}
	buf = buf[:n]
	if _, err := s.file.ReadAt(buf, start); err != nil {
		return nil, fmt.Errorf("temporary file of the backup: %w", err)
	}
	return buf, nil
}

// close forgets the records.
func (s *spool) close() {
	if s.file != nil {
		s.file.Close()
	}
	s.ends, s.tail, s.file, s.size = nil, nil, nil, 0
}
