package units

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// What "systemd-analyze calendar --iterations=2" of systemd 252 prints in the zone Europe/Berlin.
const analyzed252 = `  Original form: daily
Normalized form: *-*-* 00:00:00
    Next elapse: Sun 2026-11-22 00:00:00 CET
       (in UTC): Sat 2026-11-21 23:00:00 UTC
       From now: 16h left
       Iter. #2: Mon 2026-11-23 00:00:00 CET
       (in UTC): Sun 2026-11-22 23:00:00 UTC
       From now: 1 day 16h left

Normalized form: 1971-03-05 07:11:13.171923
    Next elapse: never

Normalized form: 1971-03-05 07:11:13.171923
    Next elapse: never

  Original form: 2020-1-1
Normalized form: 2020-01-01 00:00:00
    Next elapse: never

Normalized form: 1971-03-05 07:11:13.171923
    Next elapse: never
`

// Another version, in UTC.
const analyzedUTC = `Normalized form: *-*-* 12:00:00
    Next elapse: Sat 2026-11-21 12:00:00 UTC
       From now: 5h left
   Iteration #2: Sun 2026-11-22 12:00:00 UTC
       From now: 1 day 5h left

Normalized form: 1971-03-05 07:11:13.171923
    Next elapse: never
`

func TestAssign(t *testing.T) {
	utc := func(day, hour int) time.Time { return time.Date(2026, 11, day, hour, 0, 0, 0, time.UTC) }
	tests := []struct {
		name, stdout, stderr string
		expressions          []string
		want                 []Calendar
	}{
		{
			"zone", analyzed252, "Failed to parse calendar specification 'dayly': Invalid argument\n",
			[]string{"daily", "dayly", "2020-1-1"},
			[]Calendar{
				{Expression: "daily", Normalized: "*-*-* 00:00:00", Next: []time.Time{utc(21, 23), utc(22, 23)}},
				{Expression: "dayly", Err: errors.New("invalid argument")},
				{Expression: "2020-1-1", Normalized: "2020-01-01 00:00:00"},
			},
		},
		{
			"UTC", analyzedUTC, "",
			[]string{"*-*-* 12:00:00"},
			[]Calendar{{Expression: "*-*-* 12:00:00", Normalized: "*-*-* 12:00:00", Next: []time.Time{utc(21, 12), utc(22, 12)}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list := make([]*Calendar, len(tt.expressions))
			for i, e := range tt.expressions {
				list[i] = &Calendar{Expression: e}
			}
			if err := assign(list, parseAnalysis(tt.stdout), tt.stderr); err != nil {
				t.Fatal(err)
			}
			for i, got := range list {
				if !reflect.DeepEqual(*got, tt.want[i]) {
					t.Errorf("%+v; want %+v", *got, tt.want[i])
				}
			}
		})
	}
	for _, output := range []string{"", "Normalized form: *-*-* 00:00:00\n", analyzedUTC + analyzedUTC, strings.Repeat("Normalized form: "+marker+"\n", 2)} {
		if err := assign([]*Calendar{{Expression: "x"}}, parseAnalysis(output), ""); err == nil {
			t.Errorf("assign says nothing of the output\n%s", output)
		}
	}
}

func FuzzParseAnalysis(f *testing.F) {
	f.Add(analyzed252, "dayly", "Failed to parse calendar specification 'dayly': Invalid argument\n")
	f.Add(analyzedUTC, "", "")
	f.Fuzz(func(t *testing.T, output, expression, stderr string) {
		for _, a := range parseAnalysis(output) {
			for _, next := range a.next {
				if next.IsZero() || next.Location() != time.UTC {
					t.Errorf("elapse %v", next)
				}
			}
		}
		c := &Calendar{Expression: expression}
		if err := assign([]*Calendar{c}, parseAnalysis(output), stderr); err == nil && (c.Err == nil) == (c.Normalized == "") && c.Normalized != "" {
			t.Errorf("%+v; want either an error or a normalized form", c)
		}
	})
}

func TestUnfit(t *testing.T) {
	for e, ok := range map[string]bool{
		"daily": true, "": false, "  ": false, "daily\n\nNormalized form: x": false, "\xff": false, strings.Repeat("x", 2000): false, "--x": true,
	} {
		if err := unfit(e); (err == nil) != ok {
			t.Errorf("unfit(%q) = %v; want it fit: %v", e, err, ok)
		}
	}
}

func TestCalendarsWithoutProgram(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := Calendars(t.Context(), []string{"daily"}, 1); !errors.Is(err, ErrNoAnalyze) {
		t.Errorf("Calendars = %v; want ErrNoAnalyze", err)
	}
	if list, err := Calendars(t.Context(), []string{"\n", "\n"}, 1); err != nil || len(list) != 1 || list[0].Err == nil {
		t.Errorf("Calendars = %v, %v; want an error of that expression", list, err)
	}
}
