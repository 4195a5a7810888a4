package restic

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exit codes of restic, its manual, "Scripting".
const (
	codePartial       = 3
	codeNoRepository  = 10
	codeLocked        = 11
	codeWrongPassword = 12
	codeInterrupted   = 130
)

var (
	// ErrNoRepository says that the repository is known not to exist: not that opening it failed.
	ErrNoRepository = errors.New("there is no repository")
	// ErrWrongPassword says that no key of the repository has this password.
	ErrWrongPassword = errors.New("the password does not open the repository")
	// ErrMissingProgram says that restic, or a program that it needs, is not installed.
	ErrMissingProgram = errors.New("a program is not installed")
	// ErrTransient says that a later attempt may well succeed: the network, or a server's failure.
	ErrTransient = errors.New("the repository cannot be reached")
	// ErrInterrupted says that restic was stopped.
	ErrInterrupted = errors.New("restic was stopped")
)

// ExitError is an end of restic that is none of the others.
type ExitError struct {
	Code int // -1: killed by a signal
	Text string
}

func (e *ExitError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("restic ended with exit code %d", e.Code)
	}
	return fmt.Sprintf("restic ended with exit code %d: %s", e.Code, e.Text)
}

// LockedError says that somebody has locked the repository.
type LockedError struct {
	PID  int    // 0: unknown
	Host string // "": unknown
	Text string
}

func (e *LockedError) Error() string { return "the repository is locked: " + e.Text }

// OwnerLives tells whether the process that made the lock is on this host and lives. Its number may have been given to another
// process since; then the lock is taken for a living one's, as restic itself does.
func (e *LockedError) OwnerLives(hostname string) bool {
	return e.PID > 0 && e.Host == hostname && unix.Kill(e.PID, 0) != unix.ESRCH
}

// classify makes an error of how restic ended and what it printed on standard error. It is told by the text as it is: a secret may be a word
// of it. What goes into the error is masked.
func classify(ctx context.Context, err error, text string, mask func(string) string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: restic", ErrMissingProgram)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrInterrupted, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("run restic: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &ExitError{Code: -1, Text: "killed by " + unix.SignalName(status.Signal())}
	}
	return classifyText(exit.ExitCode(), text, mask)
}

var (
	lockedText = regexp.MustCompile(`repository is already locked (?:exclusively )?by PID (\d+) on (\S+) by`)
	// What restic before 0.17, and its backends, print when something is known not to be there.
	missingText = regexp.MustCompile(`(?i)no such file or directory|does not exist|not found|404|NoSuchKey|NoSuchBucket`)
	// Failures that pass: the network's, and a server's own.
	transientText = regexp.MustCompile(`(?i)connection (refused|reset|timed out)|no route to host|network is unreachable|i/o timeout|` +
		`TLS handshake timeout|no such host|temporary failure in name resolution|server misbehaving|unexpected EOF|broken pipe|` +
		`context deadline exceeded|Client\.Timeout|HTTP\S* (response )?.*\b5\d\d\b|\b(500 Internal Server Error|502 Bad Gateway|503 Service Unavailable|504 Gateway)|` +
		`SlowDown|InternalError|RequestTimeout|ssh: .*closed|connection closed`)
)

// classifyText is classify for an exit code, other than 0.
func classifyText(code int, text string, mask func(string) string) error {
	told := shorten(mask(firstFatal(text)))
	switch {
	case code == codeLocked, code == 1 && lockedText.MatchString(text):
		e := &LockedError{Text: told}
		if m := lockedText.FindStringSubmatch(text); m != nil {
			e.PID, _ = strconv.Atoi(m[1])
			e.Host = m[2]
		}
		return e
	case code == codeWrongPassword, code == 1 && strings.Contains(text, "wrong password or no key found"):
		return ErrWrongPassword
	case code == codeNoRepository:
		return fmt.Errorf("%w: %s", ErrNoRepository, told)
	case code == codePartial:
		return &ExitError{code, told}
	case code == codeInterrupted:
		return fmt.Errorf("%w: %s", ErrInterrupted, told)
	case strings.Contains(text, "executable file not found"):
		return fmt.Errorf("%w: %s", ErrMissingProgram, told)
	case transientText.MatchString(text):
		return fmt.Errorf("%w: %s", ErrTransient, told)
	case code == 1 && strings.Contains(text, "unable to open config file") && missingText.MatchString(text):
		return fmt.Errorf("%w: %s", ErrNoRepository, told)
	}
	return &ExitError{code, told}
}

// frame is the second line of a call in a trace.
var frame = regexp.MustCompile(`^\s*\S+\.(go|s):\d+$`)

// firstFatal is the line that says what was fatal, or else the last one, or the one before the trace of calls that restic prints after some.
func firstFatal(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "Fatal: "); ok {
			return rest
		}
	}
	for i := 2; i < len(lines); i++ {
		if frame.MatchString(lines[i]) {
			return lines[i-2]
		}
	}
	return lines[len(lines)-1]
}

// shorten bounds a text that goes into one sentence.
func shorten(s string) string {
	const most = 500
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
