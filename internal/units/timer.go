package units

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// defaultAccuracy is systemd's AccuracySec=, systemd.timer(5).
const defaultAccuracy = time.Minute

// Timer is the timer of a backup, as wanted or as loaded. It activates the service of the same name: Unit= cannot be set over
// D-Bus.
type Timer struct {
	ID              string        // of the backup, or of another job, as in check@1
	Description     string        // one line; "" is the name of the unit
	OnCalendar      []string      // normalized, as Calendar.Normalized is
	RandomizedDelay time.Duration // whole microseconds count, as in Accuracy
	Accuracy        time.Duration // 0: one minute
	Persistent      bool          // what was missed while the timer was not loaded is caught up with one run
}

// LoadedTimer is a timer that the manager has.
type LoadedTimer struct {
	Timer
	Ours   bool // it is transient and has Documentation: nobody else's unit
	Active bool
	Next   time.Time // when it elapses next; zero: never, or not before the service, which is active, has ended
	Last   time.Time // when it elapsed last, or for a persistent one when its stamp was made; zero: never
	Result string    // of the timer, systemd.timer(5): "success" unless it could not start the service

	ServiceActive bool   // a run is under way
	ServiceResult string // of the last run, as in systemd.exec(5), $SERVICE_RESULT; "success" when there was none, or "" when the manager knows no such service
}

// normalized returns the timer as the manager will say that it is.
func (t Timer) normalized() Timer {
	t.Description = oneLine(t.Description)
	if t.Description == "" {
		t.Description = TimerName(t.ID)
	}
	if t.Accuracy <= 0 {
		t.Accuracy = defaultAccuracy
	}
	t.Accuracy = max(t.Accuracy.Truncate(time.Microsecond), time.Microsecond)
	t.RandomizedDelay = max(t.RandomizedDelay.Truncate(time.Microsecond), 0)
	return t
}

// oneLine makes a text fit for Description=: the manager writes it into the unit's file as it is, where a line break would
// begin another setting, and a backslash at the end would join the next line.
func oneLine(s string) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	return strings.TrimRight(strings.TrimSpace(s), `\ `)
}

// differs tells whether the timer is to be replaced by the other; both are normalized.
func (t Timer) differs(other Timer) bool {
	return t.Description != other.Description || t.RandomizedDelay != other.RandomizedDelay || t.Accuracy != other.Accuracy ||
		t.Persistent != other.Persistent || t.reschedules(other)
}

// reschedules tells whether the other timer elapses at other times.
func (t Timer) reschedules(other Timer) bool {
	return !slices.Equal(slices.Sorted(slices.Values(t.OnCalendar)), slices.Sorted(slices.Values(other.OnCalendar)))
}

// properties are what a normalized timer is made of, as in org.freedesktop.systemd1(5), StartTransientUnit.
func (t Timer) properties() []sd.Property {
	type specification struct{ Base, Expression string }
	calendar := make([]specification, len(t.OnCalendar))
	for i, e := range t.OnCalendar {
		calendar[i] = specification{"OnCalendar", e}
	}
	return []sd.Property{
		sd.PropDescription(t.Description),
		property("Documentation", []string{Documentation}),
		property("CollectMode", "inactive-or-failed"),
		property("TimersCalendar", calendar),
		property("AccuracyUSec", uint64(t.Accuracy.Microseconds())),
		property("RandomizedDelayUSec", uint64(t.RandomizedDelay.Microseconds())),
		property("Persistent", t.Persistent),
	}
}

func property(name string, value any) sd.Property {
	return sd.Property{Name: name, Value: dbus.MakeVariant(value)}
}

