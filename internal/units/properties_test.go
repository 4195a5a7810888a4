package units

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// examples are values of every supported setting that the manager takes.
var examples = map[string][]any{
	"CPUAccounting": {true}, "CPUWeight": {int64(20), "idle"}, "StartupCPUWeight": {"50"}, "CPUQuota": {"20%", "150.5%", "infinity"},
	"CPUQuotaPeriodSec": {"10ms"}, "AllowedCPUs": {"0", int64(0), "0-1,1"}, "AllowedMemoryNodes": {"0"}, "MemoryAccounting": {"on"},
	"MemoryMin": {"1M"}, "MemoryLow": {"1.5M", "1%"}, "MemoryHigh": {"50%", "infinity"}, "MemoryMax": {"2G", "20%", int64(1 << 30), "infinity"},
	"MemorySwapMax": {int64(0), "1G"}, "TasksAccounting": {true}, "TasksMax": {int64(100), "10%", "infinity"}, "IOAccounting": {true},
	"IOWeight": {int64(20)}, "StartupIOWeight": {int64(20)}, "IODeviceWeight": {"/dev/sda 200"}, "IOReadBandwidthMax": {[]any{"/dev/sda 10M", "/var 5M"}},
	"IOWriteBandwidthMax": {"/dev/sda 10M"}, "IOReadIOPSMax": {"/dev/sda 1000"}, "IOWriteIOPSMax": {"/dev/sda 1K"}, "IPAccounting": {true},
	"IPAddressAllow": {"localhost 192.0.2.1 2001:db8::/32", []any{"any"}}, "IPAddressDeny": {"any", []any{}}, "DevicePolicy": {"closed"},
	"DeviceAllow": {"/dev/null rw", []any{"char-pts", "block-loop r"}}, "Slice": {"system.slice"}, "ManagedOOMPreference": {"avoid"},
	"Nice": {int64(10), "-5"}, "OOMScoreAdjust": {int64(500)}, "OOMPolicy": {"kill"}, "CPUSchedulingPolicy": {"batch", "idle"},
	"IOSchedulingClass": {"idle", "best-effort"}, "IOSchedulingPriority": {int64(7)}, "UMask": {"0027"}, "LimitCPU": {"1h", "infinity"},
	"LimitFSIZE": {"10G"}, "LimitDATA": {"1G"}, "LimitSTACK": {"8M"}, "LimitCORE": {int64(0)}, "LimitAS": {"infinity"}, "LimitMEMLOCK": {"64K"},
	"LimitNOFILE": {int64(4096)}, "LimitNPROC": {"infinity"}, "SendSIGHUP": {false}, "LogLevelMax": {"info"}, "LogRateLimitBurst": {int64(10)},
	"SyslogIdentifier": {"mine"}, "Environment": {"A=1 B=2", []any{"A=1 2"}}, "SupplementaryGroups": {"adm", []any{}},
	"RequiresMountsFor": {"/srv"}, "CapabilityBoundingSet": {"", "CAP_CHOWN cap_kill", "~CAP_SYS_ADMIN"}, "AmbientCapabilities": {"CAP_DAC_READ_SEARCH"},
	"NoNewPrivileges": {true}, "ProtectSystem": {true, false, "full", "strict"}, "ProtectHome": {true, "read-only", "tmpfs"}, "PrivateTmp": {true},
	"PrivateDevices": {true}, "PrivateNetwork": {true}, "PrivateIPC": {true}, "PrivateUsers": {true}, "ProtectHostname": {false}, "ProtectClock": {true},
	"ProtectKernelTunables": {false}, "ProtectKernelModules": {false}, "ProtectKernelLogs": {false}, "ProtectControlGroups": {false},
	"ProtectProc": {"invisible"}, "ProcSubset": {"pid"}, "RestrictRealtime": {false}, "RestrictSUIDSGID": {false},
	"RestrictNamespaces": {true, false, "user mnt", "~user"}, "RestrictAddressFamilies": {"AF_UNIX", "~AF_PACKET", "none", []any{}},
	"LockPersonality": {false}, "MemoryDenyWriteExecute": {true}, "SystemCallArchitectures": {"native", []any{}},
	"SystemCallFilter": {"@system-service", []any{"~@mount", "@swap"}}, "KeyringMode": {"private"}, "ReadWritePaths": {"/srv -/mnt/x", []any{}},
	"ReadOnlyPaths": {"/srv"}, "InaccessiblePaths": {[]any{"-/mnt/a b"}}, "NoExecPaths": {"/srv"}, "ExecPaths": {"/usr"},
	"BindPaths": {"/srv:/mnt:rbind", "-/nonexistent"}, "BindReadOnlyPaths": {"/srv:/mnt:norbind"}, "TemporaryFileSystem": {"/mnt:ro", "/opt"},
}

func TestExamples(t *testing.T) {
	for name := range supported {
		if len(examples[name]) == 0 {
			t.Errorf("there is no example of %s", name)
		}
		if reserved[name] != "" {
			t.Errorf("%s is both supported and reserved", name)
		}
	}
	for name, values := range examples {
		for _, value := range values {
			if err := CheckProperty(name, value); err != nil {
				t.Errorf("CheckProperty(%s, %v): %v", name, value, err)
			}
		}
	}
}

