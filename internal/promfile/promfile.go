// Package promfile writes the metrics of backups for node_exporter's textfile collector: a file backup<id>.prom for each.
//
// A file is a pure function of the records: it can be written again at any time. Three things would make the collector drop
// metrics, and are avoided: a HELP that differs between files, a timestamp, and a label that is not UTF-8.
package promfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/internal/atomicfile"
)

// header is the first line of every file, by which ours are told from others that are named alike.
const header = "# Written by sdbackup from the records of its runs. Do not edit: it is replaced at every run.\n"

// fileMode lets node_exporter read the files, whoever it runs as.
const fileMode = 0o644

func fileName(id string) string { return "backup" + id + ".prom" }

// Write writes the file of a backup into the folder in one step: the collector reads the old text or the new. What is there
// already is not written again; only its time stamp then says that it is still true.
func Write(dir string, s Sample) error {
	data, err := Format(s)
	if err != nil {
		return fmt.Errorf("metrics of backup %s: %w", s.ID, err)
	}
	atomicfile.Sweep(dir, fileName(s.ID))
	path := filepath.Join(dir, fileName(s.ID))
	if isCurrent(path, data) {
		now := time.Now()
		if os.Chtimes(path, now, now) == nil {
			return nil
		}
	}
	return atomicfile.Write(path, data, fileMode)
}

func isCurrent(path string, data []byte) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fileMode || info.Size() != int64(len(data)) {
		return false
	}
	old, err := os.ReadFile(path)
	return err == nil && bytes.Equal(old, data)
}

// Remove removes the file of a backup, if it is there and ours, and what is left of writing it.
func Remove(dir, id string) error {
	atomicfile.Sweep(dir, fileName(id))
	if !isOurs(dir, id) {
		return nil
	}
	if err := os.Remove(filepath.Join(dir, fileName(id))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// IDs returns the backups that have a file in the folder, sorted; none where there is no such folder. Somebody else's files
// that are named alike are not among them.
func IDs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		id, isBackup := strings.CutPrefix(e.Name(), "backup")
		id, isProm := strings.CutSuffix(id, ".prom")
		if isBackup && isProm && isOurs(dir, id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// isOurs tells whether the file named for a backup was written by us: it begins as ours do.
func isOurs(dir, id string) bool {
	f, err := os.Open(filepath.Join(dir, fileName(id)))
	if err != nil {
		return false
	}
	defer f.Close()
	start := make([]byte, len(header))
	n, _ := f.Read(start)
	return string(start[:n]) == header
}
