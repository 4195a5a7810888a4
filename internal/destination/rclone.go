package destination

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/nodecopy"
)

// killAfter is what rclone has from SIGTERM to SIGKILL.
const killAfter = 3 * time.Second

// rcloneCommand prepares rclone. It gets nothing of our environment that it does not need: RCLONE_ variables would change the remote.
func rcloneCommand(ctx context.Context, config string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "rclone", append([]string{"--config", config, "--ask-password=false"}, args...)...)
	cmd.Env = []string{"LC_ALL=C"}
	for _, name := range []string{
		"PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	} {
		if value, ok := os.LookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = killAfter
	return cmd
}

// rcloneTypes are the types of remotes that the installed rclone knows; nil when there is none to ask.
func rcloneTypes(ctx context.Context) []string {
	out, err := rcloneCommand(ctx, os.DevNull, "config", "providers").Output()
	if err != nil {
		return nil
	}
	var list []struct {
		Name, Prefix string
		Aliases      []string
	}
	if json.Unmarshal(out, &list) != nil || len(list) == 0 {
		return nil
	}
	var types []string
	for _, p := range list {
		types = append(append(types, p.Name, p.Prefix, strings.ReplaceAll(p.Name, " ", "")), p.Aliases...)
	}
	return types
}

// Exit codes of rclone, rclone(1).
const (
	rcloneNoFolder = 3
	rcloneNoFile   = 4
)

// rcloneError is how a run of rclone ended.
type rcloneError struct {
	code int
	line string
}

func (e *rcloneError) Error() string { return e.line }

// preamble is what rclone puts before a message.
var preamble = regexp.MustCompile(`^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d )?((CRITICAL|ERROR|NOTICE|INFO|DEBUG) *: )?`)

// lastMessage is the first line of the last message of rclone, which has a preamble; what follows it are details such as IDs of requests.
func lastMessage(text string, err error) string {
	for _, line := range slices.Backward(strings.Split(strings.ToValidUTF8(text, "?"), "\n")) {
		if start := preamble.FindString(line); start != "" && strings.TrimSpace(line[len(start):]) != "" {
			return strings.TrimSpace(line[len(start):])
		}
	}
	return nodecopy.LastLine(text, err)
}

// rcloneRemote is a remote and a private copy of its configuration: rclone writes into it.
type rcloneRemote struct {
	dir    string
	config string
	folder string   // REMOTE:FOLDER
	env    []string // of the destination's environment file
	kept   func()   // keeps what rclone changed in the copy
}

func (s *Store) openRemote(d *config.Destination, st *stored) (*rcloneRemote, error) {
	if st.remote == nil {
		return nil, errors.New("its remote is in no rclone.conf of its own; want rclone-config or rclone-credential")
	}
	text, err := st.remote.render()
	if err != nil {
		return nil, err
	}
	dir, err := s.privateDir()
	if err != nil {
		return nil, err
	}
	r := &rcloneRemote{
		dir: dir, config: filepath.Join(dir, "rclone.conf"), folder: strings.TrimPrefix(d.Repository, "rclone:"), env: variables(st.environment),
	}
	if err := os.WriteFile(r.config, []byte(text), secretMode); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	r.kept = func() { s.keepToken(d, st.remote, r.config) }
	return r, nil
}

// privateDir makes a folder of mode 0700 in memory, if there is one: secrets that are removed from a disk may stay on it.
func (s *Store) privateDir() (string, error) {
	for _, base := range []string{s.Getenv("RUNTIME_DIRECTORY"), "/run", s.Getenv("XDG_RUNTIME_DIR")} {
		if !filepath.IsAbs(base) {
			continue
		}
		if dir, err := os.MkdirTemp(base, "backup-destination-"); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", "backup-destination-")
}

// keepToken writes a token that rclone refreshed back to where it came from: some services take each for one refresh only, and
// the old one would be the last. It does so only while the original is as it was read; a credential is left alone.
func (s *Store) keepToken(d *config.Destination, before *Section, copied string) {
	if d.RcloneConfig == "" || before.Get("token") == "" {
		return
	}
	data, err := os.ReadFile(copied)
	if err != nil {
		return
	}
	sections, err := parseRcloneConfig(string(data))
	if err != nil || len(sections) != 1 || sections[0].Get("token") == "" || sections[0].Get("token") == before.Get("token") {
		return
	}
	unlock, err := lock.Folder(s.Dir)
	if err != nil {
		return
	}
	defer unlock()
	old, err := os.ReadFile(d.RcloneConfig)
	if err != nil {
		return
	}
	now, err := parseRcloneConfig(string(old))
	if err != nil || len(now) != 1 || now[0].Get("token") != before.Get("token") {
		return
	}
	now[0].Set("token", sections[0].Get("token"))
	text, err := now[0].render()
	if err != nil {
		return
	}
	_ = change{path: d.RcloneConfig, data: []byte(text), mode: secretMode}.apply() // the old token may do as well
}

// at returns where a file or folder of the remote is, as rclone names it.
func (r *rcloneRemote) at(name string) string {
	if strings.HasSuffix(r.folder, ":") || strings.HasSuffix(r.folder, "/") {
		return r.folder + name
	}
	return r.folder + "/" + name
}

func (r *rcloneRemote) close() {
	r.kept()
	os.RemoveAll(r.dir)
}

// run runs rclone to its end and returns what it prints.
func (r *rcloneRemote) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := rcloneCommand(ctx, r.config, append([]string{"--retries", "1", "--low-level-retries", "2", "--contimeout", "15s"}, args...)...)
	cmd.Env = append(cmd.Env, r.env...)
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil:
		return out, nil
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("rclone is not installed; install it, as with apt-get install rclone")
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.As(err, &exit):
		return nil, &rcloneError{exit.ExitCode(), lastMessage(stderr.String(), err)}
	}
	return nil, err
}
