package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/exchange"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
	"sdbackup/internal/units"
)

// stopTimeout is what a module has from SIGTERM to SIGKILL: restic removes its lock in that time, and the cleanup hook runs.
const stopTimeout = 2 * time.Minute

// maxResultBytes bounds what is read of a module's result.
const maxResultBytes = 16 << 20

// Starter makes one attempt to save a module, in whatever way processes are started here.
type Starter interface {
	// Attempt returns when nothing of the attempt runs any more. When ctx is done it stops the attempt in order first.
	Attempt(ctx context.Context, job Job, log *slog.Logger, progress func(module.Progress)) Attempt
}

// Job is an attempt to be made.
type Job struct {
	Plan        module.Plan
	Module      *config.Module
	Destination *config.Destination
	Backup      *config.Backup
	Gateway     config.Gateway
}

// Attempt is what an attempt came to, and what the manager accounted for it; nil where it does not.
type Attempt struct {
	Result     status.Result
	CPU        *time.Duration
	MemoryPeak *uint64 // bytes, as are the others
	IORead     *uint64
	IOWrite    *uint64
	Unclean    bool // killed: restic could not clean up
}

func (a Attempt) cpuSeconds() float64 {
	if a.CPU == nil {
		return 0
	}
	return a.CPU.Seconds()
}

// asNode is the job with the node's rights, behind the gateway: as root, with a token that may remove. So goes what an attempt with the
// module's rights has to leave, and whatever does not read the module's files.
func (j Job) asNode() Job {
	m := *j.Module
	m.User, m.Group, m.ReadAll, m.RequireMount = "", "", false, nil
	j.Module = &m
	j.Plan.AddOnly, j.Plan.RequireMount = false, nil
	j.Plan.CacheDir += nodeCache
	return j
}

// nodeCache marks the cache of such jobs: root's files are of no use to the module.
const nodeCache = ".node"

// failed is an attempt that came to nothing; what an earlier one has saved stays told.
func (j Job) failed(start time.Time, err error) Attempt {
	r := status.Result{Module: j.Plan.Module, Backup: j.Plan.Backup, Run: j.Plan.Run, Start: start, Repository: j.Plan.Repository}
	if j.Plan.Saved != nil {
		r = *j.Plan.Saved
		r.RetentionDue = false
	}
	r.Outcome, r.Error, r.End = status.Failed, err.Error(), time.Now()
	if errors.As(err, new(*exchange.InterruptedError)) {
		r.Hint = "restore-backup recover " + j.Plan.Module
	}
	if errors.As(err, new(*gatewayError)) {
		r.Retry, r.Hint = true, "is its socket there? systemctl enable --now backup-gateway.socket"
	}
	return Attempt{Result: r}
}

// ByHand makes the attempt, and what is left of it to be done with the node's rights.
func ByHand(ctx context.Context, starter Starter, job Job, log *slog.Logger, progress func(module.Progress)) Attempt {
	attempt := starter.Attempt(ctx, job, log, progress)
	if !attempt.Result.RetentionDue || ctx.Err() != nil {
		return attempt
	}
	job.Plan.Saved = &attempt.Result
	return starter.Attempt(ctx, job.asNode(), log, progress)
}

// NoManager fails every attempt because the service manager cannot be reached: modules are never quietly run without their
// units' limits and sandbox.
type NoManager struct{ Err error }

// Attempt implements Starter.
func (s NoManager) Attempt(_ context.Context, job Job, _ *slog.Logger, _ func(module.Progress)) Attempt {
	a := job.failed(time.Now(), s.Err)
	a.Result.Hint = "where no systemd runs, use run-backup --no-units"
	return a
}

// Children runs module-backup as a child process with the module's credentials.
type Children struct {
	Exe   string // path of module-backup
	Paths config.Paths
}

// Attempt implements Starter.
func (s Children) Attempt(ctx context.Context, job Job, log *slog.Logger, progress func(module.Progress)) Attempt {
	start := time.Now()
	if err := prepare(job, s.Paths); err != nil {
		return job.failed(start, err)
	}
	u, err := module.LookupUser(job.Module.User, job.Module.Group)
	if err != nil {
		return job.failed(start, err)
	}
	if err := module.PrepareCache(job.Plan.CacheDir, u); err != nil {
		return job.failed(start, err)
	}
	secrets, forget, err := job.secrets(ctx, s.Paths)
	if err != nil {
		return job.failed(start, err)
	}
	defer forget()
	end, err := module.RunChild(ctx, module.Child{
		Exe: s.Exe, Plan: job.Plan, User: job.Module.User, Group: job.Module.Group, Secrets: secrets,
		StopTimeout: stopTimeout, Progress: progress, Log: log,
	})
	if err != nil {
		return job.failed(start, err)
	}
	return job.attempt(start, end.Output, end.ExitStatus, end.Death)
}

