//go:build linux

package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func init() {
	// inside gives its thread another cgroup namespace and then becomes systemd with it.
	runtime.LockOSThread()
}

// emptied are folders of the tree that systemd finds empty: what the machine's own administrator enabled, configured and recorded is
// no part of a test.
var emptied = []string{
	"/etc/systemd", "/var/lib/systemd", "/var/log/journal",
	"/etc/sdbackup", "/usr/lib/sdbackup", "/var/lib/sdbackup", "/var/cache/sdbackup", "/srv",
}

// written are files of the tree that systemd finds with these contents.
var written = map[string]string{
	"/etc/hostname": "private-systemd\n",
	"/etc/hosts":    "127.0.0.1 localhost private-systemd\n::1 localhost\n",
	"/etc/fstab":    "",
	"/etc/crypttab": "",
	// The tests look for what was logged: none of it may be dropped, and it need not outlive them.
	"/etc/systemd/journald.conf": "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nRateLimitBurst=0\nForwardToSyslog=no\nForwardToConsole=no\n",
	// A boot may empty /tmp and other places, and a folder of the caller's may be bound there: only create.
	"/etc/systemd/system/systemd-tmpfiles-setup.service.d/create-only.conf": "[Service]\nExecStart=\nExecStart=systemd-tmpfiles --create --boot --exclude-prefix=/dev\n",
}

// masked are units that packages start by themselves, that take time at boot and that no test needs.
var masked = []string{
	"dev-hugepages.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount", "sys-kernel-config.mount",
	"proc-sys-fs-binfmt_misc.automount", "getty.target", "console-getty.service", "remote-fs.target",
	"systemd-ask-password-console.path", "systemd-ask-password-wall.path", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
	"systemd-journal-flush.service", "systemd-journal-catalog-update.service", "systemd-hwdb-update.service", "systemd-firstboot.service", "ldconfig.service",
	"systemd-modules-load.service", "systemd-udevd.service", "systemd-udev-trigger.service", "systemd-tmpfiles-clean.timer", "systemd-tmpfiles-clean.service",
}

// inside makes the root of the machine, and becomes its pid 1.
func inside(argument string) error {
	var p plan
	if err := json.Unmarshal([]byte(argument), &p); err != nil {
		return err
	}
	// We are in the cgroup that was made for the machine: now it is the root of what the machine sees.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("make a cgroup namespace: %w", err)
	}
	// No mount of ours shows outside.
	if err := mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	root, err := overlay(p)
	if err != nil {
		return err
	}
	for _, step := range []func(root string) error{clean, mountAPI, makeDevices} {
		if err := step(root); err != nil {
			return err
		}
	}
	for _, b := range p.Binds {
		if err := bindInto(root, b); err != nil {
			return err
		}
	}
	if err := bindInto(root, bind{Path: treeAt, From: p.Tree, ReadOnly: true}); err != nil {
		return err
	}
	if err := bindNotify(root, p); err != nil {
		return err
	}
	if err := pivot(root, p.Scratch); err != nil {
		return err
	}
	for _, program := range []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} {
		err = unix.Exec(program, []string{program, "--system", "--log-level=notice"},
			[]string{"container=private-systemd", "NOTIFY_SOCKET=" + notifySocket, "PATH=" + defaultPath, "LANG=C.UTF-8"})
	}
	return fmt.Errorf("no systemd in %s: %w", p.Tree, err)
}

// overlay mounts the tree, with a layer in memory that takes what is written.
func overlay(p plan) (root string, err error) {
	if strings.ContainsAny(p.Tree, ",:\\") {
		return "", fmt.Errorf("overlayfs takes no comma, colon or backslash in %q", p.Tree)
	}
	memory := filepath.Join(p.Scratch, "memory")
	if err := os.Mkdir(memory, 0o755); err != nil {
		return "", err
	}
	if err := mount("tmpfs", memory, "tmpfs", 0, "mode=755"); err != nil {
		return "", err
	}
	root = filepath.Join(memory, "root")
	upper, work := filepath.Join(memory, "upper"), filepath.Join(memory, "work")
	for _, dir := range []string{root, upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", err
		}
	}
	return root, mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", p.Tree, upper, work))
}

