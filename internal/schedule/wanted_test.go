package schedule

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/units"
)

// base is a configuration with a destination and a module, for backups to be added to.
const base = `
[destination.archive]
repository = "/srv/backup"
password-file = "/etc/hostname"

[module.wiki1]
type = "dokuwiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
directory = "/var/lib/wiki1"
include = ["data"]
`

// backup is a correct backup but for what is added.
func backup(id string, lines ...string) string {
	text := "\n[backup." + id + "]\ndestination = \"archive\"\nmodules = [\"wiki1\"]\n" + strings.Join(lines, "\n") + "\n"
	if !strings.Contains(text, "schedule") {
		text += "schedule = \"daily\"\n"
	}
	return text
}

// load reads a configuration of the given files. Errors about the destination's secret do not matter here.
func load(t testing.TB, files map[string]string) *config.Config {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, files)
	return config.Load([]string{dir}, nil)
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// judged stands in for systemd-analyze: it knows the expressions of these tests.
func judged(expressions []string) map[string]units.Calendar {
	known := map[string]string{
		"daily":     "*-*-* 00:00:00",
		"hourly":    "*-*-* *:00:00",
		"02:30":     "*-*-* 02:30:00",
		"Mon 04:00": "Mon *-*-* 04:00:00",
		"2020-1-1":  "2020-01-01 00:00:00",
	}
	calendars := map[string]units.Calendar{}
	for _, e := range expressions {
		c := units.Calendar{Expression: e, Normalized: known[e], Next: []time.Time{time.Unix(1e10, 0)}}
		switch {
		case c.Normalized == "" && strings.HasPrefix(e, "*-"): // normalized already
			c.Normalized = e
		case c.Normalized == "":
			c.Err, c.Next = errors.New("invalid argument"), nil
		case e == "2020-1-1":
			c.Next = nil
		}
		calendars[e] = c
	}
	return calendars
}

// noOffset is for configurations that ask for none.
func noOffset(string, time.Duration) (time.Duration, error) { return 0, errors.New("no machine id") }

func tenMinutes(string, time.Duration) (time.Duration, error) { return 10 * time.Minute, nil }

func want(cfg *config.Config) Wanted { return Want(cfg, judged(Expressions(cfg)), tenMinutes) }

func TestWant(t *testing.T) {
	cfg := load(t, map[string]string{"a.toml": base +
		backup("10", `name = "Nightly"`, `schedule = ["daily", "Mon 04:00"]`, `randomized-delay = "15m"`, `accuracy = "1s"`) +
		backup("2", `persistent = false`) +
		backup("3", `enabled = false`) +
		backup("4", `randomized-offset = "1h"`)})
	if errs := errorsBut(cfg.Errors(), config.KindDestination); len(errs) > 0 {
		t.Fatal(errs)
	}
	w := want(cfg)
	if len(w.Problems) > 0 || len(w.Undecided) > 0 || w.Blind {
		t.Errorf("problems %v, undecided %v, blind %v; want none", w.Problems, w.Undecided, w.Blind)
	}
	if !w.Disabled["3"] || len(w.Disabled) != 1 {
		t.Errorf("disabled %v; want backup 3", w.Disabled)
	}
	wanted := []units.Timer{
		{ID: "2", Description: "Backup 2", OnCalendar: []string{"*-*-* 00:00:00"}, Accuracy: time.Minute},
		{ID: "4", Description: "Backup 4", OnCalendar: []string{"*-*-* 00:10:00"}, Accuracy: time.Minute, Persistent: true},
		{
			ID: "10", Description: "Nightly", OnCalendar: []string{"*-*-* 00:00:00", "Mon *-*-* 04:00:00"},
			RandomizedDelay: 15 * time.Minute, Accuracy: time.Second, Persistent: true,
		},
	}
	if !slices.EqualFunc(w.Timers, wanted, func(a, b units.Timer) bool {
		return slices.Equal(a.OnCalendar, b.OnCalendar) && a.ID == b.ID && a.Description == b.Description &&
			a.RandomizedDelay == b.RandomizedDelay && a.Accuracy == b.Accuracy && a.Persistent == b.Persistent
	}) {
		t.Errorf("timers\n%+v; want\n%+v", w.Timers, wanted)
	}
}

