package units

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// calendarSpec is a normalized OnCalendar expression, systemd.time(7): the product of its components.
type calendarSpec struct {
	weekdays   uint8 // bit 0: Monday; 0: any
	year       chain
	month      chain
	day        chain
	endOfMonth bool // day counts from the last day of the month, which is 1
	hour       chain
	minute     chain
	second     chain  // in microseconds
	zone       string // "": local time
}

// chain is one component: nil for "*", else the sum of its ranges.
type chain []span

// span is start, start..stop, start/repeat or start..stop/repeat.
type span struct {
	start, stop, repeat int // stop -1: none; repeat 0: none
}

// Limits of the components; systemd's calendar_spec_valid().
const (
	minYear, maxYear = 1970, 2199
	second           = 1_000_000 // in microseconds
	minute           = 60 * second
)

// maxValues bounds how many values of a component are handled one by one.
const maxValues = 1000

var (
	errSpec   = errors.New("not a normalized calendar expression")
	weekdays  = []string{"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"}
	errTooBig = errors.New("it elapses at too many different moments")
)

// parseSpec parses an expression in the form that systemd prints.
func parseSpec(s string) (calendarSpec, error) {
	var c calendarSpec
	fields := strings.Split(s, " ")
	if len(fields) > 0 && len(fields[0]) >= 3 && fields[0][0] >= 'A' && fields[0][0] <= 'Z' {
		var err error
		if c.weekdays, err = parseWeekdays(fields[0]); err != nil {
			return c, err
		}
		fields = fields[1:]
	}
	if len(fields) == 3 && fields[2] != "" {
		c.zone = fields[2]
		fields = fields[:2]
	}
	if len(fields) != 2 {
		return c, errSpec
	}
	date, days, ok := cutLast(fields[0], "~")
	c.endOfMonth = ok
	if !ok {
		if date, days, ok = cutLast(fields[0], "-"); !ok {
			return c, errSpec
		}
	}
	years, months, ok := strings.Cut(date, "-")
	if !ok {
		return c, errSpec
	}
	clock := strings.Split(fields[1], ":")
	if len(clock) != 3 {
		return c, errSpec
	}
	for _, part := range []struct {
		target   *chain
		text     string
		min, max int
		unit     int
	}{
		{&c.year, years, minYear, maxYear, 1},
		{&c.month, months, 1, 12, 1},
		{&c.day, days, 1, 31, 1},
		{&c.hour, clock[0], 0, 23, 1},
		{&c.minute, clock[1], 0, 59, 1},
		{&c.second, clock[2], 0, minute - 1, second},
	} {
		var err error
		if *part.target, err = parseChain(part.text, part.min, part.max, part.unit); err != nil {
			return c, err
		}
	}
	return c, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func parseWeekdays(s string) (bits uint8, err error) {
	for part := range strings.SplitSeq(s, ",") {
		from, to, isRange := strings.Cut(part, "..")
		if !isRange {
			to = from
		}
		a, b := slices.Index(weekdays, from), slices.Index(weekdays, to)
		if a < 0 || b < a {
			return 0, errSpec
		}
		for d := a; d <= b; d++ {
			bits |= 1 << d
		}
	}
	return bits, nil
}

func parseChain(s string, lowest, highest, unit int) (chain, error) {
	if s == "*" {
		return nil, nil
	}
	var c chain
	for part := range strings.SplitSeq(s, ",") {
		e := span{stop: -1}
		rest, repeat, hasRepeat := strings.Cut(part, "/")
		start, stop, hasStop := strings.Cut(rest, "..")
		var err error
		if e.start, err = parseNumber(start, unit); err != nil {
			return nil, err
		}
		if hasStop {
			if e.stop, err = parseNumber(stop, unit); err != nil {
				return nil, err
			}
			e.repeat = unit
		}
		if hasRepeat {
			if e.repeat, err = parseNumber(repeat, unit); err != nil {
				return nil, err
			}
		}
		if e.start < lowest || e.start > highest || hasStop && (e.stop < e.start || e.stop > highest) ||
			(hasStop || hasRepeat) && e.repeat < 1 {
			return nil, errSpec
		}
		c = append(c, e)
	}
	return c, nil
}

// parseNumber parses a number; with unit second it may have a fraction, to the microsecond.
func parseNumber(s string, unit int) (int, error) {
	whole, fraction, hasFraction := strings.Cut(s, ".")
	n, err := parseDigits(whole)
	if err != nil || !hasFraction {
		return n * unit, err
	}
	if unit != second || len(fraction) > 6 {
		return 0, errSpec
	}
	f, err := parseDigits(fraction + strings.Repeat("0", 6-len(fraction)))
	return n*unit + f, err
}

func parseDigits(s string) (int, error) {
	if s == "" || len(s) > 9 || strings.Trim(s, "0123456789") != "" {
		return 0, errSpec
	}
	return strconv.Atoi(s)
}

// values lists the values of a component in order; highest ends the spans that have no stop.
func (c chain) values(lowest, highest, unit int) ([]int, error) {
	if c == nil {
		c = chain{{start: lowest, stop: highest, repeat: unit}}
	}
	var list []int
	for _, e := range c {
		stop := e.stop
		switch {
		case e.repeat == 0:
			stop = e.start
		case stop < 0:
			stop = highest
		}
		for v := e.start; v <= stop; v += max(e.repeat, 1) {
			if len(list) == maxValues {
				return nil, errTooBig
			}
			list = append(list, v)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), nil
}

// chainOf is the shortest chain of values, which are in order and all different.
func chainOf(values []int, lowest, highest, unit int) chain {
	if len(values) == (highest-lowest)/unit+1 {
		return nil
	}
	if len(values) > 2 {
		step := values[1] - values[0]
		even := true
		for i := 2; i < len(values); i++ {
			even = even && values[i]-values[i-1] == step
		}
		if even {
			return chain{{start: values[0], stop: values[len(values)-1], repeat: step}}
		}
	}
	c := make(chain, len(values))
	for i, v := range values {
		c[i] = span{start: v, stop: -1}
	}
	return c
}

// String is the expression as systemd prints it: a fixed point of its normalization.
func (c calendarSpec) String() string {
	var b strings.Builder
	if c.weekdays != 0 && c.weekdays != 1<<7-1 {
		b.WriteString(formatWeekdays(c.weekdays) + " ")
	}
	dash := "-"
	if c.endOfMonth {
		dash = "~"
	}
	b.WriteString(c.year.format(4, 1) + "-" + c.month.format(2, 1) + dash + c.day.format(2, 1) + " ")
	b.WriteString(c.hour.format(2, 1) + ":" + c.minute.format(2, 1) + ":" + c.second.format(2, second))
	if c.zone != "" {
		b.WriteString(" " + c.zone)
	}
	return b.String()
}

func formatWeekdays(bits uint8) string {
	var parts []string
	for d := 0; d < 7; d++ {
		if bits&(1<<d) == 0 {
			continue
		}
		end := d
		for end < 6 && bits&(1<<(end+1)) != 0 {
			end++
		}
		if end-d >= 2 {
			parts = append(parts, weekdays[d]+".."+weekdays[end])
			d = end
			continue
		}
		parts = append(parts, weekdays[d])
	}
	return strings.Join(parts, ",")
}

func (c chain) format(width, unit int) string {
	if c == nil {
		return "*"
	}
	number := func(v, width int) string {
		s := fmt.Sprintf("%0*d", width, v/unit)
		if f := v % unit; f != 0 {
			s += fmt.Sprintf(".%06d", f)
		}
		return s
	}
	parts := make([]string, len(c))
	for i, e := range c {
		parts[i] = number(e.start, width)
		if e.stop >= 0 {
			parts[i] += ".." + number(e.stop, width)
		}
		if e.repeat > 0 && (e.stop < 0 || e.repeat != unit) {
			parts[i] += "/" + number(e.repeat, 1)
		}
	}
	return strings.Join(parts, ",")
}
