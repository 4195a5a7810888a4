// Package module does what module-backup does: one attempt to save one module.
//
// It runs as the module's own user, under the module's lock: the dump hook, the dumps, restic, the cleanup hook, and then
// retention. The cleanup hook runs on every way out, signals included. Whatever happens, the attempt has a result.
package module

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/lock"
	"sdbackup/internal/restic"
	"sdbackup/internal/status"
)

// Reasons for which an attempt is stopped from within.
var (
	errTimeout    = errors.New("it took longer than its timeout")
	errNoProgress = errors.New("it made no progress for longer than its no-progress-timeout")
)

// attempt is the state of Run.
type attempt struct {
	Plan
	log         *slog.Logger
	progress    func(Progress)
	repository  restic.Repository
	files       *filebackup.Config // of engine files; else nil
	result      *status.Result
	initialised bool // the repository was made by this attempt
	unlocked    bool // a stale lock was looked for, once an attempt
}

// Run makes the attempt. Its context's end stops it in order. Progress may be nil.
func Run(ctx context.Context, plan Plan, progress func(Progress), log *slog.Logger) (result status.Result) {
	result = status.Result{
		Module: plan.Module, Backup: plan.Backup, Run: plan.Run, Outcome: status.Failed, Start: time.Now(), Repository: plan.Repository,
	}
	if plan.Saved != nil { // by an earlier attempt of this run
		result = *plan.Saved
		result.Outcome, result.Error, result.Hint, result.Retry, result.Retention, result.StaleLocksRemoved = status.Failed, "", "", false, nil, 0
		result.RetentionDue = false
	}
	defer func() { result.End = time.Now() }()
	if progress == nil {
		progress = func(Progress) {}
	}
	a := &attempt{Plan: plan, log: log.With("backup", plan.Backup, "module", plan.Module, "run", plan.Run), progress: progress, result: &result}
	a.fail(a.run(ctx))
	return result
}

// run is the story of an attempt.
func (a *attempt) run(ctx context.Context) error {
	held, err := lock.TryExclusive(a.LockFile, a.Backup)
	if err != nil {
		return err
	}
	defer held.Release()
	if a.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.Timeout, errTimeout)
		defer cancel()
	}
	closeSecrets, err := a.open(held)
	if err != nil {
		return err
	}
	defer closeSecrets()
	switch {
	case a.Plan.Check != nil && a.files != nil:
		return a.checkVersions(ctx)
	case a.Plan.Check != nil:
		return a.check(ctx)
	}
	if a.Saved == nil {
		if err := a.save(ctx); err != nil {
			return err
		}
	}
	if a.result.Snapshot == "" && len(a.result.Dumps) == 0 {
		return errors.New("nothing was saved")
	}
	retentionErr := a.retain(ctx)
	switch {
	case retentionErr != nil:
		return fmt.Errorf("the snapshot is saved, but retention failed: %w", retentionErr)
	case !a.result.Partial:
		a.result.Outcome = status.Success
	case a.OnPartial == "warn":
		a.result.Outcome = status.Partial
	default:
		return fmt.Errorf("%d files could not be read (on-partial = \"fail\"): %s", a.result.UnreadableCount, strings.Join(first(a.result.Unreadable, 3), ", "))
	}
	return nil
}

// save makes the snapshots. The application is dumped before and cleaned up after, whatever comes between.
func (a *attempt) save(ctx context.Context) (err error) {
	if err := a.checkSources(); err != nil {
		return err
	}
	if a.CleanupState != nil {
		defer func() {
			// The cancelled context of a stopped attempt must not stop the cleaning up.
			a.progress(Progress{Phase: "cleanup", Percent: 100})
			cleanupCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
			defer cancel()
			if hookErr := a.hook(cleanupCtx, "cleanup-state", a.CleanupState); hookErr != nil {
				err = errors.Join(err, hookErr)
			}
		}()
	}
	if a.DumpState != nil {
		a.progress(Progress{Phase: "dump"})
		if err := a.hook(ctx, "dump-state", a.DumpState); err != nil {
			return err
		}
	}
	if a.files != nil {
		return a.saveVersion(ctx)
	}
	for _, d := range a.Dumps {
		if err := a.saveDump(ctx, d); err != nil {
			return err
		}
	}
	if len(a.Include) == 0 {
		return nil
	}
	return a.saveFiles(ctx)
}

