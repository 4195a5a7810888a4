// Package exchange puts restored data where an application lives: wholly or not at all, whatever kills it.
//
// The data lies ready beside the live data, on its file system, in a stage: a folder that only its owner may enter. A journal is on disk
// before anything is touched. Then the units that use the data are stopped; what the backup leaves out is moved to the new data; each item is
// exchanged for its successor, renameat2(2), RENAME_EXCHANGE; the hook runs; the units are started; and the journal says "committed". Up to
// there Recover undoes everything, from there on only removes what was replaced. For every item and move the journal knows the inodes, so
// Recover sees by itself what has happened, may be killed at any time, and is run again.
//
// Folders are opened without following symbolic links, and everything is done relative to them: the module's user may own what is around.
package exchange

import (
	"bytes"
	"context"
	"encoding/gob"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"

	"golang.org/x/sys/unix"
)

// State is how far an exchange is.
type State string

// The states, in their order.
const (
	Staging    State = "staging"    // nothing of the live data is touched
	Exchanging State = "exchanging" // it may be, and will be put back
	Undone     State = "undone"     // it was put back; the stage is to be removed
	Committed  State = "committed"  // the new data is live; what it replaced is to be removed
)

// Journal is all that is known of an exchange. It is a file that only root, or the user whose restore it is, may read.
type Journal struct {
	Module    string
	State     State
	Boot      string // in which Stopped were; in another one they are not started again
	Roots     []Root
	Stages    []string // folders to be removed in the end
	Units     []string
	Stopped   []string // units that ran
	Exclude   []string
	Hook      []string
	User      string
	Group     string
	Directory string
	Env       []string  // of the hook
	Dumps     *Root     // a folder for the hook, there as long as the exchange lasts
	Time      time.Time // when it began

	Items  []item
	Moves  []move
	Tops   []top
	Noted  map[string]noted // folders in which something is made or renamed, before
	Kept   Kept
	Lost   []string // of Moves, what cannot be put back, because it is not there any more
	Retain bool     // what was replaced is not removed, but kept beside
}

// Root is something that was restored: where it is to be and where it lies ready.
type Root struct {
	Live   string
	Staged string
	Inside bool // the live one cannot be renamed: what is in it is exchanged
}

// Kept is what of the live data was taken over, because the backup leaves it out.
type Kept struct {
	Count uint64
	First []string
	Both  []string // the first that the snapshot has, too
}

// Outcome is what became of an exchange.
type Outcome struct {
	Module     string   `json:"module"`
	Committed  bool     `json:"committed"`
	RolledBack bool     `json:"rolled_back"` // the live data was touched, and is as it was
	Stopped    []string `json:"units,omitempty"`
	Kept       uint64   `json:"kept"`
	Retained   []string `json:"retained,omitempty"` // where what was replaced is kept
	Error      string   `json:"error,omitempty"`    // why it was not committed
	Warnings   []string `json:"warnings,omitempty"`
}

// Manager stops and starts units.
type Manager interface {
	// Running returns which of the units run, and which are about to end, with those that stop with them or start them.
	Running(ctx context.Context, names []string) (running, ending []string, err error)
	StopAll(ctx context.Context, names []string) error
	StartAll(ctx context.Context, names []string) error
}

// Store is the folder of journals.
type Store struct {
	Dir     string
	Manager Manager // nil: none can be reached
	Log     *slog.Logger
	step    func(string) // a test's
}

// Dir is the folder of journals of an installation.
func Dir(paths config.Paths) string { return filepath.Join(paths.State, "restore") }

// suffix is of journals. They are no JSON, which cannot say a name that is no UTF-8.
const suffix = ".journal"

func (s Store) path(module string) string { return filepath.Join(s.Dir, module+suffix) }

