package units

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

var leadingNumber = regexp.MustCompile(`\d+`)

// Version is that of systemd, as in 252.
func (c *Conn) Version(ctx context.Context) (int, error) {
	v, err := c.property(ctx, managerPath, managerIface, "Version")
	if err != nil {
		return 0, fmt.Errorf("ask the manager for its version: %w", err)
	}
	text, _ := v.Value().(string)
	n, err := strconv.Atoi(leadingNumber.FindString(text))
	if err != nil {
		return 0, fmt.Errorf("the manager's version %q is no number", text)
	}
	return n, nil
}

// ActiveState is the state of a unit, as in "active"; that of one that is not loaded is "inactive".
func (c *Conn) ActiveState(ctx context.Context, name string) (string, error) {
	list, err := c.list(ctx, name)
	if err != nil || len(list) == 0 {
		return "inactive", err
	}
	return list[0].ActiveState, nil
}

// FileState is whether a unit file is installed and enabled, as in systemctl(1), is-enabled; "" where there is no such file.
func (c *Conn) FileState(ctx context.Context, name string) (string, error) {
	var state string
	err := c.manager(ctx, "GetUnitFileState", []any{name}, &state)
	if isError(err, "org.freedesktop.DBus.Error.FileNotFound") || isError(err, errNoSuchUnit) || isError(err, "System.Error.ENOENT") {
		return "", nil
	}
	return state, err
}

// StampFile is the file whose time tells the manager when a persistent timer elapsed last.
func StampFile(user bool, backup string, getenv func(string) string) string {
	return stampFile(user, backup, getenv)
}

// ClockSynchronized tells whether the system's clock is kept right by somebody: systemd-timedated knows, or where it cannot be asked, the
// kernel, whom it asks.
func ClockSynchronized(ctx context.Context) (bool, error) {
	if synchronized, err := timedate(ctx); err == nil {
		return synchronized, nil
	}
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		return false, os.NewSyscallError("adjtimex", err)
	}
	return state != unix.TIME_ERROR, nil
}

// timedate reads NTPSynchronized, org.freedesktop.timedate1(5).
func timedate(ctx context.Context) (bool, error) {
	const name, path = "org.freedesktop.timedate1", dbus.ObjectPath("/org/freedesktop/timedate1")
	address := endpoints(false, os.Getenv, 1)[0].address
	bus, err := dbus.Dial(address)
	if err != nil {
		return false, err
	}
	defer bus.Close()
	if err := bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return false, err
	}
	if err := bus.Hello(); err != nil {
		return false, err
	}
	var v dbus.Variant
	if err := bus.Object(name, path).CallWithContext(ctx, properties+".Get", 0, name, "NTPSynchronized").Store(&v); err != nil {
		return false, err
	}
	synchronized, ok := v.Value().(bool)
	if !ok {
		return false, fmt.Errorf("NTPSynchronized is %s", v)
	}
	return synchronized, nil
}
