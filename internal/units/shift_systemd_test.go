//go:build systemd

package units

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestSystemdShift has systemd itself say when random expressions elapse, and when those do that they are shifted to.
func TestSystemdShift(t *testing.T) {
	t.Setenv("TZ", "UTC")
	const count, iterations = 250, 12
	r := rand.New(rand.NewPCG(1, 2))
	for range count {
		base := time.Date(2023, 12, 1+r.IntN(600), r.IntN(24), r.IntN(60), 0, 0, time.UTC)
		expression := strings.ReplaceAll(randomSpec(r), ".500000", "") // systemd prints no fractions of a second
		original := analyzed(t, base, iterations, expression)[0]
		offset := randomOffset(r)
		shifted, err := Shift(original.normalized, offset)
		if err != nil {
			if !strings.Contains(err.Error(), "never elapses") && !strings.Contains(err.Error(), "does not know") {
				t.Error(err)
			}
			continue
		}
		var got []time.Time
		for i, a := range analyzed(t, base.Add(offset), iterations, shifted...) {
			if a.normalized != shifted[i] {
				t.Errorf("Shift(%q, %s) has %q, which systemd makes %q", original.normalized, offset, shifted[i], a.normalized)
			}
			got = append(got, a.next...)
		}
		slices.SortFunc(got, time.Time.Compare)
		got = got[:min(len(got), len(original.next))]
		for i := range original.next {
			original.next[i] = original.next[i].Add(offset)
		}
		if !slices.EqualFunc(got, original.next, time.Time.Equal) {
			t.Errorf("Shift(%q, %s) = %q, after %s\ngot  %v\nwant %v", original.normalized, offset, shifted, base, got, original.next)
		}
	}
}

// analyzed runs systemd-analyze as of some time.
func analyzed(t *testing.T, base time.Time, iterations int, expressions ...string) []analysis {
	t.Helper()
	args := append([]string{
		"calendar", fmt.Sprintf("--iterations=%d", iterations), fmt.Sprintf("--base-time=%s", base.Format("2006-01-02 15:04:05 UTC")), "--",
	}, expressions...)
	out, err := exec.Command("systemd-analyze", args...).Output()
	list := parseAnalysis(string(out))
	if err != nil || len(list) != len(expressions) {
		t.Fatalf("systemd-analyze %q: %v\n%s", args, err, out)
	}
	return list
}

func TestSystemdCalendars(t *testing.T) {
	t.Setenv("TZ", "Europe/Berlin")
	var expressions []string
	for i := range 1200 { // more than one process takes
		expressions = append(expressions, fmt.Sprintf("*-*-* %d:%d", i/60, i%60), "daily", fmt.Sprintf("dayly %d", i))
	}
	expressions = append(expressions, "", "--help", "Mon..Fri *-*~02 8..17/2:0/15 Europe/Paris", "1990-01-01")
	list, err := Calendars(t.Context(), expressions, 3)
	if err != nil || len(list) != 2405 {
		t.Fatalf("%d answers, %v; want one for every different expression", len(list), err)
	}
	for _, c := range list {
		valid := !strings.HasPrefix(c.Expression, "dayly") && c.Expression != "" && c.Expression != "--help"
		if (c.Err == nil) != valid || valid && c.Normalized == "" {
			t.Errorf("%+v; want it valid: %v", c, valid)
		}
		if n := len(c.Next); valid && n != 3 && c.Expression != "1990-01-01" || n > 0 && !c.Next[0].After(time.Now()) {
			t.Errorf("%q elapses at %v", c.Expression, c.Next)
		}
	}
	if got := list[0].Next[0].In(berlin(t)); list[0].Normalized != "*-*-* 00:00:00" || got.Hour() != 0 || got.Minute() != 0 {
		t.Errorf("%+v; want midnight in Berlin", list[0])
	}
}

func berlin(t *testing.T) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}
