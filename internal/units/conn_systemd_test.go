//go:build systemd

package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Tests tagged systemd need root on a booted systemd of their own: they make, stop and remove units of backups.

// dialSystem connects to the manager of the system.
func dialSystem(t testing.TB) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), false)
	if err != nil {
		t.Fatalf("tests tagged systemd need root on a booted systemd: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// dialDirect connects to it as where there is no bus.
func dialDirect(t testing.TB) *Conn {
	t.Helper()
	c, err := dial(t.Context(), false, endpoint{address: "unix:path=/run/systemd/private", direct: true})
	if err != nil {
		t.Fatalf("tests tagged systemd need root on a booted systemd: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// output runs a program and returns what it prints on standard output.
func output(t testing.TB, argv ...string) string {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(argv, " "), err, out, stderr.Bytes())
	}
	return strings.TrimRight(string(out), "\n")
}

// show returns a property of a unit as systemctl shows it.
func show(t testing.TB, unit, property string) string {
	t.Helper()
	return output(t, "systemctl", "show", "--value", "--property="+property, unit)
}

// installUnit installs a unit file until the test ends.
func installUnit(t testing.TB, name, text string) {
	t.Helper()
	path := filepath.Join("/run/systemd/system", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Remove(path)
		output(t, "systemctl", "daemon-reload")
	})
	output(t, "systemctl", "daemon-reload")
}

// eventually waits for a condition that no event tells.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestSystemdDial(t *testing.T) {
	t.Run("no manager of a user", func(t *testing.T) {
		t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
		t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
		if _, err := Dial(t.Context(), true); !errors.Is(err, ErrNoManager) {
			t.Errorf("Dial = %v; want ErrNoManager", err)
		}
	})
	t.Run("no bus", func(t *testing.T) {
		t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nonexistent")
		c, err := Dial(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if !c.direct {
			t.Error("Dial found a bus where there is none")
		}
	})
	t.Run("the context ends", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := Dial(ctx, false)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		cancel()
		if _, err := c.Timers(t.Context()); err != nil {
			t.Errorf("the connection ended with the context it was made with: %v", err)
		}
	})
	t.Run("closed", func(t *testing.T) {
		c := dialSystem(t)
		c.Close()
		if _, err := c.Timers(t.Context()); !errors.Is(err, errDisconnected) {
			t.Errorf("Timers = %v; want that the connection was lost", err)
		}
	})
	t.Run("denied", func(t *testing.T) {
		out, err := reexec(t, "nobody", "stop-anything")
		if err != nil || !strings.Contains(out, "denied: true") {
			t.Errorf("an unprivileged user stops a unit: %q, %v; want ErrDenied", out, err)
		}
	})
}

// TestMain lets the test's binary be the program that a test runs as another user; see reexec.
func TestMain(m *testing.M) {
	if os.Getenv("UNITS_TEST_ACT") != "" {
		act(os.Getenv("UNITS_TEST_ACT"))
		return
	}
	os.Exit(m.Run())
}

// reexec runs an act of this binary as a user.
func reexec(t testing.TB, user, act string, env ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join("/var/lib", filepath.Base(exe)+".copy") // root's own folders are closed to others
	data, err := os.ReadFile(exe)
	if err == nil {
		err = os.WriteFile(copied, data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(copied)
	cmd := exec.Command("runuser", append([]string{"-u", user, "--", "env", "UNITS_TEST_ACT=" + act}, append(env, copied)...)...)
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func act(name string) {
	ctx := context.Background()
	switch name {
	case "stop-anything":
		c, err := Dial(ctx, false)
		if err != nil {
			fmt.Println(err)
			return
		}
		err = c.stop(ctx, time.Minute, "multi-user.target")
		fmt.Printf("denied: %v (%v)\n", errors.Is(err, ErrDenied), err)
	case "user-service":
		userService(ctx)
	case "own-unit":
		c, err := Dial(ctx, false)
		if err == nil {
			name, err = c.ownUnit(ctx)
		}
		if err != nil {
			name = err.Error()
		}
		fmt.Println(name)
	}
}

// userService runs a service in the manager of the user, and prints how it went.
func userService(ctx context.Context) {
	c, err := Dial(ctx, true)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	r, w, err := os.Pipe()
	if err != nil {
		fmt.Println(err)
		return
	}
	secret := filepath.Join(os.Getenv("HOME"), "secret")
	os.WriteFile(secret, []byte("hush"), 0o600)
	result, err := c.Run(ctx, Service{
		Name: ModuleServiceName("u", "m"), Argv: []string{"/bin/sh", "-c", `id -un; cat "$CREDENTIALS_DIRECTORY/p"; echo; test -d "$CACHE_DIRECTORY" && echo cache`},
		User: "root", Credentials: []Credential{{ID: "p", Path: secret}}, CacheDirectory: "sdbackup/x", Stdout: w,
		ReadWritePaths: []string{"/srv"},
	})
	w.Close()
	out, _ := io.ReadAll(r)
	fmt.Printf("result %v, error %v, cpu %v\n%s", result, err, result.CPU != nil, out)
}
