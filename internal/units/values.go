package units

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The parsers of values take what a TOML file can hold: string, int64, float64, bool or a list of those; and return what goes
// into a property.

// infinity is how the manager says "no limit", and "not known".
const infinity = math.MaxUint64

// scale is a share of what the machine has, in parts of the largest uint32.
type scale uint32

// text returns a value as one would write it in a unit file.
func text(value any) (string, error) {
	switch v := value.(type) {
	case string:
		if strings.ContainsAny(v, "\n\r\x00") {
			return "", errors.New("want one line")
		}
		return strings.TrimSpace(v), nil
	case bool:
		if v {
			return "yes", nil
		}
		return "no", nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case int:
		return strconv.Itoa(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case nil:
		return "", errors.New("want a value")
	}
	return "", errors.New("want a single value")
}

func parseString(value any) (any, error) { return text(value) }

// parseBool takes what systemd takes for a boolean.
func parseBool(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	switch strings.ToLower(s) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off":
		return false, nil
	}
	return nil, fmt.Errorf("%q is not a boolean: want true or false", s)
}

// parseBoolOr takes a boolean or one of some words, for properties that are strings.
func parseBoolOr(words ...string) func(any) (any, error) {
	return func(value any) (any, error) {
		b, err := parseBool(value)
		if err == nil && b == true {
			return "yes", nil
		}
		if err == nil {
			return "no", nil
		}
		return parseEnum(append([]string{"true", "false"}, words...)...)(value)
	}
}

func parseEnum(words ...string) func(any) (any, error) {
	return func(value any) (any, error) {
		s, err := text(value)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(words, s) {
			return nil, fmt.Errorf("%q: want one of %s", s, strings.Join(words, ", "))
		}
		return s, nil
	}
}

// parseNumbered takes words that stand for numbers.
func parseNumbered(words map[string]int32) func(any) (any, error) {
	return func(value any) (any, error) {
		s, err := text(value)
		if err != nil {
			return nil, err
		}
		if n, ok := words[s]; ok {
			return n, nil
		}
		var known []string
		for w := range words {
			known = append(known, w)
		}
		slices.Sort(known)
		return nil, fmt.Errorf("%q: want one of %s", s, strings.Join(known, ", "))
	}
}

// logLevels are those of syslog(3).
var logLevels = map[string]int32{
	"emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7,
}

func parseInteger(lowest, highest int64) func(any) (any, error) {
	return func(value any) (any, error) {
		s, err := text(value)
		if err != nil {
			return nil, err
		}
		n, err := strconv.ParseInt(s, 10, 32)
		if err != nil || n < lowest || n > highest {
			return nil, fmt.Errorf("%q: want a number from %d to %d", s, lowest, highest)
		}
		return int32(n), nil
	}
}

func parseUint32(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%q: want a number", s)
	}
	return uint32(n), nil
}

// parseMode takes access modes, in octal as in a string.
func parseMode(value any) (any, error) {
	s, ok := value.(string)
	n, err := strconv.ParseUint(s, 8, 32)
	if !ok || err != nil || n > 0o7777 {
		return nil, fmt.Errorf("%v: want an octal number in quotes, as in \"0077\"", value)
	}
	return uint32(n), nil
}

// parseWeight takes 1 to 10000.
func parseWeight(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < 1 || n > 10000 {
		return nil, fmt.Errorf("%q: want a number from 1 to 10000", s)
	}
	return n, nil
}

func parseIOWeight(value any) (any, error) { return parseWeight(value) }

// parseCPUWeight takes "idle", too, which is 0 on D-Bus.
func parseCPUWeight(value any) (any, error) {
	if value == "idle" {
		return uint64(0), nil
	}
	return parseWeight(value)
}

// parseQuota takes a share of one CPU's time, as "150%": microseconds a second on D-Bus.
func parseQuota(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if s == "" || s == "infinity" {
		return uint64(infinity), nil
	}
	n, err := permyriad(s)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("%q: want a share of one CPU, as in \"50%%\"", s)
	}
	return n * 100, nil
}

// permyriad parses a percentage of at most two decimals, in hundredths of a percent.
func permyriad(s string) (uint64, error) {
	digits, ok := strings.CutSuffix(s, "%")
	whole, fraction, _ := strings.Cut(digits, ".")
	if !ok || len(fraction) > 2 || whole == "" {
		return 0, errors.New("not a percentage")
	}
	return strconv.ParseUint(whole+fraction+strings.Repeat("0", 2-len(fraction)), 10, 32)
}

// parsePercent takes a share of what the machine has.
func parsePercent(s string) (any, error) {
	n, err := permyriad(s)
	if err != nil || n > 10000 {
		return nil, fmt.Errorf("%q: want a percentage from 0%% to 100%%", s)
	}
	return scale((n*math.MaxUint32 + 5000) / 10000), nil // as UINT32_SCALE_FROM_PERMYRIAD()
}

// parseShare takes bytes, as "2G", or a share of the machine's memory, as "20%".
func parseShare(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(s, "%") {
		return parsePercent(s)
	}
	return parseSize(value)
}

// parseTasks takes a number of tasks, or a share of the machine's.
func parseTasks(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(s, "%") {
		return parsePercent(s)
	}
	return parseNumber64(value)
}

