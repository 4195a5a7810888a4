package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/units"
)

// Probe is a module's command that looks at what a drill has restored, in a service of its own: as the module's user, without a network,
// and with nothing to write to but the folder.
type Probe struct {
	Conn    *units.Conn
	Paths   config.Paths
	BindsTo string // the service that this drill is, "" when it is none
}

// ProbeJob is what a probe is to look at.
type ProbeJob struct {
	Backup, Run string // IDs of the drill and of its run
	Module      *config.Module
	Program     string        // as FindProbe gives it
	Folder      string        // what was restored
	Dumps       string        // the folder of dumps in it; "": there are none
	Sample      int64         // bytes that were asked for; 0: everything
	Timeout     time.Duration // 0: as long as a probe may take at most
}

const (
	// probeFolder is where a probe finds what was restored.
	probeFolder = "/tmp/restored"
	// probeTimeout ends a probe that hangs.
	probeTimeout = time.Hour
	// probeStop is what a probe has from SIGTERM to SIGKILL.
	probeStop = 10 * time.Second
	// probeCapabilities are for the probe of a module that is root's: to read and change the files of all users there, and to become them.
	probeCapabilities = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_SETGID CAP_SETUID"
)

// FindProbe returns the path of a module's probe.
func FindProbe(m *config.Module) (string, error) {
	program := m.Drill.Command[0]
	if strings.Contains(program, "/") && !filepath.IsAbs(program) {
		program = filepath.Join(m.Directory, program)
	}
	path, err := exec.LookPath(program)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("the drill's command %s is not there", program)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("the drill's command %s cannot be executed", program)
	case err != nil:
		return "", fmt.Errorf("the drill's command %s: %w", program, err)
	}
	return path, nil
}

// Run runs a probe to its end. Nil is its word that what was restored is good.
func (p Probe) Run(ctx context.Context, job ProbeJob, log *slog.Logger) error {
	output, stdout, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe for the output of the drill's command: %w", err)
	}
	defer output.Close()
	service := p.service(job)
	service.Stdout = stdout
	text := make(chan string, 1)
	go func() {
		var end tail
		_, _ = io.Copy(&end, output)
		text <- end.String()
	}()
	end, err := p.Conn.Run(ctx, service)
	stdout.Close()
	said := <-text
	if said != "" {
		log.Info(job.Program + ": " + said)
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("the drill's command %s could not be run: %w", job.Program, err)
	case end.Result == "success":
		return nil
	case end.Result == "timeout":
		return fmt.Errorf("the drill's command %s did not end within %s", job.Program, service.RuntimeMax)
	case end.Signal != 0 || end.Result != "exit-code":
		return fmt.Errorf("the drill's command %s was killed (%s)", job.Program, end)
	case end.ExitStatus >= 200: // systemd.exec(5); or the program ended so itself
		return fmt.Errorf("the drill's command %s could not be run (%s)", job.Program, end)
	}
	if said = lastLine(said); said != "" {
		said = ": " + said
	}
	return fmt.Errorf("the drill's command %s ended with exit code %d%s", job.Program, end.ExitStatus, said)
}

// lastLine is the last line of a text, cut to what fits into a sentence.
func lastLine(text string) string {
	const most = 200 // bytes
	line := text[strings.LastIndexByte(text, '\n')+1:]
	return string(bytes.ToValidUTF8([]byte(line[:min(most, len(line))]), nil))
}

func (p Probe) service(job ProbeJob) units.Service {
	m := job.Module
	s := units.Service{
		Name:        units.ModuleServiceName(job.Backup, m.ID),
		Description: "Restore drill of module " + m.ID,
		Argv:        append([]string{job.Program}, m.Drill.Command[1:]...),
		User:        m.User, Group: m.Group,
		BindsTo:          p.BindsTo,
		WorkingDirectory: probeFolder,
		LogFields:        []string{"BACKUP_ID=" + job.Backup, "MODULE_ID=" + m.ID, "RUN_ID=" + job.Run},
		Environment:      []string{"MODULE_ID=" + m.ID, "RUN_ID=" + job.Run, "DRILL_FOLDER=" + probeFolder, fmt.Sprintf("DRILL_SAMPLE=%d", job.Sample)},
		TimeoutStop:      probeStop,
		RuntimeMax:       probeTimeout,
	}
	if job.Timeout > 0 {
		s.RuntimeMax = min(s.RuntimeMax, job.Timeout)
	}
	if m.Directory != "" {
		s.Environment = append(s.Environment, "DRILL_DIRECTORY="+filepath.Join(probeFolder, m.Directory))
	}
	if job.Dumps != "" {
		s.Environment = append(s.Environment, "DRILL_DUMPS="+filepath.Join(probeFolder, filepath.Base(job.Dumps)))
	}
	// All of it, for what a probe runs has been in a backup, and may be what somebody wants to be run. Not the module's resources: they could
	// open what is closed here.
	s.Properties = map[string]any{
		"ProtectSystem": "strict",
		"PrivateTmp":    true,
		"BindPaths":     []any{job.Folder + ":" + probeFolder},
		// Sockets of services are in /run, of the service manager, too: no network namespace keeps anybody from them. Shared memory is its own.
		"TemporaryFileSystem":     []any{"/run:ro", "/dev/shm:mode=1777"},
		"InaccessiblePaths":       []any{"-" + p.Paths.State, "-" + p.Paths.Cache},
		"PrivateNetwork":          true,
		"PrivateIPC":              true,
		"PrivateDevices":          true,
		"ProtectClock":            true,
		"ProtectControlGroups":    true,
		"ProtectHostname":         true,
		"ProtectKernelLogs":       true,
		"ProtectKernelModules":    true,
		"ProtectKernelTunables":   true,
		"ProtectProc":             "invisible",
		"NoNewPrivileges":         true,
		"RestrictNamespaces":      true,
		"RestrictRealtime":        true,
		"RestrictSUIDSGID":        true,
		"RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
		"LockPersonality":         true,
		"KeyringMode":             "private",
		"SystemCallArchitectures": "native",
		"SystemCallFilter":        "~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap",
		"CapabilityBoundingSet":   "",
		"AmbientCapabilities":     "",
	}
	switch {
	case p.Paths.User: // what its manager may do without privileges, it may do in a namespace of users
		s.Properties["PrivateUsers"], s.Properties["ProtectHome"] = true, "read-only"
	case m.User == "" || m.User == "root" || m.User == "0":
		s.Properties["CapabilityBoundingSet"] = probeCapabilities
	}
	return s
}

// OwnFiles gives the module what a drill has restored beside its files, and lets it pass through the folders on the way to a sample: these
// have no owner and mode of their own. Nobody else gets into the folder around them.
func (p Probe) OwnFiles(job ProbeJob) error {
	u, err := module.LookupUser(job.Module.User, job.Module.Group)
	if err != nil {
		return fmt.Errorf("module %s: %w", job.Module.ID, err)
	}
	own := func(path string) error {
		if os.Geteuid() != 0 {
			return nil
		}
		return os.Lchown(path, int(u.UID), int(u.GID))
	}
	err = own(job.Folder)
	if err == nil && job.Sample > 0 {
		err = filepath.WalkDir(job.Folder, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() || path == job.Dumps {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			return os.Chmod(path, info.Mode().Perm()|0o555)
		})
	}
	if err == nil && job.Dumps != "" {
		err = filepath.WalkDir(job.Dumps, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return own(path)
		})
	}
	if err != nil {
		return fmt.Errorf("give module %s what was restored: %w", job.Module.ID, err)
	}
	return nil
}
