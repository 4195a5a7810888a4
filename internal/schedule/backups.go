package schedule

import (
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

// BackupEntry is one backup as list-backups shows it.
type BackupEntry struct {
	ID          string         `json:"id"`
	Name        string         `json:"name"`
	Enabled     bool           `json:"enabled"`
	Schedule    []string       `json:"schedule"`
	Destination string         `json:"destination"`
	Verdict     status.Outcome `json:"verdict"` // of the last run; "unknown" when none has ended
	LastRun     time.Time      `json:"last_run,omitzero"`
	LastSuccess time.Time      `json:"last_success,omitzero"`
	Running     bool           `json:"running"`
	Error       string         `json:"error,omitempty"` // why the last run iterated nothing
	Modules     []ModuleEntry  `json:"modules"`
}

// ModuleEntry is one module of a backup.
type ModuleEntry struct {
	ID          string         `json:"id"`
	UIName      string         `json:"ui_name,omitempty"`
	Type        string         `json:"type,omitempty"`
	Verdict     status.Outcome `json:"verdict"`
	Error       string         `json:"error,omitempty"`
	SizeBytes   uint64         `json:"size_bytes"`
	Files       uint64         `json:"files"`
	Snapshots   int            `json:"snapshots"`
	LastSuccess time.Time      `json:"last_success,omitzero"`
}

// BackupList is what list-backups shows.
type BackupList struct {
	Backups   []BackupEntry    `json:"backups"`
	Uncovered []string         `json:"uncovered_modules"` // modules that no enabled backup saves
	Problems  []config.Problem `json:"-"`                 // errors of the configuration
}

// Backups lists the backups of the configuration with what the records say of them. It needs no manager.
func (s *Scheduler) Backups() BackupList {
	cfg := s.Load()
	list := BackupList{Backups: []BackupEntry{}, Uncovered: cfg.Uncovered(), Problems: cfg.Errors()}
	if list.Uncovered == nil {
		list.Uncovered = []string{}
	}
	store := s.store()
	for _, id := range cfg.BackupIDs() {
		b := cfg.Backups[id]
		entry := BackupEntry{
			ID: id, Name: b.Name, Enabled: b.Enabled, Schedule: b.Schedule, Destination: b.Destination,
			Modules: []ModuleEntry{},
		}
		var rec *status.Backup
		if entry.Verdict, rec = s.verdict(id); rec != nil {
			entry.LastRun, entry.LastSuccess, entry.Error = rec.LastRun.Start, rec.LastSuccess, rec.LastRun.Error
		}
		marker, err := store.Running(id)
		entry.Running = err == nil && (rec == nil || marker.ID != rec.LastRun.ID)
		for _, id := range b.Modules {
			entry.Modules = append(entry.Modules, s.module(cfg, b.ID, id))
		}
		list.Backups = append(list.Backups, entry)
	}
	return list
}

// module describes one module of a backup; what cannot be read of it is left out.
func (s *Scheduler) module(cfg *config.Config, backup, id string) ModuleEntry {
	entry := ModuleEntry{ID: id, Verdict: status.Unknown}
	if m := cfg.Modules[id]; m != nil {
		entry.UIName, entry.Type = m.UIName, m.Type
	}
	rec, err := s.store().Module(backup, id)
	if err != nil {
		return entry
	}
	entry.Verdict, entry.Error = rec.Outcome, rec.Error
	entry.SizeBytes, entry.Files = rec.SizeBytes, rec.Files
	entry.Snapshots, entry.LastSuccess = len(rec.Snapshots), rec.LastSuccess
	return entry
}