func (a *attempt) saveFiles(ctx context.Context) error {
	source := restic.Source{Host: a.Node, Tags: a.tags("", true), Dir: a.Directory, Exclude: Exclude(a.Exclude)}
	for _, p := range a.Include {
		// restic saves a symbolic link that it is given as a link; what is meant is what it leads to.
		path, err := filepath.EvalSymlinks(a.absolute(p))
		if err != nil {
			return fmt.Errorf("source %s: %w", a.absolute(p), err)
		}
		source.Paths = append(source.Paths, path)
	}
	var sum restic.Summary
	err := a.withRepository(ctx, func(ctx context.Context) (err error) {
		ctx, alive, stop := watch(ctx, a.NoProgressTimeout)
		defer stop()
		sum, err = a.repository.Backup(ctx, source, func(p restic.Progress) {
			alive(p.BytesDone + p.FilesDone)
			a.progress(Progress{Phase: "backup", Percent: p.Percent, BytesDone: p.BytesDone, BytesTotal: p.BytesTotal})
		})
		return err
	})
	if err != nil {
		return err
	}
	a.saved(sum, "")
	a.result.Snapshot = sum.Snapshot
	a.result.Unreadable, a.result.UnreadableCount, a.result.Partial = sum.Unreadable, sum.UnreadableCount, sum.UnreadableCount > 0
	return nil
}

// saved adds a snapshot to the result.
func (a *attempt) saved(sum restic.Summary, dump string) {
	a.result.Files += sum.Files
	a.result.SizeBytes += sum.Bytes
	a.result.AddedBytes += sum.Added
	if a.result.Snapshots == nil {
		a.result.Snapshots = append(a.result.Snapshots, a.Snapshots...)
	}
	a.result.Snapshots = append(a.result.Snapshots, status.Snapshot{ID: sum.Snapshot, Time: time.Now(), Dump: dump})
}

// tags tell the snapshots of this module and backup apart; those of one dump are a group of their own. A new snapshot has its
// run's tag, too.
func (a *attempt) tags(dump string, run bool) []string {
	group := "files"
	if dump != "" {
		group = "dump=" + dump
	}
	tags := []string{"module=" + a.Module, "backup=" + a.Backup, group}
	if run {
		tags = append(tags, "run="+a.Run)
	}
	return tags
}

// withRepository calls f, which uses the repository, and again after what can be mended has been: a repository that is not
// there yet is made, and a stale lock removed.
func (a *attempt) withRepository(ctx context.Context, f func(context.Context) error) error {
	err := error(nil)
	if a.isMissing() {
		err = restic.ErrNoRepository // spares a call that can only fail
	} else {
		err = f(ctx)
	}
	if errors.Is(err, restic.ErrNoRepository) {
		if a.Plan.Check != nil {
			return fmt.Errorf("there is no repository %s to check", a.Plan.Repository)
		}
		if !a.MayInit {
			return fmt.Errorf("the repository %s is gone, and the records know that there was one", a.Plan.Repository)
		}
		a.log.Info("the repository does not exist yet: making it")
		if err := a.repository.Init(ctx); err != nil {
			return fmt.Errorf("make the repository: %w", err)
		}
		a.initialised = true
		err = f(ctx)
	}
	if errors.Is(err, restic.ErrInterrupted) {
		a.unlockStopped(context.WithoutCancel(ctx))
		return err
	}
	var locked *restic.LockedError
	if !errors.As(err, &locked) || a.unlocked {
		return err
	}
	// While we hold the module's lock nobody else of this node works on the repository: the lock is of a killed restic, or
	// of another host's. restic's unlock removes only what it takes for stale.
	host, hostErr := os.Hostname()
	if hostErr != nil || locked.OwnerLives(host) {
		return err
	}
	a.unlocked = true
	if unlockErr := a.repository.Unlock(ctx); unlockErr != nil {
		return errors.Join(err, unlockErr)
	}
	err = f(ctx)
	if !errors.As(err, &locked) {
		a.result.StaleLocksRemoved++
		a.log.Warn("removed a stale lock of restic's from the repository", journal.Message(journal.StaleLockRemoved))
	}
	return err
}

