//go:build packages

package packages

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// family is a kind of packages.
type family struct {
	format  string
	install []string // and a package: the first one, a later or an earlier one
	again   []string // and a package: the same version
	older   []string // and a package: an earlier one
	remove  []string
	purge   []string // nil: the family knows none
	// config is where a file is that was edited when its package is removed.
	config string
}

func TestDeb(t *testing.T) {
	install := []string{"dpkg", "--install"}
	life(t, family{
		format: "deb", install: install, again: install, older: install,
		remove: []string{"dpkg", "--remove", "sdbackup"}, purge: []string{"dpkg", "--purge", "sdbackup"},
		config: example,
	})
}

func TestRpm(t *testing.T) {
	life(t, family{
		format: "rpm", install: rpmCommand(t, "--upgrade"), again: rpmCommand(t, "--upgrade", "--replacepkgs"), older: rpmCommand(t, "--upgrade", "--oldpackage"),
		remove: rpmCommand(t, "--erase", "sdbackup"),
		config: example + ".rpmsave",
	})
}

// rpmCommand calls rpm on a Debian: it knows nothing of what restic and systemd came by there, and that of Debian 12 would rather not be used.
func rpmCommand(t *testing.T, args ...string) []string {
	t.Helper()
	argv := append([]string{"rpm", "--nodeps"}, args...)
	if strings.Contains(must(t, "rpm", "--help"), "--force-debian") {
		argv = append(argv, "--force-debian")
	}
	return argv
}

const configuration = `version = 1

[metrics]
textfile-dir = "` + textfiles + `"

[destination.archive]
repository = "` + archive + `"
password-file = "` + passwordFile + `"

[destination.guarded]
repository = "` + archive + `/guarded"
password-file = "` + passwordFile + `"
gateway = true

[module.first]
type = "wiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
user = "daemon"
directory = "/var/lib/test-first"
include = ["data"]
dump-state = ["cat", "/var/lib/test-first/gate"]

[module.second]
type = "wiki"
uuid = "0b6e8a0e-5b0f-4d0c-9a6c-6c4a5f1d2e3b"
include = ["/etc/hostname"]

[module.guarded]
type = "wiki"
uuid = "7c1f9a52-6d0e-4c57-9d27-0a8b7e9b1c11"
user = "daemon"
directory = "/var/lib/test-guarded"
include = ["data"]
dump-state = ["cat", "/var/lib/test-guarded/gate"]

[backup.1]
name = "Nightly"
schedule = "2099-01-01"
destination = "archive"
modules = ["first", "second"]
retention = 30

[backup.2]
name = "Guarded"
schedule = "2099-01-01"
destination = "guarded"
modules = ["guarded"]
retention = 30
`

// host is the machine, in one life of a package.
type host struct {
	*testing.T
	family
	gates map[string]*gate // by module
}

// life installs a package, uses it, puts others in its place, and removes it.
func life(t *testing.T, f family) {
	h := &host{T: t, family: f, gates: map[string]*gate{}}
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "--no-pager", "-n", "120", "-o", "short-precise").CombinedOutput()
			t.Logf("journal:\n%s", out)
			out, _ = exec.Command("systemctl", "list-units", "--all", "backup*", "module-backup*").CombinedOutput()
			t.Logf("%s", out)
		}
		for _, g := range h.gates {
			g.open()
		}
	})
	h.installed()
	h.configured()
	h.upgraded()
	h.downgraded()
	h.again()
	h.removed()
	if h.family.purge != nil {
		h.purged()
	}
}

// manage runs the package manager, which must have nothing to complain of.
func (h *host) manage(argv []string, more ...string) string {
	h.Helper()
	out := must(h.T, append(append([]string{}, argv...), more...)...)
	h.Logf("%s\n%s", strings.Join(append(argv, more...), " "), out)
	for line := range strings.Lines(out) {
		lower := strings.ToLower(line)
		expected := strings.Contains(line, "downgrading") || // dpkg warns of it
			strings.Contains(line, "saved as") || // and rpm of an edited file that it keeps
			strings.Contains(line, "/usr/lib/systemd/system-preset' not empty") // which Debian 12 knows by another name
		if !expected && (strings.Contains(lower, "error") || strings.Contains(lower, "warning") || strings.Contains(lower, "fail") || strings.Contains(lower, "not found")) {
			h.Errorf("%q prints %s", argv, line)
		}
	}
	return out
}

