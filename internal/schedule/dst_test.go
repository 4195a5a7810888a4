package schedule

import (
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the zones of these tests do not depend on the machine
)

func TestSkippedByDST(t *testing.T) {
	berlin := zone(t, "Europe/Berlin")
	now := time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name, expression string
		local            *time.Location
		zone             string
		risky            bool
	}{
		{"in the gap", "*-*-* 02:30:00", berlin, "the local time zone", true},
		{"one o'clock, skipped in London", "*-*-* 01:00:00", berlin, "the local time zone", true},
		{"before the gap", "*-*-* 00:59:59", berlin, "", false},
		{"after the gap", "*-*-* 03:00:00", berlin, "", false},
		{"with weekdays", "Mon..Fri *-*-* 02:00:00", berlin, "the local time zone", true},
		{"UTC", "*-*-* 02:30:00 UTC", berlin, "", false},
		{"a zone with daylight saving", "*-*-* 02:30:00 America/New_York", time.UTC, "America/New_York", true},
		{"a zone without", "*-*-* 02:30:00 Asia/Tokyo", berlin, "", false},
		{"a zone nobody knows", "*-*-* 02:30:00 Mars/Base", berlin, "", false},
		{"here is none", "*-*-* 02:30:00", time.UTC, "", false},
		{"a range over it", "*-*-* 00..06:00:00", berlin, "the local time zone", true},
		{"a range beside it", "*-*-* 03..06:00:00", berlin, "", false},
		{"a list", "*-*-* 00,02,04:00:00", berlin, "the local time zone", true},
		{"every two hours", "*-*-* 00/2:00:00", berlin, "the local time zone", true},
		{"every six hours", "*-*-* 00/6:00:00", berlin, "", false},
		{"every hour", "*-*-* *:15:00", berlin, "", false},
		{"no time at all", "*-*-*", berlin, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			zone, risky := skippedByDST(tt.expression, tt.local, now)
			if zone != tt.zone || risky != tt.risky {
				t.Errorf("skippedByDST(%q) = %q, %v; want %q, %v", tt.expression, zone, risky, tt.zone, tt.risky)
			}
		})
	}
}

func TestHoursOf(t *testing.T) {
	for component, want := range map[string][]int{
		"02":         {2},
		"1,3":        {1, 3},
		"1..4":       {1, 2, 3, 4},
		"1..9/4":     {1, 5, 9},
		"20/2":       {20, 22},
		"22..30":     {22, 23},
		"":           nil,
		"x":          nil,
		"3/0":        nil,
		"3/x,5":      {5},
		"4..2":       nil,
		"-1":         nil,
		"5/99999999": {5},
	} {
		var got []int
		for h, elapses := range hoursOf(component) {
			if elapses {
				got = append(got, h)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("hoursOf(%q) = %v; want %v", component, got, want)
		}
	}
}

// FuzzSkippedByDST looks for expressions that it cannot bear, and for hours that it finds in none.
func FuzzSkippedByDST(f *testing.F) {
	for _, seed := range []string{"*-*-* 02:30:00", "Mon *-*-* 0/2:00:00 Europe/Berlin", "::", "1..2/3,4:", "9223372036854775807/9223372036854775807:"} {
		f.Add(seed)
	}
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		f.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, expression string) {
		clock, _ := clockAndZone(expression)
		if _, risky := skippedByDST(expression, berlin, now); risky && clock == "" {
			t.Errorf("%q has no time of day, but is at risk", expression)
		}
	})
}

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}
