package units

import (
	"strings"
	"testing"
)

func TestModuleServiceName(t *testing.T) {
	tests := []struct{ backup, module, want string }{
		{"1", "wiki1", "module-backup-1-wiki1.service"},
		{"a-b", "c", `module-backup-a\x2db-c.service`},
		{"a", "b-c", "module-backup-a-b-c.service"},
		{"drill@wiki1", "wiki1", `module-backup-drill\x40wiki1-wiki1.service`},
		{"check@1", "wiki1", `module-backup-check\x401-wiki1.service`},
		{"n.1_x", "m.2_y", "module-backup-n.1_x-m.2_y.service"},
		{strings.Repeat("a", 64), strings.Repeat("m", 64), "module-backup-" + strings.Repeat("a", 64) + "-" + strings.Repeat("m", 64) + ".service"},
		{"a" + strings.Repeat("-", 63), "m", "module-backup-c61ad642c531df224bf6d766d13e8087-m.service"},
	}
	for _, tt := range tests {
		if got := ModuleServiceName(tt.backup, tt.module); got != tt.want {
			t.Errorf("ModuleServiceName(%q, %q) = %q; want %q", tt.backup, tt.module, got, tt.want)
		}
	}
}

func TestJobOf(t *testing.T) {
	for unit, want := range map[string]string{
		"backup@1.timer": "1", "backup@a.timer.timer": "a.timer", "backup@.timer": "", "backup@1.service": "", "other@1.timer": "",
		"backup-check@1.timer": "check@1", "backup-check@.timer": "", "backup-drill@wiki1.timer": "drill@wiki1", "backup-other@1.timer": "", "backup-timers.timer": "",
	} {
		if got, ok := jobOf(unit, timerSuffix); got != want && ok || ok != (want != "") {
			t.Errorf("jobOf(%q) = %q, %v; want %q", unit, got, ok, want)
		}
		if want != "" && TimerName(want) != unit {
			t.Errorf("TimerName(%q) = %q; want %q", want, TimerName(want), unit)
		}
	}
}

// fit makes an ID of any string.
func fit(s string) string {
	const first, other = "abzABZ019", "abzABZ019_.-"
	id := []byte{first[0]}
	for i, c := range []byte(s[:min(len(s), 64)]) {
		if i == 0 {
			id[0] = first[int(c)%len(first)]
		} else {
			id = append(id, other[int(c)%len(other)])
		}
	}
	return string(id)
}

// No two pairs of IDs share a name, every name is one that systemd takes, and says which backup it is of.
func FuzzModuleServiceName(f *testing.F) {
	f.Add("a-b", "c", "a", "b-c")
	f.Add("1", "m", "1-", "m")
	f.Add(strings.Repeat("\x0b", 64), "m", strings.Repeat("\x0b", 63), "\x0bm")
	f.Fuzz(func(t *testing.T, b1, m1, b2, m2 string) {
		b1, m1, b2, m2 = fit(b1), fit(m1), fit(b2), fit(m2)
		n1, n2 := ModuleServiceName(b1, m1), ModuleServiceName(b2, m2)
		if (n1 == n2) != (b1 == b2 && m1 == m2) {
			t.Errorf("%q of %q and %q of %q: %q and %q", m1, b1, m2, b2, n1, n2)
		}
		// systemd.unit(5): the characters of a unit's name, and its length.
		if len(n1) > 255 || strings.Trim(n1, `abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\`) != "" {
			t.Errorf("%q is no name of a unit", n1)
		}
		if strings.HasPrefix(n2, modulesPrefix(b1)) != (b1 == b2) {
			t.Errorf("%q is of backup %q, and begins like those of %q", n2, b2, b1)
		}
	})
}
