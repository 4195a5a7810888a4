//go:build systemd

package schedule

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

// These tests need root on a booted systemd of their own: they install a backup@.service that only tells that it ran, and
// remove all timers of backups.

// stampFolder is where the system manager keeps the stamps of persistent timers.
const stampFolder = "/var/lib/systemd/timers"

// machine is a Scheduler over the running system manager.
type machine struct {
	*Scheduler
	dir, metrics string
	runs         *bufio.Reader // a line for every run: the ID of its backup
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	root := t.TempDir()
	m := &machine{dir: filepath.Join(root, "etc"), metrics: filepath.Join(root, "textfile")}
	for _, dir := range []string{m.dir, m.metrics} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fifo := filepath.Join(root, "runs")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(fifo, os.O_RDWR, 0) // both ways, so that neither side waits for the other to open it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	m.runs = bufio.NewReader(f)
	template(t, fmt.Sprintf("/bin/sh -c 'echo %%i >%s'", fifo))
	m.Scheduler = New(config.Paths{Config: []string{m.dir}, State: filepath.Join(root, "state"), Lock: filepath.Join(root, "lock")},
		slog.New(slog.NewTextHandler(io.Discard, nil)))
	t.Cleanup(func() {
		if _, err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
		stamps, _ := filepath.Glob(filepath.Join(stampFolder, "stamp-backup@*.timer"))
		for _, stamp := range stamps {
			os.Remove(stamp)
		}
	})
	return m
}

// template installs a backup@.service that runs a command.
func template(t testing.TB, command string) {
	t.Helper()
	const path = "/run/systemd/system/backup@.service"
	if err := os.WriteFile(path, []byte("[Service]\nType=oneshot\nExecStart="+command+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	t.Cleanup(func() {
		os.Remove(path)
		systemctl(t, "daemon-reload")
	})
}

func (m *machine) configure(t *testing.T, backups ...string) {
	t.Helper()
	write(t, m.dir, map[string]string{
		"a.toml":       base + strings.Join(backups, ""),
		"metrics.toml": fmt.Sprintf("[metrics]\ntextfile-dir = %q\n", m.metrics),
	})
}

// start reconciles, and fails the test when the manager refuses anything.
func (m *machine) start(t *testing.T) Report {
	t.Helper()
	report, err := m.Start(t.Context(), false)
	if err != nil {
		t.Fatalf("Start: %v", err)
	}
	if len(report.Refused) > 0 {
		t.Fatalf("refused: %v", report.Refused)
	}
	return report
}

func systemctl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("tests tagged systemd need root on a booted systemd: systemctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func property(t *testing.T, unit, name string) string {
	t.Helper()
	return systemctl(t, "show", "--value", "--property="+name, unit)
}

// invocations tells of every loaded timer of a backup which activation of it is the present one.
func invocations(t *testing.T) map[string]string {
	t.Helper()
	ids := map[string]string{}
	for block := range strings.SplitSeq(systemctl(t, "show", "--property=Id,InvocationID", "backup@*.timer"), "\n\n") {
		var id, invocation string
		for line := range strings.SplitSeq(block, "\n") {
			if v, ok := strings.CutPrefix(line, "Id="); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(line, "InvocationID="); ok {
				invocation = v
			}
		}
		if id != "" {
			ids[id] = invocation
		}
	}
	return ids
}

// eventually waits for a state of the manager's that it announces to nobody here; that takes moments.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it did not come to that within 10 s")
		}
	}
}

