//go:build systemd

package units

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const nothing = "[Service]\nType=oneshot\nExecStart=/bin/true\n"

// removeTimers stops all timers of ours when the test ends.
func removeTimers(t testing.TB, c *Conn) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		have, err := c.Timers(ctx)
		if err != nil {
			t.Fatal(err)
		}
		change := Diff(nil, have)
		change.RemoveStamps = true
		if errs := c.Apply(ctx, change); len(errs) > 0 {
			t.Errorf("remove the timers: %v", errs)
		}
	})
}

// reconcile makes the timers the wanted ones and returns what that took.
func reconcile(t testing.TB, c *Conn, want ...Timer) Change {
	t.Helper()
	have, err := c.Timers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	change := Diff(want, have)
	if errs := c.Apply(t.Context(), change); len(errs) > 0 {
		t.Fatalf("Apply: %v", errs)
	}
	return change
}

func timer(t testing.TB, c *Conn, id string) LoadedTimer {
	t.Helper()
	have, err := c.Timers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(have, func(l LoadedTimer) bool { return l.ID == id })
	if i < 0 {
		t.Fatalf("there is no timer of backup %q among %+v", id, have)
	}
	return have[i]
}

// transports runs a test over the bus, and without one.
func transports(t *testing.T, test func(*testing.T, *Conn)) {
	t.Run("bus", func(t *testing.T) { test(t, dialSystem(t)) })
	t.Run("direct", func(t *testing.T) { test(t, dialDirect(t)) })
}

func TestSystemdTimers(t *testing.T) {
	installUnit(t, "backup@.service", nothing)
	transports(t, func(t *testing.T, c *Conn) {
		removeTimers(t, c)
		want := []Timer{
			{ID: "1", Description: "Nightly", OnCalendar: []string{"*-*-* 02:00:00"}, Accuracy: time.Second, Persistent: true},
			{
				ID: "a-b.c_d", Description: "100 % \"of\" ünits\nExecStart=/bin/evil \\", RandomizedDelay: 15*time.Minute + 1,
				OnCalendar: []string{"Sat *-*-01..07 18:00:00", "*-*-* 00/4:10:00 UTC", "*-*-* *:*:30.500000"},
			},
			{ID: "Z", OnCalendar: []string{"1990-01-01 00:00:00"}},
		}
		if change := reconcile(t, c, want...); len(change.Start) != 3 {
			t.Fatalf("change %+v; want three started", change)
		}
		before := map[string]string{}
		for _, w := range want {
			got := timer(t, c, w.ID)
			if w := w.normalized(); got.differs(w) || !slices.Equal(got.OnCalendar, w.OnCalendar) {
				t.Errorf("loaded is %+v; want %+v", got.Timer, w)
			}
			if !got.Ours || !got.Active || got.Result != "success" || got.ServiceActive || got.ServiceResult != "success" {
				t.Errorf("%s: %+v; want it ours, active and well", w.ID, got)
			}
			if got.Next.IsZero() != (w.ID == "Z") || !got.Next.IsZero() && got.Next.Before(time.Now()) {
				t.Errorf("%s elapses next at %s", w.ID, got.Next)
			}
			before[w.ID] = show(t, TimerName(w.ID), "InvocationID") + show(t, TimerName(w.ID), "ActiveEnterTimestampMonotonic")
		}
		if got := show(t, TimerName("a-b.c_d"), "Triggers"); got != ServiceName("a-b.c_d") {
			t.Errorf("the timer activates %q", got)
		}

		slices.Reverse(want[1].OnCalendar) // the order means nothing
		if change := reconcile(t, c, want...); !change.Empty() || len(change.Unchanged) != 3 {
			t.Errorf("again: %+v; want nothing to do", change)
		}
		// What the manager keeps on disk must say the same as what it was told.
		output(t, "systemctl", "daemon-reload")
		if change := reconcile(t, c, want...); !change.Empty() {
			t.Errorf("after a reload: %+v; want nothing to do", change)
		}
		for id, was := range before {
			if is := show(t, TimerName(id), "InvocationID") + show(t, TimerName(id), "ActiveEnterTimestampMonotonic"); is != was {
				t.Errorf("%s is not the same activation as before", id)
			}
		}

		want[0].OnCalendar = []string{"*-*-* 03:00:00"}
		if change := reconcile(t, c, want[0], want[1]); len(change.Replace) != 1 || len(change.Stop) != 1 || len(change.Unchanged) != 1 {
			t.Errorf("%+v; want one replaced, one stopped", change)
		}
		if got := timer(t, c, "1"); got.OnCalendar[0] != "*-*-* 03:00:00" {
			t.Errorf("replaced timer is %+v", got)
		}
		if got := show(t, TimerName("Z"), "LoadState"); got != "not-found" {
			t.Errorf("a stopped timer is %s; want it gone", got)
		}
		if is := show(t, TimerName("a-b.c_d"), "InvocationID"); !strings.HasPrefix(before["a-b.c_d"], is) || is == "" {
			t.Error("an unchanged timer was replaced")
		}
	})
}