// isMissing tells whether the repository is a local one that is known not to exist.
func (a *attempt) isMissing() bool {
	folder, local := (&config.Destination{Repository: a.Plan.Repository}).Local()
	if !local || a.initialised {
		return false
	}
	_, err := os.Stat(filepath.Join(folder, "config"))
	return errors.Is(err, fs.ErrNotExist)
}

// unlockTimeout bounds what a stopped attempt does about a lock that restic left.
const unlockTimeout = 20 * time.Second

// unlockStopped removes the lock of a restic that was stopped before it knew that it had one: for a moment after it has made
// its lock a signal ends it without cleaning up.
func (a *attempt) unlockStopped(ctx context.Context) {
	if folder, local := (&config.Destination{Repository: a.Plan.Repository}).Local(); local {
		if names, err := os.ReadDir(filepath.Join(folder, "locks")); err == nil && len(names) == 0 {
			return
		}
	}
	ctx, cancel := context.WithTimeout(ctx, unlockTimeout)
	defer cancel()
	if err := a.repository.Unlock(ctx); err != nil {
		a.log.Warn("look for a lock that the stopped restic left: " + err.Error())
	}
}

// open gives restic the secrets by inherited descriptors, and the lock: while a restic runs, its module stays locked.
func (a *attempt) open(held *lock.Lock) (func(), error) {
	if a.Plan.Files != nil {
		return func() {}, a.openBucket()
	}
	a.repository = restic.Repository{Location: a.Plan.Repository, CacheDir: a.CacheDir, Log: a.log}
	if a.CACert != "" {
		a.repository.CACert = credentialPath(a.CACert)
	}
	if err := os.MkdirAll(a.CacheDir, 0o700); err != nil {
		return nil, fmt.Errorf("make restic's cache folder: %w", err)
	}
	a.repository.Inherit = []*os.File{held.File()}
	closeAll := func() {
		for _, f := range a.repository.Inherit[1:] {
			f.Close()
		}
	}
	password, err := a.pass(a.PasswordFile, &a.repository.PasswordFile)
	if err != nil {
		return nil, err
	}
	repository := ""
	if a.RepositoryFile != "" {
		repository, err = a.pass(a.RepositoryFile, &a.repository.LocationFile)
	}
	if a.EnvironmentFile != "" && err == nil {
		a.repository.Environment, err = ReadEnvironment(credentialPath(a.EnvironmentFile))
	}
	if err != nil {
		closeAll()
		return nil, err
	}
	a.repository.Secrets = Masks(password, repository, a.repository.Environment)
	return closeAll, nil
}

// pass lets restic inherit a secret, notes where it finds it, and returns it.
func (a *attempt) pass(credential string, path *string) (string, error) {
	name := credentialPath(credential)
	data, err := readSecret(name)
	if err != nil {
		return "", err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("read a secret: %w", err)
	}
	a.repository.Inherit = append(a.repository.Inherit, f)
	*path = fmt.Sprintf("/proc/self/fd/%d", 2+len(a.repository.Inherit))
	return string(data), nil
}

func credentialPath(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), path)
}

