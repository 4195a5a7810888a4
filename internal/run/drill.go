package run

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

// A drill is a run whose only module is restored, not saved. Which backup's snapshots it restores is here; what it does is
// internal/restore's.

// job is the backup or whatever else runs by that ID; nil where there is none. A drill is of the backup whose turn it is, or was in that run.
func (r *Runner) job(id, run string) *config.Backup {
	b := r.Config.Job(id)
	if b == nil || !b.IsDrill() {
		return b
	}
	turns := r.Config.DrillTurns(b.Modules[0])
	of := turns[0]
	if rec, err := r.Store.Module(id, b.Modules[0]); err == nil {
		if rec.Run == run && rec.Drill != nil && slices.Contains(turns, rec.Drill.Backup) {
			of = rec.Drill.Backup
		} else {
			// The one that has not had its turn for longest, however that ended: none waits because of another one.
			of = slices.MinFunc(turns, func(a, b string) int {
				return cmp.Or(rec.Drills[a].End.Compare(rec.Drills[b].End), slices.Index(turns, a)-slices.Index(turns, b))
			})
		}
	}
	return r.Config.Drill(b.Modules[0], of)
}

// unknown says of a job that the configuration does not know what it lacks.
func (r *Runner) unknown(id string) error {
	module, isDrill := config.DrillOf(id)
	backup, isCheck := config.JobOf(id)
	switch m := r.Config.Modules[module]; {
	case isDrill && m == nil:
		return unknownError(fmt.Sprintf("there is no module %s in the configuration", module))
	case isDrill && !m.HasDrill():
		return unknownError(fmt.Sprintf("module %s has no drill: there is no [module.%s.drill]", module, module))
	case isDrill:
		return unknownError(fmt.Sprintf("no enabled backup saves module %s, so there is nothing to restore for its drill", module))
	case isCheck && r.Config.Backups[backup] != nil:
		return unknownError(fmt.Sprintf("backup %s has no check: there is no [backup.%s.check]", backup, backup))
	}
	return unknownError(fmt.Sprintf("there is no backup %s; \"schedule-backup list-backups\" shows them", backup))
}

// unknownError is an ErrConfiguration that needs no more words: what was asked for is not in the configuration.
type unknownError string

func (e unknownError) Error() string { return string(e) }

// Is implements the interface of errors.Is.
func (unknownError) Is(target error) bool { return target == ErrConfiguration }

// turn is what a result says of a drill that did not begin; nil of any other job.
func turn(b *config.Backup) *status.Drill {
	if !b.IsDrill() || b.Of == "" {
		return nil
	}
	return &status.Drill{Backup: b.Of, Destination: b.Destination}
}

// drilled is the record of drills by backup, with the one that ended.
func drilled(last map[string]status.Drilled, r status.Result) map[string]status.Drilled {
	if r.Drill == nil {
		return last
	}
	all := map[string]status.Drilled{}
	for id, d := range last {
		all[id] = d
	}
	d := status.Drilled{Outcome: r.Outcome, Start: r.Start, End: r.End, LastSuccess: all[r.Drill.Backup].LastSuccess}
	if r.Outcome == status.Success {
		d.Files, d.SizeBytes, d.LastSuccess = r.Files, r.SizeBytes, r.End
	}
	all[r.Drill.Backup] = d
	return all
}

// drillFolder is where a drill restores to: beside the caches, where nobody looks for data and nothing is backed up. "@" is in no ID.
func drillFolder(paths config.Paths, module string) string {
	return filepath.Join(paths.Cache, config.DrillID(module))
}

// MakeDrillFolder makes the folder of a module's drill, for the caller alone, anew. Whoever holds the drill's lock may do so.
func MakeDrillFolder(paths config.Paths, module string) (string, error) {
	if err := RemoveDrillFolder(paths, module); err != nil {
		return "", err
	}
	if err := os.MkdirAll(paths.Cache, 0o755); err != nil {
		return "", fmt.Errorf("make the folder of caches: %w", err)
	}
	if err := os.Chmod(paths.Cache, 0o755); err != nil { // whatever the umask: users must get through to their own
		return "", fmt.Errorf("make the folder of caches: %w", err)
	}
	folder := drillFolder(paths, module)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", fmt.Errorf("make the folder of the drill: %w", err)
	}
	return folder, nil
}

// RemoveDrillFolder removes whatever a drill of the module has left.
func RemoveDrillFolder(paths config.Paths, module string) error {
	folder := drillFolder(paths, module)
	err := os.RemoveAll(folder)
	if errors.Is(err, fs.ErrPermission) { // folders that even their owner may not change, when that is not root
		_ = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil //nolint:nilerr // what cannot be removed is told below
		})
		err = os.RemoveAll(folder)
	}
	if err != nil {
		return fmt.Errorf("remove the folder of the drill: %w", err)
	}
	return nil
}

// Fate is how the service manager says, to an ExecStopPost=, that the main process of the service ended, systemd.exec(5); "" where it does not.
func Fate(getenv func(string) string) string {
	code, number := getenv("EXIT_CODE"), getenv("EXIT_STATUS")
	if code == "" {
		return ""
	}
	return fmt.Sprintf("result %s, %s %s", getenv("SERVICE_RESULT"), code, number)
}
