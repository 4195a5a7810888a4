//go:build systemd

package units

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// A unit that is about to end counts as such, with what would start it again; to stop it is to wait for it.
func TestSystemdRunning(t *testing.T) {
	transports(t, func(t *testing.T, c *Conn) {
		dir := t.TempDir()
		fifo := dir + "/end"
		run := func(argv ...string) {
			t.Helper()
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Fatalf("%v: %v\n%s", argv, err, out)
			}
		}
		run("mkfifo", fifo)
		for name, text := range map[string]string{
			"test-group.socket":  "[Socket]\nListenStream=/run/test-group\n",
			"test-group.service": "[Service]\nExecStart=/bin/sleep infinity\nExecStop=/bin/sh -c 'read line <" + fifo + "'\n",
		} {
			path := "/run/systemd/system/" + name
			if err := os.WriteFile(path, []byte("[Unit]\nDescription=Test\n"+text), 0o644); err != nil {
				t.Fatal(err)
			}
			defer os.Remove(path)
		}
		names := []string{"test-group.service"}
		check := func(running, ending []string) {
			t.Helper()
			r, e, err := c.Running(t.Context(), names)
			slices.Sort(r)
			if err != nil || !slices.Equal(r, running) || !slices.Equal(e, ending) {
				t.Errorf("Running = %q, %q, %v; want %q, %q", r, e, err, running, ending)
			}
		}
		run("systemctl", "daemon-reload")
		check(nil, nil)
		run("systemctl", "start", "test-group.socket")
		check([]string{"test-group.socket"}, nil)
		run("systemctl", "start", "test-group.service")
		check([]string{"test-group.service", "test-group.socket"}, nil)
		run("systemctl", "stop", "--no-block", "test-group.service")
		eventually(t, "it is about to end", func() bool { return show(t, "test-group.service", "ActiveState") == "deactivating" })
		check([]string{"test-group.socket"}, names)

		stopped := make(chan error, 1)
		go func() { stopped <- c.StopAll(t.Context(), []string{"test-group.service", "test-group.socket"}) }()
		eventually(t, "the socket waits for the service", func() bool {
			out, err := exec.Command("systemctl", "list-jobs", "--no-legend", "test-group.socket").Output()
			return err == nil && strings.Contains(string(out), "stop")
		})
		select {
		case err := <-stopped:
			t.Errorf("StopAll did not wait: %v", err)
		default:
		}
		if err := os.WriteFile(fifo, []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		check(nil, nil)
		if err := c.StopAll(t.Context(), []string{"test-group.service", "no-such-test.service"}); err != nil {
			t.Errorf("StopAll of what does not run = %v", err)
		}
	})
}
