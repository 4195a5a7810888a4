//go:build systemd

package schedule

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// reconcileLimit is how soon a change of the configuration is in the timers.
const reconcileLimit = 2 * time.Second

// program is the schedule-backup that was built.
func program(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("SDBACKUP_BIN")
	if bin == "" {
		t.Fatal("SDBACKUP_BIN is not set: want the folder of the programs that were built")
	}
	return filepath.Join(bin, "schedule-backup")
}

// text is a configuration without a file for the secret, which an ordinary user could not be given.
func text(backups ...string) string {
	return strings.Replace(base, `password-file = "/etc/hostname"`, `password-credential = "archive"`, 1) + strings.Join(backups, "")
}

// reconciled waits until a timer is there, or is not, after the configuration was changed.
func reconciled(t *testing.T, what string, changed time.Time, done func() bool) {
	t.Helper()
	eventually(t, done)
	if took := time.Since(changed); took > reconcileLimit {
		t.Errorf("%s was in the timers after %s; want %s at most", what, took, reconcileLimit)
	}
}

func TestSystemdPath(t *testing.T) {
	const dir = "/etc/sdbackup"
	schedule := program(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "web.toml")
	out, err := exec.Command(schedule, "install-units").CombinedOutput()
	if err != nil {
		t.Fatalf("install-units: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		systemctl(t, "disable", "--now", "backup-timers.path", "backup-timers.service")
		for path := range strings.Lines(string(out)) { // else they go before the template of other tests
			os.Remove(strings.TrimSpace(path))
		}
		os.Remove(file)
		systemctl(t, "daemon-reload")
	})
	for _, unit := range []string{"backup-timers.path", "backup-timers.service"} {
		if active, enabled := property(t, unit, "ActiveState"), property(t, unit, "UnitFileState"); active != "active" || enabled != "enabled" {
			t.Errorf("%s is %s and %s after install-units; want active and enabled", unit, active, enabled)
		}
	}

	active := func(id string) bool { return property(t, "backup@"+id+".timer", "ActiveState") == "active" }
	changed := time.Now()
	write(t, dir, map[string]string{"web.toml": text(backup("1"), backup("2"))})
	reconciled(t, "a new file", changed, func() bool { return active("1") && active("2") })

	changed = time.Now()
	next := filepath.Join(dir, ".web.toml.new") // as editors and packages replace a file
	write(t, dir, map[string]string{filepath.Base(next): text(backup("2"), backup("3"))})
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	reconciled(t, "a replaced file", changed, func() bool { return !active("1") && active("2") && active("3") })

	// More often than a service may start by default, systemd.unit(5), StartLimitBurst=.
	// And at moments that the path unit does not watch: while its service ends.
	for i := range 20 {
		changed = time.Now()
		write(t, dir, map[string]string{"web.toml": text(backup("2"))})
		systemctl(t, "start", "backup-timers-reconcile.service")
		id := fmt.Sprint("late", i)
		write(t, dir, map[string]string{"web.toml": text(backup(id))})
		reconciled(t, "a change at a bad moment", changed, func() bool { return active(id) && !active("2") })
	}

	changed = time.Now()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	reconciled(t, "a removed file", changed, func() bool { return !active("late19") })
}

// TestSystemdUser does for an ordinary user what TestSystemdPath does for the system.
func TestSystemdUser(t *testing.T) {
	const user, home = "sdbackup-test", "/home/sdbackup-test"
	schedule := program(t)
	if out, err := exec.Command("useradd", "--create-home", "--home-dir", home, user).CombinedOutput(); err != nil {
		t.Fatalf("useradd: %v\n%s", err, out)
	}
	uid, err := exec.Command("id", "-u", user).Output()
	if err != nil {
		t.Fatal(err)
	}
	manager := "user@" + strings.TrimSpace(string(uid)) + ".service"
	systemctl(t, "start", manager)
	t.Cleanup(func() {
		systemctl(t, "stop", manager)
		exec.Command("userdel", "--remove", user).Run()
	})
	// as runs a program as the user, in an environment as bare as that of a service.
	as := func(args ...string) (string, error) {
		args = append([]string{
			"--reuid", user, "--regid", user, "--init-groups", "--",
			"env", "-i", "HOME=" + home, "USER=" + user, "PATH=/usr/bin:/bin", "LANG=C.UTF-8",
			"XDG_RUNTIME_DIR=/run/user/" + strings.TrimSpace(string(uid)),
		}, args...)
		out, err := exec.Command("setpriv", args...).CombinedOutput()
		return string(out), err
	}
	must := func(args ...string) string {
		t.Helper()
		out, err := as(args...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}

	if out, err := as(schedule, "start-timers"); err == nil || !strings.Contains(out, "only root may change units") ||
		!strings.Contains(out, "--user") {
		t.Errorf("start-timers for the system, as a user: %v\n%s", err, out)
	}
	must("mkdir", "-p", home+"/.config/sdbackup")
	must(schedule, "--user", "install-units")

	show := func(unit, name string) string {
		return strings.TrimSpace(must("systemctl", "--user", "show", "--value", "--property="+name, unit))
	}
	changed := time.Now()
	write(t, home, map[string]string{"web.toml": text(backup("1", `name = "Mine"`), backup("2"))})
	must("cp", home+"/web.toml", home+"/.config/sdbackup/web.toml")
	reconciled(t, "a new file of a user", changed, func() bool { return show("backup@1.timer", "ActiveState") == "active" })

	if out := must(schedule, "--user", "list-timers"); !strings.Contains(out, "Mine") || strings.Count(out, "\n") != 3 {
		t.Errorf("list-timers printed\n%s", out)
	}
	before := show("backup@1.timer", "InvocationID")
	if out := must(schedule, "--user", "start-timers"); out != "schedule-backup: 2 timers unchanged\n" {
		t.Errorf("start-timers printed %s", out)
	}
	if show("backup@1.timer", "InvocationID") != before {
		t.Error("an unchanged timer of a user was started again")
	}
	stamp := home + "/.local/share/systemd/timers/stamp-backup@2.timer"
	if _, err := os.Stat(stamp); err != nil {
		t.Error(err)
	}
	write(t, home, map[string]string{"web.toml": text(backup("1", `name = "Mine"`))})
	must("cp", home+"/web.toml", home+"/.config/sdbackup/web.toml")
	eventually(t, func() bool { return show("backup@2.timer", "ActiveState") == "inactive" })
	eventually(t, func() bool { _, err := os.Stat(stamp); return os.IsNotExist(err) })
	if out := must(schedule, "--user", "stop-timers"); out != "schedule-backup: 1 timer stopped\n" {
		t.Errorf("stop-timers printed %s", out)
	}
}
