//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// insideArg makes the program the one that becomes the new pid 1.
	insideArg = "--inside"
	// bootTimeout is long: the machine may be busy with other tests.
	bootTimeout = 2 * time.Minute
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// machine is a booted systemd.
type machine struct {
	process *exec.Cmd // its pid 1
	ended   chan struct{}
	log     bytes.Buffer // what pid 1 wrote to its standard error; to be read after ended
	cgroup  string       // its folder, or ""
}

// plan is what the new pid 1 is told.
type plan struct {
	Tree  string
	Binds []bind
	// Scratch is an empty folder but for the socket "notify".
	Scratch string
}

// boot starts a systemd and waits until it is up.
func boot(ctx context.Context, o *options) (_ *machine, err error) {
	// The death signal below is sent when the *thread* that started the process ends.
	runtime.LockOSThread()

	scratch, err := os.MkdirTemp("", "private-systemd-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(scratch) // once it is up it needs that no more
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(scratch, "notify")})
	if err != nil {
		return nil, err
	}
	defer notify.Close()
	p := plan{Scratch: scratch}
	if p.Tree, err = filepath.Abs(o.Tree); err != nil {
		return nil, err
	}
	for _, b := range o.Binds {
		if b.Path, err = filepath.Abs(b.Path); err != nil {
			return nil, err
		}
		p.Binds = append(p.Binds, b)
	}
	argument, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}

	m := &machine{ended: make(chan struct{})}
	m.process = exec.Command("/proc/self/exe", insideArg, string(argument))
	m.process.Stderr = &m.log
	m.process.Env = []string{"PATH=" + defaultPath}
	m.process.SysProcAttr = &syscall.SysProcAttr{
		// The cgroup namespace is made later, see inside.
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWNET,
		Pdeathsig:  syscall.SIGKILL, // so that nothing remains when we are killed
		Setsid:     true,
	}
	if m.cgroup, err = makeCgroup(); err != nil {
		return nil, err
	}
	if m.cgroup != "" {
		dir, err := os.Open(m.cgroup)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		m.process.SysProcAttr.UseCgroupFD = true
		m.process.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	if err := m.process.Start(); err != nil {
		removeCgroup(m.cgroup)
		return nil, fmt.Errorf("make namespaces: %w (in a container? it must be a privileged one)", err)
	}
	go func() { _ = m.process.Wait(); close(m.ended) }()

	if err := m.awaitReady(ctx, notify); err != nil {
		m.kill()
		return nil, fmt.Errorf("%w\n%s", err, bytes.TrimSpace(m.log.Bytes()))
	}
	return m, nil
}

// awaitReady waits for the READY=1 that systemd sends to its container manager when the start-up is finished, see
// https://systemd.io/CONTAINER_INTERFACE and sd_notify(3).
func (m *machine) awaitReady(ctx context.Context, notify *net.UnixConn) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, fmt.Errorf("systemd did not come up within %s", bootTimeout))
	defer cancel()
	ready := make(chan error, 1)
	go func() {
		message := make([]byte, 4096)
		for {
			n, err := notify.Read(message)
			if err != nil {
				ready <- err
				return
			}
			if strings.Contains("\n"+string(message[:n]), "\nREADY=1") {
				ready <- nil
				return
			}
		}
	}()
	select {
	case err := <-ready:
		return err
	case <-m.ended:
		return errors.New("systemd did not come up: it ended")
	case <-ctx.Done():
		if jobs, err := m.enter(context.Background(), "systemctl", "list-jobs", "--no-pager").CombinedOutput(); err == nil {
			fmt.Fprintf(os.Stderr, "%s", jobs)
		}
		return context.Cause(ctx)
	}
}

// enter is a command in all of the machine's namespaces. The root is told too: where we run in a chroot, that of the mount namespace
// is another one.
func (m *machine) enter(ctx context.Context, argv ...string) *exec.Cmd {
	pid := strconv.Itoa(m.process.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", pid, "--all", "--root", "--wd", "--"}, argv...)...)
	cmd.Env = []string{"PATH=" + defaultPath, "LANG=C.UTF-8", "TERM=" + os.Getenv("TERM")}
	return cmd
}

// kill ends the machine: the kernel ends with pid 1 all processes of the namespace, and with these their mounts.
func (m *machine) kill() {
	_ = m.process.Process.Kill()
	<-m.ended
	removeCgroup(m.cgroup)
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
