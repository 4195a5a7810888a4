package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Service is a transient service that runs one program and ends with it. Its sandbox is as tight as the paths that it needs
// allow; see sandbox.go.
type Service struct {
	Name        string   // of the unit, as ModuleServiceName gives it
	Description string   // one line
	Argv        []string // the first is a path; nothing in it is expanded
	User, Group string   // "" is root; left out for a manager of a user, whose services are that user's
	Slice       string   // default DefaultSlice
	BindsTo     string   // a unit that the service is stopped with; "" for none
	Environment []string // NAME=value; anybody may read them
	LogFields   []string // NAME=value, journal fields of every line that the service logs

	// WorkingDirectory is used if it is there and the user may enter it: what is wrong with it is for the program to say.
	WorkingDirectory string

	// CacheDirectory is made for the user, of mode 0700: a relative path below /var/cache, or $XDG_CACHE_HOME of a user.
	CacheDirectory string
	Credentials    []Credential

	ReadPaths      []string // absolute: what must be visible in the sandbox
	ReadWritePaths []string // absolute: and writable. Note that the service sees a mount point at each of them.
	ReadAll        bool     // read whatever files there are, CAP_DAC_READ_SEARCH

	// Properties are settings by the names of systemd.exec(5) and systemd.resource-control(5), with values as TOML has
	// them. They go before ours, and path lists add to ours.
	Properties map[string]any

	Stdin  *os.File // nil: /dev/null
	Stdout *os.File // nil: the journal, where standard error always goes

	StopPost    []string      // runs when the program has ended, however that was; ExecStopPost=
	Unconfined  bool          // no sandbox: the service sees all file systems as they are
	TimeoutStop time.Duration // from SIGTERM to SIGKILL; 0: 90 s
	RuntimeMax  time.Duration // until it is stopped; 0: none
}

// Credential is a secret file that the service finds in $CREDENTIALS_DIRECTORY, readable to its user only.
type Credential struct {
	ID        string // the file's name there
	Path      string // where it is; root reads it
	Encrypted bool   // by systemd-creds(1)
}

// defaultTimeoutStop is systemd's DefaultTimeoutStopSec=.
const defaultTimeoutStop = 90 * time.Second

// killGrace is how long a service may take to vanish once the manager should have killed it.
const killGrace = 30 * time.Second