// Modules lists the modules that have a journal.
func (s Store) Modules() ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok && config.ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// Load reads a module's journal; nil where there is none.
func (s Store) Load(module string) (*Journal, error) {
	data, err := os.ReadFile(s.path(module))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	j := new(Journal)
	if err := gob.NewDecoder(bytes.NewReader(data)).Decode(j); err != nil {
		return nil, fmt.Errorf("read the journal of a restore, %s: %w", s.path(module), err)
	}
	if j.Module != module || !slices.Contains([]State{Staging, Exchanging, Undone, Committed}, j.State) {
		return nil, fmt.Errorf("the journal of a restore, %s, is damaged", s.path(module))
	}
	return j, nil
}

// Save makes a journal durable.
func (s Store) Save(j *Journal) error {
	var data bytes.Buffer
	if err := gob.NewEncoder(&data).Encode(j); err != nil {
		return err
	}
	if err := atomicfile.MakeDir(filepath.Dir(s.Dir), 0o750); err != nil {
		return err
	}
	if err := atomicfile.MakeDir(s.Dir, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(s.path(j.Module), data.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the journal of the restore: %w", err)
	}
	return atomicfile.SyncDir(s.Dir)
}

// remove ends a journal.
func (s Store) remove(j *Journal) error {
	if err := os.Remove(s.path(j.Module)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return atomicfile.SyncDir(s.Dir)
}

// InterruptedError says that a module's data may not be used: an exchange was neither finished nor undone.
type InterruptedError struct {
	Module string
	Err    error // why even that is not certain; or nil
}

func (e *InterruptedError) Error() string {
	text := fmt.Sprintf("a restore in place of module %s was interrupted, and is not put right yet", e.Module)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

func (e *InterruptedError) Unwrap() error { return e.Err }

// Interrupted returns an InterruptedError, or nil. Where the journals may not be looked at, there are none of the caller's.
func Interrupted(paths config.Paths, module string) error {
	j, err := (Store{Dir: Dir(paths)}).Load(module)
	if err == nil && (j == nil || j.State != Exchanging) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return &InterruptedError{module, err}
}

// bootID names this boot, of a container, too: the kernel of one goes on when it is started anew, but its first process does not.
func bootID() string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	first, _ := os.ReadFile("/proc/1/stat")
	began := ""
	// proc_pid_stat(5): the name is in brackets and may hold anything; the start time is the 20th field after it.
	if fields := strings.Fields(string(first[bytes.LastIndexByte(first, ')')+1:])); len(fields) >= 20 {
		began = fields[19]
	}
	return strings.TrimSpace(string(kernel)) + " " + began
}

// Lock takes a module's lock, unless this process was started with it as its standard input, as a service is.
func Lock(paths config.Paths, id, user, group string) (release func(), err error) {
	path := lock.ModulePath(paths.Lock, id)
	var given, wanted unix.Stat_t
	if unix.Fstat(0, &given) == nil && unix.Lstat(path, &wanted) == nil && given.Dev == wanted.Dev && given.Ino == wanted.Ino &&
		unix.Flock(0, unix.LOCK_EX|unix.LOCK_NB) == nil {
		return func() {}, nil
	}
	held, err := Take(paths, id, user, group, "restore")
	if err != nil {
		return nil, err
	}
	return func() { held.Release() }, nil
}

// Take takes a module's lock, for a restore or what else the holder says.
func Take(paths config.Paths, id, user, group, holder string) (*lock.Lock, error) {
	path := lock.ModulePath(paths.Lock, id)
	if err := lock.EnsureDir(paths.Lock); err != nil {
		return nil, err
	}
	if u, err := module.LookupUser(user, group); err == nil && os.Geteuid() == 0 { // at boot, users may not be known yet
		if err := lock.Prepare(path, int(u.UID), int(u.GID)); err != nil {
			return nil, err
		}
	}
	held, err := lock.TryExclusive(path, holder)
	var busy *lock.HeldError
	if errors.As(err, &busy) {
		return nil, fmt.Errorf("module %s is in use: %w", id, err)
	}
	return held, err
}
