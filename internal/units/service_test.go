package units

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestServiceProperties compares the properties of services with testdata/service-*.golden, a property a line.
func TestServiceProperties(t *testing.T) {
	module := Service{
		Name: "module-backup-1-wiki1.service", Description: "Backup 1 of wiki1", Argv: []string{"/usr/bin/module-backup", "--plan", "wiki1", "1"},
		BindsTo: "backup@1.service", WorkingDirectory: "/var/lib/wiki1", CacheDirectory: "sdbackup/3792c7db",
		Credentials: []Credential{{ID: "password", Path: "/etc/sdbackup/secret/archive.password"}}, ReadPaths: []string{"/var/lib/wiki1/data"},
		ReadWritePaths: []string{"/srv/backup/dokuwiki/3792c7db", "/run/lock/sdbackup"}, LogFields: []string{"BACKUP_ID=1"}, TimeoutStop: 2 * time.Minute,
	}
	with := func(change func(*Service)) Service {
		s := module
		change(&s)
		return s
	}
	tests := []struct {
		name    string
		user    bool
		service Service
	}{
		{"root", false, module},
		{"user", false, with(func(s *Service) { s.User, s.Group = "wiki1", "www-data" })},
		{"read-all", false, with(func(s *Service) { s.User, s.ReadAll = "wiki1", true })},
		{"home", false, with(func(s *Service) { s.User, s.ReadPaths = "wiki1", []string{"/home/wiki1/data"} })},
		{"link-to-home", false, with(func(s *Service) { s.ReadPaths = []string{"/data"} })},
		{"everything", false, with(func(s *Service) { s.ReadPaths = []string{"/"} })},
		{"var", false, with(func(s *Service) { s.ReadPaths = []string{"/var"} })},
		{"repository-in-tmp", false, with(func(s *Service) { s.ReadWritePaths = []string{"/var/tmp/repository"} })},
		{"resources", false, with(func(s *Service) {
			s.User, s.RuntimeMax = "wiki1", time.Hour
			s.Properties = map[string]any{
				"CPUWeight": int64(20), "MemoryMax": "2G", "ProtectSystem": "full", "ReadWritePaths": []any{"/var/backups"}, "UMask": "0027", "Slice": "other.slice",
			}
		})},
		{"new-privileges", false, with(func(s *Service) {
			s.User, s.Properties = "wiki1", map[string]any{"NoNewPrivileges": false}
		})},
		{"in-place", false, Service{
			Name: RestoreServiceName("wiki1"), Description: "Restore in place of module wiki1", Argv: []string{"/usr/bin/restore-backup", "exchange", "wiki1"},
			StopPost: []string{"/usr/bin/restore-backup", "recover", "--json", "wiki1"}, Unconfined: true, LogFields: []string{"MODULE_ID=wiki1"}, TimeoutStop: 15 * time.Minute,
		}},
		{"user-manager", true, with(func(s *Service) { s.User, s.Group, s.ReadAll = "wiki1", "wiki1", true })},
	}
	link := func(path string) string {
		if path == "/data" {
			return "/home/data"
		}
		return path
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := tt.service.properties(tt.user, link)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			seen := map[string]bool{}
			for _, p := range list {
				fmt.Fprintf(&b, "%s=%s\n", p.Name, p.Value)
				if seen[p.Name] {
					t.Errorf("%s is there twice", p.Name)
				}
				seen[p.Name] = true
			}
			golden := filepath.Join("testdata", "service-"+tt.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got := b.String(); got != string(want) {
				t.Errorf("%s differs (see -update); got\n%s", golden, got)
			}
		})
	}
}