// Units runs module-backup in a transient service of its own.
type Units struct {
	Conn    *units.Conn
	Exe     string // path of module-backup
	Paths   config.Paths
	BindsTo string // the service that this run is; "": none, and modules notice by their socket alone when this process is gone
}

// Attempt implements Starter.
func (s Units) Attempt(ctx context.Context, job Job, log *slog.Logger, progress func(module.Progress)) Attempt {
	start := time.Now()
	if err := prepare(job, s.Paths); err != nil {
		return job.failed(start, err)
	}
	if err := module.CheckMounts(job.Plan.RequireMount); err != nil {
		return job.failed(start, err)
	}
	job.Plan.RequireMount = nil
	secrets, forget, err := job.secrets(ctx, s.Paths)
	if err != nil {
		return job.failed(start, err)
	}
	defer forget()
	ours, theirs, err := module.Socketpair()
	if err != nil {
		return job.failed(start, err)
	}
	defer ours.Close()
	output, stdout, err := os.Pipe()
	if err != nil {
		theirs.Close()
		return job.failed(start, fmt.Errorf("make a pipe for the module's result: %w", err))
	}
	defer output.Close()

	closeSocket, err := s.handOver(&secrets, units.ModuleServiceName(job.Plan.Backup, job.Plan.Module), log)
	if err != nil {
		theirs.Close()
		stdout.Close()
		return job.failed(start, err)
	}
	defer closeSocket()
	service, plan := s.service(job, secrets)
	service.Stdin, service.Stdout = theirs, stdout
	talk := make(chan error, 1)
	go func() { talk <- module.Converse(ours, plan, progress) }()
	result := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(io.LimitReader(output, maxResultBytes))
		_, _ = io.Copy(io.Discard, output) // what is too much must not block the module
		result <- data
	}()

	end, err := s.Conn.Run(ctx, service)
	// The manager has its own copies by now; with ours gone, the readers see the end when the module's are.
	theirs.Close()
	stdout.Close()
	ours.Close()
	if talkErr := <-talk; talkErr != nil && ctx.Err() == nil {
		log.Warn("talk to module-backup: " + talkErr.Error())
	}
	if err != nil {
		return job.failed(start, err)
	}
	a := job.attempt(start, <-result, end.ExitStatus, death(end))
	a.CPU, a.MemoryPeak, a.IORead, a.IOWrite = end.CPU, end.MemoryPeak, end.IORead, end.IOWrite
	return a
}

// service is the transient service of an attempt, and its plan as the service will find things.
func (s Units) service(job Job, secrets module.Secrets) (units.Service, module.Plan) {
	plan, m := job.Plan, job.Module
	service := units.Service{
		Name:        units.ModuleServiceName(plan.Backup, plan.Module),
		Description: fmt.Sprintf("Backup of module %s (%s)", plan.Module, job.Backup.Name),
		Argv:        []string{s.Exe, "save", "--plan", plan.Module, plan.Backup},
		User:        m.User, Group: m.Group,
		BindsTo:        s.BindsTo,
		LogFields:      []string{"BACKUP_ID=" + plan.Backup, "MODULE_ID=" + plan.Module, "RUN_ID=" + plan.Run},
		CacheDirectory: filepath.Join("sdbackup", strings.TrimPrefix(plan.CacheDir, s.Paths.Cache)),
		Credentials:    []units.Credential{{ID: module.PasswordCredential, Path: secrets.Password.Path, Encrypted: secrets.Password.Encrypted}},
		ReadAll:        m.ReadAll,
		Properties:     m.Resources,
		TimeoutStop:    stopTimeout,
	}
	if secrets.Environment.Path != "" {
		service.Credentials = append(service.Credentials, units.Credential{ID: module.EnvironmentCredential, Path: secrets.Environment.Path})
	}
	if secrets.CACert.Path != "" {
		service.Credentials = append(service.Credentials, units.Credential{ID: module.CACertCredential, Path: secrets.CACert.Path})
		plan.CACert = module.CACertCredential
	}
	if secrets.Repository.Path != "" {
		service.Credentials = append(service.Credentials, units.Credential{ID: module.RepositoryCredential, Path: secrets.Repository.Path})
		plan.RepositoryFile = module.RepositoryCredential
	}
	if m.Directory != "" { // dumps go there
		service.ReadWritePaths = append(service.ReadWritePaths, m.Directory)
	}
	if _, local := job.Destination.Local(); local && !job.Destination.Gateway && plan.Files == nil {
		repository := config.Destination{Repository: plan.Repository}
		folder, _ := repository.Local()
		service.ReadWritePaths = append(service.ReadWritePaths, folder)
	}
	service.ReadWritePaths = append(service.ReadWritePaths, plan.LockFile)
	for _, p := range m.Include {
		if !filepath.IsAbs(p) {
			p = filepath.Join(m.Directory, p)
		}
		service.ReadPaths = append(service.ReadPaths, p)
	}
	service.ReadPaths = append(service.ReadPaths, s.Exe)
	return service, plan
}

