// Package restic runs restic, reads what it prints and turns how it ended into errors that mean something here. It works with
// restic 0.14 to 0.18.
//
// restic's exit codes and ours must not mix: its 3, a snapshot without some unreadable files, is a field of a Summary here,
// and codes that nobody knows are failures. Codes 10, 11 and 12 exist from 0.17 on; of older ones the text on standard error
// tells (errors.go).
package restic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"sdbackup/internal/config"
)

// Repository is one restic repository, and how to reach it.
type Repository struct {
	Location     string   // restic's --repo
	LocationFile string   // or, where it holds a secret: restic's --repository-file, as restic's process can open it
	PasswordFile string   // as restic's process can open it
	Environment  []string // NAME=value, what the kind of repository needs
	CacheDir     string
	CACert       string     // restic's --cacert; "": the system's certificates
	Inherit      []*os.File // files that restic holds open as long as it runs, from descriptor 3 on
	Secrets      []string   // never to appear in a log line or an error
	Log          *slog.Logger
}

const (
	// stopTimeout is how long restic has to remove its lock after SIGINT.
	stopTimeout = 30 * time.Second
	// maxLineBytes bounds a line of output; what is longer is no message that we need.
	maxLineBytes = 1 << 20
	// maxTextBytes bounds what is kept of standard error.
	maxTextBytes = 16 << 10
	// MaxUnreadable bounds the list of unreadable files.
	MaxUnreadable = 100
)

// Summary is what `restic backup` says of a snapshot that it has saved.
type Summary struct {
	Snapshot        string
	Files           uint64
	Bytes           uint64   // size of the files
	Added           uint64   // to the repository, before compression
	Unreadable      []string // the first MaxUnreadable files that could not be read
	UnreadableCount int      // 0: the snapshot is complete
}

// Progress is how far a backup is.
type Progress struct {
	Percent               float64 // 0 to 100
	FilesDone             uint64
	BytesDone, BytesTotal uint64
}

// Snapshot is an element of what `restic snapshots` and `restic forget` print.
type Snapshot struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Tags    []string  `json:"tags"`
	Host    string    `json:"hostname"`
	Paths   []string  `json:"paths"`             // absolute, what was saved
	UID     uint32    `json:"uid"`               // of who saved it
	Summary *Counts   `json:"summary,omitempty"` // of snapshots that restic 0.17 and newer made; else nil
}

// Counts is what a snapshot says of itself.
type Counts struct {
	Start time.Time `json:"backup_start"`
	End   time.Time `json:"backup_end"`
	Files uint64    `json:"total_files_processed"`
	Bytes uint64    `json:"total_bytes_processed"`
}

// Tag returns the value of the tag NAME=VALUE; "" when there is none.
func (s Snapshot) Tag(name string) string {
	for _, tag := range s.Tags {
		if value, ok := strings.CutPrefix(tag, name+"="); ok {
			return value
		}
	}
	return ""
}

// Source is what a backup saves, and how the snapshot is told apart.
type Source struct {
	Host    string
	Tags    []string
	Dir     string   // restic's working directory: relative paths begin here
	Paths   []string // nil: standard input
	Exclude []string
	Stdin   io.Reader
	Name    string // of the file that standard input becomes
}

// Backup saves a snapshot. A snapshot that lacks unreadable files is a success here, with UnreadableCount > 0.
func (r Repository) Backup(ctx context.Context, s Source, progress func(Progress)) (Summary, error) {
	args := []string{"backup", "--json", "--host", s.Host}
	for _, tag := range s.Tags {
		args = append(args, "--tag", tag)
	}
	for _, pattern := range s.Exclude {
		args = append(args, "--exclude", pattern)
	}
	var names string
	if s.Paths == nil {
		args = append(args, "--stdin", "--stdin-filename", s.Name)
	} else {
		// Not as arguments: there may be many, and they may look like flags or patterns.
		args = append(args, "--files-from-raw", "-")
		names = strings.Join(s.Paths, "\x00") + "\x00"
	}
	stdin := s.Stdin
	if s.Paths != nil {
		stdin = strings.NewReader(names)
	}
	var sum Summary
	err := r.run(ctx, call{args: args, dir: s.Dir, stdin: stdin, line: func(m *message) {
		switch m.Type {
		case "status":
			if progress != nil {
				progress(Progress{100 * m.PercentDone, m.FilesDone, m.BytesDone, m.TotalBytes})
			}
		case "summary":
			sum.Snapshot, sum.Files, sum.Bytes, sum.Added = m.SnapshotID, m.FilesProcessed, m.BytesProcessed, m.DataAdded
		case "error":
			sum.UnreadableCount++
			if len(sum.Unreadable) < MaxUnreadable && m.Item != "" {
				sum.Unreadable = append(sum.Unreadable, r.mask(m.Item))
			}
		}
	}})
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == codePartial && sum.Snapshot != "" {
		sum.UnreadableCount = max(1, sum.UnreadableCount)
		return sum, nil
	}
	if err == nil && sum.Snapshot == "" {
		return sum, errors.New("restic ended well but named no snapshot")
	}
	if err == nil {
		sum.Unreadable, sum.UnreadableCount = nil, 0 // errors that restic got over
	}
	return sum, err
}

