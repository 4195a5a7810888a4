package units

import (
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
)

var (
	// ErrNoManager is in the error of Dial when there is no service manager to speak to.
	ErrNoManager = errors.New("no service manager can be reached")
	// ErrDenied is in the error of any call that the manager refuses to this user.
	ErrDenied = errors.New("the service manager does not allow this user to do that")
	// ErrNoAnalyze is in the error of Calendars when systemd-analyze is not installed.
	ErrNoAnalyze = errors.New("systemd-analyze is not installed")
	// ErrStuck is in the error of a change whose job did not end in time: it waits for another unit.
	ErrStuck = errors.New(`the manager does not get on with it, "systemctl list-jobs" tells what it waits for`)

	errDisconnected = errors.New("the connection to the service manager was lost")
)

// Names of D-Bus errors, as in systemd's bus-common-errors.h.
const (
	errUnitExists      = "org.freedesktop.systemd1.UnitExists"
	errNoSuchUnit      = "org.freedesktop.systemd1.NoSuchUnit"
	errUnknownProperty = "org.freedesktop.DBus.Error.UnknownProperty"
	errUnknownObject   = "org.freedesktop.DBus.Error.UnknownObject"
)

// isError tells whether the manager answered with the D-Bus error of that name. Its texts differ between versions.
func isError(err error, name string) bool {
	e, ok := errors.AsType[dbus.Error](err)
	return ok && e.Name == name
}

// explain makes the errors of a D-Bus call ones that callers can test for.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, dbus.ErrClosed) {
		return errDisconnected
	}
	if e, ok := errors.AsType[dbus.Error](err); ok {
		switch e.Name {
		case "org.freedesktop.DBus.Error.AccessDenied",
			"org.freedesktop.DBus.Error.AuthFailed",
			"org.freedesktop.DBus.Error.InteractiveAuthorizationRequired":
			return fmt.Errorf("%w: %w", ErrDenied, err)
		}
	}
	return err
}