// attempt makes an Attempt of what module-backup printed and how it ended. What it printed counts only when the exit code
// agrees; a process that died, or printed nothing that can be read, has failed.
func (j Job) attempt(start time.Time, output []byte, exit int, death string) Attempt {
	if death != "" {
		a := j.failed(start, fmt.Errorf("module-backup %s", death))
		a.Unclean = true
		return a
	}
	var r status.Result
	if err := json.Unmarshal(bytes.TrimSpace(output), &r); err != nil {
		return j.failed(start, fmt.Errorf("module-backup ended with exit code %d and no result that can be read (%w): see its log", exit, err))
	}
	want := map[int]bool{0: r.Outcome == status.Success || r.Outcome == status.Partial, 3: r.Outcome == status.Conflict}
	agrees, known := want[exit]
	if known && !agrees || !known && r.Outcome != status.Failed {
		return j.failed(start, fmt.Errorf("module-backup ended with exit code %d but printed the result %q", exit, r.Outcome))
	}
	return Attempt{Result: r}
}

// prepare makes what only root can make for a module's user: the lock file, and the folder of a local repository.
func prepare(job Job, paths config.Paths) error {
	if err := exchange.Interrupted(paths, job.Plan.Module); err != nil {
		return err
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		u, err := module.LookupUser(job.Module.User, job.Module.Group)
		if err != nil {
			return err
		}
		uid, gid = int(u.UID), int(u.GID)
	}
	if err := lock.EnsureDir(paths.Lock); err != nil {
		return err
	}
	if err := lock.Prepare(job.Plan.LockFile, uid, gid); err != nil {
		return fmt.Errorf("prepare the lock of module %s: %w", job.Plan.Module, err)
	}
	if prefix, local := job.Destination.Local(); local && job.Plan.MayInit && !job.Destination.Gateway && job.Plan.Files == nil {
		return makeRepository(prefix, job.Module, uid, gid)
	}
	return nil
}

// makeRepository makes the folder <prefix>/<type>/<uuid> for the module's user. The prefix itself is never made: where it is
// missing, a disk is not mounted. Nothing is done through a symbolic link that leads out of the prefix.
func makeRepository(prefix string, m *config.Module, uid, gid int) error {
	root, err := os.OpenRoot(prefix)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the destination's folder %s does not exist: is its disk mounted?", prefix)
	}
	if err != nil {
		return fmt.Errorf("open the destination's folder: %w", err)
	}
	defer root.Close()
	err = root.Mkdir(m.Type, 0o755)
	if err == nil {
		err = root.Chmod(m.Type, 0o755) // whatever the umask: the module's user must get through
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the folder of type %s in %s: %w", m.Type, prefix, err)
	}
	repository := filepath.Join(m.Type, m.UUID)
	if err := root.Mkdir(repository, 0o700); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("make the repository's folder %s in %s: %w", repository, prefix, err)
	}
	if err := root.Lchown(repository, uid, gid); err != nil {
		_ = root.Remove(repository) // else the next run finds a folder that the module cannot use
		return fmt.Errorf("give the repository's folder %s to its module: %w", repository, err)
	}
	return nil
}

// death says how a service was killed, or that it was never executed; "" when it ended by itself.
func death(r units.ServiceResult) string {
	switch {
	case r.Result == "oom-kill":
		return "was killed: it ran out of memory (oom-kill); see MemoryMax= of the module's resources"
	case r.Result == "timeout":
		return "was killed: it did not stop in time"
	case r.Signal != 0:
		return "was killed (" + r.String() + ")"
	case r.Result != "success" && r.Result != "exit-code", r.ExitStatus >= 200:
		return "was not run by the service manager (" + r.String() + ")"
	}
	return ""
}

// FindModuleBackup returns the path of the module-backup that belongs to this executable: the one beside it.
func FindModuleBackup() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find module-backup: %w", err)
	}
	path := filepath.Join(filepath.Dir(self), "module-backup")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("find module-backup beside %s: %w", strings.TrimSpace(self), err)
	}
	return path, nil
}

// Shell runs restic on the job's repository for a person, and returns restic's exit code: as the user that backups work as, so that
// nothing in the repository becomes somebody else's; behind the gateway as the caller, with the node's right to remove.
func Shell(ctx context.Context, paths config.Paths, job Job, shell module.Shell) (int, error) {
	if job.Plan.Files != nil {
		return 0, fmt.Errorf("module %s is of engine files, which restic does not know: use file-backup --module %s", job.Plan.Module, job.Plan.Module)
	}
	if job.Destination.Gateway {
		job = job.asNode()
	}
	secrets, forget, err := job.secrets(ctx, paths)
	if err != nil {
		return 0, err
	}
	defer forget()
	shell.Plan, shell.User, shell.Group, shell.Secrets = job.Plan, job.Module.User, job.Module.Group, secrets
	return shell.Run(ctx)
}
