package units

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// ServiceResult is how a service ended, and what it used. What the manager does not account for is nil: the memory peak
// in systemd 252, input and output where their cgroup controller is missing.
type ServiceResult struct {
	Result     string // systemd.exec(5), $SERVICE_RESULT: "success", "exit-code", "signal", "timeout", "oom-kill", ...
	ExitStatus int    // of the main process if it exited; 200 and above: systemd could not execute it
	Signal     int    // that killed the main process; 0: none did
	CPU        *time.Duration
	MemoryPeak *uint64 // bytes, as are the others
	IORead     *uint64
	IOWrite    *uint64
}

// String is the end in words, as in "exit-code, status 217/USER".
func (r ServiceResult) String() string {
	switch {
	case r.Signal != 0:
		name := unix.SignalName(syscall.Signal(r.Signal))
		if name == "" {
			name = "signal " + strconv.Itoa(r.Signal)
		}
		return fmt.Sprintf("%s, killed by %s", r.Result, name)
	case r.ExitStatus != 0:
		status := strconv.Itoa(r.ExitStatus)
		if name := execStatus[r.ExitStatus]; name != "" {
			status += "/" + name
		}
		return fmt.Sprintf("%s, status %s", r.Result, status)
	}
	return r.Result
}

// execStatus names the exit statuses of a process that systemd could not execute, systemd.exec(5), "Process Exit Codes": those
// that a service of ours may meet.
var execStatus = map[int]string{
	200: "CHDIR", 201: "NICE", 202: "FDS", 203: "EXEC", 204: "MEMORY", 205: "LIMITS", 206: "OOM_ADJUST",
	208: "STDIN", 209: "STDOUT", 210: "CHROOT", 211: "IOPRIO", 214: "SETSCHEDULER", 215: "CPUAFFINITY",
	216: "GROUP", 217: "USER", 218: "CAPABILITIES", 219: "CGROUP", 222: "STDERR", 225: "NETWORK", 226: "NAMESPACE",
	227: "NO_NEW_PRIVILEGES", 228: "SECCOMP", 230: "PERSONALITY", 231: "APPARMOR", 232: "ADDRESS_FAMILIES",
	235: "CHOWN", 238: "STATE_DIRECTORY", 239: "CACHE_DIRECTORY", 240: "LOGS_DIRECTORY", 243: "CREDENTIALS",
}

// Values of ExecMainCode, which are those of si_code in waitid(2).
const (
	exited = 1
	killed = 2
	dumped = 3
)

// serviceResult reads how a service ended that is still loaded.
func (c *Conn) serviceResult(ctx context.Context, name string) (ServiceResult, error) {
	path := unitPath(name)
	names := []string{"Result", "ExecMainCode", "ExecMainStatus", "CPUUsageNSec", "MemoryPeak", "IOReadBytes", "IOWriteBytes"}
	values := make([]dbus.Variant, len(names))
	errs := make([]error, len(names))
	each(ctx, len(names), func(i int) {
		values[i], errs[i] = c.property(ctx, path, serviceIface, names[i])
	})
	all := map[string]dbus.Variant{}
	for i, err := range errs {
		switch {
		case isError(err, errUnknownProperty):
		case err != nil:
			return ServiceResult{}, fmt.Errorf("read how %s ended: property %s: %w", name, names[i], err)
		default:
			all[names[i]] = values[i]
		}
	}
	return decodeResult(all), nil
}

// decodeResult makes a ServiceResult of properties of the interface org.freedesktop.systemd1.Service.
func decodeResult(all map[string]dbus.Variant) ServiceResult {
	var r ServiceResult
	r.Result, _ = all["Result"].Value().(string)
	code, _ := all["ExecMainCode"].Value().(int32)
	number, _ := all["ExecMainStatus"].Value().(int32)
	switch code {
	case exited:
		r.ExitStatus = int(number)
	case killed, dumped:
		r.Signal = int(number)
	}
	if ns := counter(all["CPUUsageNSec"]); ns != nil && *ns <= math.MaxInt64 {
		r.CPU = new(time.Duration(*ns))
	}
	r.MemoryPeak, r.IORead, r.IOWrite = counter(all["MemoryPeak"]), counter(all["IOReadBytes"]), counter(all["IOWriteBytes"])
	return r
}

// counter is a number, or nil where the manager does not know it.
func counter(v dbus.Variant) *uint64 {
	n, ok := v.Value().(uint64)
	if !ok || n == infinity {
		return nil
	}
	return &n
}

// unitPath is the object of a unit.
func unitPath(name string) dbus.ObjectPath {
	return managerPath + "/unit/" + dbus.ObjectPath(sd.PathBusEscape(name))
}
