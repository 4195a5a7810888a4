//go:build systemd

package units

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// capture runs the service with a pipe as its standard output, and returns what it printed.
func capture(t testing.TB, c *Conn, ctx context.Context, s Service) (string, ServiceResult, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	printed := make(chan string, 1)
	go func() {
		data, _ := io.ReadAll(r)
		printed <- string(data)
	}()
	s.Stdout = w
	result, err := c.Run(ctx, s)
	w.Close()
	return <-printed, result, err
}

// shell is a service that runs a script.
func shell(script string) Service {
	return Service{Name: ModuleServiceName("t", "m"), Description: "Test", Argv: []string{"/bin/sh", "-c", script}}
}

func unloaded(t testing.TB, name string) {
	t.Helper()
	eventually(t, name+" is unloaded", func() bool { return show(t, name, "LoadState") == "not-found" })
}

func TestSystemdRun(t *testing.T) {
	transports(t, func(t *testing.T, c *Conn) {
		tests := []struct {
			name, script string
			want         ServiceResult
		}{
			{"success", "exit 0", ServiceResult{Result: "success"}},
			{"failure", "exit 3", ServiceResult{Result: "exit-code", ExitStatus: 3}},
			{"signal", "kill -KILL $$", ServiceResult{Result: "signal", Signal: int(syscall.SIGKILL)}},
			{"children are killed", "sleep 1000 & exit 0", ServiceResult{Result: "success"}},
		}
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				s := shell(tt.script)
				got, err := c.Run(t.Context(), s)
				if err != nil {
					t.Fatal(err)
				}
				if got.Result != tt.want.Result || got.ExitStatus != tt.want.ExitStatus || got.Signal != tt.want.Signal {
					t.Errorf("Run = %+v; want %+v", got, tt.want)
				}
				if got.CPU == nil || *got.CPU <= 0 || *got.CPU > time.Minute {
					t.Errorf("CPU time is %v", got.CPU)
				}
				unloaded(t, s.Name)
			})
		}
		t.Run("not executable", func(t *testing.T) {
			s := shell("")
			s.Argv = []string{"/nonexistent"}
			got, err := c.Run(t.Context(), s)
			if err != nil || got.String() != "exit-code, status 203/EXEC" {
				t.Errorf("Run = %v, %v; want 203/EXEC", got, err)
			}
		})
		t.Run("refused", func(t *testing.T) {
			s := shell("")
			s.Slice = "no slice"
			if got, err := c.Run(t.Context(), s); err == nil {
				t.Errorf("Run = %v; want an error", got)
			}
		})
	})
}

func TestSystemdRunInput(t *testing.T) {
	c := dialSystem(t)
	stdin, err := os.Open("/etc/machine-id")
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	s := shell("")
	s.Argv = []string{"/bin/sh", "-c", `cat; printf '%s|' "$0" "$@"; echo "$FOO $HOME"; umask; pwd; echo oops >&2`, "$HOME", "%n", "a b", `"`}
	s.Stdin = stdin
	s.Environment = []string{"FOO=100 %n"}
	s.WorkingDirectory = "/usr"
	s.LogFields = []string{"MODULE_ID=m1"}
	out, result, err := capture(t, c, t.Context(), s)
	id, _ := os.ReadFile("/etc/machine-id")
	want := string(id) + "$HOME|%n|a b|\"|100 %n \n0077\n/usr\n"
	if err != nil || result.Result != "success" || out != want {
		t.Errorf("%q, %v, %v; want %q", out, result, err, want)
	}
	eventually(t, "standard error is in the journal, with its fields", func() bool {
		out, _ := exec.Command("journalctl", "--quiet", "-o", "cat", "MODULE_ID=m1", "SYSLOG_IDENTIFIER=sh").Output()
		return strings.Contains(string(out), "oops")
	})
}

