package filebackup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Records come back as they were added, from memory and from the file, beside others that are being added; nothing is left of the file.
func TestSpool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := spool{path: filepath.Join(dir, "spool")}
	defer s.close()
	record := func(i, j int) []byte { return bytes.Repeat([]byte{byte(i), byte(j)}, i*j%5000) }
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			var numbers []int
			var buf []byte
			for j := range 500 {
				n, err := s.add(record(i, j))
				if err != nil {
					t.Error(err)
					return
				}
				numbers = append(numbers, n)
				for _, k := range []int{0, j / 2, j} {
					if buf, err = s.get(numbers[k], buf); err != nil || !bytes.Equal(buf, record(i, k)) {
						t.Errorf("record %d: %d bytes, %v; want %d", numbers[k], len(buf), err, len(record(i, k)))
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if s.len() != 2000 || s.size < spoolMemory || len(s.tail) > spoolMemory {
		t.Errorf("%d records, %d bytes in the file, %d in memory", s.len(), s.size, len(s.tail))
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}

	broken := spool{path: filepath.Join(dir, "none", "spool")}
	var err error
	for range spoolMemory/1000 + 1 {
		if _, err = broken.add(make([]byte, 1000)); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a folder: %v", err)
	}
}