// Init makes the repository.
func (r Repository) Init(ctx context.Context) error { return r.run(ctx, call{args: []string{"init"}}) }

// Unlock removes locks that restic takes for stale.
func (r Repository) Unlock(ctx context.Context) error {
	return r.run(ctx, call{args: []string{"unlock"}})
}

// Prune removes what no snapshot needs.
func (r Repository) Prune(ctx context.Context) error {
	return r.run(ctx, call{args: []string{"prune", "--quiet"}})
}

// Snapshots lists the snapshots with all of the tags. It takes no lock, so it works beside everything.
func (r Repository) Snapshots(ctx context.Context, host string, tags []string) ([]Snapshot, error) {
	var out bytes.Buffer
	err := r.run(ctx, call{args: []string{"snapshots", "--json", "--no-lock", "--host", host, "--tag", strings.Join(tags, ",")}, output: &out})
	if err != nil {
		return nil, err
	}
	return parseSnapshots(out.Bytes())
}

// Forgotten is what `restic forget` says it did.
type Forgotten struct{ Keep, Remove []Snapshot }

// Forget removes the snapshots of the host that have all of the tags and that the policy does not keep, all of them as one
// group, and prunes if it removed any.
func (r Repository) Forget(ctx context.Context, policy config.Retention, host string, tags []string) (Forgotten, error) {
	args := []string{"forget", "--json", "--prune", "--host", host, "--tag", strings.Join(tags, ","), "--group-by", "host"}
	for _, keep := range []struct {
		flag string
		n    int
	}{
		{"--keep-last", policy.KeepLast},
		{"--keep-hourly", policy.KeepHourly},
		{"--keep-daily", policy.KeepDaily},
		{"--keep-weekly", policy.KeepWeekly},
		{"--keep-monthly", policy.KeepMonthly},
		{"--keep-yearly", policy.KeepYearly},
	} {
		if keep.n > 0 {
			args = append(args, keep.flag, strconv.Itoa(keep.n))
		}
	}
	if policy.KeepWithin != "" {
		args = append(args, "--keep-within", policy.KeepWithin)
	}
	var out bytes.Buffer
	err := r.run(ctx, call{args: args, output: &out})
	forgotten, parseErr := parseForget(out.Bytes())
	if err == nil {
		err = parseErr
	}
	return forgotten, err
}

// parseForget reads the output of forget: a list of groups, which messages of prune may follow.
func parseForget(data []byte) (Forgotten, error) {
	var groups []struct {
		Keep   []Snapshot `json:"keep"`
		Remove []Snapshot `json:"remove"`
	}
	var f Forgotten
	start := bytes.IndexByte(data, '[')
	if start < 0 {
		if text := bytes.TrimSpace(data); len(text) == 0 || bytes.Equal(text, []byte("null")) {
			return f, nil // no snapshot has these tags
		}
		return f, errors.New("restic forget printed no list of snapshots")
	}
	if err := json.NewDecoder(bytes.NewReader(data[start:])).Decode(&groups); err != nil {
		return f, fmt.Errorf("read what restic forget did: %w", err)
	}
	for _, g := range groups {
		f.Keep = append(f.Keep, g.Keep...)
		f.Remove = append(f.Remove, g.Remove...)
	}
	return f, nil
}

// call is one execution of restic.
type call struct {
	args   []string
	dir    string
	stdin  io.Reader
	line   func(*message) // for each message on standard output
	output io.Writer      // or: all of standard output
	raw    func([]byte)   // or: each line of it
	told   func(string)   // for each line of text on standard error, which may hold secrets
	began  func(pid int)
}

// message is a line of restic's JSON, of all kinds that we read.
type message struct {
	Type           string          `json:"message_type"`
	PercentDone    float64         `json:"percent_done"`
	FilesDone      uint64          `json:"files_done"`
	BytesDone      uint64          `json:"bytes_done"`
	TotalBytes     uint64          `json:"total_bytes"`
	SnapshotID     string          `json:"snapshot_id"`
	FilesProcessed uint64          `json:"total_files_processed"`
	BytesProcessed uint64          `json:"total_bytes_processed"`
	DataAdded      uint64          `json:"data_added"`
	TotalFiles     uint64          `json:"total_files"`
	FilesRestored  uint64          `json:"files_restored"`
	BytesRestored  uint64          `json:"bytes_restored"`
	Item           string          `json:"item"`
	Message        string          `json:"message"` // of an exit_error, from 0.17 on
	Error          json.RawMessage `json:"error"`
}

// parseMessage reads a line; false for what is no message.
func parseMessage(line []byte) (*message, bool) {
	if len(line) == 0 || line[0] != '{' {
		return nil, false
	}
	m := new(message)
	if json.Unmarshal(line, m) != nil || m.Type == "" {
		return nil, false
	}
	return m, true
}

