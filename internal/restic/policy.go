package restic

import (
	"slices"
	"strconv"
	"time"

	"sdbackup/internal/config"
)

// KeepsAll tells whether the policy certainly keeps every snapshot of a group with these times. It follows `restic forget`,
// whose newer versions keep rather more; it serves only to save a call that could remove nothing.
func KeepsAll(policy config.Retention, times []time.Time) bool {
	if policy.IsZero() {
		return true
	}
	times = slices.Clone(times)
	slices.SortFunc(times, func(a, b time.Time) int { return b.Compare(a) }) // newest first
	type bucket struct {
		left int
		last int
		of   func(t time.Time, i int) int
	}
	buckets := []bucket{
		{policy.KeepLast, -1, func(_ time.Time, i int) int { return i }},
		{policy.KeepHourly, -1, func(t time.Time, _ int) int { return ((t.Year()*100+int(t.Month()))*100+t.Day())*100 + t.Hour() }},
		{policy.KeepDaily, -1, func(t time.Time, _ int) int { return (t.Year()*100+int(t.Month()))*100 + t.Day() }},
		{policy.KeepWeekly, -1, func(t time.Time, _ int) int { y, w := t.ISOWeek(); return y*100 + w }},
		{policy.KeepMonthly, -1, func(t time.Time, _ int) int { return t.Year()*100 + int(t.Month()) }},
		{policy.KeepYearly, -1, func(t time.Time, _ int) int { return t.Year() }},
	}
	for i, t := range times {
		keep := policy.KeepWithin != "" && t.After(before(times[0], policy.KeepWithin))
		for j := range buckets {
			b := &buckets[j]
			if v := b.of(t, i); b.left > 0 && v != b.last {
				b.left--
				b.last = v
				keep = true
			}
		}
		if !keep {
			return false
		}
	}
	return true
}

// before goes back from a time by a duration of restic's, as "1y5m7d2h".
func before(t time.Time, span string) time.Time {
	for span != "" {
		i := 0
		for i < len(span) && span[i] >= '0' && span[i] <= '9' {
			i++
		}
		n, err := strconv.Atoi(span[:i])
		if err != nil || i == len(span) {
			return t // not a duration: it keeps nothing
		}
		switch span[i] {
		case 'y':
			t = t.AddDate(-n, 0, 0)
		case 'm':
			t = t.AddDate(0, -n, 0)
		case 'd':
			t = t.AddDate(0, 0, -n)
		case 'h':
			t = t.Add(-time.Duration(n) * time.Hour)
		}
		span = span[i+1:]
	}
	return t
}