func TestServiceErrors(t *testing.T) {
	for name, s := range map[string]Service{
		"no program":    {},
		"relative path": {Argv: []string{"true"}},
		"bad setting":   {Argv: []string{"/bin/true"}, Properties: map[string]any{"MemoryMax": "much"}},
		"bad path list": {Argv: []string{"/bin/true"}, Properties: map[string]any{"ReadWritePaths": int64(1)}},
	} {
		if _, err := s.properties(false, filepath.Clean); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestTouches(t *testing.T) {
	folders := []string{"/home", "/run/user"}
	for path, want := range map[string]bool{
		"/home": true, "/home/u": true, "/": true, "/run": true, "/run/user/1000": true, "/homes": false, "/run/users": false, "/srv": false,
	} {
		if got := touches([]string{path}, folders); got != want {
			t.Errorf("touches(%q) = %v; want %v", path, got, want)
		}
	}
}

func TestDecodeResult(t *testing.T) {
	properties := func(result string, code, status int32, more ...any) map[string]dbus.Variant {
		all := map[string]dbus.Variant{
			"Result": dbus.MakeVariant(result), "ExecMainCode": dbus.MakeVariant(code), "ExecMainStatus": dbus.MakeVariant(status),
		}
		for i := 0; i < len(more); i += 2 {
			all[more[i].(string)] = dbus.MakeVariant(more[i+1])
		}
		return all
	}
	tests := []struct {
		name  string
		all   map[string]dbus.Variant
		want  ServiceResult
		words string
	}{
		{
			"all figures", properties("success", 1, 0, "CPUUsageNSec", uint64(1e9), "MemoryPeak", uint64(5), "IOReadBytes", uint64(0), "IOWriteBytes", uint64(7)),
			ServiceResult{Result: "success", CPU: new(time.Second), MemoryPeak: new(uint64(5)), IORead: new(uint64(0)), IOWrite: new(uint64(7))},
			"success",
		},
		{
			"no figures", properties("success", 1, 0, "CPUUsageNSec", uint64(infinity), "IOReadBytes", uint64(infinity)),
			ServiceResult{Result: "success"},
			"success",
		},
		{"exit code", properties("exit-code", 1, 3), ServiceResult{Result: "exit-code", ExitStatus: 3}, "exit-code, status 3"},
		{"no such user", properties("exit-code", 1, 217), ServiceResult{Result: "exit-code", ExitStatus: 217}, "exit-code, status 217/USER"},
		{"killed", properties("oom-kill", 2, 9), ServiceResult{Result: "oom-kill", Signal: 9}, "oom-kill, killed by SIGKILL"},
		{"dumped", properties("core-dump", 3, 11), ServiceResult{Result: "core-dump", Signal: 11}, "core-dump, killed by SIGSEGV"},
		{"never executed", properties("resources", 0, 0), ServiceResult{Result: "resources"}, "resources"},
	}
	for _, tt := range tests {
		got := decodeResult(tt.all)
		if !reflect.DeepEqual(got, tt.want) || got.String() != tt.words {
			t.Errorf("%s: %+v, %q; want %+v, %q", tt.name, got, got, tt.want, tt.words)
		}
	}
}

func TestEndpoints(t *testing.T) {
	env := func(vars map[string]string) func(string) string { return func(k string) string { return vars[k] } }
	const bus, private = "unix:path=/run/dbus/system_bus_socket", "unix:path=/run/systemd/private"
	tests := []struct {
		name string
		user bool
		uid  int
		env  map[string]string
		want []endpoint
	}{
		{"root", false, 0, nil, []endpoint{{bus, false}, {private, true}}},
		{"anybody", false, 1000, nil, []endpoint{{bus, false}}},
		{"another bus", false, 1000, map[string]string{"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/x"}, []endpoint{{"unix:path=/x", false}}},
		{"user", true, 1000, map[string]string{"XDG_RUNTIME_DIR": "/run/u"}, []endpoint{{"unix:path=/run/u/bus", false}, {"unix:path=/run/u/systemd/private", true}}},
		{"user under sudo", true, 1000, nil, []endpoint{{"unix:path=/run/user/1000/bus", false}, {"unix:path=/run/user/1000/systemd/private", true}}},
		{
			"user's other bus", true, 1000,
			map[string]string{"DBUS_SESSION_BUS_ADDRESS": "unix:path=/x", "XDG_RUNTIME_DIR": "/r"},
			[]endpoint{{"unix:path=/x", false}, {"unix:path=/r/systemd/private", true}},
		},
	}
	for _, tt := range tests {
		if got := endpoints(tt.user, env(tt.env), tt.uid); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %v; want %v", tt.name, got, tt.want)
		}
	}
}

// A job's end may be heard of before the answer that names it, after it, or by several.
func TestJobs(t *testing.T) {
	j := newJobs()
	removed := func(path dbus.ObjectPath, result string) {
		j.DeliverSignal(managerIface, "JobRemoved", &dbus.Signal{Body: []any{uint32(1), path, "x.timer", result}})
	}
	j.begin()
	removed("/early", "done")
	if got := <-j.claim("/early"); got != "done" {
		t.Errorf("early job: %q", got)
	}
	first, second := j.claim("/late"), j.claim("/late")
	j.end()
	removed("/other", "done")
	removed("/late", "failed")
	if a, b := <-first, <-second; a != "failed" || b != "failed" {
		t.Errorf("late job: %q, %q", a, b)
	}
	j.DeliverSignal(managerIface, "JobRemoved", &dbus.Signal{Body: []any{"nonsense"}})
	j.DeliverSignal(managerIface, "UnitNew", &dbus.Signal{})
	if len(j.early) != 0 || len(j.waiting) != 0 || j.asking != 0 {
		t.Errorf("left are %v, %v, %d; want nothing kept", j.early, j.waiting, j.asking)
	}
}