// healthy fails the test for units that failed.
func (h *host) healthy() {
	h.Helper()
	if out := must(h.T, "systemctl", "list-units", "--failed", "--plain", "--legend=no"); out != "" {
		h.Errorf("units failed: %s", out)
	}
}

// version is what a program of the package says.
func (h *host) version() string {
	h.Helper()
	return must(h.T, "run-backup", "--version")
}

// installed: the timers' service is enabled, nothing is scheduled, and nothing failed.
func (h *host) installed() {
	for _, dir := range []string{archive + "/guarded", textfiles} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			h.Fatal(err)
		}
	}
	since := time.Now().Format("2006-01-02 15:04:05.000000")
	h.manage(h.install, pkg(h.T, current, h.format))
	for _, unit := range []string{"backup-timers.service", "backup-timers.path"} {
		if got := strings.TrimSpace(must(h.T, "systemctl", "is-enabled", unit)); got != "enabled" {
			h.Errorf("%s is %s; want it enabled", unit, got)
		}
		if !active(h.T, unit) {
			h.Errorf("%s is not active", unit)
		}
	}
	if out := must(h.T, "systemctl", "list-units", "--all", "--plain", "--legend=no", "backup*.timer"); out != "" {
		h.Errorf("without a configuration there are timers: %s", out)
	}
	h.healthy()
	if out := must(h.T, "journalctl", "--quiet", "--since="+since, "--priority=err", "--unit=backup*"); out != "" {
		h.Errorf("the services complain: %s", out)
	}
	for path, want := range map[string]os.FileMode{"/etc/sdbackup": 0o755, "/etc/sdbackup/secret": 0o700, example: 0o644, "/run/sdbackup": 0o755, "/run/sdbackup/tokens": 0o700, "/run/lock/sdbackup": 0o755} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			h.Errorf("%s: %v, %v; want mode %o", path, info, err, want)
		}
	}
	must(h.T, "schedule-backup", "check")
	h.verify()
}

// verify has systemd examine the units, and where man is there the manuals that they name.
func (h *host) verify() {
	args := []string{"systemd-analyze", "verify", "--man=no"}
	if _, err := exec.LookPath("man"); err == nil {
		args[2] = "--man=yes"
		for _, page := range append(programs(h.T), "sdbackup.toml") {
			must(h.T, "man", "--where", page)
		}
	}
	paths, err := filepath.Glob("/usr/lib/systemd/system/*backup*")
	if err != nil || len(paths) == 0 {
		h.Fatalf("no units: %v", err)
	}
	for _, path := range paths {
		args = append(args, strings.Replace(path, "@.", "@1.", 1))
	}
	if out, code := run(h.T, args...); code != 0 || out != "" {
		h.Errorf("%v: exit code %d\n%s", args, code, out)
	}
}

// programs are those of the package.
func programs(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob("/usr/bin/*-backup")
	more, _ := filepath.Glob("/usr/bin/backup-*")
	if paths = append(paths, more...); err != nil || len(paths) < 6 {
		t.Fatalf("programs: %v, %v", paths, err)
	}
	var names []string
	for _, path := range paths {
		names = append(names, filepath.Base(path))
	}
	return names
}

// configured: a file is written, the timers are there, and a run by hand saves.
func (h *host) configured() {
	write(h.T, passwordFile, "planted-restic-password-7Qx\n", 0o600)
	for _, module := range []string{"first", "guarded"} {
		dir := "/var/lib/test-" + module
		write(h.T, dir+"/data/page.txt", "page of "+module+"\n", 0o644)
		os.Remove(dir + "/gate")
		h.gates[module] = newGate(h.T, dir+"/gate")
		must(h.T, "chown", "-R", "daemon:", dir)
	}
	write(h.T, site, configuration, 0o644)
	eventually(h.T, "the timers are there", func() bool { return active(h.T, "backup@1.timer") && active(h.T, "backup@2.timer") })
	for id, module := range map[string]string{"1": "first", "2": "guarded"} {
		h.begin(id, module)
		h.end(id, module)
	}
	h.healthy()
}

// begin starts a backup, which then waits at the gate of its module.
func (h *host) begin(id, module string) {
	h.Helper()
	must(h.T, "systemctl", "start", "--no-block", "backup@"+id+".service")
	h.gates[module].reached(h.T)
}

