//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	modules = 8 // of the runs that are measured
	rounds  = 5
)

func moduleID(i int) string  { return fmt.Sprintf("m%d", i) }
func moduleDir(i int) string { return "/var/lib/speed/" + moduleID(i) }
func uuid(i int) string      { return fmt.Sprintf("3792c7db-9450-4bd3-84a3-%012d", i) }
func repository(i int) string {
	return filepath.Join(archive, "wiki", uuid(i))
}

// configureModules writes a configuration of some modules and one backup "all" of them.
func configureModules(n int, backup string) error {
	var toml strings.Builder
	var ids []string
	for i := range n {
		fmt.Fprintf(&toml, "[module.%s]\ntype = \"wiki\"\nuuid = %q\ninclude = [%q]\n\n", moduleID(i), uuid(i), moduleDir(i))
		ids = append(ids, strconv.Quote(moduleID(i)))
	}
	fmt.Fprintf(&toml, "[backup.all]\nschedule = \"2099-01-01\"\ndestination = \"archive\"\nmodules = [%s]\n%s", strings.Join(ids, ", "), backup)
	return configure(toml.String())
}

// fill gives a module a file of so many bytes that cannot be compressed.
func fill(i int, name string, size int) error {
	if err := os.MkdirAll(moduleDir(i), 0o755); err != nil {
		return err
	}
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(i), byte(time.Now().UnixNano()), byte(time.Now().UnixNano() >> 8)})
	_, _ = random.Read(data) // never fails
	return os.WriteFile(filepath.Join(moduleDir(i), name), data, 0o644)
}

// memory measures the peak resident memory of a run of a thousand modules. Their folders are missing, so that each fails before
// restic would be called: what run-backup keeps of them is the same.
func memory() error {
	if err := configureModules(1000, "retention = 7\nmax-parallel = 2\n"); err != nil {
		return err
	}
	cmd := exec.Command("run-backup", "all")
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	peak := 0
	for {
		select {
		case <-tick.C:
			peak = max(peak, peakKiB(cmd.Process.Pid))
		case err := <-ended:
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				return fmt.Errorf("run-backup with missing folders: %w; want exit code 1", err)
			}
			row("run-backup, 1,000 modules: memory", fmt.Sprintf("%.1f MiB", float64(peak)/1024), "under 32 MiB")
			row("  time, all modules failing at once", seconds(time.Since(start)), "")
			return nil
		}
	}
}

// peakKiB reads VmHWM, proc(5).
func peakKiB(pid int) int {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			return n
		}
	}
	return 0
}

// overhead measures what run-backup and module-backup add to bare calls of restic, per module, where nothing has changed.
func overhead() error {
	if err := configureModules(modules, "retention = 1000\n"); err != nil {
		return err
	}
	for i := range modules {
		if err := fill(i, "data", 1<<20); err != nil {
			return err
		}
	}
	if err := run("run-backup", "all"); err != nil { // makes the repositories
		return err
	}
	var bare, direct, units []time.Duration
	for range rounds {
		d, err := bareRound()
		if err != nil {
			return err
		}
		bare = append(bare, d)
		if d, err = timed("run-backup", "--no-units", "all"); err != nil {
			return err
		}
		direct = append(direct, d)
		if d, err = timed("run-backup", "all"); err != nil {
			return err
		}
		units = append(units, d)
	}
	b := median(bare)
	row("restic backup, nothing changed, a module", millis(b/modules), "")
	row("  added by run-backup --no-units", millis((median(direct)-b)/modules), "30 ms or less")
	row("  added by run-backup", millis((median(units)-b)/modules), "80 ms or less")
	return nil
}

// bareRound calls restic for each module, as module-backup does.
func bareRound() (time.Duration, error) {
	start := time.Now()
	for i := range modules {
		err := run("restic", "backup", "--repo", repository(i), "--password-file", passwordFile, "--cache-dir", "/var/cache/speed/"+moduleID(i),
			"--json", "--host", "speed", "--tag", "module="+moduleID(i), moduleDir(i))
		if err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// retention measures runs of modules of 50 MiB of which 1 MiB has changed, where retention removes a snapshot every time and where
// it never can.
func retention() error {
	for i := range modules {
		if err := fill(i, "data", 49<<20); err != nil {
			return err
		}
	}
	if err := configureModules(modules, "retention = 2\n"); err != nil {
		return err
	}
	for range 3 {
		if err := change(); err != nil {
			return err
		}
		if err := run("run-backup", "all"); err != nil {
			return err
		}
	}
	if err := change(); err != nil {
		return err
	}
	bare, err := bareRound()
	if err != nil {
		return err
	}
	row("8 modules of 50 MiB, 1 MiB changed: restic backup", seconds(bare), "")
	for _, c := range []struct{ what, backup, meant string }{
		{"  run-backup, retention removes one", "retention = 2\n", "under 12.5 s"},
		{"  the same, two at a time", "retention = 2\nmax-parallel = 2\n", "under 6.5 s"},
		{"  run-backup, retention can remove none", "retention = 1000\n", ""},
		{"  the same, two at a time", "retention = 1000\nmax-parallel = 2\n", ""},
	} {
		if err := configureModules(modules, c.backup); err != nil {
			return err
		}
		if err := change(); err != nil {
			return err
		}
		d, err := timed("run-backup", "all")
		if err != nil {
			return err
		}
		row(c.what, seconds(d), c.meant)
	}
	return nil
}

func change() error {
	for i := range modules {
		if err := fill(i, "changed", 1<<20); err != nil {
			return err
		}
	}
	return nil
}
