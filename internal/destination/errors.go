package destination

import (
	"fmt"
	"strings"

	"sdbackup/internal/config"
)

// UsageError is a mistake of the caller: nothing was done. Several may be joined.
type UsageError struct {
	Flag    string // without dashes; "": none in particular
	Message string
}

func (e *UsageError) Error() string {
	if e.Flag == "" {
		return e.Message
	}
	return "--" + e.Flag + ": " + e.Message
}

func usage(flag, format string, args ...any) error {
	return &UsageError{flag, fmt.Sprintf(format, args...)}
}

// UnknownError tells that there is no destination of that ID.
type UnknownError struct{ ID string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("there is no destination %s; \"backup-destination list\" shows those there are", e.ID)
}

// ExistsError tells that a destination is there already.
type ExistsError struct {
	ID    string // that of the destination that is there
	Place config.Position
	Same  bool // another ID was asked for, but it is the same place
}

func (e *ExistsError) Error() string {
	if e.Same {
		return fmt.Sprintf("this is destination %s already (%s); use that one, or alter it", e.ID, e.Place)
	}
	return fmt.Sprintf("destination %s is there already (%s); alter it, or take another ID", e.ID, e.Place)
}

// ForeignError tells that a destination was not made by this package.
type ForeignError struct {
	ID     string
	Place  config.Position
	Reason string // why it cannot be ours; "": its first line does not say so
}

func (e *ForeignError) Error() string {
	reason := e.Reason
	if reason == "" {
		reason = "which backup-destination has not made"
	}
	return fmt.Sprintf("destination %s is defined at %s, %s; edit that file", e.ID, e.Place, reason)
}

// InUseError tells which backups go to a destination.
type InUseError struct {
	ID      string
	Backups []string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("destination %s is used by %s; remove or change %s first, or remove both with --force",
		e.ID, plural("backup", e.Backups), map[bool]string{true: "it", false: "them"}[len(e.Backups) == 1])
}

// plural writes "backup 1" or "backups 1, 2".
func plural(word string, names []string) string {
	if len(names) != 1 {
		word += "s"
	}
	return word + " " + strings.Join(names, ", ")
}
