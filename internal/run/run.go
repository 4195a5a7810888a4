// Package run does what run-backup does: one run of a backup from its lock to its verdict.
//
// A run takes the backup's lock, puts a marker on disk, saves every module (queue.go), writes the verdict, the history and
// the metrics (verdict.go), tells hooks and pings (announce.go), and only then takes the marker away. Whatever kills it on
// that way, the marker is found later and the run is recorded as failed (recover.go). What an attempt to save a module does
// is internal/module's; here it is only started, in a transient unit or as a child process (attempt.go).
package run

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/lock"
	"sdbackup/internal/status"
)

// Runner runs backups of one configuration.
type Runner struct {
	Config *config.Config
	Paths  config.Paths
	Store  status.Store
	Start  Starter // of attempts
	Log    *slog.Logger
	Now    func() time.Time
	Getenv func(string) string

	Version  string                                          // of this program, for the node's copy
	Init     bool                                            // missing repositories may be made although the records know them
	Next     func(context.Context, *config.Backup) time.Time // next elapse of its timer; zero: unknown
	Leftover func(ctx context.Context, backup string) error  // stops what a dead run left behind
	Status   func(string)                                    // one line on how far the run is
	Progress Progress                                        // for a terminal; nil: nobody watches
}

// Progress shows how far modules are.
type Progress interface {
	Update(module string, percent float64, done, total uint64) // percent from 0 to 100, the rest in bytes
	Remove(module string)                                      // its attempt has ended
}

// Errors that Backup returns beside those of the system; all but ErrRunning come with a verdict on disk.
var (
	ErrRunning       = errors.New("this backup is already running")
	ErrConfiguration = errors.New("the configuration has errors")
)

// lockName is the name of the lock of a whole backup. "@" is in no ID, so that it can never be a module's.
func lockName(backup string) string { return "backup@" + backup + ".lock" }

// Backup runs the backup once and returns its verdict. An error means that nothing was iterated (ErrRunning,
// ErrConfiguration) or that the verdict could not be written; how modules fared is in the verdict only.
func (r *Runner) Backup(ctx context.Context, id string) (status.Run, error) {
	if r.Config.Job(id) == nil && !r.shouldExist(id) {
		return status.Run{}, r.unknown(id)
	}
	held, err := r.lock(id)
	if err != nil {
		return status.Run{}, err
	}
	defer held.Release()
	if err := r.recover(ctx, id, ""); err != nil {
		r.Log.Error("recording the run that died before this one failed", "backup", id, "error", err)
	}
	b := r.job(id, "")
	if b == nil {
		b = r.lost(id)
	}

	run := status.Run{ID: newID(), Backup: id, Name: b.Name, InvocationID: r.Getenv("INVOCATION_ID"), Start: r.Now()}
	log := r.Log.With("backup", id, "run", run.ID)
	if err := r.Store.Begin(running(run)); err != nil {
		return run, fmt.Errorf("backup %s: note that a run begins: %w", id, err)
	}
	_ = r.writeMetrics(ctx, log, b) // logged; the run goes on without
	log.Info(fmt.Sprintf("backup %s (%s) begins", id, b.Name), journal.Message(journal.RunStarted))
	pinged := r.pingStart(ctx, log, b)

	problem := r.problem(b)
	if problem == nil {
		run.NodeCopy = r.copyNode(ctx, log, b)
		run.Modules, run.Outcome = r.saveModules(ctx, log, b, run.ID)
		if run.NodeCopy != nil && run.NodeCopy.Outcome == status.Failed {
			run.Outcome = status.Worst(run.Outcome, status.Partial)
		}
	} else {
		run.Outcome = status.Failed
		run.Error = problem.Error()
	}
	if ctx.Err() != nil {
		run.Outcome = status.Failed // stopped: whatever was saved, it was not everything
		run.Error = fmt.Sprintf("stopped: %v", context.Cause(ctx))
	}
	run.End = r.Now()
	<-pinged // the end must not overtake the start

	// The verdict must be told although the run was cancelled.
	return run, errors.Join(problem, r.conclude(context.WithoutCancel(ctx), log, b, run))
}

// lock takes the backup's lock, ErrRunning when another run has it.
func (r *Runner) lock(id string) (*lock.Lock, error) {
	if err := lock.EnsureDir(r.Paths.Lock); err != nil {
		return nil, err
	}
	held, err := lock.TryExclusive(filepath.Join(r.Paths.Lock, lockName(id)), id)
	if busy := (*lock.HeldError)(nil); errors.As(err, &busy) {
		return nil, fmt.Errorf("backup %s: %w (process %d, since %s)", id, ErrRunning, busy.PID, busy.Since.Format(time.DateTime))
	}
	return held, err
}

// problem is what makes it impossible to iterate the modules at all; nil when nothing does.
func (r *Runner) problem(b *config.Backup) error {
	var lines []string
	id := b.ID
	if r.Config.Job(id) == nil {
		lines = append(lines, "backup "+id+" is not in what could be read of the configuration")
		for _, p := range r.Config.Errors() {
			if p.Kind == config.KindFile {
				lines = append(lines, p.String())
			}
		}
	}
	for _, p := range r.Config.BackupErrors(cmp.Or(b.Of, id)) {
		lines = append(lines, p.String())
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrConfiguration, strings.Join(lines, "; "))
}

// shouldExist tells whether a backup that the configuration does not name was, or may be, one: it has records, or a file
// could not be read that may well define it. Its run then fails on record; a mistyped ID leaves no trace.
func (r *Runner) shouldExist(id string) bool {
	if _, err := r.Store.Backup(id); err == nil {
		return true
	}
	of, isDrill := config.DrillOf(id)
	if !isDrill {
		of, _ = config.JobOf(id)
	}
	if !config.ValidID(of) {
		return false
	}
	for _, p := range r.Config.Errors() {
		if p.Kind == config.KindFile {
			return true
		}
	}
	return false
}

// lost stands for a backup that the configuration no longer tells anything about.
func (r *Runner) lost(id string) *config.Backup {
	b := &config.Backup{ID: id, Name: "Backup " + id}
	if rec, err := r.Store.Backup(id); err == nil && rec.LastRun.Name != "" {
		b.Name = rec.LastRun.Name
	}
	return b
}

func running(run status.Run) status.Running {
	return status.Running{
		ID: run.ID, Backup: run.Backup, Name: run.Name, InvocationID: run.InvocationID, PID: os.Getpid(), Start: run.Start,
	}
}

// newID returns 128 random bits in hex, as systemd writes its IDs.
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return hex.EncodeToString(b[:])
}
