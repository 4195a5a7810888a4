package module

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"sdbackup/internal/restic"
)

// Shell is a restic that a person runs on a module's repository.
type Shell struct {
	Plan           Plan
	User, Group    string // "": the caller's
	Secrets        Secrets
	Args           []string
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Run runs restic to its end and returns its exit code. Secrets reach it in memory that it inherits, as they do in a backup.
func (s Shell) Run(ctx context.Context) (int, error) {
	if s.Secrets.Password.Encrypted {
		return 0, errEncrypted
	}
	u, err := LookupUser(s.User, s.Group)
	if err != nil {
		return 0, err
	}
	if err := PrepareCache(s.Plan.CacheDir, u); err != nil {
		return 0, err
	}
	repository := restic.Repository{Location: s.Plan.Repository, CacheDir: s.Plan.CacheDir, CACert: s.Plan.CACert}
	closeSecrets, err := inherit(&repository.Inherit, handover{s.Secrets.Password.Path, &repository.PasswordFile},
		handover{s.Secrets.Repository.Path, &repository.LocationFile}, handover{s.Secrets.CACert.Path, &repository.CACert})
	if err != nil {
		return 0, err
	}
	defer closeSecrets()
	if s.Secrets.Environment.Path != "" {
		if repository.Environment, err = ReadEnvironment(s.Secrets.Environment.Path); err != nil {
			return 0, err
		}
	}
	cmd := repository.Command(ctx, s.Args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Stdin, s.Stdout, s.Stderr
	for _, line := range os.Environ() { // what a person's restic shows itself by
		if name, _, _ := strings.Cut(line, "="); name == "TERM" || name == "TZ" || name == "LANG" || strings.HasPrefix(name, "LC_") {
			cmd.Env = append(cmd.Env, line)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+u.Home, "USER="+u.Name)
	// In the caller's process group: the terminal is its.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	err = cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return 0, fmt.Errorf("%w: restic", restic.ErrMissingProgram)
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err == nil:
		return 0, nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, fmt.Errorf("run restic: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil // as shells say it
	}
	return exit.ExitCode(), nil
}