func TestSystemdStamps(t *testing.T) {
	installUnit(t, "backup@.service", nothing)
	c := dialSystem(t)
	removeTimers(t, c)
	stamp := stampFile(false, "1", os.Getenv)
	long := time.Now().AddDate(0, 0, -3)
	daily := Timer{ID: "1", OnCalendar: []string{"*-*-* 00:00:00"}, Persistent: true}
	ran := func() string { return show(t, ServiceName("1"), "ExecMainStartTimestampMonotonic") }
	age := func() time.Duration {
		t.Helper()
		info, err := os.Stat(stamp)
		if err != nil {
			t.Fatal(err)
		}
		return time.Since(info.ModTime())
	}

	reconcile(t, c, daily)
	if age() > time.Minute || ran() != "0" {
		t.Errorf("a new timer: stamp is %s old, run at %s; want a new one and no run", age(), ran())
	}
	if err := os.Chtimes(stamp, long, long); err != nil {
		t.Fatal(err)
	}
	hourly := daily
	hourly.OnCalendar = []string{"*-*-* *:59:59"}
	reconcile(t, c, hourly)
	if age() > time.Minute || ran() != "0" || timer(t, c, "1").Next.Before(time.Now()) {
		t.Errorf("a changed schedule: stamp is %s old, run at %s; want it not to be caught up", age(), ran())
	}
	if err := os.Chtimes(stamp, long, long); err != nil {
		t.Fatal(err)
	}
	// A change that leaves the schedule as it is must not lose an elapse that is being delayed.
	renamed := hourly
	renamed.Description = "Renamed"
	reconcile(t, c, renamed)
	eventually(t, "what was missed is caught up", func() bool { return ran() != "0" })
	eventually(t, "the run ends", func() bool { return !timer(t, c, "1").ServiceActive })

	have, err := c.Timers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if errs := c.Apply(t.Context(), Diff(nil, have)); len(errs) > 0 {
		t.Fatal(errs)
	}
	age() // it is still there
	reconcile(t, c, renamed)
	change := Diff(nil, []LoadedTimer{timer(t, c, "1")})
	change.RemoveStamps = true
	if errs := c.Apply(t.Context(), change); len(errs) > 0 {
		t.Fatal(errs)
	}
	if _, err := os.Stat(stamp); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the stamp of a timer that is gone is there: %v", err)
	}
}