// end lets a backup go on; it must save everything.
func (h *host) end(id, module string) {
	h.Helper()
	h.gates[module].open()
	// Before the unit is at rest, another start of it is one with this.
	eventually(h.T, "backup "+id+" ends", func() bool {
		state := property(h.T, "backup@"+id+".service", "ActiveState")
		return state == "inactive" || state == "failed"
	})
	if got := h.outcome(id); got != "success" {
		h.Fatalf("backup %s ended with %s; want success", id, got)
	}
}

// outcome is the verdict of a backup's last run.
func (h *host) outcome(id string) string {
	h.Helper()
	var record struct {
		LastRun struct {
			Outcome string `json:"outcome"`
		} `json:"last_run"`
	}
	if err := json.Unmarshal([]byte(read(h.T, state+"/status/"+id+".json")), &record); err != nil {
		h.Fatal(err)
	}
	return record.LastRun.Outcome
}

func (h *host) snapshots(repository string) int {
	h.Helper()
	write(h.T, "/root/password", "planted-restic-password-7Qx\n", 0o600)
	out := must(h.T, "restic", "--no-lock", "--no-cache", "-r", repository, "--password-file", "/root/password", "snapshots", "--json")
	var list []any
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		h.Fatal(err)
	}
	return len(list)
}

// upgraded: while two backups run, one of them through the gateway. They go on, and save with the new programs what is left; the timers are
// made anew, and what was edited stays.
func (h *host) upgraded() {
	edited := read(h.T, example) + "# edited\n"
	write(h.T, example, edited, 0o644)
	h.begin("1", "first")
	h.begin("2", "guarded")
	run1, run2, gateway := property(h.T, "backup@1.service", "MainPID"), property(h.T, "backup@2.service", "MainPID"), property(h.T, "backup-gateway.service", "MainPID")
	timer := property(h.T, "backup@1.timer", "InvocationID")
	before := h.version()

	out := h.manage(h.install, pkg(h.T, next, h.format))
	if h.version() == before {
		h.Errorf("after the upgrade the program is still %s", before)
	}
	if got := property(h.T, "backup@1.service", "MainPID"); got != run1 || got == "0" {
		h.Errorf("the run of backup 1 was process %s and is %s", run1, got)
	}
	if got := property(h.T, "backup@2.service", "MainPID"); got != run2 || got == "0" {
		h.Errorf("the run of backup 2 was process %s and is %s", run2, got)
	}
	for _, unit := range []string{"module-backup-1-first.service", "module-backup-2-guarded.service"} {
		if got := property(h.T, unit, "ActiveState"); got != "activating" {
			h.Errorf("%s is %s; want it to go on", unit, got)
		}
	}
	if gateway != "0" { // else nobody has needed it yet
		if got := property(h.T, "backup-gateway.service", "MainPID"); got != gateway {
			h.Errorf("the gateway that a backup needs was process %s and is %s", gateway, got)
		}
		if !strings.Contains(out, "backup-gateway is of the old version") {
			h.Errorf("nobody was told that the gateway is of the old version: %s", out)
		}
	}
	if got := property(h.T, "backup@1.timer", "InvocationID"); got == timer || !active(h.T, "backup@1.timer") {
		h.Error("the timer of backup 1 was not made anew")
	}
	if !active(h.T, "backup-timers.path") {
		h.Error("nobody looks at the configuration any more")
	}
	if read(h.T, example) != edited || read(h.T, site) != configuration {
		h.Error("the configuration that was edited is not what it was")
	}
	h.end("1", "first")
	h.end("2", "guarded")
	h.healthy()
}

// downgraded: everything works with the earlier version, and nothing that is of the later one stays.
func (h *host) downgraded() {
	gateway := property(h.T, "backup-gateway.service", "MainPID")
	later := h.version()
	h.manage(h.older, pkg(h.T, current, h.format))
	if h.version() == later {
		h.Errorf("after the downgrade the program is still %s", later)
	}
	if got := property(h.T, "backup-gateway.service", "MainPID"); gateway != "0" && got == gateway {
		h.Error("the gateway, which nobody needs, is still of the later version")
	}
	h.works()
}

func (h *host) again() {
	h.manage(h.family.again, pkg(h.T, current, h.format))
	h.works()
}