func TestSystemdRunCancelled(t *testing.T) {
	transports(t, func(t *testing.T, c *Conn) {
		for _, tt := range []struct {
			name, script, result string
			exit                 int
		}{
			// Only the main process gets SIGTERM; it stops the others in order.
			{"in order", `trap 'kill -0 $! && kill $! && wait $!; exit 1' TERM; sh -c 'echo ready; exec sleep 1000' & wait`, "exit-code", 1},
			{"not at all", `trap '' TERM; echo ready; while :; do sleep 1; done`, "timeout", 0},
		} {
			t.Run(tt.name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				go func() {
					r.Read(make([]byte, 100)) // it is ready
					cancel()
				}()
				s := shell(tt.script)
				s.Stdout, s.TimeoutStop = w, time.Second
				got, err := c.Run(ctx, s)
				w.Close()
				if err != nil || got.Result != tt.result || got.ExitStatus != tt.exit {
					t.Errorf("Run = %+v, %v; want %s, %d", got, err, tt.result, tt.exit)
				}
				unloaded(t, s.Name)
				if _, err := c.Run(ctx, s); !errors.Is(err, context.Canceled) {
					t.Errorf("Run with a context that is done: %v", err)
				}
			})
		}
	})
}

func TestSystemdRunTooLong(t *testing.T) {
	c := dialSystem(t)
	s := shell("sleep 1000")
	s.RuntimeMax = 100 * time.Millisecond
	if got, err := c.Run(t.Context(), s); err != nil || got.Result != "timeout" {
		t.Errorf("Run = %v, %v; want a timeout", got, err)
	}
}