func TestSystemdTwoHundredBackups(t *testing.T) {
	m := newMachine(t)
	var backups []string
	for i := range 200 {
		backups = append(backups, backup(fmt.Sprint(i), fmt.Sprintf(`name = "Number %d"`, i), `randomized-offset = "1h"`))
	}
	m.configure(t, backups...)
	if report := m.start(t); len(report.Started) != 200 {
		t.Fatalf("%s; want 200 started", report)
	}
	before := invocations(t)
	if len(before) != 200 {
		t.Fatalf("%d timers are loaded; want 200", len(before))
	}

	list, err := m.Timers(t.Context())
	if err != nil || len(list.Timers) != 200 {
		t.Fatalf("list-timers has %d lines, %v; want 200", len(list.Timers), err)
	}
	minutes := map[string]bool{}
	for _, timer := range list.Timers {
		if timer.Problem != "" || !timer.Next.After(time.Now()) {
			t.Errorf("%+v; want a next elapse", timer)
		}
		minutes[timer.Next.UTC().Format("04")] = true
	}
	if len(minutes) < 40 {
		t.Errorf("200 backups elapse in %d different minutes; want them spread over the hour", len(minutes))
	}

	if report := m.start(t); report.String() != "200 timers unchanged" {
		t.Errorf("again: %s; want nothing done", report)
	}
	if after := invocations(t); !maps.Equal(before, after) {
		t.Error("an unchanged start-timers started timers again")
	}
	if report, err := m.Stop(t.Context()); err != nil || len(report.Stopped) != 200 {
		t.Errorf("Stop: %s, %v; want 200 stopped", report, err)
	}
	if left := invocations(t); len(left) > 0 {
		t.Errorf("%d timers are left", len(left))
	}
}

func TestSystemdEditedSchedule(t *testing.T) {
	m := newMachine(t)
	m.configure(t, backup("1"), backup("2"))
	m.start(t)
	before := invocations(t)
	// The stamp is of long ago, and the new schedule would have elapsed many times since: it must not be caught up.
	old := time.Now().AddDate(0, 0, -3)
	if err := os.Chtimes(filepath.Join(stampFolder, "stamp-backup@2.timer"), old, old); err != nil {
		t.Fatal(err)
	}
	m.configure(t, backup("1"), backup("2", `schedule = "*-*-* *:59:59"`))
	if report := m.start(t); report.String() != "1 timer replaced, 1 unchanged" {
		t.Errorf("%s; want only backup 2 replaced", report)
	}
	after := invocations(t)
	if after["backup@1.timer"] != before["backup@1.timer"] {
		t.Error("the timer of backup 1 was started again")
	}
	if after["backup@2.timer"] == before["backup@2.timer"] || after["backup@2.timer"] == "" {
		t.Error("the timer of backup 2 was not replaced")
	}
	// The manager computes the next elapse when it starts a timer; one that is to be caught up lies in the past.
	if next := m.timer(t, "2").Next; !next.After(time.Now()) {
		t.Errorf("next elapse of backup 2 is %s; want one to come", next)
	}
	if state := property(t, "backup@2.service", "InvocationID"); state != "" {
		t.Error("backup 2 was run because its schedule was changed")
	}
}

func (m *machine) timer(t *testing.T, id string) TimerEntry {
	t.Helper()
	list, err := m.Timers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(list.Timers, func(e TimerEntry) bool { return e.Backup == id })
	if i < 0 {
		t.Fatalf("no timer of backup %s in %+v", id, list.Timers)
	}
	return list.Timers[i]
}

func TestSystemdGoneBackups(t *testing.T) {
	m := newMachine(t)
	m.configure(t, backup("kept"), backup("gone"), backup("off"))
	for _, id := range []string{"kept", "gone", "off"} {
		run := status.Run{ID: "r", Backup: id, Name: id, Start: time.Now(), End: time.Now(), Outcome: status.Success}
		if err := m.store().End(run); err != nil {
			t.Fatal(err)
		}
	}
	m.start(t)
	m.configure(t, backup("kept"), backup("off", "enabled = false"))
	if report := m.start(t); report.String() != "2 timers stopped, 1 unchanged" {
		t.Errorf("%s; want two stopped", report)
	}
	for id, want := range map[string]bool{"kept": true, "gone": false, "off": false} {
		for _, path := range []string{textfile(m.metrics, id), filepath.Join(stampFolder, "stamp-backup@"+id+".timer")} {
			if _, err := os.Stat(path); (err == nil) != want {
				t.Errorf("%s is there: %v; want %v", path, err == nil, want)
			}
		}
	}
	if got := slices.Collect(maps.Keys(invocations(t))); !slices.Equal(got, []string{"backup@kept.timer"}) {
		t.Errorf("loaded are %v; want only that of the backup that was kept", got)
	}
}

