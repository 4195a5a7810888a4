package units

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

func TestDiff(t *testing.T) {
	nightly := Timer{ID: "1", Description: "Nightly", OnCalendar: []string{"*-*-* 02:00:00", "Sat *-*-* 00:00:00"}, Accuracy: time.Minute, Persistent: true}
	with := func(change func(*Timer)) Timer {
		t := nightly
		t.OnCalendar = slices.Clone(t.OnCalendar)
		change(&t)
		return t
	}
	loaded := func(t Timer) LoadedTimer { return LoadedTimer{Timer: t, Ours: true, Active: true} }
	inactive := loaded(nightly)
	inactive.Active = false
	foreign := loaded(nightly)
	foreign.Ours = false
	tests := []struct {
		name       string
		want       []Timer
		have       []LoadedTimer
		change     string // what happens to 1
		reschedule bool
	}{
		{"nothing", nil, nil, "", false},
		{"new", []Timer{nightly}, nil, "start", false},
		{"gone", nil, []LoadedTimer{loaded(nightly)}, "stop", false},
		{"same", []Timer{nightly}, []LoadedTimer{loaded(nightly)}, "unchanged", false},
		{"other order", []Timer{with(func(t *Timer) { slices.Reverse(t.OnCalendar) })}, []LoadedTimer{loaded(nightly)}, "unchanged", false},
		{"accuracy left to the default", []Timer{with(func(t *Timer) { t.Accuracy = 0 })}, []LoadedTimer{loaded(nightly)}, "unchanged", false},
		{"below a microsecond", []Timer{with(func(t *Timer) { t.RandomizedDelay = 999 })}, []LoadedTimer{loaded(nightly)}, "unchanged", false},
		{"description as the manager has it", []Timer{with(func(t *Timer) { t.Description = " Nightly\n" })}, []LoadedTimer{loaded(nightly)}, "unchanged", false},
		{
			"no description",
			[]Timer{with(func(t *Timer) { t.Description = "" })},
			[]LoadedTimer{loaded(with(func(t *Timer) { t.Description = "backup@1.timer" }))},
			"unchanged", false,
		},
		{"other description", []Timer{with(func(t *Timer) { t.Description = "Daily" })}, []LoadedTimer{loaded(nightly)}, "replace", false},
		{"other delay", []Timer{with(func(t *Timer) { t.RandomizedDelay = time.Hour })}, []LoadedTimer{loaded(nightly)}, "replace", false},
		{"other accuracy", []Timer{with(func(t *Timer) { t.Accuracy = time.Hour })}, []LoadedTimer{loaded(nightly)}, "replace", false},
		{"one expression less", []Timer{with(func(t *Timer) { t.OnCalendar = t.OnCalendar[:1] })}, []LoadedTimer{loaded(nightly)}, "replace", true},
		{"other expression", []Timer{with(func(t *Timer) { t.OnCalendar[0] = "*-*-* 03:00:00" })}, []LoadedTimer{loaded(nightly)}, "replace", true},
		{"no longer persistent", []Timer{with(func(t *Timer) { t.Persistent = false })}, []LoadedTimer{loaded(nightly)}, "replace", false},
		{"persistent now", []Timer{nightly}, []LoadedTimer{loaded(with(func(t *Timer) { t.Persistent = false }))}, "replace", true},
		{"not active", []Timer{nightly}, []LoadedTimer{inactive}, "replace", false},
		{"somebody else's", []Timer{nightly}, []LoadedTimer{foreign}, "foreign", false},
		{"somebody else's, not wanted", nil, []LoadedTimer{foreign}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			other := Timer{ID: "2", Description: "Other", OnCalendar: []string{"*-*-* 00:00:00"}}
			c := Diff(append(tt.want, other), append(tt.have, loaded(other.normalized())))
			got := map[string][]string{"stop": c.Stop, "unchanged": c.Unchanged, "foreign": c.Foreign}
			for _, s := range c.Start {
				got["start"] = append(got["start"], s.ID)
			}
			for _, s := range c.Replace {
				got["replace"] = append(got["replace"], s.ID)
			}
			for what, ids := range got {
				if slices.Contains(ids, "1") != (what == tt.change) || slices.Contains(ids, "2") != (what == "unchanged") {
					t.Errorf("%s %v; want backup 1 to be in %q", what, ids, tt.change)
				}
			}
			if c.Reschedule["1"] != tt.reschedule || c.RemoveStamps {
				t.Errorf("Reschedule %v, RemoveStamps %v; want %v, false", c.Reschedule, c.RemoveStamps, tt.reschedule)
			}
			if want := tt.change == "" || tt.change == "unchanged" || tt.change == "foreign"; c.Empty() != want {
				t.Errorf("Empty() = %v; want %v", c.Empty(), want)
			}
		})
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"Nightly to the archive": "Nightly to the archive", " a\tb ": "a b", "a\nExecStart=/bin/evil": "a ExecStart=/bin/evil",
		`ends with \ \\ `: "ends with", "\xff": "\uFFFD", "ümläut": "ümläut", "": "", "\x00\x7f": "",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("oneLine(%q) = %q; want %q", in, got, want)
		}
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("a\\\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := oneLine(s)
		if strings.ContainsAny(got, "\n\r\x00") || strings.HasSuffix(got, `\`) || got != oneLine(got) || got != strings.ToValidUTF8(got, "") {
			t.Errorf("oneLine(%q) = %q", s, got)
		}
	})
}

func TestDecodeTimer(t *testing.T) {
	all := map[string]dbus.Variant{
		"TimersCalendar": dbus.MakeVariantWithSignature([][]any{
			{"OnCalendar", "*-*-* 03:00:00", uint64(1)}, {"OnCalendar", "*-*-* 02:00:00", uint64(1)},
		}, dbus.ParseSignatureMust("a(sst)")),
		"AccuracyUSec": dbus.MakeVariant(uint64(60e6)), "RandomizedDelayUSec": dbus.MakeVariant(uint64(1)),
		"Persistent": dbus.MakeVariant(true), "NextElapseUSecRealtime": dbus.MakeVariant(uint64(1795305600000000)),
		"LastTriggerUSec": dbus.MakeVariant(uint64(0)), "Result": dbus.MakeVariant("success"), "Unit": dbus.MakeVariant("x"),
	}
	var got LoadedTimer
	if err := got.decode(all); err != nil {
		t.Fatal(err)
	}
	want := LoadedTimer{
		Timer: Timer{
			OnCalendar: []string{"*-*-* 02:00:00", "*-*-* 03:00:00"}, Accuracy: time.Minute, RandomizedDelay: time.Microsecond, Persistent: true,
		},
		Next: time.Unix(1795305600, 0), Result: "success",
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("decode = %+v; want %+v", got, want)
	}
	delete(all, "Result")
	if err := got.decode(all); err == nil {
		t.Error("decode says nothing of a property that is missing")
	}
	all["Result"], all["AccuracyUSec"] = dbus.MakeVariant("success"), dbus.MakeVariant("1min")
	if err := got.decode(all); err == nil {
		t.Error("decode says nothing of a property of another type")
	}
	for usec, want := range map[uint64]bool{0: true, math.MaxUint64: true, 1: false} {
		if got := realtime(usec).IsZero(); got != want {
			t.Errorf("realtime(%d) is no time: %v; want %v", usec, got, want)
		}
	}
}

func TestIsOurs(t *testing.T) {
	const head = "# This is a transient unit file, created programmatically via the systemd API. Do not edit.\n[Unit]\n"
	for text, want := range map[string]bool{
		head + "Description=x\nDocumentation=man:schedule-backup(1)\n": true,
		head + "Description=Documentation=man:schedule-backup(1)\n":    false,
		head: false,
	} {
		path := filepath.Join(t.TempDir(), "backup@1.timer")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := isOurs(path); got != want {
			t.Errorf("isOurs = %v; want %v for\n%s", got, want, text)
		}
	}
	if isOurs("/nonexistent") {
		t.Error("a file that is not there is ours")
	}
}

func TestStampFile(t *testing.T) {
	env := func(vars map[string]string) func(string) string { return func(k string) string { return vars[k] } }
	tests := []struct {
		user bool
		env  map[string]string
		want string
	}{
		{false, map[string]string{"HOME": "/root"}, "/var/lib/systemd/timers/stamp-backup@1.timer"},
		{true, map[string]string{"HOME": "/home/u"}, "/home/u/.local/share/systemd/timers/stamp-backup@1.timer"},
		{true, map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "/data"}, "/data/systemd/timers/stamp-backup@1.timer"},
		{true, map[string]string{"HOME": "/home/u", "XDG_DATA_HOME": "relative"}, "/home/u/.local/share/systemd/timers/stamp-backup@1.timer"},
	}
	for _, tt := range tests {
		if got := stampFile(tt.user, "1", env(tt.env)); got != tt.want {
			t.Errorf("stampFile(%v, %v) = %q; want %q", tt.user, tt.env, got, tt.want)
		}
	}
}