// TestWantDespiteErrors: one mistake must not take the timer of another backup, nor its own where the mistake has nothing
// to do with it.
func TestWantDespiteErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		timer      bool // of backup x
		undecided  bool
	}{
		{"no mistake", base + backup("x"), true, false},
		{"unknown module", base + strings.Replace(backup("x"), `["wiki1"]`, `["wiki1", "gone"]`, 1), true, false},
		{"unknown destination", base + strings.Replace(backup("x"), `"archive"`, `"gone"`, 1), true, false},
		{"broken module", base + "\n[module.wiki2]\n" + backup("x"), true, false},
		{"unknown key", base + backup("x", `retry-timeuot = "1h"`), true, false},
		{"bad retention", base + backup("x", `retention = 0`), true, false},
		{"bad duration of a run", base + backup("x", `timeout = "soon"`), true, false},
		{"bad expression", base + backup("x", `schedule = "sometimes"`), false, true},
		{"one of two expressions bad", base + backup("x", `schedule = ["daily", "sometimes"]`), false, true},
		{"no schedule", base + backup("x", `schedule = []`), false, true},
		{"bad delay", base + backup("x", `randomized-delay = "soon"`), false, true},
		{"bad accuracy", base + backup("x", `accuracy = "soon"`), false, true},
		{"delay and offset", base + backup("x", `randomized-delay = "1m"`, `randomized-offset = "1m"`), false, true},
		{"bad enabled", base + backup("x", `enabled = "maybe"`), false, true},
		{"disabled, and its expression bad", base + backup("x", `enabled = false`, `schedule = "sometimes"`), false, false},
		{"never elapses", base + backup("x", `schedule = "2020-1-1"`), true, false},
		{"the same backup twice", base + backup("x") + "\n", true, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := load(t, map[string]string{"a.toml": tt.text, "b.toml": backup("other")})
			w := want(cfg)
			has := func(id string) bool {
				return slices.ContainsFunc(w.Timers, func(t units.Timer) bool { return t.ID == id })
			}
			if !has("other") {
				t.Error("the other backup has no timer")
			}
			if has("x") != tt.timer || w.Undecided["x"] != tt.undecided {
				t.Errorf("timer %v, undecided %v; want %v, %v\n%v\n%v", has("x"), w.Undecided["x"], tt.timer, tt.undecided,
					cfg.Problems, w.Problems)
			}
		})
	}
}

func TestWantOfTwoDefinitions(t *testing.T) {
	w := want(load(t, map[string]string{"a.toml": base + backup("x"), "b.toml": backup("x", `schedule = "hourly"`)}))
	if len(w.Timers) > 0 || !w.Undecided["x"] {
		t.Errorf("timers %v, undecided %v; want none while it is open which of the two counts", w.Timers, w.Undecided)
	}
}

func TestWantIsBlind(t *testing.T) {
	cfg := load(t, map[string]string{"a.toml": base + backup("x") + backup("y", "enabled = false"), "b.toml": "[backup.z\n"})
	w := want(cfg)
	if !w.Blind {
		t.Fatal("not blind, although a file does not parse")
	}
	for id, keeps := range map[string]bool{"x": false, "y": false, "z": true, "gone": true} {
		if got := w.keeps(cfg, id); got != keeps {
			t.Errorf("keeps(%q) = %v; want %v", id, got, keeps)
		}
	}
}

func TestOffsetUnknown(t *testing.T) {
	cfg := load(t, map[string]string{"a.toml": base + backup("x", `randomized-offset = "1h"`) + backup("y")})
	w := Want(cfg, judged(Expressions(cfg)), noOffset)
	if !w.Undecided["x"] || len(w.Timers) != 1 {
		t.Errorf("undecided %v, timers %v; want x undecided, and y's", w.Undecided, w.Timers)
	}
	if len(w.Problems) != 1 || w.Problems[0].Line == 0 || w.Problems[0].Key != "backup.x.randomized-offset" {
		t.Errorf("problems %+v; want one at the line of randomized-offset", w.Problems)
	}
}

func errorsBut(problems []config.Problem, kind config.Kind) []config.Problem {
	return slices.DeleteFunc(slices.Clone(problems), func(p config.Problem) bool { return p.Kind == kind })
}