func TestParseProperty(t *testing.T) {
	tests := []struct {
		name     string
		value    any
		property string
		want     string // as D-Bus writes it
	}{
		{"CPUWeight", int64(20), "CPUWeight", "@t 20"},
		{"CPUWeight", "idle", "CPUWeight", "@t 0"},
		{"CPUQuota", "20%", "CPUQuotaPerSecUSec", "@t 200000"},
		{"CPUQuota", "150.5%", "CPUQuotaPerSecUSec", "@t 1505000"},
		{"CPUQuotaPeriodSec", "10ms", "CPUQuotaPeriodUSec", "@t 10000"},
		{"MemoryMax", "2G", "MemoryMax", "@t 2147483648"},
		{"MemoryMax", "1.5K", "MemoryMax", "@t 1536"},
		{"MemoryMax", int64(4096), "MemoryMax", "@t 4096"},
		{"MemoryMax", "infinity", "MemoryMax", "@t 18446744073709551615"},
		{"MemoryMax", "20%", "MemoryMaxScale", "@u 858993459"},
		{"MemoryHigh", "100%", "MemoryHighScale", "@u 4294967295"},
		{"TasksMax", "10%", "TasksMaxScale", "@u 429496730"},
		{"TasksMax", int64(10), "TasksMax", "@t 10"},
		{"IOReadBandwidthMax", "/dev/sda 10M", "IOReadBandwidthMax", `@a(st) [("/dev/sda", 10000000,)]`},
		{"IPAddressDeny", "any", "IPAddressDeny", `@a(iayu) [(2, [0x0, 0x0, 0x0, 0x0], 0,), (10, [0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0, 0x0], 0,)]`},
		{"Nice", "10", "Nice", "10"},
		{"UMask", "0027", "UMask", "@u 23"},
		{"LimitNOFILE", int64(1024), "LimitNOFILE", "@t 1024"},
		{"LimitCPU", "1.5s", "LimitCPU", "@t 2"},
		{"IOSchedulingClass", "idle", "IOSchedulingClass", "3"},
		{"ProtectSystem", true, "ProtectSystem", `"yes"`},
		{"ProtectHome", "tmpfs", "ProtectHome", `"tmpfs"`},
		{"NoNewPrivileges", "no", "NoNewPrivileges", "false"},
		{"CapabilityBoundingSet", "CAP_CHOWN CAP_DAC_READ_SEARCH", "CapabilityBoundingSet", "@t 5"},
		{"CapabilityBoundingSet", "~CAP_CHOWN", "CapabilityBoundingSet", "@t 2199023255550"},
		{"CapabilityBoundingSet", "", "CapabilityBoundingSet", "@t 0"},
		{"SystemCallFilter", "~@mount @swap", "SystemCallFilter", `(false, ["@mount", "@swap"],)`},
		{"RestrictAddressFamilies", "none", "RestrictAddressFamilies", `@(bas) (true, [],)`},
		{"RestrictNamespaces", false, "RestrictNamespaces", "@t 2114060288"},
		{"RestrictNamespaces", "~user", "RestrictNamespaces", "@t 1845624832"},
		{"AllowedCPUs", "0-2,8 3", "AllowedCPUs", `@ay [0xf, 0x1]`},
		{"ReadWritePaths", []any{"/a b", "-/c"}, "ReadWritePaths", `["/a b", "-/c"]`},
		{"ReadWritePaths", []any{}, "ReadWritePaths", `@as []`},
		{"BindPaths", "-/a:/b", "BindPaths", `@a(ssbt) [("/a", "/b", true, 16384,)]`},
	}
	for _, tt := range tests {
		got, err := ParseProperty(tt.name, tt.value)
		if err != nil {
			t.Errorf("ParseProperty(%s, %v): %v", tt.name, tt.value, err)
			continue
		}
		if got.Name != tt.property || got.Value.String() != tt.want {
			t.Errorf("ParseProperty(%s, %v) = %s %s; want %s %s", tt.name, tt.value, got.Name, got.Value, tt.property, tt.want)
		}
	}
}

