package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
)

// openSSH reaches a remote by the ssh program, with all that ssh_config(5) says for the host.
type openSSH struct {
	ctx   context.Context
	r     *config.Remote
	batch bool
}

// sshFailed is ssh's exit code when ssh itself failed, ssh(1).
const sshFailed = 255

// arguments are those of ssh. What the configuration leaves open is for ssh_config(5) to say; unknown host keys are refused whatever it says.
func (o openSSH) arguments(command string) []string {
	seconds := max(1, int(o.r.Keepalive.Seconds())/3)
	args := []string{
		"-T", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=" + strconv.Itoa(3*seconds),
		"-o", "ServerAliveInterval=" + strconv.Itoa(seconds), "-o", "ServerAliveCountMax=3",
	}
	if o.batch {
		args = append(args, "-o", "BatchMode=yes")
	}
	if o.r.Port != 0 {
		args = append(args, "-p", strconv.Itoa(o.r.Port))
	}
	if o.r.Username != "" {
		args = append(args, "-l", o.r.Username)
	}
	if o.r.KnownHosts != "" {
		args = append(args, "-o", "UserKnownHostsFile=\""+o.r.KnownHosts+"\"")
	}
	for _, key := range o.r.PrivateKeys {
		args = append(args, "-o", "IdentitiesOnly=yes", "-i", key)
	}
	return append(args, "--", o.r.Host, command)
}

func (o openSSH) start(command string, stdout, stderr io.Writer) (session, error) {
	cmd := exec.Command("ssh", o.arguments(command)...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if o.batch {
		// Signals reach the command by way of us. Else the terminal is its, to ask for a passphrase.
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run ssh: %w", err)
	}
	return openSession{in, cmd}, nil
}

func (openSSH) close() {}

type openSession struct {
	io.WriteCloser
	cmd *exec.Cmd
}

func (s openSession) wait() (int, error) {
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if status, ok := s.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 0, fmt.Errorf("ssh was killed by %s; the command there is ended", unix.SignalName(status.Signal()))
	}
	code := s.cmd.ProcessState.ExitCode()
	if code == sshFailed {
		return 0, &UnreachableError{errors.New("ssh failed, see what it said")}
	}
	return code, missing(code)
}

// notFound is the exit code of a shell for a program that is not there.
const notFound = 127

// missing is the error that an exit code stands for that is none of remote-backup's.
func missing(code int) error {
	if code == notFound {
		return &UnreachableError{errors.New("there is no remote-backup at its binary-path")}
	}
	return nil
}
