//go:build systemd

package units

import (
	"fmt"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// What reconciling a thousand timers costs, beside what it would cost by other means. Compare, in one run:
//
//	Apply      within 1.3 times of BareLoop
//	SystemdRun at least 6 times Apply; it makes only a part of the timers, see the metric ns/timer
//	Unchanged  under a tenth of Apply
//	List       under half of SystemctlListTimers
const benchTimers = 1000

// benchTimer is the timer of the backup number i.
func benchTimer(i int) Timer {
	return Timer{
		ID: strconv.Itoa(i), Description: fmt.Sprintf("Backup %d", i), OnCalendar: []string{fmt.Sprintf("*-*-* %02d:%02d:00", i/60%24, i%60)},
		Persistent: true,
	}
}

func benchWanted() []Timer {
	want := make([]Timer, benchTimers)
	for i := range want {
		want[i] = benchTimer(i)
	}
	return want
}

// benchConn connects, and has all timers of ours removed in the end.
func benchConn(b *testing.B) *Conn {
	b.Helper()
	installUnit(b, "backup@.service", nothing)
	c := dialSystem(b)
	removeTimers(b, c)
	return c
}

// stopAll stops all timers of ours, outside of what is measured.
func stopAll(b *testing.B, c *Conn) {
	b.Helper()
	b.StopTimer()
	defer b.StartTimer()
	have, err := c.Timers(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	change := Diff(nil, have)
	change.RemoveStamps = true
	if errs := c.Apply(b.Context(), change); len(errs) > 0 {
		b.Fatal(errs)
	}
}

func perTimer(b *testing.B, timers int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(timers), "ns/timer")
}

func BenchmarkSystemdApply(b *testing.B) {
	c := benchConn(b)
	want := benchWanted()
	for b.Loop() {
		stopAll(b, c)
		if errs := c.Apply(b.Context(), Change{Start: want}); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
	perTimer(b, benchTimers)
}

// BenchmarkSystemdBareLoop makes the same calls and nothing else: no properties or errors to think of. It waits for the jobs,
// too: with as many open as it can make, systemd loses its own connection to the bus.
func BenchmarkSystemdBareLoop(b *testing.B) {
	c := benchConn(b)
	type start struct {
		name       string
		properties []sd.Property
	}
	var starts []start
	for _, t := range benchWanted() {
		starts = append(starts, start{TimerName(t.ID), t.normalized().properties()})
	}
	aux := []sd.PropertyCollection{}
	for b.Loop() {
		stopAll(b, c)
		next := make(chan start)
		var workers sync.WaitGroup
		for range maxOpen {
			workers.Go(func() {
				for s := range next {
					job, err := c.enqueue(b.Context(), "StartTransientUnit", s.name, "fail", s.properties, aux)
					if err != nil {
						b.Error(err)
						continue
					}
					<-job
				}
			})
		}
		for _, s := range starts {
			next <- s
		}
		close(next)
		workers.Wait()
	}
	perTimer(b, benchTimers)
}

// BenchmarkSystemdSystemdRun makes a part of the timers by systemd-run(1), one after another.
func BenchmarkSystemdSystemdRun(b *testing.B) {
	const part = 1000
	c := dialSystem(b)
	removeTimers(b, c)
	stop := func() {
		for i := range part {
			exec.Command("systemctl", "stop", TimerName(strconv.Itoa(i))).Run()
		}
	}
	b.Cleanup(stop)
	for b.Loop() {
		b.StopTimer()
		stop()
		b.StartTimer()
		for i := range part {
			t := benchTimer(i)
			out, err := exec.Command("systemd-run", "--quiet", "--on-calendar="+t.OnCalendar[0], "--timer-property=Persistent=yes",
				"--description="+t.Description, "--unit=backup@"+t.ID, "/bin/true").CombinedOutput()
			if err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		}
	}
	perTimer(b, part)
}

// BenchmarkSystemdUnchanged is a reconcile that finds everything as it should be.
func BenchmarkSystemdUnchanged(b *testing.B) {
	c := benchConn(b)
	want := benchWanted()
	reconcile(b, c, want...)
	for b.Loop() {
		if change := reconcile(b, c, want...); len(change.Unchanged) != benchTimers {
			b.Fatal(change)
		}
	}
	perTimer(b, benchTimers)
}

func BenchmarkSystemdList(b *testing.B) {
	c := benchConn(b)
	reconcile(b, c, benchWanted()...)
	for b.Loop() {
		if have, err := c.Timers(b.Context()); err != nil || len(have) != benchTimers {
			b.Fatal(len(have), err)
		}
	}
	perTimer(b, benchTimers)
}

func BenchmarkSystemdSystemctlListTimers(b *testing.B) {
	c := benchConn(b)
	reconcile(b, c, benchWanted()...)
	for b.Loop() {
		output(b, "systemctl", "list-timers", "--all", "--no-pager", "backup@*")
	}
	perTimer(b, benchTimers)
}

// BenchmarkSystemdRun is the time that a unit adds to a program that does nothing.
func BenchmarkSystemdRun(b *testing.B) {
	c := dialSystem(b)
	for _, user := range []string{"root", "nobody"} {
		b.Run(user, func(b *testing.B) {
			i := 0
			for b.Loop() {
				i++
				s := shell("exit 0")
				s.Name, s.User = ModuleServiceName("bench", strconv.Itoa(i)), user
				if got, err := c.Run(b.Context(), s); err != nil || got.Result != "success" {
					b.Fatal(got, err)
				}
			}
		})
	}
}