// run runs restic to its end.
func (r Repository) run(ctx context.Context, c call) error {
	if err := ctx.Err(); err != nil {
		return &ExitError{Code: codeInterrupted, Text: context.Cause(ctx).Error()}
	}
	cmd := r.Command(ctx, c.args...)
	cmd.Dir = c.dir
	cmd.Env = append(cmd.Env, "RESTIC_PROGRESS_FPS=1", "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stdin = c.stdin
	stderr := &textLog{repository: r, told: c.told}
	cmd.Stderr = stderr
	lines := &splitter{each: func(line []byte) {
		if m, ok := parseMessage(line); ok && c.line != nil {
			c.line(m)
		}
	}}
	stderr.message = func(m *message) {
		if c.line != nil {
			c.line(m)
		}
	}
	if c.raw != nil {
		lines.each = c.raw
	}
	cmd.Stdout = lines
	if c.output != nil {
		cmd.Stdout = c.output
	}
	r.Log.Debug("restic " + c.args[0])
	err := cmd.Start()
	if err == nil {
		if c.began != nil {
			c.began(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	lines.flush()
	stderr.lines.flush()
	// What restic has left of its own group, a helper that hangs, must not outlive it.
	if cmd.Process != nil {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return classify(ctx, err, stderr.String(), r.mask)
}

// Command prepares a restic that works on the repository. When ctx is done restic is interrupted, so that it removes its lock, and killed
// when it does not end in time.
func (r Repository) Command(ctx context.Context, args ...string) *exec.Cmd {
	global := []string{"--cache-dir", r.CacheDir}
	if r.CACert != "" {
		global = append(global, "--cacert", r.CACert)
	}
	cmd := exec.CommandContext(ctx, "restic", append(global, args...)...)
	location := "RESTIC_REPOSITORY=" + r.Location
	if r.LocationFile != "" {
		location = "RESTIC_REPOSITORY_FILE=" + r.LocationFile
	}
	cmd.Env = append(baseEnvironment(), location, "RESTIC_PASSWORD_FILE="+r.PasswordFile)
	cmd.Env = append(cmd.Env, r.Environment...)
	cmd.ExtraFiles = r.Inherit
	// restic before 0.17 knows SIGINT only; and not to the group: a helper such as ssh must live until the lock is gone.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = stopTimeout
	return cmd
}

// baseEnvironment is what restic gets of ours.
func baseEnvironment() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "USER", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "RCLONE_CONFIG"} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// mask takes known secrets out of a text.
func (r Repository) mask(s string) string {
	for _, secret := range r.Secrets {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "***")
		}
	}
	return s
}

// splitter calls each for every line that is written to it, and passes over lines that are too long.
type splitter struct {
	each    func([]byte)
	rest    []byte
	tooLong bool
}

func (s *splitter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			if s.tooLong = s.tooLong || len(s.rest)+len(p) > maxLineBytes; s.tooLong {
				s.rest = s.rest[:0]
			} else {
				s.rest = append(s.rest, p...)
			}
			return n, nil
		}
		if !s.tooLong && len(s.rest)+i <= maxLineBytes {
			s.rest = append(s.rest, p[:i]...)
			s.each(bytes.TrimSuffix(s.rest, []byte{'\r'}))
		}
		s.rest, s.tooLong = s.rest[:0], false
		p = p[i+1:]
	}
}

// flush passes on a last line without its end.
func (s *splitter) flush() {
	if len(s.rest) > 0 && !s.tooLong {
		s.each(s.rest)
	}
	s.rest, s.tooLong = nil, false
}

// textLog logs restic's standard error line by line, masked, and keeps it as it is for classify.
type textLog struct {
	repository Repository
	message    func(*message)
	told       func(string)
	lines      splitter
	mu         sync.Mutex
	kept       []byte
}

func (t *textLog) Write(p []byte) (int, error) {
	t.lines.each = t.line
	return t.lines.Write(p)
}

func (t *textLog) line(line []byte) {
	text := strings.TrimSpace(strings.ToValidUTF8(string(line), "?"))
	if m, ok := parseMessage(line); ok { // with --json errors come here, too
		t.message(m)
		text = m.text()
	}
	if text == "" {
		return
	}
	t.repository.Log.Info("restic: " + t.repository.mask(text))
	if t.told != nil {
		t.told(text)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.kept) < maxTextBytes {
		t.kept = append(append(t.kept, text...), '\n')
	}
}

// text is what a message of an error says.
func (m *message) text() string {
	var inner struct {
		Message string `json:"message"`
	}
	var plain string
	switch {
	case m.Message != "":
		return m.Message
	case json.Unmarshal(m.Error, &inner) == nil && inner.Message != "":
		return strings.TrimSpace(m.Item + ": " + inner.Message)
	case json.Unmarshal(m.Error, &plain) == nil:
		return plain
	}
	return string(m.Error)
}

func (t *textLog) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept)
}