// fail makes the result of the error that ended the attempt: one sentence, what to do about it, and whether another attempt
// may do better.
func (a *attempt) fail(err error) {
	if err == nil {
		return
	}
	r := a.result
	r.Error = err.Error()
	var held *lock.HeldError
	var locked *restic.LockedError
	switch {
	case errors.As(err, &held):
		r.Outcome = status.Conflict
		r.Error = fmt.Sprintf("module %s is already being backed up: %v", a.Module, held)
		return
	case errors.As(err, &locked):
		r.Retry = true
		r.Hint = `if nobody works on the repository, remove the lock with "restic unlock"`
	case errors.Is(err, restic.ErrTransient), errors.Is(err, filebackup.ErrTransient), errors.Is(err, errNoProgress):
		r.Retry = true
	case a.Gateway && strings.Contains(r.Error, "unsupported protocol scheme"):
		r.Hint = "restic reaches a unix socket from version 0.17 on: install a newer one, or give [gateway] a url of http"
	case errors.Is(err, restic.ErrWrongPassword):
		r.Hint = "compare the destination's password-file with the password that the repository was made with"
	case errors.Is(err, restic.ErrMissingProgram):
		r.Hint = "install it, or see that it is in PATH"
	case errors.Is(err, fs.ErrPermission):
		r.Hint = "see that the module's user may read it, or set read-all = true"
	case strings.Contains(r.Error, "is gone, and the records"):
		r.Hint = "is its disk mounted? If the repository was removed on purpose: run-backup --init " + a.Backup
	}
	r.Outcome = status.Failed
}

// watch returns a context that ends when the number given to alive stands still for longer than the limit; 0 is none.
func watch(ctx context.Context, limit time.Duration) (_ context.Context, alive func(uint64), stop func()) {
	if limit <= 0 {
		return ctx, func(uint64) {}, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(limit, func() { cancel(errNoProgress) })
	var mu sync.Mutex
	var last uint64
	return ctx, func(n uint64) {
		mu.Lock()
		defer mu.Unlock()
		if n != last {
			last = n
			timer.Reset(limit)
		}
	}, func() { timer.Stop(); cancel(nil) }
}

func first(list []string, n int) []string {
	if len(list) > n {
		return append(append([]string{}, list[:n]...), "...")
	}
	return list
}

// NewPlan makes the plan of an attempt. rec is what the records know of the module in this backup. Where the secrets are is
// for whoever starts the attempt to say; the plan names them as credentials.
func NewPlan(cfg *config.Config, paths config.Paths, b *config.Backup, m *config.Module, run string, rec *status.Module) Plan {
	d := cfg.Destinations[b.Destination]
	p := Plan{
		Run: run, Backup: b.ID, Module: m.ID, Node: cfg.Node.Name,
		Repository:   RepositoryOf(cfg, d, m),
		PasswordFile: PasswordCredential,
		CacheDir:     filepath.Join(paths.Cache, cacheName(d, m)),
		LockFile:     lock.ModulePath(paths.Lock, m.ID),
		Directory:    m.Directory, Include: m.Include, Exclude: m.Exclude,
		DumpState: m.DumpState, CleanupState: m.CleanupState, Dumps: m.Dumps,
		RequireMount: m.RequireMount, MinFiles: m.MinFiles, OnPartial: m.OnPartial,
		Retention: b.Retention, PruneInterval: b.PruneInterval, Timeout: b.Timeout, NoProgressTimeout: b.NoProgressTimeout,
		MayInit: true,
	}
	if d.Gateway {
		p.Gateway, p.AddOnly, p.CACert = true, true, cfg.Gateway.CAFile
	} else if d.EnvironmentFile != "" {
		p.EnvironmentFile = EnvironmentCredential
	}
	if m.Engine == config.EngineFiles && d.Bucket != nil {
		p.Files = &Files{*d.Bucket, path.Join(m.Type, m.UUID), m.Pipeline}
	}
	if b.IsCheck() {
		p.MayInit, p.Check = false, nextCheck(b.Check, rec)
		return p
	}
	if rec != nil && rec.Repository == p.Repository { // of another repository they tell nothing
		p.Snapshots, p.LastPrune, p.Unclean = rec.Snapshots, rec.LastPrune, rec.Unclean
		p.MayInit = rec.LastSuccess.IsZero() && len(rec.Snapshots) == 0
	}
	return p
}

// RepositoryOf returns the module's repository at the destination as restic reaches it, without a secret.
func RepositoryOf(cfg *config.Config, d *config.Destination, m *config.Module) string {
	if d.Gateway {
		return cfg.Gateway.RepositoryAt(d, m, "")
	}
	return d.RepositoryOf(m)
}

// cacheName is the folder of a repository's cache, below that of all caches.
func cacheName(d *config.Destination, m *config.Module) string {
	return filepath.Join(d.ID, m.Type+"-"+m.UUID)
}