func TestParsePropertyErrors(t *testing.T) {
	tests := []struct {
		name  string
		value any
		want  string // in the error
	}{
		{"CPUWieght", int64(1), "did you mean CPUWeight?"},
		{"memorymax", "1G", "did you mean MemoryMax?"},
		{"Frobnicate", "1G", "systemd.resource-control(5)"},
		{"User", "root", `"user"`},
		{"CPUWeight", int64(0), "1 to 10000"},
		{"CPUWeight", "heavy", "1 to 10000"},
		{"CPUWeight", []any{int64(1)}, "single value"},
		{"CPUQuota", "20", "share of one CPU"},
		{"CPUQuota", "0%", "share of one CPU"},
		{"MemoryMax", "2 gigabytes", `as in "2G"`},
		{"MemoryMax", "101%", "0% to 100%"},
		{"MemoryMax", "-1", `as in "2G"`},
		{"MemoryMax", int64(-1), `as in "2G"`},
		{"MemoryMax", "16E", `as in "2G"`},
		{"MemoryMax", "18446744073709551615", `as in "2G"`},
		{"MemoryMax", ".5G", `as in "2G"`},
		{"MemoryMax", "", `as in "2G"`},
		{"MemoryMax", nil, "want a value"},
		{"TasksMax", "1K", "want a number"},
		{"IOWeight", "idle", "1 to 10000"},
		{"IOReadBandwidthMax", "10M", "path of a device"},
		{"IPAddressAllow", "example.org", "want an address"},
		{"UMask", int64(77), "octal number in quotes"},
		{"UMask", "0888", "octal number in quotes"},
		{"Nice", int64(20), "-20 to 19"},
		{"NoNewPrivileges", "perhaps", "want true or false"},
		{"ProtectSystem", "very", "full, strict"},
		{"IOSchedulingClass", "low", "best-effort, idle, realtime"},
		{"LimitNOFILE", "1024:4096", "one limit"},
		{"CPUQuotaPeriodSec", "soon", "time span"},
		{"CapabilityBoundingSet", "CAP_FLY", "names of capabilities"},
		{"SystemCallFilter", "@mount ~@swap", "before the first entry"},
		{"AllowedCPUs", "3-1", "numbers and ranges"},
		{"ReadWritePaths", "srv", "absolute path"},
		{"ReadWritePaths", []any{"/srv\nUser=root"}, "one line"},
		{"Environment", "A", "NAME=value"},
		{"BindPaths", "/a:/b:ro", "rbind or norbind"},
		{"Slice", "backup", "name of a slice"},
	}
	for _, tt := range tests {
		err := CheckProperty(tt.name, tt.value)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("CheckProperty(%s, %v) = %v; want it to say %q", tt.name, tt.value, err, tt.want)
		}
	}
}

func TestTimeSpan(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90": 90 * time.Second, "1h 30min": 90 * time.Minute, "1h30min": 90 * time.Minute, "0.5s": time.Second / 2, "2 weeks": 14 * 24 * time.Hour,
		"5 us": 5 * time.Microsecond,
	} {
		if got, err := timeSpan(s); err != nil || got != want {
			t.Errorf("timeSpan(%q) = %s, %v; want %s", s, got, err, want)
		}
	}
	for _, s := range []string{"", "h", "1 fortnight", "-1s", "1e9s", "1.", ".1", "300000d", "1h-", "1..2s"} {
		if got, err := timeSpan(s); err == nil {
			t.Errorf("timeSpan(%q) = %s; want an error", s, got)
		}
	}
}

func FuzzParseProperty(f *testing.F) {
	for name, values := range examples {
		for _, v := range values {
			if s, ok := v.(string); ok {
				f.Add(name, s)
			}
		}
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		if !utf8.ValidString(value) {
			return // TOML has none
		}
		for _, v := range []any{value, []any{value}, []any{value, value}} {
			p, err := ParseProperty(name, v)
			if err == nil && (p.Name == "" || p.Value.Value() == nil) {
				t.Errorf("ParseProperty(%q, %q) = %v", name, v, p)
			}
			if err == nil && strings.ContainsAny(p.Value.String(), "\n\x00") {
				t.Errorf("ParseProperty(%q, %q) takes several lines", name, v)
			}
		}
	})
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"2G", "1.5K", "infinity", "7E", "100", "1B", "0.1M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseSize(s)
		if err != nil {
			return
		}
		n := v.(uint64)
		if n > math.MaxInt64 && n != infinity && strings.Trim(s, " \t0123456789") != "" {
			t.Errorf("parseSize(%q) = %d", s, n)
		}
		// A larger number with the same suffix is no less.
		if more, err := parseSize("1" + strings.TrimSpace(s)); err == nil && more.(uint64) < n {
			t.Errorf("parseSize(%q) = %d, and with a 1 before it %d", s, n, more)
		}
	})
}

func FuzzTimeSpan(f *testing.F) {
	for _, s := range []string{"1h 30min", "90", "5 us", "0.1d", "9223372036s", "1h1h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := timeSpan(s)
		if err != nil {
			return
		}
		if d < 0 {
			t.Errorf("timeSpan(%q) = %s", s, d)
		}
		s = strings.TrimSpace(s)
		if twice, err := timeSpan(s + " 0s"); err != nil || twice != d {
			if last := s[len(s)-1]; !strings.ContainsRune("0123456789. ", rune(last)) { // else it becomes another number
				t.Errorf("timeSpan(%q) = %s, and with 0s added %s, %v", s, d, twice, err)
			}
		}
	})
}

func FuzzNearest(f *testing.F) {
	f.Add("CPUWieght")
	f.Fuzz(func(t *testing.T, name string) {
		if near := nearest(name, []string{"CPUWeight", "Nice"}); near != "" && !slices.Contains([]string{"CPUWeight", "Nice"}, near) {
			t.Errorf("nearest(%q) = %q", name, near)
		}
		if distance(name, name) != 0 || distance(name, "") != len(name) {
			t.Errorf("distance of %q from itself is %d, from nothing %d", name, distance(name, name), distance(name, ""))
		}
	})
}
