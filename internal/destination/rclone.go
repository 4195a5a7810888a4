package destination

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// killAfter is what rclone has from SIGTERM to SIGKILL.
const killAfter = 3 * time.Second

// rcloneCommand prepares rclone. It gets nothing of our environment that it does not need: RCLONE_ variables would change the remote.
func rcloneCommand(ctx context.Context, config string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "rclone", append([]string{"--config", config, "--ask-password=false"}, args...)...)
	cmd.Env = []string{"LC_ALL=C"}
	for _, name := range []string{
		"PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	return cmd
}

// rcloneTypes are the types of remotes that the installed rclone knows; nil when there is none to ask.
func rcloneTypes(ctx context.Context) []string {
	out, err := rcloneCommand(ctx, os.DevNull, "config", "providers").Output()
	if err != nil {
		return nil
	}
	var list []struct {
		Name, Prefix string
		Aliases      []string
	}
	if json.Unmarshal(out, &list) != nil || len(list) == 0 {
		return nil
	}
	var types []string
	for _, p := range list {
		types = append(append(types, p.Name, p.Prefix, strings.ReplaceAll(p.Name, " ", "")), p.Aliases...)
	}
	return types
}

// Exit codes of rclone, rclone(1).
const (
	rcloneNoFolder = 3
	rcloneNoFile   = 4
)

// rcloneError is how a run of rclone ended.
type rcloneError struct {
	code int
	line string
}

func (e *rcloneError) Error() string { return e.line }

// preamble is what rclone puts before a message.
var preamble = regexp.MustCompile(`^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?((CRITICAL|ERROR|NOTICE|INFO|DEBUG) *: )?`)

// runRclone runs rclone to its end and returns what it prints.
func runRclone(ctx context.Context, config string, stdin []byte, args ...string) ([]byte, error) {
	cmd := rcloneCommand(ctx, config, append([]string{"--retries", "1", "--low-level-retries", "2", "--contimeout", "15s"}, args...)...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return out, nil
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("rclone is not installed; install it, as with apt-get install rclone")
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &exit):
		line := preamble.ReplaceAllString(lastLine(stderr.String(), err), "")
		return nil, &rcloneError{exit.ExitCode(), line}
	}
	return nil, err
}