// When the connection is lost, Run says so; what the service left behind is for the next run to stop.
func TestSystemdRunDisconnected(t *testing.T) {
	c, other := dialSystem(t), dialSystem(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	go func() {
		r.Read(make([]byte, 100)) // it is ready
		c.Close()
	}()
	s := shell("echo ready; exec sleep 1000")
	s.Stdout = w
	if got, err := c.Run(t.Context(), s); !errors.Is(err, errDisconnected) {
		t.Errorf("Run = %v, %v; want that the connection was lost", got, err)
	}
	if err := other.StopModules(t.Context(), "t"); err != nil {
		t.Error(err)
	}
	unloaded(t, s.Name)
}

// A service is stopped by somebody else, and by the unit that it is bound to.
func TestSystemdRunStoppedByOthers(t *testing.T) {
	c := dialSystem(t)
	installUnit(t, "backup@.service", "[Service]\nType=oneshot\nExecStart=/bin/sleep 1000\n")
	for _, unit := range []string{ModuleServiceName("t", "m"), ServiceName("t")} {
		t.Run(unit, func(t *testing.T) {
			output(t, "systemctl", "start", "--no-block", ServiceName("t"))
			defer output(t, "systemctl", "stop", ServiceName("t"))
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			go func() {
				r.Read(make([]byte, 100)) // it is ready
				if active, err := c.ServiceActive(t.Context(), "t"); !active || err != nil {
					t.Errorf("ServiceActive = %v, %v; want true", active, err)
				}
				exec.Command("systemctl", "stop", unit).Run()
			}()
			s := shell("trap 'exit 1' TERM; sleep 1000 & echo ready; wait")
			s.BindsTo, s.Stdout = ServiceName("t"), w
			got, err := c.Run(t.Context(), s)
			w.Close()
			if err != nil || got.Result != "exit-code" || got.ExitStatus != 1 {
				t.Errorf("Run = %v, %v; want it to have stopped in order", got, err)
			}
		})
	}
}

func TestSystemdLeftovers(t *testing.T) {
	c := dialSystem(t)
	start := func(name string, script string) {
		t.Helper()
		unloaded(t, name)
		output(t, "systemd-run", "--no-block", "--service-type=oneshot", "--property=RemainAfterExit=yes", "--unit="+name, "/bin/sh", "-c", script)
	}
	name := ModuleServiceName("t", "m")
	t.Run("running", func(t *testing.T) {
		start(name, "sleep 1000")
		if got, err := c.Run(t.Context(), shell("exit 5")); err != nil || got.ExitStatus != 5 {
			t.Errorf("Run = %v, %v; want the leftover stopped", got, err)
		}
	})
	t.Run("failed", func(t *testing.T) {
		start(name, "exit 1")
		eventually(t, "the leftover fails", func() bool { return show(t, name, "ActiveState") == "failed" })
		if got, err := c.Run(t.Context(), shell("exit 5")); err != nil || got.ExitStatus != 5 {
			t.Errorf("Run = %v, %v; want the leftover reset", got, err)
		}
	})
	t.Run("StopModules", func(t *testing.T) {
		mine := []string{ModuleServiceName("a-b", "c"), ModuleServiceName("a-b", "d-e")}
		others := []string{ModuleServiceName("a", "b-c"), ModuleServiceName("a-b-c", "d")}
		for _, n := range mine {
			start(n, "trap '' TERM; exec sleep 1000")
		}
		for _, n := range others {
			start(n, "sleep 1000")
		}
		// SIGTERM goes past sleep(1) in neither; those are ours to kill.
		for _, n := range mine {
			eventually(t, n+" runs", func() bool { return show(t, n, "MainPID") != "0" })
			output(t, "systemctl", "set-property", "--runtime", n, "CPUWeight=10")
			output(t, "systemctl", "kill", "--signal=KILL", n)
		}
		if err := c.StopModules(t.Context(), "a-b"); err != nil {
			t.Fatal(err)
		}
		for _, n := range mine {
			if state := show(t, n, "ActiveState"); state != "inactive" {
				t.Errorf("%s is %s", n, state)
			}
		}
		for _, n := range others {
			if state := show(t, n, "ActiveState"); state != "activating" {
				t.Errorf("%s of another backup is %s", n, state)
			}
			output(t, "systemctl", "stop", n)
		}
	})
}

// Drop-ins of an administrator's reach modules' services, by the names that the comment of ModuleServiceName promises.
func TestSystemdDropIns(t *testing.T) {
	c := dialSystem(t)
	installUnit(t, "module-backup-.service.d/all.conf", "[Service]\nEnvironment=ALL=yes\n")
	installUnit(t, "module-backup-t-.service.d/one.conf", "[Service]\nEnvironment=ONE=yes\n")
	out, result, err := capture(t, c, t.Context(), shell("echo $ALL $ONE"))
	if err != nil || result.Result != "success" || out != "yes yes\n" {
		t.Errorf("%q, %v, %v; want both drop-ins at work", out, result, err)
	}
}

func TestSystemdOwnUnit(t *testing.T) {
	c := dialSystem(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := shell("")
	s.Argv, s.Environment = []string{exe}, []string{"UNITS_TEST_ACT=own-unit"}
	out, _, err := capture(t, c, t.Context(), s)
	if err != nil || out != s.Name+"\n" {
		t.Errorf("ownUnit in a service = %q, %v; want %s", out, err, s.Name)
	}
}

func TestSystemdCredentials(t *testing.T) {
	c := dialSystem(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := shell(`cat "$CREDENTIALS_DIRECTORY/password"; echo; id -un; stat -c %a "$CACHE_DIRECTORY"; cat ` + secret + ` 2>&1 | tail -c 18; touch "$CACHE_DIRECTORY/x" && echo cached`)
	s.User = "nobody"
	s.CacheDirectory = "sdbackup/test"
	s.Credentials = []Credential{{ID: "password", Path: secret}}
	s.ReadPaths = []string{secret}
	out, result, err := capture(t, c, t.Context(), s)
	want := "hush\nnobody\n700\nPermission denied\ncached\n"
	if err != nil || result.Result != "success" || out != want {
		t.Errorf("%q, %v, %v; want %q", out, result, err, want)
	}
	// A secret that is missing: the service says so, rather than run without.
	s.Credentials[0].Path = "/nonexistent"
	if _, got, err := capture(t, c, t.Context(), s); err != nil || got.String() != "exit-code, status 243/CREDENTIALS" {
		t.Errorf("Run without its credential = %v, %v; want 243/CREDENTIALS", got, err)
	}
}

func TestSystemdSandbox(t *testing.T) {
	c := dialSystem(t)
	home := "/home/units-test"
	for _, dir := range []string{home, "/srv/units-test", "/tmp/units-test"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+"/file", []byte("data\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		os.Chown(dir, 65534, 65534)
		t.Cleanup(func() { os.RemoveAll(dir) })
	}
	if err := os.WriteFile("/srv/units-test/secret", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const probe = `
		for f in /home/units-test /srv/units-test /tmp/units-test; do test -e $f/file && echo "sees $f"; done
		for f in /home/units-test /srv/units-test /tmp/units-test /tmp /var/tmp /usr /etc; do touch $f/new 2>/dev/null && rm $f/new && echo "writes $f"; done
		cat /srv/units-test/secret 2>/dev/null && echo "reads all"
		grep -E '^(CapBnd|CapEff|NoNewPrivs)' /proc/self/status | tr -d '\t'
		awk '$5 ~ "^/srv/units-test" { print "mount", $5 }' /proc/self/mountinfo`
	tests := []struct {
		name    string
		service Service
		want    []string
		not     []string
	}{
		{
			"unprivileged",
			Service{User: "nobody", ReadPaths: []string{"/srv/units-test"}},
			[]string{"sees /srv/units-test", "writes /tmp\n", "writes /var/tmp", "NoNewPrivs:1", "CapBnd:0000000000000000", "CapEff:0000000000000000"},
			[]string{"sees /home", "sees /tmp", "writes /srv", "writes /usr", "writes /etc", "reads all", "mount"},
		},
		{
			"root",
			Service{ReadWritePaths: []string{"/srv/units-test", "/nonexistent"}},
			[]string{"sees /srv/units-test", "writes /srv/units-test", "NoNewPrivs:0", "mount /srv/units-test"},
			[]string{"sees /home", "sees /tmp", "writes /usr", "writes /etc"},
		},
		{
			"sources in hidden places",
			Service{User: "nobody", ReadPaths: []string{home, "/tmp/units-test"}},
			[]string{"sees /home/units-test", "sees /tmp/units-test", "writes /tmp\n", "writes /var/tmp"},
			[]string{"writes /home"},
		},
		{
			"read all",
			Service{User: "nobody", ReadAll: true},
			[]string{"reads all", "CapBnd:0000000000000004", "CapEff:0000000000000004", "NoNewPrivs:1"},
			nil,
		},
		{
			"overridden",
			Service{User: "nobody", Properties: map[string]any{
				"NoNewPrivileges": false, "ProtectHome": false, "ReadWritePaths": "/srv/units-test", "PrivateTmp": "no",
			}},
			[]string{"NoNewPrivs:0", "sees /home/units-test", "sees /tmp/units-test", "writes /srv/units-test"},
			[]string{"CapBnd:0000000000000000", "writes /usr"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := shell(probe)
			s.User, s.ReadPaths, s.ReadWritePaths = tt.service.User, tt.service.ReadPaths, tt.service.ReadWritePaths
			s.ReadAll, s.Properties = tt.service.ReadAll, tt.service.Properties
			out, result, err := capture(t, c, t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out+"\n", want) {
					t.Errorf("%v: there is no %q in\n%s", result, want, out)
				}
			}
			for _, not := range tt.not {
				if strings.Contains(out, not) {
					t.Errorf("%v: there is %q in\n%s", result, not, out)
				}
			}
		})
	}
}

// The manager takes every property that the configuration may set, with the type that we give it.
func TestSystemdProperties(t *testing.T) {
	c := dialSystem(t)
	for name, values := range examples {
		for _, value := range values {
			s := shell("")
			s.Argv = []string{"/nonexistent"} // it is about the properties; with some of them no program would run
			s.Properties = map[string]any{name: value}
			if got, err := c.Run(t.Context(), s); err != nil {
				t.Errorf("%s = %v: %v, %v", name, value, got, err)
			}
		}
	}
}

func TestSystemdUserManager(t *testing.T) {
	const user = "units-test"
	if exec.Command("id", user).Run() != nil {
		output(t, "useradd", "--create-home", user)
	}
	uid := output(t, "id", "-u", user)
	output(t, "systemctl", "start", "user@"+uid+".service")
	t.Cleanup(func() { output(t, "systemctl", "stop", "user@"+uid+".service") })
	out, err := reexec(t, user, "user-service", "XDG_RUNTIME_DIR=/run/user/"+uid, "HOME=/home/"+user)
	if want := "result success, error <nil>, cpu true\nunits-test\nhush\ncache\n"; err != nil || out != want {
		t.Errorf("a service of a user: %q, %v; want %q", out, err, want)
	}
}

func TestSystemdMachineID(t *testing.T) {
	got, err := MachineID()
	if err != nil {
		t.Fatal(err)
	}
	want := output(t, "systemd-id128", "machine-id", "--app-specific="+fmt.Sprintf("%x", applicationID))
	if got != want {
		t.Errorf("MachineID = %s; want %s", got, want)
	}
}
