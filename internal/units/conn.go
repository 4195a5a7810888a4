package units

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	// maxOpen is how many calls and jobs one method has open at once; see the package comment.
	maxOpen = 64
	// callTimeout is how long the manager may take to answer: a reload with thousands of units takes it several seconds.
	callTimeout = 90 * time.Second

	busName      = "org.freedesktop.systemd1"
	managerPath  = dbus.ObjectPath("/org/freedesktop/systemd1")
	managerIface = busName + ".Manager"
	unitIface    = busName + ".Unit"
	timerIface   = busName + ".Timer"
	serviceIface = busName + ".Service"
	socketIface  = busName + ".Socket"
	properties   = "org.freedesktop.DBus.Properties"
)

// Conn is a connection to a service manager. Its methods may be called from several goroutines.
type Conn struct {
	bus    *dbus.Conn
	user   bool
	direct bool // to systemd itself, with no bus between: it does not track the references of such a client
	jobs   *jobs

	watchOnce sync.Once
	watchErr  error

	patience time.Duration // how long a job may take that only changes the state of a timer
}

// endpoint is a way to a service manager.
type endpoint struct {
	address string
	direct  bool
}

// Dial connects to the service manager of the system, or to that of the calling user: by way of the bus, or, where there is
// none, through systemd's own socket, which is root's and the user's alone. The context bounds the dialling only; the
// connection stays until Close.
//
// errors.Is(err, ErrNoManager) tells that none runs here.
func Dial(ctx context.Context, user bool) (*Conn, error) {
	whose := "of the system"
	if user {
		whose = "of this user"
	}
	failure := fmt.Errorf("%w, that %s", ErrNoManager, whose)
	separator := ": "
	for _, e := range endpoints(user, os.Getenv, os.Geteuid()) {
		c, err := dial(ctx, user, e)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		failure = fmt.Errorf("%w%s%s: %w", failure, separator, e.address, err)
		separator = "; "
	}
	return nil, failure
}

// endpoints lists the ways to a manager, the best first.
func endpoints(user bool, getenv func(string) string, uid int) []endpoint {
	if user {
		runtime := runtimeDir(getenv, uid)
		bus := getenv("DBUS_SESSION_BUS_ADDRESS")
		if bus == "" {
			bus = "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(runtime, "bus"))
		}
		private := dbus.EscapeBusAddressValue(filepath.Join(runtime, "systemd/private"))
		return []endpoint{{address: bus}, {address: "unix:path=" + private, direct: true}}
	}
	bus := getenv("DBUS_SYSTEM_BUS_ADDRESS")
	if bus == "" {
		bus = "unix:path=/run/dbus/system_bus_socket"
	}
	list := []endpoint{{address: bus}}
	if uid == 0 {
		list = append(list, endpoint{address: "unix:path=/run/systemd/private", direct: true})
	}
	return list
}

// runtimeDir is $XDG_RUNTIME_DIR, or where it is when a login did not set it, as under sudo.
func runtimeDir(getenv func(string) string, uid int) string {
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return dir
	}
	return "/run/user/" + strconv.Itoa(uid)
}

func dial(ctx context.Context, user bool, e endpoint) (*Conn, error) {
	c := &Conn{user: user, direct: e.direct, jobs: newJobs(), patience: jobTimeout}
	var err error
	if c.bus, err = dbus.Dial(e.address, dbus.WithSignalHandler(c.jobs)); err != nil {
		return nil, err
	}
	if err := c.greet(ctx); err != nil {
		c.bus.Close()
		return nil, err
	}
	return c, nil
}

// greet authenticates, and makes sure that it is a service manager that answers.
func (c *Conn) greet(ctx context.Context) error {
	if err := c.bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return err
	}
	if !c.direct {
		if err := c.bus.Hello(); err != nil {
			return err
		}
	}
	_, err := c.property(ctx, managerPath, managerIface, "Version")
	return err
}

// Close ends the connection. Services that Run waits for go on.
func (c *Conn) Close() { c.bus.Close() }

// call calls a method of an object of the manager and stores what it returns.
func (c *Conn) call(ctx context.Context, path dbus.ObjectPath, method string, args []any, results ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return explain(c.bus.Object(busName, path).CallWithContext(ctx, method, 0, args...).Store(results...))
}

// manager calls a method of the manager itself.
func (c *Conn) manager(ctx context.Context, method string, args []any, results ...any) error {
	return c.call(ctx, managerPath, managerIface+"."+method, args, results...)
}

// property reads one property of an object.
func (c *Conn) property(ctx context.Context, path dbus.ObjectPath, iface, name string) (dbus.Variant, error) {
	var v dbus.Variant
	err := c.call(ctx, path, properties+".Get", []any{iface, name}, &v)
	return v, err
}

// each calls f for every index below n, maxOpen at once, in order. Once ctx is done, f is not called any more.
func each(ctx context.Context, n int, f func(i int)) {
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(n, maxOpen) {
		workers.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	workers.Wait()
}
