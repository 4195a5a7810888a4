//go:build linux

package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// inScope is in our environment after intoScope.
const inScope = "PRIVATE_SYSTEMD_SCOPE"

// intoScope moves the program, where a systemd runs already, into a scope of that one's in which it may make cgroups: see
// https://systemd.io/CGROUP_DELEGATION, a subtree belongs to one writer only. It does not return then, but starts the program anew.
func intoScope() error {
	if _, err := os.Stat("/run/systemd/system"); err != nil || os.Getenv(inScope) != "" {
		return nil
	}
	program, err := exec.LookPath("systemd-run")
	if err != nil {
		return err
	}
	argv := append([]string{program, "--scope", "--quiet", "--collect", "--property=Delegate=yes", "--", "/proc/self/exe"}, os.Args[1:]...)
	if argv[6], err = os.Executable(); err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", program, unix.Exec(program, argv, append(os.Environ(), inScope+"=1")))
}

// makeCgroup makes a cgroup below our own, for a systemd that expects one without other processes. It returns "" where cgroup2 is
// not mounted: systemd then sees the cgroups of the whole machine, and can still make its own.
func makeCgroup() (string, error) {
	own, err := ownCgroup()
	if err != nil || own == "" {
		return "", err
	}
	if os.Getenv(inScope) != "" {
		// A cgroup that gives controllers to its children may have no processes itself.
		supervisor := filepath.Join(own, "supervisor")
		if err := os.Mkdir(supervisor, 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(supervisor, "cgroup.procs"), []byte("0"), 0); err != nil {
			return "", err
		}
	}
	delegateControllers(own)
	removeStale(own)
	dir := filepath.Join(own, fmt.Sprint("private-systemd-", os.Getpid()))
	return dir, os.Mkdir(dir, 0o755)
}

// ownCgroup returns the folder of our cgroup.
func ownCgroup() (string, error) {
	memberships, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(memberships)) {
		path, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
			var s unix.Statfs_t
			if unix.Statfs(mount, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
				return filepath.Join(mount, path), nil
			}
		}
	}
	return "", nil
}

// delegateControllers lets children of a cgroup limit and account. What cannot be had is done without: a controller may be
// bound to cgroup v1.
func delegateControllers(cgroup string) {
	controllers, _ := os.ReadFile(filepath.Join(cgroup, "cgroup.controllers"))
	for _, c := range strings.Fields(string(controllers)) {
		_ = os.WriteFile(filepath.Join(cgroup, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}

// removeStale removes what programs left that were killed.
func removeStale(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, "private-systemd-*"))
	for _, dir := range dirs {
		_, pid, _ := strings.Cut(filepath.Base(dir), "private-systemd-")
		if _, err := os.Stat("/proc/" + pid); os.IsNotExist(err) {
			removeCgroup(dir)
		}
	}
}

// removeCgroup removes a cgroup and those below it. One that still has processes stays.
func removeCgroup(cgroup string) {
	if cgroup == "" {
		return
	}
	var dirs []string
	_ = filepath.WalkDir(cgroup, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		_ = unix.Rmdir(dir)
	}
}
