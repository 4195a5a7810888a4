package units

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

const (
	// maxShift is four weeks: a month later still, days could skip February.
	maxShift = 28 * 24 * time.Hour
	// maxShifted bounds how many expressions one is shifted to.
	maxShifted = 64
	day        = 24 * 60 * minute // in microseconds
)

// Shift returns expressions that together elapse exactly offset after the normalized one does, by the clock on the wall: where
// that is set forward or back within the offset, they do not follow. The offset is a whole number of seconds up to 28 days.
//
// The expressions are normalized. Mostly it is one; it takes several where only a part of the elapses is carried to another
// hour, day, month or year, as of "*-*-* 00,12:00/20:00" by 30 minutes. An error tells that there are no such expressions, or
// too many.
func Shift(normalized string, offset time.Duration) ([]string, error) {
	if offset < 0 || offset > maxShift || offset%time.Second != 0 {
		return nil, fmt.Errorf("shift by %s: want whole seconds, up to 28 days", offset)
	}
	spec, err := parseSpec(normalized)
	if err != nil {
		return nil, fmt.Errorf("shift %q: %w", normalized, err)
	}
	if offset == 0 {
		return []string{normalized}, nil
	}
	shifted, err := spec.shift(int(offset.Microseconds()))
	if err != nil {
		return nil, fmt.Errorf("shift %q by %s: %w", normalized, offset, err)
	}
	list := make([]string, len(shifted))
	for i, s := range shifted {
		list[i] = s.String()
	}
	return list, nil
}

// shift shifts a specification by microseconds: first within the day, then what is carried over by days.
func (c calendarSpec) shift(offset int) ([]calendarSpec, error) {
	clocks, err := c.shiftClock(offset % day)
	if err != nil {
		return nil, err
	}
	var list []calendarSpec
	for _, clock := range clocks {
		dates, err := c.shiftDate(offset/day + clock.carry)
		if err != nil {
			return nil, err
		}
		for _, s := range dates {
			s.hour, s.minute, s.second = clock.hour, clock.minute, clock.second
			list = append(list, s)
		}
	}
	list = merge(list)
	if len(list) > maxShifted {
		return nil, errTooBig
	}
	return list, nil
}

// clock is a product of times of the day, on the day that lies carry days later.
type clock struct {
	hour, minute, second chain
	carry                int
}

// shiftClock shifts the times of the day. Whether a value is carried over depends on the smaller component being carried
// into it, so each component is split in two: what is carried, and what is not.
func (c calendarSpec) shiftClock(offset int) ([]clock, error) {
	list := []clock{{hour: c.hour, minute: c.minute, second: c.second}}
	for _, part := range []struct {
		component func(*clock) *chain
		highest   int
		unit      int
		by        int
	}{
		{func(c *clock) *chain { return &c.second }, minute - 1, second, offset % minute},
		{func(c *clock) *chain { return &c.minute }, 59, 1, offset / minute % 60},
		{func(c *clock) *chain { return &c.hour }, 23, 1, offset / minute / 60},
	} {
		var next []clock
		for _, from := range list {
			by := part.by + from.carry*part.unit
			if by == 0 {
				next = append(next, from)
				continue
			}
			values, err := part.component(&from).values(0, part.highest, part.unit)
			if err != nil {
				return nil, err
			}
			modulus := (part.highest/part.unit + 1) * part.unit
			var split [2][]int
			for _, v := range values {
				split[(v+by)/modulus] = append(split[(v+by)/modulus], (v+by)%modulus)
			}
			for carry, values := range split {
				if len(values) > 0 {
					to := from
					*part.component(&to), to.carry = chainOf(values, 0, part.highest, part.unit), carry
					next = append(next, to)
				}
			}
		}
		list = next
	}
	return list, nil
}

// shiftDate shifts the dates by days.
func (c calendarSpec) shiftDate(days int) ([]calendarSpec, error) {
	if days == 0 {
		return []calendarSpec{c}, nil
	}
	turn := days % len(weekdays)
	c.weekdays = (c.weekdays<<turn | c.weekdays>>(len(weekdays)-turn)) & (1<<len(weekdays) - 1)
	if c.year == nil && c.month == nil && c.day == nil && !c.endOfMonth {
		return []calendarSpec{c}, nil // every day
	}
	if c.endOfMonth {
		// Counted from the end of the month, the days are those of a month whose first day is the last: 31 of them.
		counts := c.daysOf(31)
		for i, d := range counts {
			counts[i] = 31 - d + 1 - days
		}
		slices.Sort(counts)
		if counts[0] > 0 && counts[len(counts)-1]+days <= 28 { // in all months, and not carried out of any
			c.day = chainOf(counts, 1, 31, 1)
			return []calendarSpec{c}, nil
		}
	}
	return c.shiftDates(days)
}

// date is a day of a year, or with carry 1 of the year after it.
type date struct{ carry, month, day int }

// shiftDates shifts the dates one by one, in leap years and in others.
func (c calendarSpec) shiftDates(days int) ([]calendarSpec, error) {
	leap, common, err := c.splitYears()
	if err != nil {
		return nil, err
	}
	inLeap, inCommon := c.datesIn(leapYear, days), c.datesIn(leapYear+1, days)
	if len(leap) == 0 {
		inLeap = inCommon
	}
	if len(common) == 0 {
		inCommon = inLeap
	}
	// What both have is right for all years alike. So is the 29th of February: others do not have it.
	always, onlyLeap, onlyCommon := map[date]bool{}, map[date]bool{}, map[date]bool{}
	for d := range inLeap {
		if inCommon[d] || d == (date{month: 2, day: 29}) {
			always[d] = true
		} else {
			onlyLeap[d] = true
		}
	}
	for d := range inCommon {
		if !always[d] {
			onlyCommon[d] = true
		}
	}
	c.endOfMonth = false
	var list []calendarSpec
	for _, part := range []struct {
		years chain
		dates map[date]bool
	}{{c.year, always}, {leap, onlyLeap}, {common, onlyCommon}} {
		for carry := range 2 {
			shifted := c
			shifted.year = part.years
			for _, p := range products(part.dates, carry) {
				if carry > 0 {
					if shifted.year, err = part.years.next(); err != nil {
						return nil, err
					}
				}
				shifted.month, shifted.day = p.months, p.days
				list = append(list, shifted)
			}
		}
	}
	if len(list) == 0 {
		return nil, errors.New("it never elapses")
	}
	return list, nil
}

