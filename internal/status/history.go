package status

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"sdbackup/internal/atomicfile"
)

// A history is trimmed to its last maxRuns runs, and to half of maxHistoryBytes, when it has become a quarter longer than
// that, or longer than maxHistoryBytes: so that it is rewritten now and then, not at every run. The last run is always kept.
const (
	maxRuns         = 1000
	maxHistoryBytes = 4 << 20
)

// readChunkBytes is how much of a history is read at first, from its end.
const readChunkBytes = 16 << 10

// Runs returns the last n runs of a backup, the oldest first; none where there is no history. Lines that cannot be parsed
// are passed over: a run that was killed in the middle of writing one has left a torn line.
func (s Store) Runs(backup string, n int) ([]Run, error) {
	var runs []Run
	if n <= 0 {
		return nil, nil
	}
	err := s.runs(backup, func(run Run) bool {
		runs = append(runs, run)
		return len(runs) < n
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.Reverse(runs)
	return runs, err
}

// runs calls visit with the runs of a backup, the newest first, until it returns false.
func (s Store) runs(backup string, visit func(Run) bool) error {
	path, err := s.path("runs", backup+".jsonl")
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	var readErr error
	for _, line := range backwards(f, &readErr) {
		var run Run
		if json.Unmarshal(line, &run) == nil && run.ID != "" && !visit(run) {
			break
		}
	}
	return readErr
}

// append adds a line to the history in one write: a line of its own, also where the last one is torn.
func (s Store) append(run Run) error {
	path, err := s.path("runs", run.Backup+".jsonl")
	if err != nil {
		return err
	}
	line, err := json.Marshal(run)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := atomicfile.MakeDir(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if size > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, size-1); err != nil {
			return err
		}
		if last[0] != '\n' {
			line = append([]byte{'\n'}, line...)
		}
	}
	if _, err := f.Write(line); err != nil {
		_ = f.Truncate(size) // a full disk takes part of a line; where this fails too, readers pass the part over
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if size == 0 {
		return atomicfile.SyncDir(filepath.Dir(path))
	}
	// The run is on record. What is too long now is trimmed next time, where it cannot be done today.
	_ = trim(path, f)
	return nil
}

// trim cuts the history at path, open as f, down to its bounds, by replacing the file.
func trim(path string, f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	lines, cut := 0, size // what is behind cut is kept
	for at, line := range backwards(f, &err) {
		if len(line) == 0 {
			continue
		}
		if lines++; lines == 1 || lines <= maxRuns && size-at <= maxHistoryBytes/2 {
			cut = at
		}
	}
	if err != nil || lines <= maxRuns+maxRuns/4 && size <= maxHistoryBytes {
		return err
	}
	kept := make([]byte, size-cut)
	if _, err := f.ReadAt(kept, cut); err != nil {
		return err
	}
	return replace(path, kept)
}

// backwards yields the lines of a file and where they begin, the last one first, without their ends; also what stands
// behind the last end. An error of reading ends it and is stored in *err. It reads no more than is asked for, as a history
// may be long and mostly the last line is wanted.
func backwards(f io.ReadSeeker, err *error) iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		var at int64 // what is before it has not been read
		if at, *err = f.Seek(0, io.SeekEnd); *err != nil {
			return
		}
		var rest []byte // of the file from at on, up to the lines that were yielded: no end of a line is in it
		for chunk := int64(readChunkBytes); at > 0; {
			n := min(chunk, at)
			at -= n
			data := make([]byte, n, n+int64(len(rest)))
			if _, *err = f.Seek(at, io.SeekStart); *err != nil {
				return
			}
			if _, *err = io.ReadFull(f, data); *err != nil {
				return
			}
			data = append(data, rest...)
			for scanned := int(n); ; {
				i := bytes.LastIndexByte(data[:scanned], '\n')
				if i < 0 {
					break
				}
				if !yield(at+int64(i)+1, data[i+1:]) {
					return
				}
				data, scanned = data[:i], i
			}
			if rest = data; int64(len(rest)) >= chunk {
				chunk *= 2 // a long line is not copied over and over
			}
		}
		yield(0, rest)
	}
}
