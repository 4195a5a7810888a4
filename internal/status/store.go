// Package status keeps what is known of backups and their runs on disk.
//
// Every record is replaced as a whole, or appended to in one write, and synced together with its folder: whatever kills the
// writer or the machine leaves the old state or the new one. The one exception, a torn last line of a history, is passed
// over by readers and ended by the next writer. A record that is damaged all the same is reported as a *CorruptError; what
// it held is lost, and nothing else.
//
// All records of a backup have one writer at a time, the one that holds the backup's lock, and any number of readers, which
// take no lock. The package takes none either.
package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"sdbackup/internal/atomicfile"
)

// Store is the folder that the records are in:
//
//	status/<backup>.json           Backup
//	status/<backup>/<module>.json  Module
//	runs/<backup>.jsonl            Run, one a line, the oldest first
//	running/<backup>.json          Running
type Store struct{ Dir string }

// Modes of what the store makes: error texts and repository paths are for administrators only.
const (
	fileMode = 0o640
	dirMode  = 0o750
)

// CorruptError tells of a record that cannot be parsed, or says nothing.
type CorruptError struct {
	Path string
	Err  error
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.Path, e.Err) }

func (e *CorruptError) Unwrap() error { return e.Err }

// Begin leaves the marker of a run that begins, and clears away what writers of this backup's records left half-written
// when they were killed.
func (s Store) Begin(r Running) error {
	s.sweep(r.Backup)
	return s.write(r, "running", r.Backup+".json")
}

func (s Store) sweep(backup string) {
	if !isID(backup) {
		return
	}
	atomicfile.Sweep(filepath.Join(s.Dir, "running"), backup+".json")
	atomicfile.Sweep(filepath.Join(s.Dir, "runs"), backup+".jsonl")
	atomicfile.Sweep(filepath.Join(s.Dir, "status"), backup+".json")
	atomicfile.Sweep(filepath.Join(s.Dir, "status", backup))
}

// Running returns the marker of a backup's run, fs.ErrNotExist when there is none.
func (s Store) Running(backup string) (*Running, error) {
	return read(s, func(r *Running) bool { return r.ID != "" }, "running", backup+".json")
}

// RunningIDs returns the backups that have a marker, sorted.
func (s Store) RunningIDs() ([]string, error) { return s.list("running") }

// Announce notes in the marker that the hooks of the run's end are begun.
func (s Store) Announce(backup string) error {
	r, err := s.Running(backup)
	if err != nil {
		return err
	}
	r.Announced = true
	return s.write(r, "running", backup+".json")
}

// RemoveRunning takes the marker away, if it is there.
func (s Store) RemoveRunning(backup string) error {
	path, err := s.path("running", backup+".json")
	if err != nil {
		return err
	}
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return atomicfile.SyncDir(filepath.Dir(path))
}

// Backup returns the record of a backup as a whole, fs.ErrNotExist when no run of it has ended. A record that is missing or
// damaged is made up for from the history: a verdict must not be forgotten, for that would end the alert about it.
func (s Store) Backup(backup string) (*Backup, error) {
	rec, err := read(s, func(b *Backup) bool { return b.LastRun.ID != "" }, "status", backup+".json")
	if err == nil {
		return rec, nil
	}
	rec = &Backup{}
	if s.runs(backup, func(run Run) bool {
		if rec.LastRun.ID == "" {
			rec.LastRun = run
		}
		rec.takeNodeCopy(run)
		if isSuccess(run.Outcome) {
			rec.LastSuccess = run.End
		}
		return rec.LastSuccess.IsZero()
	}) != nil || rec.LastRun.ID == "" {
		return nil, err
	}
	return rec, nil
}

// Backups returns the backups that have a record, sorted.
func (s Store) Backups() ([]string, error) { return s.list("status") }

// Module returns the record of a module in a backup, fs.ErrNotExist when there is none.
func (s Store) Module(backup, module string) (*Module, error) {
	return read(s, func(m *Module) bool { return m.Outcome != "" }, "status", backup, module+".json")
}

// SaveModule writes the record of a module in a backup.
func (s Store) SaveModule(backup, module string, m *Module) error {
	return s.write(m, "status", backup, module+".json")
}

// End records a run that has ended, in the history and as the backup's last one. Recording the last one again changes
// nothing, so that a run whose recording was interrupted is recorded once.
func (s Store) End(run Run) error {
	last, err := s.Runs(run.Backup, 1)
	if err != nil {
		return err
	}
	if len(last) == 0 || last[0].ID != run.ID {
		if err := s.append(run); err != nil {
			return err
		}
	}
	rec := Backup{LastRun: run}
	rec.takeNodeCopy(run)
	if old, err := s.Backup(run.Backup); err == nil {
		rec.LastSuccess = old.LastSuccess
		if rec.NodeCopy == nil && run.Error != "" { // the run did not get that far
			rec.NodeCopy = old.NodeCopy
		}
		if rec.NodeCopy != nil && rec.LastNodeCopy.IsZero() {
			rec.LastNodeCopy = old.LastNodeCopy
		}
	}
	if isSuccess(run.Outcome) {
		rec.LastSuccess = run.End
	}
	return s.write(rec, "status", run.Backup+".json")
}

// takeNodeCopy takes over what a run says of the node's copy, of the newest first.
func (b *Backup) takeNodeCopy(run Run) {
	if run.NodeCopy == nil {
		return
	}
	if b.NodeCopy == nil {
		b.NodeCopy = run.NodeCopy
	}
	if run.NodeCopy.Outcome == Success && b.LastNodeCopy.IsZero() {
		b.LastNodeCopy = run.NodeCopy.Time
	}
}

// path returns the path of a record. An ID comes from a person's command line too: it must not lead out of the folder, and
// what could is the name of no record.
func (s Store) path(elements ...string) (string, error) {
	for _, e := range elements {
		if !isID(e) {
			return "", &fs.PathError{Op: "open", Path: filepath.Join(elements...), Err: fs.ErrNotExist}
		}
	}
	return filepath.Join(append([]string{s.Dir}, elements...)...), nil
}

func isID(s string) bool { return s != "" && s[0] != '.' && !strings.ContainsAny(s, "/\x00") }

// read returns a record. Valid tells one that says something from, say, an empty object.
func read[T any](s Store, valid func(*T) bool, elements ...string) (*T, error) {
	path, err := s.path(elements...)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v := new(T)
	if err := json.Unmarshal(data, v); err != nil {
		return nil, &CorruptError{path, err}
	}
	if !valid(v) {
		return nil, &CorruptError{path, errors.New("it says nothing")}
	}
	return v, nil
}

// write replaces a record durably.
func (s Store) write(v any, elements ...string) error {
	path, err := s.path(elements...)
	if err != nil {
		return err
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return replace(path, append(data, '\n'))
}

func replace(path string, data []byte) error {
	dir := filepath.Dir(path)
	if err := atomicfile.MakeDir(dir, dirMode); err != nil {
		return err
	}
	if err := atomicfile.Write(path, data, fileMode); err != nil {
		return err
	}
	return atomicfile.SyncDir(dir)
}

// list returns the IDs of the records in a folder.
func (s Store) list(folder string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, folder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && isID(id) && e.Type().IsRegular() {
			ids = append(ids, id)
		}
	}
	return ids, err
}