// leapYear is one, and the year after it is none.
const leapYear = 2024

// splitYears splits the years into leap years and others.
func (c calendarSpec) splitYears() (leap, common chain, err error) {
	years, err := c.year.values(minYear, maxYear, 1)
	if err != nil {
		return nil, nil, err
	}
	if c.year == nil { // shorter than listing them
		return chain{{1972, 2096, 4}, {2104, 2196, 4}},
			chain{{1970, -1, 0}, {1971, -1, 0}, {1973, 2197, 4}, {1974, 2198, 4}, {1975, 2199, 4}, {2100, -1, 0}}, nil
	}
	isCommon := func(y int) bool { return daysIn(y, 2) == 28 }
	leap = chainOf(slices.DeleteFunc(slices.Clone(years), isCommon), minYear, maxYear, 1)
	common = chainOf(slices.DeleteFunc(years, func(y int) bool { return !isCommon(y) }), minYear, maxYear, 1)
	return leap, common, nil
}

// next shifts years by one.
func (c chain) next() (chain, error) {
	c = slices.Clone(c)
	for i := range c {
		c[i].start++
		if c[i].stop >= 0 {
			c[i].stop++
		}
		if max(c[i].start, c[i].stop) > maxYear {
			return nil, fmt.Errorf("it would elapse after %d, which systemd does not know", maxYear)
		}
	}
	return c, nil
}

// datesIn lists the dates of a year, shifted by days.
func (c calendarSpec) datesIn(year, days int) map[date]bool {
	shifted := map[date]bool{}
	months, _ := c.month.values(1, 12, 1)
	for _, m := range months {
		length := daysIn(year, m)
		for _, d := range c.daysOf(length) {
			d, m, carry := d+days, m, 0
			if d > length {
				d, m = d-length, m+1
			}
			if m > 12 {
				m = 1
				if c.year != nil {
					carry = 1 // else the year after is one of "*", too
				}
			}
			shifted[date{carry, m, d}] = true
		}
	}
	return shifted
}

// daysOf lists the days of a month that has so many.
func (c calendarSpec) daysOf(length int) []int {
	if !c.endOfMonth {
		days, _ := c.day.values(1, 31, 1)
		return slices.DeleteFunc(days, func(d int) bool { return d > length })
	}
	var days []int
	for _, e := range c.day {
		// A range is from its stop, which is the earlier day, towards the end of the month.
		from, to, step := length-e.start+1, length, e.repeat
		if e.stop >= 0 {
			from, to = length-e.stop+1, from
		}
		if step == 0 {
			to, step = from, 1
		}
		for d := from; d <= to; d += step {
			if from >= 1 {
				days = append(days, d)
			}
		}
	}
	slices.Sort(days)
	return slices.Compact(days)
}

func daysIn(year, month int) int {
	return time.Date(year, time.Month(month)+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// monthsAndDays is a product of months and days of the month.
type monthsAndDays struct{ months, days chain }

// products covers the dates that have that carry by products: the months that have the same days together.
func products(dates map[date]bool, carry int) []monthsAndDays {
	var days [13][]int // by month
	for d := range dates {
		if d.carry == carry {
			days[d.month] = append(days[d.month], d.day)
		}
	}
	months := map[string][]int{}
	chains := map[string]chain{}
	for m := 1; m <= 12; m++ {
		if len(days[m]) == 0 {
			continue
		}
		slices.Sort(days[m])
		c := chainOf(days[m], 1, 31, 1)
		if len(days[m]) == daysIn(leapYear, m) {
			c = nil // every day
		}
		key := c.format(2, 1)
		months[key], chains[key] = append(months[key], m), c
	}
	var list []monthsAndDays
	for _, key := range slices.Sorted(maps.Keys(months)) {
		list = append(list, monthsAndDays{chainOf(months[key], 1, 12, 1), chains[key]})
	}
	return list
}

// merge joins specifications that differ in one component of the time of the day only.
func merge(list []calendarSpec) []calendarSpec {
	for _, part := range []struct {
		component func(*calendarSpec) *chain
		highest   int
		unit      int
	}{
		{func(c *calendarSpec) *chain { return &c.hour }, 23, 1},
		{func(c *calendarSpec) *chain { return &c.minute }, 59, 1},
		{func(c *calendarSpec) *chain { return &c.second }, minute - 1, second},
	} {
		var merged []calendarSpec
		at := map[string]int{} // where in merged, by what the rest of it is
		for _, c := range list {
			rest := c
			*part.component(&rest) = nil
			i, ok := at[rest.String()]
			if !ok {
				at[rest.String()] = len(merged)
				merged = append(merged, c)
				continue
			}
			a, errA := part.component(&merged[i]).values(0, part.highest, part.unit)
			b, errB := part.component(&c).values(0, part.highest, part.unit)
			if errA != nil || errB != nil {
				merged = append(merged, c)
				continue
			}
			union := append(a, b...)
			slices.Sort(union)
			*part.component(&merged[i]) = chainOf(slices.Compact(union), 0, part.highest, part.unit)
		}
		list = merged
	}
	return list
}
