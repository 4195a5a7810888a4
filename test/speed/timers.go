//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"
)

// manyBackups is how many backups a large configuration has here.
const manyBackups = 1000

// timers measures schedule-backup with a thousand backups, beside what makes and lists as many timers without it.
func timers() error {
	var toml strings.Builder
	toml.WriteString("[module.m]\ntype = \"wiki\"\nuuid = \"3792c7db-9450-4bd3-84a3-034cd0087839\"\ninclude = [\"/etc\"]\n\n")
	for i := range manyBackups {
		fmt.Fprintf(&toml, "[backup.%d]\nschedule = \"*-*-* %02d:%02d:00\"\npersistent = false\ndestination = \"archive\"\nmodules = [\"m\"]\nretention = 7\n\n", i, i/60%24, i%60)
	}
	if err := configure(toml.String()); err != nil {
		return err
	}
	start, err := timed("schedule-backup", "start-timers")
	if err != nil {
		return err
	}
	again, err := timed("schedule-backup", "start-timers")
	if err != nil {
		return err
	}
	list, err := timed("schedule-backup", "list-timers")
	if err != nil {
		return err
	}
	systemctl, err := timed("systemctl", "list-timers", "--all", "--no-pager")
	if err != nil {
		return err
	}
	stop, err := timed("schedule-backup", "stop-timers")
	if err != nil {
		return err
	}
	var bare time.Duration
	for i := range manyBackups {
		d, err := timed("systemd-run", "--quiet", fmt.Sprintf("--unit=bare-%d", i), fmt.Sprintf("--on-calendar=*-*-* %02d:%02d:00", i/60%24, i%60), "true")
		if err != nil {
			return err
		}
		bare += d
	}
	if err := run("systemctl", "stop", "bare-*.timer"); err != nil {
		return err
	}
	row("start-timers, 1,000 backups", seconds(start), "")
	row("  1,000 calls of systemd-run", seconds(bare), "")
	row("  these to start-timers", times(bare, start), "6 or more")
	row("start-timers again, nothing changed", seconds(again), "")
	row("  to the first", times(again, start), "under 0.1")
	row("list-timers, 1,000 backups", seconds(list), "")
	row("  to systemctl list-timers", times(list, systemctl), "under 0.5")
	row("stop-timers, 1,000 backups", seconds(stop), "")
	return nil
}
