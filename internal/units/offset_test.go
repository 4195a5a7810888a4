package units

import (
	"fmt"
	"testing"
	"time"
)

func TestOffset(t *testing.T) {
	const machine = "0123456789abcdef0123456789abcdef"
	// These must never change: every schedule would.
	for id, want := range map[string]time.Duration{
		"1": 35*time.Minute + 51*time.Second, "2": 9*time.Minute + 56*time.Second, "nightly": 32*time.Minute + 49*time.Second,
	} {
		if got := Offset(machine, id, time.Hour); got != want {
			t.Errorf("Offset of backup %s = %s; want %s", id, got, want)
		}
	}
	for _, window := range []time.Duration{0, -time.Hour, time.Second - 1, time.Second} {
		if got := Offset(machine, "1", window); got != 0 {
			t.Errorf("Offset within %s = %s; want 0", window, got)
		}
	}
	const n, parts = 6000, 12
	var spread [parts]int
	for i := range n {
		o := Offset(machine, fmt.Sprint(i), time.Hour+time.Second/2)
		if o < 0 || o >= time.Hour || o%time.Second != 0 {
			t.Fatalf("Offset = %s; want whole seconds below one hour", o)
		}
		spread[o/(5*time.Minute)]++
	}
	for i, count := range spread {
		if count < n/parts*8/10 || count > n/parts*12/10 { // 4.5 standard deviations
			t.Errorf("%d of %d are in part %d of %d; want them evenly spread", count, n, i, parts)
		}
	}
}

func TestParseMachineID(t *testing.T) {
	for text, ok := range map[string]bool{
		"3d1219c7c4c5404aaa1f6d2a48adfda4\n": true, "3d1219c7c4c5404aaa1f6d2a48adfda4": true,
		"uninitialized\n": false, "": false, "00000000000000000000000000000000\n": false, "3d12": false,
		"3d1219c7c4c5404aaa1f6d2a48adfda4aa\n": false,
	} {
		if _, err := parseMachineID([]byte(text)); (err == nil) != ok {
			t.Errorf("parseMachineID(%q): %v; want it accepted: %v", text, err, ok)
		}
	}
}
