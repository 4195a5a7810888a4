package schedule

import (
	"strconv"
	"strings"
	"time"
)

// skippedByDST tells whether a normalized OnCalendar expression, systemd.time(7), elapses at a local time between 01:00 and
// 03:00 in a zone with daylight saving time, and which zone that is. In the night when it begins such a time may not exist,
// and the elapse is lost (systemd issue 5595). An expression for every hour loses nothing but the hour that does not exist.
func skippedByDST(normalized string, local *time.Location, now time.Time) (zone string, risky bool) {
	clock, zone := clockAndZone(normalized)
	hours, _, _ := strings.Cut(clock, ":")
	elapses := hoursOf(hours)
	every := true
	for _, h := range elapses {
		every = every && h
	}
	if every || !elapses[1] && !elapses[2] {
		return "", false
	}
	location := local
	if zone != "" {
		var err error
		if location, err = time.LoadLocation(zone); err != nil {
			return "", false // no data of the zone here; systemd has it
		}
	}
	if !changesWithin(location, now, 366*24*time.Hour) {
		return "", false
	}
	if zone == "" {
		zone = "the local time zone"
	}
	return zone, true
}

// clockAndZone returns the time of day and the zone, "" for none, of a normalized expression.
func clockAndZone(normalized string) (clock, zone string) {
	fields := strings.Fields(normalized)
	for i, field := range fields {
		if strings.Contains(field, ":") {
			return field, strings.Join(fields[i+1:], " ")
		}
	}
	return "", ""
}

// hoursOf returns at which hours the hour component of an expression elapses: a list of values, ranges a..b and
// repetitions /n of either. What it cannot read elapses never.
func hoursOf(component string) (hours [24]bool) {
	for part := range strings.SplitSeq(component, ",") {
		span, repeat, repeats := strings.Cut(part, "/")
		step := 1
		if repeats {
			var err error
			if step, err = strconv.Atoi(repeat); err != nil || step < 1 {
				continue
			}
		}
		from, to, isRange := strings.Cut(span, "..")
		if span == "*" {
			from, to, isRange = "0", "23", true
		}
		first, err := strconv.Atoi(from)
		if err != nil {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil {
				continue
			}
		} else if repeats {
			last = 23
		}
		for h := max(first, 0); h <= min(last, 23); h += step {
			hours[h] = true
		}
	}
	return hours
}

// changesWithin tells whether the zone's offset from UTC changes soon.
func changesWithin(zone *time.Location, now time.Time, window time.Duration) bool {
	_, end := now.In(zone).ZoneBounds()
	return !end.IsZero() && end.Before(now.Add(window))
}
