package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/status"
)

const (
	// hookTimeout ends a hook that hangs: the run's verdict is on disk, but its lock is held until the hooks are done.
	hookTimeout = 5 * time.Minute
	pingTimeout = 10 * time.Second
	pingTries   = 3
	// maxHookLine bounds what is logged of a hook's output, in bytes.
	maxHookLine = 4 << 10
)

// announce runs the hook and sends the ping of a verdict. It is begun once a run: the marker remembers that it was, so that
// a run killed here is not announced twice. Failures are logged and change no verdict.
func (r *Runner) announce(ctx context.Context, log *slog.Logger, b *config.Backup, run status.Run) error {
	hook, ping := hookOf(b, run.Outcome), b.PingURL
	if hook == nil && ping == "" {
		return nil
	}
	if err := r.Store.Announce(b.ID); err != nil {
		return fmt.Errorf("backup %s: note that hooks begin: %w", b.ID, err)
	}
	if hook != nil {
		if err := r.runHook(ctx, log, hook, run); err != nil {
			log.Warn(fmt.Sprintf("hook %s failed: %v", hook[0], err), journal.Message(journal.HookFailed))
		}
	}
	if ping != "" {
		suffix := ""
		if run.Outcome == status.Failed || run.Outcome == status.Conflict {
			suffix = "/fail"
		}
		r.ping(ctx, log, ping, suffix)
	}
	return nil
}

// hookOf is the command for a verdict; nil for none.
func hookOf(b *config.Backup, outcome status.Outcome) []string {
	switch outcome {
	case status.Success:
		return b.OnSuccess
	case status.Partial:
		return b.OnPartial
	case status.Conflict:
		return b.OnConflict
	default:
		return b.OnFailure
	}
}

// runHook runs a hook with the verdict as JSON on its standard input and in its environment.
func (r *Runner) runHook(ctx context.Context, log *slog.Logger, argv []string, run status.Run) error {
	input, err := json.Marshal(run)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, hookTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Env = append(inherited(r.Getenv),
		"BACKUP_ID="+run.Backup, "BACKUP_NAME="+run.Name, "RUN_ID="+run.ID,
		"BACKUP_OUTCOME="+string(run.Outcome), "BACKUP_SUMMARY="+strings.ToValidUTF8(strings.ReplaceAll(summary(run), "\x00", ""), "?"))
	// A group of its own, so that the time limit ends what the hook started, too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var output tail
	cmd.Stdout, cmd.Stderr = &output, &output
	err = cmd.Run()
	if text := output.String(); text != "" {
		log.Info("hook "+argv[0]+": "+text, "hook", argv[0])
	}
	if ctx.Err() != nil {
		return fmt.Errorf("it did not end within %s", hookTimeout)
	}
	return err
}

// inherited is what a hook gets of our own environment: nothing that holds a secret or a descriptor of ours.
func inherited(getenv func(string) string) []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"} {
		if v := getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// tail keeps the last maxHookLine bytes written to it.
type tail struct{ data []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	if len(t.data) > maxHookLine {
		t.data = append(t.data[:0], t.data[len(t.data)-maxHookLine:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(strings.ToValidUTF8(string(t.data), "?")) }

// pingStart tells that a run begins, without holding it up, and closes the channel when that is done.
func (r *Runner) pingStart(ctx context.Context, log *slog.Logger, b *config.Backup) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if b.PingURL != "" {
			r.ping(ctx, log, b.PingURL, "/start")
		}
	}()
	return done
}

// ping GETs the URL with the suffix, as Healthchecks and its kin expect. The path is as good as a password: it is not logged.
func (r *Runner) ping(ctx context.Context, log *slog.Logger, base, suffix string) {
	u, err := url.Parse(base)
	if err != nil {
		log.Warn("ping-url is not a URL")
		return
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + suffix
	u.RawPath = ""
	client := &http.Client{Timeout: pingTimeout}
	for try := 1; ; try++ {
		err = get(ctx, client, u.String())
		if err == nil || try == pingTries || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		log.Warn(fmt.Sprintf("ping of %s%s failed: %v", u.Host, suffix, err), journal.Message(journal.HookFailed))
	}
}

func get(ctx context.Context, client *http.Client, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("not a request")
	}
	req.Header.Set("User-Agent", "sdbackup")
	resp, err := client.Do(req)
	if err != nil {
		if ue := (*url.Error)(nil); errors.As(err, &ue) { // its text holds the whole URL
			return ue.Err
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // lets the connection be used again
	if resp.StatusCode >= 400 {
		return fmt.Errorf("it answered %s", resp.Status)
	}
	return nil
}