// Timers lists the timers of backups that are loaded, in no order, also those that are somebody else's.
//
// It costs the manager one call for all and one a timer: whether a timer is ours is read from the file that the manager
// keeps of every transient unit, systemd.unit(5), for the properties that tell it would cost two more calls.
func (c *Conn) Timers(ctx context.Context) ([]LoadedTimer, error) {
	patterns := []string{TimerName("*"), ServiceName("*")}
	for _, kind := range kinds {
		patterns = append(patterns, TimerName(kind+"*"), ServiceName(kind+"*"))
	}
	list, err := c.list(ctx, patterns...)
	if err != nil {
		return nil, err
	}
	var timers []LoadedTimer
	var rows []sd.UnitStatus
	services := make(map[string]sd.UnitStatus, len(list)/2)
	for _, u := range list {
		if id, ok := jobOf(u.Name, serviceSuffix); ok {
			services[id] = u
		}
		if id, ok := jobOf(u.Name, timerSuffix); ok {
			timers = append(timers, LoadedTimer{Timer: Timer{ID: id, Description: u.Description}, Active: isActive(u.ActiveState)})
			rows = append(rows, u)
		}
	}
	errs := make([]error, len(timers))
	folder := transientFolder(c.user, os.Getenv, os.Geteuid())
	each(ctx, len(timers), func(i int) {
		t := &timers[i]
		t.Ours = isOurs(filepath.Join(folder, TimerName(t.ID)))
		if errs[i] = c.describe(ctx, t, rows[i].Path); errs[i] == nil {
			errs[i] = c.describeService(ctx, t, services[t.ID])
		}
		// The list is older than the properties. A timer that had something to wait for, and has not now, is just elapsing.
		if t.Active && t.Next.IsZero() && rows[i].SubState != "elapsed" {
			t.ServiceActive = true
		}
	})
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	present := timers[:0]
	for i, err := range errs {
		switch {
		case err == nil:
			present = append(present, timers[i])
		case !isError(err, errUnknownObject) && !isError(err, errNoSuchUnit): // those are gone by now
			return nil, fmt.Errorf("read the properties of %s: %w", TimerName(timers[i].ID), err)
		}
	}
	return present, nil
}

// describe reads what the manager knows of a timer.
func (c *Conn) describe(ctx context.Context, t *LoadedTimer, path dbus.ObjectPath) error {
	var all map[string]dbus.Variant
	if err := c.call(ctx, path, properties+".GetAll", []any{timerIface}, &all); err != nil {
		return err
	}
	return t.decode(all)
}

// decode takes over the properties of the interface org.freedesktop.systemd1.Timer.
func (t *LoadedTimer) decode(all map[string]dbus.Variant) error {
	var accuracy, delay, next, last uint64
	var calendar []struct {
		Base, Expression string
		Next             uint64
	}
	for name, target := range map[string]any{
		"TimersCalendar": &calendar, "AccuracyUSec": &accuracy, "RandomizedDelayUSec": &delay, "Persistent": &t.Persistent,
		"NextElapseUSecRealtime": &next, "LastTriggerUSec": &last, "Result": &t.Result,
	} {
		v, ok := all[name]
		if !ok {
			return fmt.Errorf("there is no property %s", name)
		}
		if err := v.Store(target); err != nil {
			return fmt.Errorf("property %s: %w", name, err)
		}
	}
	t.Accuracy, t.RandomizedDelay = microseconds(accuracy), microseconds(delay)
	t.Next, t.Last = realtime(next), realtime(last)
	for _, spec := range slices.Backward(calendar) { // the manager lists the last one first
		t.OnCalendar = append(t.OnCalendar, spec.Expression)
	}
	return nil
}

// describeService reads how the service of a timer fares. Only a failed one has a result other than success.
func (c *Conn) describeService(ctx context.Context, t *LoadedTimer, service sd.UnitStatus) error {
	if service.Name == "" {
		return nil
	}
	t.ServiceActive, t.ServiceResult = isActive(service.ActiveState), "success"
	if service.ActiveState != "failed" {
		return nil
	}
	v, err := c.property(ctx, service.Path, serviceIface, "Result")
	if err == nil {
		err = v.Store(&t.ServiceResult)
	}
	return err
}

// microseconds converts a time span of the manager's.
func microseconds(usec uint64) time.Duration {
	return time.Duration(min(usec, math.MaxInt64/1000)) * time.Microsecond
}

// realtime converts a time stamp of the manager's; 0 and the largest value stand for none.
func realtime(usec uint64) time.Time {
	if usec == 0 || usec > math.MaxInt64 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// transientFolder is where the manager keeps the files of transient units, systemd.unit(5).
func transientFolder(user bool, getenv func(string) string, uid int) string {
	if user {
		return filepath.Join(runtimeDir(getenv, uid), "systemd/transient")
	}
	return "/run/systemd/transient"
}

// isOurs tells whether the file is one that the manager keeps of a transient unit of ours.
func isOurs(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if strings.TrimSpace(line) == "Documentation="+Documentation {
			return true
		}
	}
	return false
}
