package units

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestShift(t *testing.T) {
	tests := []struct {
		expression string
		offset     time.Duration
		want       []string
	}{
		{"*-*-* 00:00:00", 0, []string{"*-*-* 00:00:00"}},
		{"*-*-* 00:00:00", 42*time.Minute + 7*time.Second, []string{"*-*-* 00:42:07"}},
		{"*-*-* 23:30:00", time.Hour, []string{"*-*-* 00:30:00"}},
		{"*-*-* *:00:00", 17 * time.Minute, []string{"*-*-* *:17:00"}},
		{"*-*-* *:00:00", 90 * time.Minute, []string{"*-*-* *:30:00"}},
		{"*-*-* *:00/15:00", 50 * time.Minute, []string{"*-*-* *:05..50/15:00"}},
		{"*-*-* *:*:00", time.Second, []string{"*-*-* *:*:01"}},
		{"*-*-* *:*:00/7", 3 * time.Second, []string{"*-*-* *:*:03..59/7"}},
		{"*-*-* *:*:00/0.250000", time.Minute, []string{"*-*-* *:*:00/0.250000"}},
		{"*-*-* 02:30:00.500000 Europe/Berlin", 61 * time.Second, []string{"*-*-* 02:31:01.500000 Europe/Berlin"}},
		{"*-*-* 00,12:00/20:00", 30 * time.Minute, []string{"*-*-* 00,12:30,50:00", "*-*-* 01,13:10:00"}},
		{"Mon *-*-* 00:00:00", time.Hour, []string{"Mon *-*-* 01:00:00"}},
		{"Mon *-*-* 23:30:00", time.Hour, []string{"Tue *-*-* 00:30:00"}},
		{"Sun *-*-* 23:30:00", time.Hour, []string{"Mon *-*-* 00:30:00"}},
		{"Mon..Fri *-*-* *:00:00", 90 * time.Minute, []string{"Mon..Fri *-*-* 01..23:30:00", "Tue..Sat *-*-* 00:30:00"}},
		{"Mon,Wed,Fri..Sun *-*-* 22:00:00", 50 * time.Hour, []string{"Mon..Thu,Sat *-*-* 00:00:00"}},
		{"*-*-01 12:00:00", time.Hour, []string{"*-*-01 13:00:00"}},
		{"*-01,07-01 00:00:00 UTC", 48 * time.Hour, []string{"*-01,07-03 00:00:00 UTC"}},
		{"*-*-31 23:00:00", 2 * time.Hour, []string{"*-01,02,04,06,08,09,11-01 01:00:00"}},
		{"*-12-31 23:59:59", time.Second, []string{"*-01-01 00:00:00"}},
		{"2024-12-31 23:59:59", time.Second, []string{"2025-01-01 00:00:00"}},
		{"*-*~01 23:30:00", time.Hour, []string{"*-*-01 00:30:00"}},
		{"*-*~02 12:00:00", 24 * time.Hour, []string{"*-*~01 12:00:00"}},
		{"*-*~07/1 00:00:00", time.Hour, []string{"*-*~07/1 01:00:00"}},
		{"*-02-28 12:00:00", 24 * time.Hour, []string{
			"*-02-29 12:00:00", "1970,1971,1973..2197/4,1974..2198/4,1975..2199/4,2100-03-01 12:00:00",
		}},
		{"*-02-* 23:00:00", 2 * time.Hour, []string{"*-03-01 01:00:00", "*-02-02..29 01:00:00"}},
		{"Sat *-*-01..07 18:00:00", 12 * time.Hour, []string{"Sun *-*-02..08 06:00:00"}},
		{"2025-*-* 00:00:00", 24 * time.Hour, []string{
			"2025-03..12-* 00:00:00", "2025-02-01..28 00:00:00", "2025-01-02..31 00:00:00", "2026-01-01 00:00:00",
		}},
	}
	for _, tt := range tests {
		got, err := Shift(tt.expression, tt.offset)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("Shift(%q, %s) = %q, %v; want %q", tt.expression, tt.offset, got, err, tt.want)
		}
	}
}

func TestShiftErrors(t *testing.T) {
	for _, tt := range []struct {
		expression string
		offset     time.Duration
	}{
		{"daily", time.Second},
		{"", time.Second},
		{"*-*-* 00:00", time.Second},
		{"*-*-* 24:00:00", time.Second},
		{"*-*-* 00:00:00/0", time.Second},
		{"*-*-* 05..03:00:00", time.Second},
		{"Mon..Nor *-*-* 00:00:00", time.Second},
		{"*-*-* 00:00:00", -time.Second},
		{"*-*-* 00:00:00", time.Millisecond},
		{"*-*-* 00:00:00", 29 * 24 * time.Hour},
		{"*-*-* *:*:00/0.001000", time.Second},
		{"2199-12-31 23:00:00", time.Hour},
	} {
		if got, err := Shift(tt.expression, tt.offset); err == nil {
			t.Errorf("Shift(%q, %s) = %q; want an error", tt.expression, tt.offset, got)
		}
	}
}

// An expression that was understood is printed as it was.
func FuzzParseSpec(f *testing.F) {
	for _, s := range []string{
		"*-*-* 00:00:00", "Mon..Fri *-*-* 08..16/2:00/15:00/0.250000 Europe/Berlin", "2024/4-02-29 00:00:00", "Mon,Wed,Fri..Sun *-*~01,03 00:00:59.500000 UTC",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := parseSpec(s)
		if err != nil {
			return
		}
		printed := spec.String()
		again, err := parseSpec(printed)
		if err != nil || again.String() != printed {
			t.Errorf("%q is printed as %q, and that as %q, %v", s, printed, again, err)
		}
		if shifted, err := Shift(s, 13*time.Hour+time.Second); err == nil && len(shifted) == 0 {
			t.Errorf("Shift(%q) is nothing, without an error", s)
		}
	})
}

