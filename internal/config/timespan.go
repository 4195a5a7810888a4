package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// spans are the units of systemd.time(7), in its spellings.
var spans = func() map[string]time.Duration {
	units := map[string]time.Duration{}
	for size, names := range map[time.Duration]string{
		time.Microsecond:       "usec us µs",
		time.Millisecond:       "msec ms",
		time.Second:            "seconds second sec s",
		time.Minute:            "minutes minute min m",
		time.Hour:              "hours hour hr h",
		24 * time.Hour:         "days day d",
		7 * 24 * time.Hour:     "weeks week w",
		2629800 * time.Second:  "months month M",
		31557600 * time.Second: "years year y",
	} {
		for _, name := range strings.Fields(names) {
			units[name] = size
		}
	}
	return units
}()

// ParseTimeSpan parses a time span as in systemd.time(7): "1h 30min", "7d", "90" for seconds. "infinity" is 0.
func ParseTimeSpan(text string) (time.Duration, error) {
	rest := strings.TrimSpace(text)
	if rest == "infinity" {
		return 0, nil
	}
	if rest == "" {
		return 0, fmt.Errorf("%q is no time span", text)
	}
	total := 0.0
	for rest != "" {
		n := 0
		for n < len(rest) && (rest[n] >= '0' && rest[n] <= '9' || rest[n] == '.') {
			n++
		}
		value, err := strconv.ParseFloat(rest[:n], 64)
		if err != nil {
			return 0, fmt.Errorf("%q is no time span", text)
		}
		rest = strings.TrimLeft(rest[n:], " \t")
		n = strings.IndexAny(rest, " \t0123456789.")
		if n < 0 {
			n = len(rest)
		}
		size := time.Second
		if n > 0 {
			var ok bool
			if size, ok = spans[rest[:n]]; !ok {
				return 0, fmt.Errorf("%q is no time span: %q is no unit of time", text, rest[:n])
			}
		}
		total += value * float64(size)
		rest = strings.TrimLeft(rest[n:], " \t")
	}
	if total >= math.MaxInt64 {
		return 0, fmt.Errorf("%q is too long", text)
	}
	return time.Duration(total), nil
}
