package module

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/restic"
)

const (
	// cleanupTimeout bounds a cleanup hook, which no signal stops.
	cleanupTimeout = time.Minute
	// hookDelay is what a stopped hook has from SIGTERM to SIGKILL.
	hookDelay = 10 * time.Second
)

// What begins the names of what a restore in place makes beside live data, or in it.
const (
	StagePrefix    = ".sdbackup-restore-"  // what is to become live
	ReplacedPrefix = ".sdbackup-replaced-" // what was, and is kept
	DumpsPrefix    = ".sdbackup-dumps-"    // what a hook is given
)

// Exclude is what the backups of a module leave out: what its configuration says, and what is ours, which even its user may not be able to read.
func Exclude(configured []string) []string {
	return append(slices.Clone(configured), StagePrefix+"*", ReplacedPrefix+"*", DumpsPrefix+"*")
}

func (a *attempt) absolute(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(a.Directory, path)
}

// checkSources tells what is wrong with what is to be saved: restic passes over a source that is not there, and saves an
// empty folder where a disk is not mounted.
func (a *attempt) checkSources() error {
	errs := []error{CheckMounts(a.RequireMount)}
	for _, p := range a.Include {
		if _, err := os.Stat(a.absolute(p)); err != nil {
			errs = append(errs, fmt.Errorf("source %s: %w", a.absolute(p), plain(err)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return a.checkFiles()
}

// CheckMounts tells at which of the paths nothing is mounted. In the sandbox of a module's service a folder that may be written
// to is always a mount point, so a run asks before it starts one.
func CheckMounts(paths []string) error {
	var errs []error
	for _, p := range paths {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, p, unix.AT_NO_AUTOMOUNT, 0, &st)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("require-mount %s: %w", p, err))
		case st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0:
			errs = append(errs, fmt.Errorf("nothing is mounted at %s (require-mount)", p))
		}
	}
	return errors.Join(errs...)
}

// checkFiles tells whether there are as many files as there must be. It stops counting there.
func (a *attempt) checkFiles() error {
	if a.MinFiles == 0 {
		return nil
	}
	n := 0
	for _, p := range a.Include {
		root, err := filepath.EvalSymlinks(a.absolute(p))
		if err != nil {
			return fmt.Errorf("source %s: %w", p, plain(err))
		}
		_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				n++
			}
			if n >= a.MinFiles {
				return fs.SkipAll
			}
			return nil // what cannot be read restic will name
		})
	}
	if n < a.MinFiles {
		return fmt.Errorf("there are %d files to save, and at least %d were expected (min-files)", n, a.MinFiles)
	}
	return nil
}

// plain takes the path from an error that is printed behind it.
func plain(err error) error {
	if e := (*fs.PathError)(nil); errors.As(err, &e) {
		return e.Err
	}
	return err
}

// command is a program of the module's, with no secret in its environment and none of our descriptors.
func (a *attempt) command(ctx context.Context, argv []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = a.Directory
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = []string{"BACKUP_ID=" + a.Backup, "MODULE_ID=" + a.Module, "RUN_ID=" + a.Run}
	for _, name := range []string{"PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "XDG_RUNTIME_DIR"} {
		if v := os.Getenv(name); v != "" {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = hookDelay
	return cmd
}

// hook runs a hook to its end; what it prints goes to the log.
func (a *attempt) hook(ctx context.Context, name string, argv []string) error {
	cmd := a.command(ctx, argv)
	var log logLines
	log.to = func(line string) { a.log.Info(name + ": " + line) }
	cmd.Stdout, cmd.Stderr = &log, &log
	err := cmd.Run()
	log.flush()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // whatever it left behind
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s was stopped: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w%s", name, argv[0], err, log.last())
	}
	return nil
}

// errResticEnded is why a dump stops that nobody reads any more.
var errResticEnded = errors.New("restic has ended")

// saveDump saves what a program prints as a file of a snapshot. restic is told that the file has ended only when the program has
// ended well and printed something; else it is stopped, and there is no snapshot.
func (a *attempt) saveDump(ctx context.Context, d config.Dump) error {
	var sum restic.Summary
	var dumpErr error
	err := a.withRepository(ctx, func(ctx context.Context) error {
		ctx, alive, stop := watch(ctx, a.NoProgressTimeout)
		defer stop()
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		dumped := make(chan struct{})
		go func() {
			defer close(dumped)
			err := a.dump(ctx, d, w, alive)
			if err == nil {
				w.Close() // the end of the file, for restic
				return
			}
			// The pipe stays open until restic, which is stopped now, is gone.
			if !errors.Is(context.Cause(ctx), errResticEnded) {
				dumpErr = fmt.Errorf("dump %s: %s: %w", d.Filename, d.Command[0], err)
				cancel(dumpErr)
			}
		}()
		source := restic.Source{Host: a.Node, Tags: a.tags(d.Filename, true), Stdin: r, Name: d.Filename}
		sum, err = a.repository.Backup(ctx, source, nil)
		cancel(errResticEnded)
		w.Close()
		r.Close()
		<-dumped
		return err
	})
	if dumpErr != nil {
		return dumpErr
	}
	if err != nil {
		return fmt.Errorf("dump %s: %w", d.Filename, err)
	}
	a.saved(sum, d.Filename)
	a.result.Dumps = append(a.result.Dumps, sum.Snapshot)
	return nil
}

// dump runs the program and writes what it prints; that it prints nothing is an error.
func (a *attempt) dump(ctx context.Context, d config.Dump, w io.Writer, alive func(uint64)) error {
	cmd := a.command(ctx, d.Command)
	var log logLines
	log.to = func(line string) { a.log.Info("dump " + d.Filename + ": " + line) }
	cmd.Stderr = &log
	counted := &counter{w: w, told: func(n uint64) {
		alive(n)
		a.progress(Progress{Phase: "dump", BytesDone: n})
	}}
	cmd.Stdout = counted
	err := cmd.Run()
	log.flush()
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it was stopped: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("%w%s", err, log.last())
	case counted.n == 0:
		return errors.New("it printed nothing")
	}
	return nil
}

// counter counts what is written through it.
type counter struct {
	w    io.Writer
	n    uint64
	told func(uint64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n)
	c.told(c.n)
	return n, err
}

const (
	// maxLogLine bounds a line of a program's output in the log, in bytes.
	maxLogLine = 4 << 10
	// maxLogLines bounds how many of them are logged.
	maxLogLines = 1000
)

// logLines logs what a program prints, a line at a time, so much and no more.
type logLines struct {
	to   func(string)
	rest []byte
	kept string // the last line
	n    int
}

func (l *logLines) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' {
			l.flush()
		} else if len(l.rest) < maxLogLine {
			l.rest = append(l.rest, c)
		}
	}
	return len(p), nil
}

func (l *logLines) flush() {
	line := strings.TrimSpace(strings.ToValidUTF8(string(l.rest), "?"))
	l.rest = l.rest[:0]
	if line == "" {
		return
	}
	l.kept = line
	l.n++
	switch {
	case l.n < maxLogLines:
		l.to(line)
	case l.n == maxLogLines:
		l.to("... and more, which is left out")
	}
}

// last is the last line in brackets, to go behind an error.
func (l *logLines) last() string {
	if l.kept == "" {
		return ""
	}
	return " (" + l.kept + ")"
}
