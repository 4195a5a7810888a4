package module

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Child is a module-backup that is run as a child process, where there is no service manager.
type Child struct {
	Exe         string
	Plan        Plan
	User, Group string // "": the caller's
	Secrets     Secrets
	StopTimeout time.Duration // from SIGTERM to SIGKILL
	Progress    func(Progress)
	Stderr      io.Writer
	Log         *slog.Logger
}

// Ended is how a child ended.
type Ended struct {
	Output     []byte // its standard output: a status.Result in JSON
	ExitStatus int
	Death      string // how it was killed; "": it exited
}

// RunChild runs the child to its end, and stops it in order when ctx is done. It gets the module's user, a process group of
// its own, and the secrets in memory that it inherits; it is told to stop when this process dies.
func RunChild(ctx context.Context, c Child) (Ended, error) {
	if c.Secrets.Password.Encrypted {
		return Ended{}, errEncrypted
	}
	u, err := LookupUser(c.User, c.Group)
	if err != nil {
		return Ended{}, err
	}
	ours, theirs, err := Socketpair()
	if err != nil {
		return Ended{}, err
	}
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.CommandContext(ctx, c.Exe, "save", "--plan", c.Plan.Module, c.Plan.Backup)
	cmd.Stdin = theirs
	cmd.Stderr = c.Stderr
	if c.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	var output bytes.Buffer
	cmd.Stdout = &output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name}
	for _, name := range []string{"LANG", "TZ", "TERM", "NO_COLOR", "SDBACKUP_DEBUG", "JOURNAL_STREAM"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	closeSecrets, err := inherit(&cmd.ExtraFiles, handover{c.Secrets.Password.Path, &c.Plan.PasswordFile},
		handover{c.Secrets.Environment.Path, &c.Plan.EnvironmentFile}, handover{c.Secrets.Repository.Path, &c.Plan.RepositoryFile},
		handover{c.Secrets.CACert.Path, &c.Plan.CACert})
	if err != nil {
		return Ended{}, err
	}
	defer closeSecrets()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.StopTimeout
	if err := cmd.Start(); err != nil {
		return Ended{}, fmt.Errorf("start module-backup: %w", err)
	}
	theirs.Close()
	talk := make(chan error, 1)
	go func() { talk <- Converse(ours, c.Plan, c.Progress) }()
	err = cmd.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in its group
	ours.Close()
	if talkErr := <-talk; talkErr != nil && ctx.Err() == nil {
		c.Log.Warn("talk to module-backup: " + talkErr.Error())
	}
	end := Ended{Output: output.Bytes(), ExitStatus: cmd.ProcessState.ExitCode()}
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		end.Death = "was killed by " + unix.SignalName(status.Signal())
	} else if err != nil && !errors.As(err, new(*exec.ExitError)) && !errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		return end, fmt.Errorf("run module-backup: %w", err)
	}
	return end, nil
}

// handover is a secret on its way to a process that is to be started.
type handover struct {
	source string  // the file with it; "" for none
	path   *string // where that process will find it
}

// inherit adds copies of secrets, in memory, to the files that a process inherits from descriptor 3 on. The caller closes them when it has
// started, or was not.
func inherit(files *[]*os.File, secrets ...handover) (closeAll func(), err error) {
	var made []*os.File
	closeAll = func() {
		for _, f := range made {
			f.Close()
		}
	}
	for _, s := range secrets {
		if s.source == "" {
			continue
		}
		f, err := inMemory(s.source)
		if err != nil {
			closeAll()
			return nil, err
		}
		made = append(made, f)
		*files = append(*files, f)
		*s.path = fmt.Sprintf("/proc/self/fd/%d", 2+len(*files))
	}
	return closeAll, nil
}

// InheritSecret lets a restic inherit a copy, in memory, of the secret at the path, and puts there where that restic finds it. The caller closes
// it when no restic is started any more.
func InheritSecret(files *[]*os.File, path *string) (closeCopy func(), err error) {
	return inherit(files, handover{*path, path})
}

var errEncrypted = errors.New("an encrypted credential can only be used by a service, not with --no-units and not by hand")

// maxSecretBytes bounds a file with a secret.
const maxSecretBytes = 1 << 20

// inMemory copies a file into memory that has no name, so that a user who may not read the file can be handed what is in it.
func inMemory(path string) (*os.File, error) {
	data, err := readSecret(path)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("secret", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("keep a secret in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "secret")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("keep a secret in memory: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		f.Close()
		return nil, fmt.Errorf("keep a secret in memory: %w", err)
	}
	return f, nil
}

func readSecret(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read a secret: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read a secret: %w", err)
	case len(data) > maxSecretBytes:
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxSecretBytes)
	case len(bytes.TrimSpace(data)) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	}
	return data, nil
}

// PrepareCache makes the folder of a repository's cache for its user; a service's CacheDirectory= does that for a unit.
func PrepareCache(path string, u User) error {
	// Whatever the umask: users must get through to their own.
	for _, dir := range []string{filepath.Dir(filepath.Dir(path)), filepath.Dir(path)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make restic's cache folder: %w", err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			return fmt.Errorf("make restic's cache folder: %w", err)
		}
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make restic's cache folder: %w", err)
	}
	if os.Getuid() != 0 {
		return nil
	}
	if err := os.Lchown(path, int(u.UID), int(u.GID)); err != nil {
		return fmt.Errorf("give restic's cache folder to the module's user: %w", err)
	}
	return nil
}