func TestSystemdFailedService(t *testing.T) {
	installUnit(t, "backup@.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
	c := dialSystem(t)
	removeTimers(t, c)
	past := time.Now().Truncate(time.Second)
	reconcile(t, c, Timer{ID: "1", OnCalendar: []string{"*-*-* *:*:*"}, Accuracy: time.Millisecond})
	eventually(t, "the timer elapses and the service fails", func() bool {
		l := timer(t, c, "1")
		return l.ServiceResult == "exit-code" && !l.Last.Before(past)
	})
	if active, err := c.ServiceActive(t.Context(), "none"); active || err != nil {
		t.Errorf("ServiceActive of a service that is not loaded = %v, %v", active, err)
	}
	reconcile(t, c) // stops it
	eventually(t, "the service is no longer failed", func() bool {
		if err := c.ResetFailed(t.Context(), "1"); err != nil { // a run that was just beginning
			t.Fatal(err)
		}
		return show(t, ServiceName("1"), "ActiveState") == "inactive"
	})
	if err := c.ResetFailed(t.Context(), "none"); err != nil {
		t.Errorf("ResetFailed of a service that is not loaded: %v", err)
	}
}

func TestSystemdForeign(t *testing.T) {
	c := dialSystem(t)
	removeTimers(t, c)
	// Each has one of the two marks only.
	output(t, "systemd-run", "--on-calendar=monthly", "--unit=backup@other", "true")
	installUnit(t, "backup@.service", nothing)
	installUnit(t, TimerName("file"), "[Unit]\nDocumentation="+Documentation+"\n[Timer]\nOnCalendar=monthly\n")
	output(t, "systemctl", "start", TimerName("file"))
	t.Cleanup(func() { output(t, "systemctl", "stop", TimerName("file"), TimerName("other")) })
	before := map[string]string{}
	for _, id := range []string{"file", "other"} {
		before[id] = show(t, TimerName(id), "InvocationID")
	}
	change := reconcile(t, c, Timer{ID: "file", OnCalendar: []string{"*-*-* 00:00:00"}}, Timer{ID: "1", OnCalendar: []string{"*-*-* 00:00:00"}})
	if !slices.Equal(change.Foreign, []string{"file"}) || len(change.Start) != 1 || len(change.Stop) != 0 {
		t.Errorf("change %+v; want the foreign timers left alone", change)
	}
	for id, was := range before {
		if is := show(t, TimerName(id), "InvocationID"); is != was || is == "" {
			t.Errorf("%s was touched", id)
		}
	}
	// A unit file of somebody else's that is not even loaded.
	installUnit(t, TimerName("unloaded"), "[Timer]\nOnCalendar=monthly\n")
	errs := c.Apply(t.Context(), Change{Start: []Timer{{ID: "unloaded", OnCalendar: []string{"*-*-* 00:00:00"}}}})
	if !isError(errs["unloaded"], errUnitExists) {
		t.Errorf("Apply = %v; want UnitExists", errs)
	}
}

func TestSystemdApplyErrors(t *testing.T) {
	c := dialSystem(t)
	removeTimers(t, c)
	t.Run("no template", func(t *testing.T) {
		errs := c.Apply(t.Context(), Change{Start: []Timer{{ID: "1", OnCalendar: []string{"*-*-* 00:00:00"}}}})
		if len(errs) != 1 || errs["1"] == nil {
			t.Errorf("Apply = %v; want one error: there is no service to activate", errs)
		}
	})
	installUnit(t, "backup@.service", nothing)
	t.Run("one of three is wrong", func(t *testing.T) {
		errs := c.Apply(t.Context(), Change{Start: []Timer{
			{ID: "1", OnCalendar: []string{"*-*-* 00:00:00"}},
			{ID: "2", OnCalendar: []string{"nonsense"}},
			{ID: "3", OnCalendar: []string{"*-*-* 00:00:00"}},
		}})
		if got := slices.Collect(maps.Keys(errs)); !slices.Equal(got, []string{"2"}) {
			t.Errorf("Apply = %v; want an error of 2 only", errs)
		}
		if !timer(t, c, "1").Active || !timer(t, c, "3").Active {
			t.Error("the others were not started")
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		errs := c.Apply(ctx, Change{Start: []Timer{{ID: "4", OnCalendar: []string{"*-*-* 00:00:00"}}}, Stop: []string{"1"}})
		if len(errs) != 2 || !errors.Is(errs["4"], context.Canceled) || !timer(t, c, "1").Active {
			t.Errorf("Apply = %v; want nothing begun", errs)
		}
	})
	t.Run("stopped twice", func(t *testing.T) {
		if errs := c.Apply(t.Context(), Change{Stop: []string{"1", "1", "gone"}}); len(errs) > 0 {
			t.Errorf("Apply = %v; want no error for what is stopped already", errs)
		}
	})
}

// The manager is told of several hundred timers while others are stopped; none may be lost.
func TestSystemdMany(t *testing.T) {
	installUnit(t, "backup@.service", nothing)
	transports(t, func(t *testing.T, c *Conn) {
		removeTimers(t, c)
		want := make([]Timer, 600)
		for i := range want {
			want[i] = Timer{ID: fmt.Sprintf("many-%d", i), OnCalendar: []string{fmt.Sprintf("*-*-* %02d:%02d:00", i%24, i%60)}}
		}
		reconcile(t, c, want...)
		for i := range 300 {
			want[i].Accuracy = time.Hour
		}
		change := reconcile(t, c, want[:500]...)
		if len(change.Replace) != 300 || len(change.Stop) != 100 || len(change.Unchanged) != 200 {
			t.Errorf("%d replaced, %d stopped, %d unchanged; want 300, 100, 200", len(change.Replace), len(change.Stop), len(change.Unchanged))
		}
		have, err := c.Timers(t.Context())
		if err != nil || len(have) != 500 || !Diff(want[:500], have).Empty() {
			t.Errorf("%d timers are loaded, %v; want exactly the 500", len(have), err)
		}
	})
}

// Timers whose start waits for another unit, say for time-sync.target, must hold nobody up.
func TestSystemdStuck(t *testing.T) {
	installUnit(t, "backup@.service", nothing)
	installUnit(t, "units-stuck.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n")
	installUnit(t, "backup@.timer.d/stuck.conf", "[Unit]\nAfter=units-stuck.service\n")
	output(t, "systemctl", "start", "--no-block", "units-stuck.service")
	c := dialSystem(t)
	removeTimers(t, c)
	c.patience = 100 * time.Millisecond
	want := make([]Timer, 200)
	for i := range want {
		want[i] = Timer{ID: fmt.Sprint(i), OnCalendar: []string{"*-*-* 00:00:00"}}
	}
	began := time.Now()
	errs := c.Apply(t.Context(), Change{Start: want})
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("Apply took %s", took)
	}
	for _, w := range want {
		if !errors.Is(errs[w.ID], ErrStuck) {
			t.Errorf("%s: %v; want ErrStuck", w.ID, errs[w.ID])
		}
	}
	output(t, "systemctl", "stop", "units-stuck.service")
	eventually(t, "the timers that were begun are started", func() bool { return timer(t, c, "0").Active })
	c.patience = jobTimeout
	reconcile(t, c, want...)
}
