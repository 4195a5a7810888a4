package nodecopy

import (
	"errors"
	"fmt"
)

// Why a file is not read. Nothing of it is returned then. No error quotes what is in a file, but for the names of its entries.
var (
	ErrPassphrase = errors.New("the passphrase does not open the file: it is the wrong one, or the file is damaged at its beginning")
	ErrTruncated  = errors.New("the file is cut short: its end is missing")
	ErrDamaged    = errors.New("the file is damaged: what is in it is not what was written")
	ErrForeign    = errors.New("the file is no copy of a node's configuration")
	ErrNewer      = errors.New("the file was written by a newer sdbackup")
	ErrTooLarge   = fmt.Errorf("the copy is too large: a copy has up to %d MiB in up to %d files", maxPlainBytes>>20, maxEntries)
)

// ErrNoPassphrase tells that the configuration names no passphrase, so that there can be no copy.
var ErrNoPassphrase = errors.New("there is no passphrase: set passphrase-file or passphrase-credential in [node]")

func foreign(detail string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrForeign, fmt.Sprintf(detail, args...))
}
