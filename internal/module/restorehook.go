package module

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"syscall"
)

// Hook is a program of a module that somebody else than module-backup runs, as the module's user.
type Hook struct {
	Name        string // its key in the configuration
	Argv        []string
	Directory   string // "": /
	User, Group string // "": the caller's
	Env         []string
	Log         *slog.Logger
}

// Run runs the hook to its end, in a session of its own, for a terminal takes what is typed from whoever has it; what it prints goes to the log.
// What it leaves behind in its session is killed, unless it made another process group for that; the rest the service ends that this runs in.
func (h Hook) Run(ctx context.Context) error {
	u, err := LookupUser(h.User, h.Group)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, h.Argv[0], h.Argv[1:]...)
	cmd.Dir = h.Directory
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = append([]string{"HOME=" + u.Home, "USER=" + u.Name, "LOGNAME=" + u.Name}, h.Env...)
	for _, name := range []string{"PATH", "LANG", "TZ", "XDG_RUNTIME_DIR"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = hookDelay
	var log logLines
	log.to = func(line string) { h.Log.Info(h.Name + ": " + line) }
	cmd.Stdout, cmd.Stderr = &log, &log
	err = cmd.Run()
	log.flush()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was stopped: %w", h.Name, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", h.Name, h.Argv[0], err, log.last())
	}
	return nil
}