// parseNumber64 takes a number or "infinity".
func parseNumber64(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if s == "infinity" {
		return uint64(infinity), nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n == infinity {
		return nil, fmt.Errorf("%q: want a number or \"infinity\"", s)
	}
	return n, nil
}

// parseSize takes bytes, with a suffix to the base 1024, or "infinity".
func parseSize(value any) (any, error) { return parseUnits(value, 1024) }

// parseBandwidth takes bytes or operations a second, with a suffix to the base 1000.
func parseBandwidth(value any) (any, error) { return parseUnits(value, 1000) }

func parseUnits(value any, base float64) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if s == "infinity" {
		return uint64(infinity), nil
	}
	if n, err := strconv.ParseUint(s, 10, 64); err == nil && n != infinity {
		return n, nil
	}
	const suffixes = "KMGTPE"
	bad := fmt.Errorf("%q: want a number with a suffix from K to E, as in \"2G\", or \"infinity\"", s)
	number := strings.TrimSuffix(s, "B")
	power := 0
	if number != "" {
		power = strings.IndexByte(suffixes, number[len(number)-1]) + 1
	}
	if power > 0 {
		number = number[:len(number)-1]
	}
	number = strings.TrimSpace(number)
	if number == "" || strings.Trim(number, "0123456789.") != "" || number[0] == '.' || number[len(number)-1] == '.' {
		return nil, bad
	}
	n, err := strconv.ParseFloat(number, 64)
	n *= math.Pow(base, float64(power))
	if err != nil || n >= 1<<63 {
		return nil, bad
	}
	return uint64(n), nil
}

// timeUnits are those of systemd.time(7), "Parsing Time Spans".
var timeUnits = map[string]time.Duration{
	"us": time.Microsecond, "usec": time.Microsecond, "µs": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond,
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": 24 * time.Hour, "day": 24 * time.Hour, "days": 24 * time.Hour,
	"w": 7 * 24 * time.Hour, "week": 7 * 24 * time.Hour, "weeks": 7 * 24 * time.Hour,
}

// parseSpan takes a time span, as "1min 30s", in microseconds on D-Bus.
func parseSpan(value any) (any, error) {
	s, err := text(value)
	if err != nil {
		return nil, err
	}
	if s == "infinity" {
		return uint64(infinity), nil
	}
	d, err := timeSpan(s)
	return uint64(d.Microseconds()), err
}

func timeSpan(s string) (time.Duration, error) {
	bad := fmt.Errorf("%q: want a time span, as in \"1h 30min\"", s)
	var total time.Duration
	rest := strings.TrimSpace(s)
	if rest == "" {
		return 0, bad
	}
	for rest != "" {
		i := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
		number := rest[:i]
		rest = strings.TrimLeft(rest[i:], " ")
		i = len(rest) - len(strings.TrimLeft(rest, "abcdefghijklmnopqrstuvwxyzµ"))
		unit, ok := timeUnits[rest[:i]]
		rest = strings.TrimLeft(rest[i:], " ")
		n, err := strconv.ParseFloat(number, 64)
		sum := float64(total) + n*float64(unit)
		if !ok || err != nil || number[0] == '.' || number[len(number)-1] == '.' || sum >= math.MaxInt64 {
			return 0, bad
		}
		total = time.Duration(sum)
	}
	return total, nil
}

// parseSeconds takes a time span, for limits that are in seconds.
func parseSeconds(value any) (any, error) {
	v, err := parseSpan(value)
	if usec, ok := v.(uint64); ok && usec != infinity {
		return (usec + 999_999) / 1_000_000, err
	}
	return v, err
}

// parseLimit takes a limit of setrlimit(2), hard and soft in one.
func parseLimit(parse func(any) (any, error)) func(any) (any, error) {
	return func(value any) (any, error) {
		if s, ok := value.(string); ok && strings.Contains(s, ":") {
			return nil, fmt.Errorf("%q: want one limit, which is both the soft and the hard one", s)
		}
		return parse(value)
	}
}

// parseWords takes a list, or its entries separated by blanks.
func parseWords(value any) ([]string, error) {
	switch v := value.(type) {
	case string:
		if _, err := text(v); err != nil {
			return nil, err
		}
		return strings.Fields(v), nil
	case []any:
		list := []string{}
		for _, e := range v {
			s, err := text(e)
			if err != nil {
				return nil, err
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, errors.New("want a list of strings")
}

func parseList(value any) (any, error) {
	list, err := parseWords(value)
	if list == nil {
		list = []string{}
	}
	return list, err
}

// parsePaths takes absolute paths, which may have one of the prefixes, or several.
func parsePaths(prefixes string) func(any) (any, error) {
	return func(value any) (any, error) {
		list, err := parseWords(value)
		if err != nil {
			return nil, err
		}
		for _, p := range list {
			if !filepath.IsAbs(strings.TrimLeft(p, prefixes)) {
				return nil, fmt.Errorf("%q: want an absolute path", p)
			}
		}
		return append([]string{}, list...), nil
	}
}

func parseEnvironment(value any) (any, error) {
	list, err := parseWords(value)
	if err != nil {
		return nil, err
	}
	for _, e := range list {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" || strings.Trim(strings.ToUpper(name), "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			return nil, fmt.Errorf("%q: want NAME=value", e)
		}
	}
	return append([]string{}, list...), nil
}

func parseSlice(value any) (any, error) {
	s, err := text(value)
	if err == nil && (!strings.HasSuffix(s, ".slice") || strings.Contains(s, "/")) {
		err = fmt.Errorf("%q: want the name of a slice, as in \"backup.slice\"", s)
	}
	return s, err
}
