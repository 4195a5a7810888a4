package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"sdbackup/filebackup"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
)

// UsageError is a mistake of who asked, or in the configuration.
type UsageError struct{ text, remedy string }

func (e *UsageError) Error() string { return e.text }

func usage(remedy, format string, args ...any) error {
	return &UsageError{fmt.Sprintf(format, args...), remedy}
}

// remedied is an error with what can be done about it.
type remedied struct {
	error
	remedy string
}

func (e *remedied) Unwrap() error { return e.error }

func remedy(err error, text string) error { return &remedied{err, text} }

// Remedy says what the operator can do about an error; "" where nothing is known.
func Remedy(err error) string {
	var mistake *UsageError
	var known *remedied
	var locked *restic.LockedError
	switch text := strings.ToLower(err.Error()); {
	case errors.As(err, &mistake):
		return mistake.remedy
	case errors.As(err, &known):
		return known.remedy
	case run.Unreachable(err):
		return "is its socket there? systemctl enable --now backup-gateway.socket"
	case errors.Is(err, restic.ErrWrongPassword):
		return "compare the destination's password-file with the password that the repository was made with"
	case errors.Is(err, restic.ErrNoRepository):
		return `is its disk mounted? "restore-backup list" shows what is there`
	case errors.As(err, &locked):
		return `wait until it is free; a lock that nobody holds any more is removed by "module-backup shell MODULE -- unlock"`
	case errors.Is(err, restic.ErrMissingProgram):
		return "install it, or see that it is in PATH"
	case errors.Is(err, restic.ErrTransient), errors.Is(err, filebackup.ErrTransient):
		return `try again later; "backup-destination validate" tells how the destination is`
	case errors.Is(err, syscall.ENOSPC), strings.Contains(text, "no space left"), errors.Is(err, syscall.EDQUOT), strings.Contains(text, "disk quota exceeded"):
		return "make room, or restore elsewhere with --target"
	case errors.Is(err, fs.ErrPermission), strings.Contains(text, "permission denied"):
		if os.Geteuid() != 0 {
			return "run it as root, or with --user for backups of your own"
		}
	case strings.Contains(text, "unsupported protocol scheme"):
		return "restic reaches a unix socket from version 0.17 on: install a newer one, or give [gateway] a url of http"
	}
	return ""
}
