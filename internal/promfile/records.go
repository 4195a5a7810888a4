package promfile

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

// Update makes the file of a backup in dir from its records. A run of it, of its check, or of a drill may do the same at any moment, and must not find
// its verdict replaced by an older one; so when the records have changed meanwhile, it is made once more.
func Update(dir string, store status.Store, cfg *config.Config, b *config.Backup, next time.Time, log *slog.Logger) error {
	for {
		before := state(store, b)
		if err := Write(dir, read(store, cfg, b, next, log)); err != nil {
			return err
		}
		if state(store, b) == before {
			return nil
		}
	}
}

// read makes the sample from the records. One that cannot be read is as good as none, and logged.
func read(store status.Store, cfg *config.Config, b *config.Backup, next time.Time, log *slog.Logger) Sample {
	failed := func(what string, err error) {
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			log.Error("read the record of "+what, "backup", b.ID, "error", err)
		}
	}
	records := func(job string) (*status.Backup, map[string]*status.Module) {
		rec, err := store.Backup(job)
		failed(job, err)
		modules := map[string]*status.Module{}
		for _, id := range b.Modules {
			m, err := store.Module(job, id)
			if failed("module "+id, err); err == nil {
				modules[id] = m
			}
		}
		return rec, modules
	}
	rec, modules := records(b.ID)
	// The marker stays for a moment after the verdict, while hooks are called.
	marker, err := store.Running(b.ID)
	running := err == nil && (rec == nil || marker.ID != rec.LastRun.ID)
	s := FromRecords(b.ID, b.Name, rec, modules, running, next)
	if b.HasCheck() {
		s.HasCheck = true
		s.Check, s.Checks = records(config.CheckID(b.ID))
	}
	for _, id := range b.Modules {
		if m := cfg.Modules[id]; m == nil || !m.HasDrill() {
			continue
		}
		job := config.DrillID(id)
		rec, err := store.Backup(job)
		failed(job, err)
		m, err := store.Module(job, id)
		failed("module "+id, err)
		s.drill(id, rec, m)
	}
	return s
}

// state identifies the state of the records that change whenever a run begins or ends. They are replaced, never written in place.
func state(store status.Store, b *config.Backup) string {
	paths := []string{
		filepath.Join("status", b.ID+".json"), filepath.Join("running", b.ID+".json"), filepath.Join("status", config.CheckID(b.ID)+".json"),
	}
	for _, id := range b.Modules {
		paths = append(paths, filepath.Join("status", config.DrillID(id)+".json"))
	}
	found := ""
	for _, path := range paths {
		if info, err := os.Stat(filepath.Join(store.Dir, path)); err == nil {
			found += fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
		}
		found += ";"
	}
	return found
}