// works: the timers are there, and a backup of each kind saves.
func (h *host) works() {
	h.Helper()
	for _, unit := range []string{"backup@1.timer", "backup@2.timer", "backup-timers.service", "backup-timers.path"} {
		if !active(h.T, unit) {
			h.Errorf("%s is not active", unit)
		}
	}
	h.begin("1", "first")
	h.end("1", "first")
	h.begin("2", "guarded")
	h.end("2", "guarded")
	if read(h.T, site) != configuration || !strings.HasSuffix(read(h.T, example), "# edited\n") {
		h.Error("the configuration that was edited is not what it was")
	}
	h.healthy()
}

// removed: while a backup runs, which is stopped and on record. The units are gone, and what was configured and saved stays.
func (h *host) removed() {
	h.begin("1", "first")
	snapshots := h.snapshots(archive + "/wiki/3792c7db-9450-4bd3-84a3-034cd0087839")
	h.manage(h.remove)
	if out := loaded(h.T); out != "" {
		h.Errorf("units are left: %s", out)
	}
	if out, _ := run(h.T, "systemctl", "list-unit-files", "--plain", "--legend=no", "backup@*", "backup-*"); out != "" {
		h.Errorf("unit files are left: %s", out)
	}
	gone(h.T, "/usr/bin/run-backup", "/usr/lib/systemd/system/backup@.service", "/usr/share/man/man1/run-backup.1.gz")
	stays(h.T, site, h.config, passwordFile, state+"/status/1.json", textfiles+"/backup1.prom", archive)
	if got := h.outcome("1"); got != "failed" {
		h.Errorf("the run that was stopped is on record as %s; want failed", got)
	}
	if got := h.snapshots(archive + "/wiki/3792c7db-9450-4bd3-84a3-034cd0087839"); got != snapshots {
		h.Errorf("there are %d snapshots; want %d as before", got, snapshots)
	}
	h.gates["first"].open()

	// What stayed is used at once by who installs again.
	h.manage(h.install, pkg(h.T, current, h.format))
	eventually(h.T, "the timers are there again", func() bool { return active(h.T, "backup@1.timer") })
	h.begin("2", "guarded")
	h.end("2", "guarded")
	h.manage(h.remove)
	if out := loaded(h.T); out != "" {
		h.Errorf("units are left: %s", out)
	}
}

// purged: all is gone, but for repositories, wherever they are.
func (h *host) purged() {
	const odd = state + "/local/wiki/1"
	write(h.T, "/root/password", "planted-restic-password-7Qx\n", 0o600)
	must(h.T, "restic", "-r", odd, "--password-file", "/root/password", "init")
	elsewhere := "/srv/elsewhere"
	write(h.T, elsewhere+"/file", "somebody else's\n", 0o644)
	if err := os.Symlink(elsewhere, "/etc/sdbackup/link"); err != nil {
		h.Fatal(err)
	}
	write(h.T, textfiles+"/backup-of-others.prom", "# HELP others Something else.\n", 0o644)
	write(h.T, "/etc/sdbackup/.hidden", "", 0o600)

	if out := h.manage(h.purge); !strings.Contains(out, state+"/local holds backups, and stays") {
		h.Errorf("nobody was told of the repository that stays: %s", out)
	}
	gone(h.T, "/etc/sdbackup", state+"/status", state+"/runs", "/var/cache/sdbackup", "/run/sdbackup", "/run/lock/sdbackup", textfiles+"/backup1.prom",
		"/var/lib/systemd/timers/stamp-backup@1.timer", "/etc/systemd/system/timers.target.wants/backup-timers.service",
		"/etc/systemd/system/backup-timers.service.wants")
	stays(h.T, elsewhere+"/file", textfiles+"/backup-of-others.prom")
	if h.snapshots(odd) != 0 || h.snapshots(archive+"/wiki/3792c7db-9450-4bd3-84a3-034cd0087839") == 0 || h.snapshots(archive+"/guarded/wiki/7c1f9a52-6d0e-4c57-9d27-0a8b7e9b1c11") == 0 {
		h.Error("a repository is not what it was")
	}
	if out, _ := run(h.T, "dpkg-query", "--list", "sdbackup"); strings.Contains(out, "\nrc ") || strings.Contains(out, "\nii ") {
		h.Errorf("dpkg still knows the package: %s", out)
	}
}