func TestSystemdFailedUnitsGo(t *testing.T) {
	m := newMachine(t)
	template(t, "/bin/false")
	m.configure(t, backup("1"))
	m.start(t)
	exec.Command("systemctl", "start", "backup@1.service").Run() // fails, as it is to
	if state := property(t, "backup@1.service", "ActiveState"); state != "failed" {
		t.Fatalf("backup@1.service is %s; want failed", state)
	}
	if e := m.timer(t, "1"); e.Service != "exit-code" {
		t.Errorf("list-timers says %+v; want the service's result", e)
	}
	m.configure(t)
	m.start(t)
	if state := property(t, "backup@1.service", "ActiveState"); state != "inactive" {
		t.Errorf("backup@1.service is %s after its backup was removed; want inactive", state)
	}
}

func TestSystemdForeignTimer(t *testing.T) {
	m := newMachine(t)
	fragment := "/run/systemd/system/backup@x.timer"
	t.Cleanup(func() {
		systemctl(t, "stop", "backup@x.timer")
		os.Remove(fragment)
		systemctl(t, "daemon-reload")
	})
	if err := os.WriteFile(fragment, []byte("[Timer]\nOnCalendar=monthly\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	systemctl(t, "daemon-reload")
	systemctl(t, "start", "backup@x.timer")
	before := property(t, "backup@x.timer", "InvocationID")

	m.configure(t, backup("1"))
	m.start(t)
	m.configure(t, backup("1"), backup("x"))
	report, err := m.Start(t.Context(), false)
	if err != nil || report.Refused["x"] == nil {
		t.Errorf("%s, refused %v, %v; want the backup refused whose timer is not ours", report, report.Refused, err)
	}
	m.configure(t)
	m.start(t)
	if _, err := m.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := property(t, "backup@x.timer", "InvocationID"); after != before || after == "" {
		t.Error("a timer of somebody else's was touched")
	}
}

func TestSystemdCatchUp(t *testing.T) {
	m := newMachine(t)
	m.configure(t, backup("1", `accuracy = "1ms"`))
	if err := os.MkdirAll(stampFolder, 0o755); err != nil {
		t.Fatal(err)
	}
	stamp := filepath.Join(stampFolder, "stamp-backup@1.timer")
	if err := os.WriteFile(stamp, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	old := time.Now().AddDate(0, 0, -3)
	if err := os.Chtimes(stamp, old, old); err != nil {
		t.Fatal(err)
	}
	m.start(t)
	if id, err := m.runs.ReadString('\n'); err != nil || id != "1\n" {
		t.Fatalf("run of %q, %v; want one of backup 1", id, err)
	}
	eventually(t, func() bool { return property(t, "backup@1.service", "ActiveState") == "inactive" })
	first := property(t, "backup@1.service", "ExecMainStartTimestampMonotonic")
	if next := m.timer(t, "1").Next; !next.After(time.Now()) {
		t.Errorf("after the missed run the next elapse is %s; want one to come", next)
	}
	m.start(t)
	if second := property(t, "backup@1.service", "ExecMainStartTimestampMonotonic"); second != first {
		t.Error("three missed elapses were caught up by more than one run")
	}
	if n := m.runs.Buffered(); n > 0 {
		t.Errorf("%d bytes of further runs", n)
	}
}

// BenchmarkSystemdStart is start-timers and list-timers of a thousand backups.
func BenchmarkSystemdStart(b *testing.B) {
	template(b, "/bin/true")
	dir := b.TempDir()
	var text strings.Builder
	text.WriteString(base)
	for i := range 1000 {
		text.WriteString(backup(fmt.Sprint(i)))
	}
	write(b, dir, map[string]string{"a.toml": text.String()})
	s := New(config.Paths{Config: []string{dir}, State: b.TempDir(), Lock: b.TempDir()}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	stop := func() {
		if _, err := s.Stop(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	run := func(b *testing.B) {
		if report, err := s.Start(b.Context(), false); err != nil || len(report.Refused) > 0 {
			b.Fatal(err, report.Refused)
		}
	}
	b.Cleanup(stop)
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			stop()
			b.StartTimer()
			run(b)
		}
	})
	b.Run("unchanged", func(b *testing.B) {
		run(b)
		for b.Loop() {
			run(b)
		}
	})
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if list, err := s.Timers(b.Context()); err != nil || len(list.Timers) != 1000 {
				b.Fatal(len(list.Timers), err)
			}
		}
	})
}