// randomSpec makes a normalized expression that elapses now and then.
func randomSpec(r *rand.Rand) string {
	pick := func(choices ...string) string { return choices[r.IntN(len(choices))] }
	number := func(lowest, highest int) string { return fmt.Sprintf("%02d", lowest+r.IntN(highest-lowest+1)) }
	list := func(lowest, highest int) string {
		all := make([]int, 1+r.IntN(4))
		for i := range all {
			all[i] = lowest + r.IntN(highest-lowest+1)
		}
		slices.Sort(all)
		texts := make([]string, 0, len(all))
		for _, v := range slices.Compact(all) {
			texts = append(texts, fmt.Sprintf("%02d", v))
		}
		return strings.Join(texts, ",")
	}
	span := func(lowest, highest int) string {
		a := lowest + r.IntN(highest-lowest)
		b := a + 1 + r.IntN(highest-a)
		if step := 1 + r.IntN(4); step > 1 && b-a >= step {
			return fmt.Sprintf("%02d..%02d/%d", a, b-(b-a)%step, step)
		}
		return fmt.Sprintf("%02d..%02d", a, b)
	}
	component := func(lowest, highest int) string {
		return pick("*", number(lowest, highest), list(lowest, highest), span(lowest, highest), fmt.Sprintf("%02d/%d", lowest+r.IntN(5), 3+r.IntN(9)))
	}
	year := pick("*", "*", "*", "2024", "2025", "2024..2027", "2024/4", "2023,2024,2026")
	month := pick("*", "*", component(1, 12), "02", "12", "01")
	date := pick("-*", "-*", "-"+component(1, 31), "-"+list(27, 31), "~"+pick(number(1, 28), list(1, 5), span(1, 7), "07/1", "05/2"))
	week := pick("", "", "", "Mon ", "Sun ", "Mon..Fri ", "Sat,Sun ", "Tue,Thu,Sat ")
	clock := pick(number(0, 23), list(0, 23), span(0, 23), "*") + ":" + pick("00", number(0, 59), list(0, 59), "00/20") + ":" + pick("00", number(0, 59), "30.500000")
	return week + year + "-" + month + date + " " + clock
}

func randomOffset(r *rand.Rand) time.Duration {
	limit := []time.Duration{time.Minute, time.Hour, 12 * time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, maxShift}[r.IntN(6)]
	return time.Duration(1+r.Int64N(int64(limit/time.Second))) * time.Second
}

// elapses lists all moments from one time to another, in UTC, at which an expression elapses, straight by its meaning.
func elapses(t testing.TB, expression string, from, to time.Time) []int64 {
	t.Helper()
	spec, err := parseSpec(expression)
	if err != nil {
		t.Fatalf("%q: %v", expression, err)
	}
	values := func(c chain, lowest, highest, unit int) []int {
		v, err := c.values(lowest, highest, unit)
		if err != nil {
			t.Fatalf("%q: %v", expression, err)
		}
		return v
	}
	years, months := values(spec.year, minYear, maxYear, 1), values(spec.month, 1, 12, 1)
	hours, minutes, seconds := values(spec.hour, 0, 23, 1), values(spec.minute, 0, 59, 1), values(spec.second, 0, minute-1, second)
	var list []int64
	for d := from.Truncate(24 * time.Hour); d.Before(to); d = d.AddDate(0, 0, 1) {
		weekday := (int(d.Weekday()) + 6) % 7
		if spec.weekdays != 0 && spec.weekdays&(1<<weekday) == 0 || !slices.Contains(years, d.Year()) ||
			!slices.Contains(months, int(d.Month())) || !slices.Contains(spec.daysOf(daysIn(d.Year(), int(d.Month()))), d.Day()) {
			continue
		}
		for _, h := range hours {
			for _, m := range minutes {
				for _, s := range seconds {
					at := d.Add(time.Duration(h)*time.Hour + time.Duration(m)*time.Minute + time.Duration(s)*time.Microsecond)
					if !at.Before(from) && at.Before(to) {
						list = append(list, at.UnixMicro())
					}
				}
			}
		}
	}
	return list
}

// What an expression is shifted to elapses exactly when it does, later by the offset, over years of both kinds.
func FuzzShift(f *testing.F) {
	for seed := range uint64(300) {
		f.Add(seed)
	}
	from, to := time.Date(2023, 12, 1, 0, 0, 0, 0, time.UTC), time.Date(2025, 4, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		expression, offset := randomSpec(r), randomOffset(r)
		shifted, err := Shift(expression, offset)
		if err != nil {
			if strings.HasSuffix(err.Error(), "never elapses") || strings.HasSuffix(err.Error(), "2199, which systemd does not know") {
				return
			}
			t.Fatal(err)
		}
		want := elapses(t, expression, from, to)
		for i := range want {
			want[i] += offset.Microseconds()
		}
		var got []int64
		for _, s := range shifted {
			got = append(got, elapses(t, s, from.Add(offset), to.Add(offset))...)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q by %s: %q elapses %d times, want %d\ngot  %v\nwant %v", expression, offset, shifted, len(got), len(want),
				head(got), head(want))
		}
	})
}

func head(usec []int64) (list []time.Time) {
	for _, u := range usec[:min(len(usec), 10)] {
		list = append(list, time.UnixMicro(u).UTC())
	}
	return list
}
