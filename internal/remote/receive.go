package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
)

// Programs are what a sender may have run: those of sdbackup, of the folder that remote-backup is in. What they run is for the
// configuration to say.
var Programs = []string{"run-backup", "module-backup", "restore-backup", "schedule-backup"}

// DefaultCommand is what is run when nothing else is said.
var DefaultCommand = []string{"run-backup", "--all"}

// stopTimeout is what a command has from SIGTERM to SIGKILL; a run stops its modules in order, see backup@.service.
const stopTimeout = 6 * time.Minute

// Receiver is the end of a connection where the command is run.
type Receiver struct {
	In       io.Reader // the bundle; then a byte now and then: 0 for nothing, or a signal for the command
	Out, Err io.Writer
	BinDir   string // of the programs
	LinksDir string // for Memory
	Getenv   func(string) string
	Notice   func(string)  // of the kind of memory
	Patience time.Duration // of silence before the bundle says another time; 0: the default
}

// ErrSenderGone is why a command is ended that nobody waits for.
var ErrSenderGone = errors.New("the sender is gone")

// Run receives a bundle and runs its command to its end. It returns the command's exit code.
func (r *Receiver) Run(ctx context.Context) (int, error) {
	// The death signal of the command is sent when the thread ends that has started it.
	runtime.LockOSThread()
	memory, err := NewMemory(r.LinksDir)
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	Harden()
	if os.Geteuid() != 0 {
		r.Notice("the configuration is kept in " + memory.Kind)
	}
	in := &watched{in: r.In, patience: r.Patience}
	if in.patience == 0 {
		in.patience = config.DefaultKeepalive
	}
	type received struct {
		manifest *Manifest
		err      error
	}
	bundle := make(chan received, 1)
	go func() {
		m, err := ReadBundle(in, memory.Create)
		bundle <- received{m, err}
	}()
	var got received
	select {
	case got = <-bundle:
	case <-in.silence():
		return 0, fmt.Errorf("%w: it sent nothing for %s, and nothing was run", ErrSenderGone, in.patience)
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	if got.err != nil {
		return 0, fmt.Errorf("%w; nothing was run", got.err)
	}
	cmd, err := r.command(memory, got.manifest)
	if err != nil {
		return 0, err
	}
	if got.manifest.Keepalive > 0 {
		in.patience = got.manifest.Keepalive
	}
	return r.supervise(ctx, cmd, in)
}

// command is the command as the manifest wants it.
func (r *Receiver) command(memory *Memory, m *Manifest) (*exec.Cmd, error) {
	argv := m.Command
	if len(argv) == 0 {
		argv = DefaultCommand
	}
	if !slices.Contains(Programs, argv[0]) {
		return nil, fmt.Errorf("%q is not run from afar; want one of %s", argv[0], strings.Join(Programs, ", "))
	}
	inherited, err := memory.Inherit()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(r.BinDir, argv[0]), argv[1:]...)
	cmd.Args[0] = argv[0]
	cmd.Env = []string{inherited, "SDBACKUP_CONFIG=" + filepath.Join(memory.Path, filepath.FromSlash(m.Configuration))}
	if m.URL != "" {
		cmd.Env = append(cmd.Env, URLEnv+"="+m.URL)
	}
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME", "DBUS_SESSION_BUS_ADDRESS", "SDBACKUP_DEBUG"} {
		if v := r.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	// A group of its own: what ends us is not to end it otherwise than in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	return cmd, nil
}

// URLEnv tells a command that was sent where its configuration can be fetched again.
const URLEnv = "SDBACKUP_SENT_URL"

// supervise runs the command, and ends it when the sender is gone.
func (r *Receiver) supervise(ctx context.Context, cmd *exec.Cmd, in *watched) (int, error) {
	// By way of us: a command must not die because nobody reads what it says.
	cmd.Stdout, cmd.Stderr = patient{r.Out}, patient{r.Err}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("run the command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		forward(in, cmd.Process)
	}()
	var cause error
	done := ctx.Done()
	silence := in.silence()
	var kill <-chan time.Time
	stop := func(err error) {
		cause = err
		gone, done, silence = nil, nil, nil
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may just have ended
		kill = time.After(stopTimeout)
	}
	for {
		select {
		case err := <-ended:
			return exitCode(cmd, err, cause)
		case <-gone:
			stop(ErrSenderGone)
		case <-silence:
			stop(fmt.Errorf("%w: it was silent for %s", ErrSenderGone, in.patience))
		case <-done:
			stop(context.Cause(ctx))
		case <-kill:
			_ = cmd.Process.Kill()
		}
	}
}

func exitCode(cmd *exec.Cmd, err, cause error) (int, error) {
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case cause != nil:
		return 0, fmt.Errorf("the command was ended: %w", cause)
	case status.Signaled():
		return 0, fmt.Errorf("the command was killed by %s", unix.SignalName(status.Signal()))
	case err != nil && !status.Exited():
		return 0, fmt.Errorf("run the command: %w", err)
	}
	return status.ExitStatus(), nil
}

// forward reads what comes after the bundle until there is no more.
func forward(in io.Reader, process *os.Process) {
	data := make([]byte, 64)
	for {
		n, err := in.Read(data)
		for _, b := range data[:n] {
			if s := syscall.Signal(b); s == syscall.SIGINT || s == syscall.SIGTERM {
				_ = process.Signal(s) // it may just have ended
			}
		}
		if err != nil {
			return
		}
	}
}

// watched is a reader that knows since when nothing came.
type watched struct {
	in       io.Reader
	patience time.Duration
	last     atomic.Int64 // when something came, by the monotonic clock
}

var start = time.Now()

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.in.Read(p)
	if n > 0 {
		w.last.Store(int64(time.Since(start)))
	}
	return n, err
}

// silence is a channel that is closed when nothing came for as long as the patience is at that time.
func (w *watched) silence() <-chan struct{} {
	quiet := make(chan struct{})
	patience := w.patience
	w.last.Store(int64(time.Since(start)))
	go func() {
		for {
			left := patience - (time.Since(start) - time.Duration(w.last.Load()))
			if left <= 0 {
				close(quiet)
				return
			}
			time.Sleep(left)
		}
	}()
	return quiet
}

// patient is a writer that swallows what cannot be written.
type patient struct{ io.Writer }

func (p patient) Write(data []byte) (int, error) {
	_, _ = p.Writer.Write(data) // who reads it may be gone
	return len(data), nil
}