// A check has a timer of its own, which goes and stays with its backup's, and whose mistakes are told at its key.
func TestWantChecks(t *testing.T) {
	cfg := load(t, map[string]string{"a.toml": base + backup("1", `schedule = "daily"`, `check = { schedule = "Mon 04:00", read-data-subset = 4 }`, "name = \"Nightly\"") +
		backup("2", `schedule = "daily"`, `check = { schedule = "sometimes" }`) + backup("3", `schedule = "daily"`, `check = { schedule = "hourly" }`, "enabled = false") +
		backup("4", `schedule = "daily"`, `check = { schedule = 7 }`)})
	w := Want(cfg, judged(Expressions(cfg)), noOffset)
	var got []string
	for _, timer := range w.Timers {
		got = append(got, timer.ID+" "+strings.Join(timer.OnCalendar, ",")+" "+timer.Description)
	}
	want := []string{"1 *-*-* 00:00:00 Nightly", "check@1 Mon *-*-* 04:00:00 Check of Nightly", "2 *-*-* 00:00:00 Backup 2"}
	if !slices.Equal(got, want) {
		t.Errorf("timers %q; want %q", got, want)
	}
	if !w.Undecided["check@2"] || w.Undecided["2"] || !w.Disabled["check@3"] || !w.Undecided["check@4"] {
		t.Errorf("undecided %v, disabled %v", w.Undecided, w.Disabled)
	}
	if len(w.Problems) != 1 || w.Problems[0].Key != "backup.2.check.schedule" || w.Problems[0].ID != "2" {
		t.Errorf("problems %v; want one at backup.2.check.schedule", w.Problems)
	}
}

// A drill has a timer of its own as long as an enabled backup saves the module; where that cannot be told, what is loaded of it stays. It does not
// change with the backup whose turn it is.
func TestWantDrills(t *testing.T) {
	text := base
	for i, schedule := range []string{`"Mon 04:00"`, `"sometimes"`, `"daily"`, "4"} {
		text += fmt.Sprintf("[module.w%[1]d]\ntype = \"wiki\"\nuuid = \"%[1]d792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/srv\"]\ndrill = { schedule = %s }\n", i+1, schedule)
	}
	cfg := load(t, map[string]string{"a.toml": text + backup("1", `schedule = "daily"`, "accuracy = \"1h\"", "randomized-delay = \"1h\"") +
		backup("2", `schedule = "daily"`) + backup("3", `schedule = "daily"`, "enabled = false")})
	for id, modules := range map[string][]string{"1": {"w1", "w2", "w4"}, "2": {"w1"}, "3": {"w3"}} {
		cfg.Backups[id].Modules = modules
	}
	w := Want(cfg, judged(Expressions(cfg)), noOffset)
	var drills []units.Timer
	for _, timer := range w.Timers {
		if strings.HasPrefix(timer.ID, "drill@") {
			drills = append(drills, timer)
		}
	}
	want := []units.Timer{{ID: "drill@w1", Description: "Restore drill of module w1", OnCalendar: []string{"Mon *-*-* 04:00:00"}, Persistent: true}}
	if !reflect.DeepEqual(drills, want) {
		t.Errorf("timers %+v; want %+v", drills, want)
	}
	if !w.Undecided["drill@w2"] || !w.Undecided["drill@w4"] || w.Undecided["drill@w3"] || w.Undecided["drill@w1"] {
		t.Errorf("undecided %v", w.Undecided)
	}
	if len(w.Problems) != 1 || w.Problems[0].Key != "module.w2.drill.schedule" || w.Problems[0].Kind != config.KindModule {
		t.Errorf("problems %v; want one at module.w2.drill.schedule", w.Problems)
	}
	if turns := cfg.DrillTurns("w1"); !slices.Equal(turns, []string{"1", "2"}) {
		t.Errorf("turns %v", turns)
	}
	// A backup that cannot be read may be the one that saves the module.
	cfg.Add(config.Problem{Kind: config.KindBackup, ID: "3", Key: "backup.3.modules", Message: "is a number"})
	if w = Want(cfg, judged(Expressions(cfg)), noOffset); !w.Undecided["drill@w3"] {
		t.Errorf("undecided %v; want drill@w3, too", w.Undecided)
	}
}