// clean takes out of the tree what belongs to the machine it is the tree of.
func clean(root string) error {
	for _, dir := range emptied {
		if err := os.RemoveAll(root + dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/etc/systemd/system", "/etc/systemd/system-generators", "/etc/systemd/user", "/var/lib/systemd", "/srv"} {
		if err := os.MkdirAll(root+dir, 0o755); err != nil {
			return err
		}
	}
	for path, text := range written {
		if err := os.RemoveAll(root + path); err != nil { // it may be a link
			return err
		}
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	if err := os.WriteFile(root+"/etc/machine-id", fmt.Appendf(nil, "%x\n", id), 0o444); err != nil {
		return err
	}
	for _, unit := range masked {
		if err := os.Symlink("/dev/null", root+"/etc/systemd/system/"+unit); err != nil {
			return err
		}
	}
	if err := os.Symlink("/usr/lib/systemd/system/multi-user.target", root+"/etc/systemd/system/default.target"); err != nil {
		return err
	}
	// Generators make units of what is installed: SysV scripts, database clusters, disks.
	generators, err := filepath.Glob(root + "/usr/lib/systemd/system-generators/*")
	for _, g := range generators {
		err = os.Symlink("/dev/null", root+"/etc/systemd/system-generators/"+filepath.Base(g))
		if err != nil {
			return err
		}
	}
	return err
}

// mountAPI mounts the kernel's file systems. As the container interface wants it, what is not of a namespace is not writable;
// systemd then leaves devices and kernel settings alone.
func mountAPI(root string) error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, m := range []struct {
		kind, path string
		flags      uintptr
		data       string
	}{
		{"proc", "/proc", safe, ""},
		{"sysfs", "/sys", safe | unix.MS_RDONLY, ""},
		{"cgroup2", "/sys/fs/cgroup", safe, ""},
		{"tmpfs", "/dev", unix.MS_NOSUID, "mode=755"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=755"},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		if err := os.MkdirAll(root+m.path, 0o755); err != nil {
			return err
		}
		if err := mount(m.kind, root+m.path, m.kind, m.flags, m.data); err != nil {
			return err
		}
	}
	settings := root + "/proc/sys"
	if err := mount(settings, settings, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return mount("", settings, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|safe, "")
}

// makeDevices makes the devices that programs expect, and none of the machine's.
func makeDevices(root string) error {
	dev := root + "/dev"
	for name, number := range map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "full": unix.Mkdev(1, 7),
		"random": unix.Mkdev(1, 8), "urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0),
	} {
		path := filepath.Join(dev, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(number)); err != nil {
			return fmt.Errorf("make the device %s: %w", name, err)
		}
		if err := os.Chmod(path, 0o666); err != nil { // whatever the umask is
			return err
		}
	}
	for name, target := range map[string]string{
		"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	for _, dir := range []string{"pts", "shm"} {
		if err := os.Mkdir(filepath.Join(dev, dir), 0o755); err != nil {
			return err
		}
	}
	if err := mount("devpts", dev+"/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5"); err != nil {
		return err
	}
	return mount("tmpfs", dev+"/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777")
}

// treeAt is where the tree is seen as it was, for another machine to be booted from it in this one: the root is an overlay, and the kernel
// stacks only two of these.
const treeAt = "/run/host/root"

// bindInto shows a folder of the caller's, at the same path unless it says from where.
func bindInto(root string, b bind) error {
	if err := os.MkdirAll(root+b.Path, 0o755); err != nil {
		return err
	}
	flags := uintptr(unix.MS_BIND | unix.MS_REC)
	if b.From == "" {
		b.From = b.Path
	} else {
		flags = unix.MS_BIND
	}
	if err := mount(b.From, root+b.Path, "", flags, ""); err != nil {
		return err
	}
	if !b.ReadOnly {
		return nil
	}
	return mount("", root+b.Path, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
}

// notifySocket is where systemd finds the socket of whoever waits for it to be up.
const notifySocket = "/run/host/notify"

func bindNotify(root string, p plan) error {
	if err := os.MkdirAll(root+filepath.Dir(notifySocket), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(root+notifySocket, nil, 0o600); err != nil {
		return err
	}
	return mount(filepath.Join(p.Scratch, "notify"), root+notifySocket, "", unix.MS_BIND, "")
}

// pivot makes root the root, and lets go of the old one.
func pivot(root, scratch string) error {
	if err := os.Chdir(root); err != nil {
		return err
	}
	// pivot_root(2), "pivot_root(".", ".")": the old root ends up on top of the new one.
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	// Shared, as systemd makes it on a machine: the mount that shows a unit its credentials would not reach it else.
	return mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s: %w", target, err)
	}
	return nil
}
