package remote

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Memory is a folder in memory, for this process and those that it lets inherit it.
//
// It is a ramfs, whose pages the kernel never swaps, on a mount that is attached to no place (fsmount(2)): a descriptor is all there is of it.
// So it is in nobody's view of the file system, needs no mount point, and is gone when the last process with the descriptor is. The path
// leads through /proc/self, and is the same in a process that inherits it.
//
// A user makes the mount with the privileges of a user namespace, in a child that hands the descriptor over; the process itself stays
// outside, so that whatever it runs sees the true owners of files. Where user namespaces are not allowed, each file is sealed memory of its
// own (memfd_create(2)), and the folder has a link to each.
type Memory struct {
	Path string // the folder
	Kind string // what it is, for people

	files []*os.File // descriptors that make it up
	links bool       // the folder has links to memory, and is removed in the end
}

// helperName is the name by which the process knows itself for the child that makes a mount.
const helperName = "sdbackup-memory"

func init() {
	if len(os.Args) == 1 && os.Args[0] == helperName {
		os.Exit(helper())
	}
}

// helper makes a mount and sends it to its parent.
func helper() int {
	mount, err := mountMemory()
	if err == nil {
		err = unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(mount.Fd())), nil, 0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// NewMemory makes the folder. links is where one with links can be made, "" for nowhere; it must be on a tmpfs.
func NewMemory(links string) (*Memory, error) {
	mount, err := mountMemory()
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		mount, err = mountAsUser()
	}
	if err == nil {
		return &Memory{Path: self(mount), Kind: "memory that is never swapped (ramfs)", files: []*os.File{mount}}, nil
	}
	if os.Geteuid() == 0 || links == "" {
		return nil, fmt.Errorf("make a file system in memory: %w", err)
	}
	sweep(links)
	if err := os.MkdirAll(links, 0o700); err != nil {
		return nil, fmt.Errorf("keep files in memory: %w", err)
	}
	path := filepath.Join(links, strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, fmt.Errorf("keep files in memory: %w", err)
	}
	return &Memory{Path: path, Kind: "sealed memory, which may be swapped: user namespaces are not allowed here (memfd)", links: true}, nil
}

// sweep removes the links of processes that were killed; they lead nowhere.
func sweep(folder string) {
	entries, _ := os.ReadDir(folder)
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(filepath.Join(folder, e.Name())) // litter is no reason to fail
		}
	}
}

func self(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// mountMemory makes a mount of memory that is attached to no place.
func mountMemory() (*os.File, error) {
	fs, err := unix.Fsopen("ramfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "0700"); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(fd), "memory"), nil
}

// mountAsUser has a child in a user namespace make the mount.
func mountAsUser() (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pair[0])
	theirs := os.NewFile(uintptr(pair[1]), "socket")
	exe, err := os.Executable()
	if err != nil {
		theirs.Close()
		return nil, err
	}
	var message strings.Builder
	cmd := &exec.Cmd{Path: exe, Args: []string{helperName}, Env: []string{}, ExtraFiles: []*os.File{theirs}, Stderr: &message}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN},
	}
	err = cmd.Run()
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("%w %s", err, strings.TrimSpace(message.String()))
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("the child in a user namespace sent no mount")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("the child in a user namespace sent no mount")
	}
	return os.NewFile(uintptr(fds[0]), "memory"), nil
}

// Create makes a file of the folder, of mode 0600.
func (m *Memory) Create(f File) (io.WriteCloser, error) {
	path := filepath.Join(m.Path, filepath.FromSlash(f.Name))
	if dir := filepath.Dir(path); dir != m.Path {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("keep %s in memory: %w", f.Name, err)
		}
	}
	if !m.links {
		return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	}
	fd, err := unix.MemfdCreate("bundle", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), f.Name)
	m.files = append(m.files, file)
	if err := errors.Join(file.Chmod(0o600), os.Symlink(self(file), path)); err != nil {
		return nil, fmt.Errorf("keep %s in memory: %w", f.Name, err)
	}
	return sealing{file}, nil
}

// sealing is memory that is sealed, not closed, when it is written.
type sealing struct{ *os.File }

func (s sealing) Close() error {
	_, err := unix.FcntlInt(s.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return os.NewSyscallError("seal memory", err)
}

// inheritedEnv tells a process which descriptors of a Memory it has inherited.
const inheritedEnv = "SDBACKUP_MEMORY"

// Inherit lets every process that is started from now on inherit the folder, and returns what its environment must have.
func (m *Memory) Inherit() (string, error) {
	var numbers []string
	for _, f := range m.files {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return "", os.NewSyscallError("fcntl", err)
		}
		numbers = append(numbers, strconv.Itoa(int(f.Fd())))
	}
	return inheritedEnv + "=" + strings.Join(numbers, ","), nil
}

// Close lets go of the folder.
func (m *Memory) Close() {
	for _, f := range m.files {
		f.Close()
	}
	if m.links {
		_ = os.RemoveAll(m.Path) // they lead nowhere
	}
}

// Inherited tells whether this process works by a configuration that was sent. It is to be called at the start of every program: it keeps the
// memory from the processes that the program starts.
func Inherited(getenv func(string) string) bool {
	list := getenv(inheritedEnv)
	if list == "" {
		return false
	}
	for number := range strings.SplitSeq(list, ",") {
		if fd, err := strconv.Atoi(number); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	Harden()
	return true
}

// Show lets other processes of its user look at what this one has open.
func Show() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // cannot fail with this argument
}

// Harden keeps what is in this process's memory from other processes of its user, and from core dumps, which those that it starts do not
// write either.
func Harden() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // cannot fail with this argument
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	// A reader of our output that is gone is no reason to die: runs are ended in order. Not signal.Ignore, which others would inherit.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
}