// Run starts the service, waits until nothing of it runs any more, and returns how it ended. When ctx is done it has the
// service stopped in order (SIGTERM to the main process, SIGKILL to all that is left after TimeoutStop), and still returns how
// it ended.
//
// The error is of a service that was not started, or whose end is not known. A leftover unit of that name is stopped first.
func (c *Conn) Run(ctx context.Context, s Service) (ServiceResult, error) {
	if err := ctx.Err(); err != nil {
		return ServiceResult{}, context.Cause(ctx)
	}
	list, err := s.properties(c.user, resolve)
	if err != nil {
		return ServiceResult{}, fmt.Errorf("%s: %w", s.Name, err)
	}
	// What keeps the unit loaded until its result is read: a reference, which the bus drops when this process dies. Without
	// a bus there are none; then it stays active when it succeeded, and failed when it did not.
	if c.direct {
		list = append(list, property("RemainAfterExit", true), property("CollectMode", "inactive"))
	} else {
		list = append(list, property("AddRef", true), property("CollectMode", "inactive-or-failed"))
	}
	lasting := context.WithoutCancel(ctx)
	job, err := c.enqueue(lasting, "StartTransientUnit", s.Name, "fail", list, []sd.PropertyCollection{})
	if isError(err, errUnitExists) {
		if err := c.clear(lasting, s.Name); err != nil {
			return ServiceResult{}, fmt.Errorf("stop what is left of %s: %w", s.Name, err)
		}
		job, err = c.enqueue(lasting, "StartTransientUnit", s.Name, "fail", list, []sd.PropertyCollection{})
	}
	if err != nil {
		return ServiceResult{}, fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer c.drop(lasting, s.Name)
	// The start of a oneshot service ends with its process.
	result, err := c.await(ctx, job)
	if err != nil && ctx.Err() == nil {
		return ServiceResult{}, fmt.Errorf("wait for %s: %w", s.Name, err)
	}
	switch {
	case err != nil || result == jobCanceled: // we stop it, or somebody else does, or systemd with the unit that it is bound to
		if err := c.stop(lasting, s.stopLimit(), s.Name); err != nil {
			return ServiceResult{}, fmt.Errorf("stop %s: %w", s.Name, err)
		}
	case result != jobDone && result != jobFailed && result != "timeout":
		return ServiceResult{}, fmt.Errorf("start %s: %w", s.Name, &JobError{Result: result})
	}
	return c.serviceResult(lasting, s.Name)
}

// stopLimit is when a stopped service must be gone: the manager waits TimeoutStop twice, for SIGTERM and for SIGKILL to work.
func (s Service) stopLimit() time.Duration {
	timeout := s.TimeoutStop
	if timeout <= 0 {
		timeout = defaultTimeoutStop
	}
	return 2*timeout + killGrace
}

// drop lets the manager collect a unit whose result was read.
func (c *Conn) drop(ctx context.Context, name string) {
	if c.direct {
		_ = c.clear(ctx, name) // what fails here is healed by the next start
		return
	}
	_ = c.manager(ctx, "UnrefUnit", []any{name})
}

// properties are what the service is made of, as in org.freedesktop.systemd1(5), StartTransientUnit. Resolve returns what a
// path is after symbolic links.
func (s Service) properties(user bool, resolve func(string) string) ([]sd.Property, error) {
	if len(s.Argv) == 0 || !filepath.IsAbs(s.Argv[0]) {
		return nil, errors.New("want the absolute path of a program")
	}
	type execution struct {
		Path  string
		Argv  []string
		Flags []string
	}
	timeoutStop := s.TimeoutStop
	if timeoutStop <= 0 {
		timeoutStop = defaultTimeoutStop
	}
	list := []sd.Property{
		sd.PropDescription(oneLine(s.Description)),
		sd.PropType("oneshot"),
		// Not ExecStart: that expands variables.
		property("ExecStartEx", []execution{{s.Argv[0], s.Argv, []string{"no-env-expand"}}}),
		property("KillMode", "mixed"), // the main process stops the others in order
		property("TimeoutStopUSec", uint64(timeoutStop.Microseconds())),
		// RuntimeMaxSec= does nothing for a oneshot service, systemd.service(5): all it does is starting.
		property("TimeoutStartUSec", usecOrInfinity(s.RuntimeMax)),
		property("StandardError", "journal"),
		property("SyslogIdentifier", filepath.Base(s.Argv[0])),
	}
	if s.StopPost != nil {
		list = append(list, property("ExecStopPostEx", []execution{{s.StopPost[0], s.StopPost, []string{"no-env-expand"}}}))
	}
	if s.BindsTo != "" {
		// Without After=: a run is being activated as long as its modules run, and they would wait for its end.
		list = append(list, sd.PropBindsTo(s.BindsTo))
	}
	if !user {
		// At shutdown they are stopped in reverse, while the network and the mounts are there.
		list = append(list, sd.PropAfter("network-online.target", "remote-fs.target"))
		if s.User != "" {
			list = append(list, property("User", s.User))
		}
		if s.Group != "" {
			list = append(list, property("Group", s.Group))
		}
	}
	if s.WorkingDirectory != "" {
		list = append(list, property("WorkingDirectory", "-"+s.WorkingDirectory))
	}
	if len(s.Environment) > 0 {
		list = append(list, property("Environment", s.Environment))
	}
	if len(s.LogFields) > 0 {
		fields := make([][]byte, len(s.LogFields))
		for i, f := range s.LogFields {
			fields[i] = []byte(f)
		}
		list = append(list, property("LogExtraFields", fields))
	}
	if s.CacheDirectory != "" {
		list = append(list, property("CacheDirectory", []string{s.CacheDirectory}), property("CacheDirectoryMode", uint32(0o700)))
	}
	list = append(list, s.credentials()...)
	if s.Stdin != nil {
		list = append(list, property("StandardInputFileDescriptor", dbus.UnixFD(s.Stdin.Fd())))
	}
	if s.Stdout != nil {
		// Where standard output is said to go to the journal, too, standard error would be made a copy of it: of the pipe.
		list = append(list, property("StandardOutput", "null"), property("StandardOutputFileDescriptor", dbus.UnixFD(s.Stdout.Fd())))
	}
	settings, err := s.settings(user, resolve)
	if err != nil {
		return nil, err
	}
	return append(list, settings...), nil
}

func (s Service) credentials() []sd.Property {
	type credential struct{ ID, Path string }
	var plain, encrypted []credential
	for _, c := range s.Credentials {
		if c.Encrypted {
			encrypted = append(encrypted, credential{c.ID, c.Path})
		} else {
			plain = append(plain, credential{c.ID, c.Path})
		}
	}
	var list []sd.Property
	if plain != nil {
		list = append(list, property("LoadCredential", plain))
	}
	if encrypted != nil {
		list = append(list, property("LoadCredentialEncrypted", encrypted))
	}
	return list
}

// usecOrInfinity is a timeout as the manager takes it; 0 is none.
func usecOrInfinity(d time.Duration) uint64 {
	if d <= 0 {
		return infinity
	}
	return uint64(d.Microseconds())
}

// resolve follows symbolic links; a path that leads nowhere stays as it is.
func resolve(path string) string {
	if p, err := filepath.EvalSymlinks(path); err == nil {
		return p
	}
	return filepath.Clean(path)
}
