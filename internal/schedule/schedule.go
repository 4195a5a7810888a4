// Package schedule does what schedule-backup does: it turns the backups of a configuration into timers of the service
// manager, and tells how they fare.
//
// It decides first and acts then. Want computes from the configuration which timers there should be (wanted.go);
// units.Diff holds them against those that are loaded; units.Apply carries the difference out (reconcile.go). What a
// backup that is gone leaves in the manager and among node_exporter's textfiles goes with its timer (metrics.go).
// Listings (timers.go, backups.go) and Check (check.go) only read. Nothing here prints.
//
// What must hold: a timer that is as wanted is not touched; a unit that is not ours is not touched; a mistake in one
// backup changes nothing for the others; and as long as a file cannot be read, no timer goes that may be of that file.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
	"sdbackup/internal/units"
)

// Manager is what this package needs of a service manager; *units.Conn is one.
type Manager interface {
	Timers(ctx context.Context) ([]units.LoadedTimer, error)
	Apply(ctx context.Context, change units.Change) map[string]error
	ResetFailed(ctx context.Context, backup string) error
	Close()
}

// Scheduler schedules the backups of one configuration. New makes one for a real system.
type Scheduler struct {
	Paths  config.Paths
	Log    *slog.Logger
	Now    func() time.Time
	Zone   *time.Location // in which the manager reads expressions that name no zone
	IsRoot bool

	Load      func() *config.Config
	Dial      func(ctx context.Context) (Manager, error)
	Calendars func(ctx context.Context, expressions []string, iterations int) ([]units.Calendar, error)
	Offset    func(backup string, window time.Duration) (time.Duration, error)

	// Recover records the runs that died before their verdict; nil leaves them.
	Recover func(ctx context.Context, cfg *config.Config) error
}

// New returns the Scheduler of the configuration at paths.
func New(paths config.Paths, log *slog.Logger) *Scheduler {
	return &Scheduler{
		Paths:  paths,
		Log:    log,
		Now:    time.Now,
		Zone:   time.Local,
		IsRoot: os.Geteuid() == 0,
		Load: func() *config.Config {
			return config.Load(paths.Config, units.CheckProperty)
		},
		Dial: func(context.Context) (Manager, error) {
			// Not with the caller's context: the connection ends with it, and what was begun must be carried out.
			conn, err := units.Dial(context.Background(), paths.User)
			if err != nil {
				return nil, err
			}
			return conn, nil
		},
		Calendars: units.Calendars,
		Offset: func(backup string, window time.Duration) (time.Duration, error) {
			machine, err := units.MachineID()
			if err != nil {
				return 0, fmt.Errorf("the offset of a backup is derived from the machine id: %w", err)
			}
			return units.Offset(machine, backup, window), nil
		},
	}
}

// ErrNotRoot is the answer to whoever wants units of the system manager changed and is not root.
var ErrNotRoot = errors.New("only root may change units of the system manager")

// mayChange tells whether this process may change units, as far as that can be known beforehand.
func (s *Scheduler) mayChange() error {
	if s.Paths.User || s.IsRoot {
		return nil
	}
	return ErrNotRoot
}

// store is where the records are.
func (s *Scheduler) store() status.Store { return status.Store{Dir: s.Paths.State} }

// want judges every expression of the configuration in one process and computes the timers.
func (s *Scheduler) want(ctx context.Context, cfg *config.Config) (Wanted, error) {
	calendars, err := s.judge(ctx, Expressions(cfg), 1)
	if err != nil {
		return Wanted{}, err
	}
	return Want(cfg, calendars, s.Offset), nil
}

// judge has systemd judge expressions, and returns its answers by expression.
func (s *Scheduler) judge(ctx context.Context, expressions []string, iterations int) (map[string]units.Calendar, error) {
	if len(expressions) == 0 {
		return nil, nil
	}
	list, err := s.Calendars(ctx, expressions, iterations)
	if err != nil {
		return nil, fmt.Errorf("judge OnCalendar expressions: %w", err)
	}
	calendars := make(map[string]units.Calendar, len(list))
	for _, c := range list {
		calendars[c.Expression] = c
	}
	return calendars, nil
}

// verdict returns the last verdict on record; status.Unknown where there is none, "" where it cannot be read.
func (s *Scheduler) verdict(id string) (status.Outcome, *status.Backup) {
	rec, err := s.store().Backup(id)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return status.Unknown, nil
	case err != nil:
		return "", nil
	}
	return rec.LastRun.Outcome, rec
}

// recordFile is where the record of a backup as a whole is kept.
func (s *Scheduler) recordFile(id string) string {
	return filepath.Join(s.Paths.State, "status", id+".json")
}
