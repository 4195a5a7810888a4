//go:build linux

// Speed measures what the programs cost as a whole, beside what bare systemd-run, systemctl and restic cost in the same run, and
// prints a table of figures with what they are meant to be; the gateway beside what else serves restic's protocol. It runs on a private
// systemd: `make bench`. What the calls to the manager cost by themselves is measured by the benchmarks of internal/units.
//
//	speed [PART...]
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	archive      = "/srv/backup"
	passwordFile = "/etc/sdbackup/secret/archive.password"
	textfiles    = "/var/lib/prometheus/node-exporter"
	configFile   = "/etc/sdbackup/speed.toml"
)

func main() {
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "speed:", err)
		os.Exit(1)
	}
}

func measure() error {
	if slices.Equal(os.Args[1:], []string{hashOnlyArg}) {
		return receiveAndHash()
	}
	if len(os.Args) == 5 && os.Args[1] == bareClientArg {
		return bareClient(os.Args[2], os.Args[3], os.Args[4])
	}
	if os.Getenv("SDBACKUP_DISPOSABLE") != "1" {
		return errors.New("it overwrites system files: run it with `make bench`")
	}
	if err := install(); err != nil {
		return err
	}
	row("WHAT", "FIGURE", "MEANT TO BE")
	for _, part := range []struct {
		name    string
		measure func() error
	}{{"timers", timers}, {"memory", memory}, {"overhead", overhead}, {"retention", retention}, {"gateway", gateways}, {"files", files}, {"remote", remotes}} {
		if len(os.Args) > 1 && !slices.Contains(os.Args[1:], part.name) {
			continue
		}
		if err := part.measure(); err != nil {
			return err
		}
	}
	return nil
}

// install does what a package would.
func install() error {
	for _, name := range []string{"schedule-backup", "run-backup", "module-backup", "backup-gateway", "remote-backup"} {
		data, err := os.ReadFile(filepath.Join(os.Getenv("SDBACKUP_BIN"), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile("/usr/bin/"+name, data, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{archive, textfiles, filepath.Dir(passwordFile)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(passwordFile, []byte("a password\n"), 0o600); err != nil {
		return err
	}
	if err := run("/usr/bin/schedule-backup", "install-units"); err != nil {
		return err
	}
	return run("systemctl", "stop", "backup-timers.path") // every start-timers is to be one of ours
}

// configure writes the configuration: the destination and what is given.
func configure(toml string) error {
	return os.WriteFile(configFile, fmt.Appendf(nil, "[metrics]\ntextfile-dir = %q\n\n[destination.archive]\nrepository = %q\npassword-file = %q\n\n%s",
		textfiles, archive, passwordFile, toml), 0o644)
}

// row prints a line of the table.
func row(what, figure, meant string) {
	fmt.Printf("%-50s  %12s  %s\n", what, figure, meant)
}

// run runs a program; its output is part of the error when it fails.
func run(argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, bytes.TrimSpace(output.Bytes()))
	}
	return nil
}

// timed tells how long a program took.
func timed(argv ...string) (time.Duration, error) {
	start := time.Now()
	err := run(argv...)
	return time.Since(start), err
}

// median is the one in the middle, which a single slow one does not move.
func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
func millis(d time.Duration) string  { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }

func times(a, b time.Duration) string {
	return fmt.Sprintf("%.2f times", a.Seconds()/b.Seconds())
}
