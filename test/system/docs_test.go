//go:build systemd

package system

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The commands of README.md and docs/*.md are run, page by page from top to bottom, and what they print is held against what the page
// shows. A page is written for its reader; what makes this work is:
//
//   - A command stands in an indented block behind a prompt: "# " is root's, "$ " that of a user without rights. What begins with "# " and
//     no program is output, a comment say. A line that ends with a backslash goes on in the next one.
//   - What follows up to the next prompt, or the end of the block, is what it prints, to standard output and standard error. Of the lines
//     times, sizes, IDs and the like need not be the same (see volatile), nor need blanks; "..." stands for any number of lines, and
//     behind a blank for the rest of one. Where nothing
//     follows, the command must be a success, whatever it prints.
//   - "# cat FILE" of a file that is not there writes it: the page tells its reader to.
//   - What must be there before, and the reader knows to have, is made by commands in a comment of HTML that begins with "run".

// step is a command, and the output that a page shows for it.
type step struct {
	line    int // in the page
	command string
	user    bool // as somebody without rights
	hidden  bool
	shows   []string
}

var indented = regexp.MustCompile(`^ {4,}`)

// steps reads a page.
func steps(text string) []step {
	var all []step
	var current *step
	hidden := false
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case line == "<!-- run":
			hidden, current = true, nil
			all = append(all, step{line: i + 1, hidden: true})
			continue
		case hidden && line == "-->":
			hidden = false
			continue
		case hidden:
			all[len(all)-1].command += line + "\n"
			continue
		case strings.TrimSpace(line) == "" && current != nil:
			current.shows = append(current.shows, "")
			continue
		case !indented.MatchString(line):
			current = nil
			continue
		}
		body := indented.ReplaceAllStringFunc(line, func(s string) string { return s[4:] })
		prompt, command, _ := strings.Cut(strings.TrimSpace(body), " ") // in a list, it is indented by more
		if (prompt == "#" || prompt == "$") && isCommand(command) {
			s := step{line: i + 1, command: command, user: prompt == "$"}
			for strings.HasSuffix(s.command, `\`) && i+1 < len(lines) {
				i++
				s.command = strings.TrimSuffix(s.command, `\`) + strings.TrimSpace(lines[i])
			}
			all = append(all, s)
			current = &all[len(all)-1]
			continue
		}
		if current != nil {
			current.shows = append(current.shows, body)
		}
	}
	for i := range all {
		for n := len(all[i].shows); n > 0 && all[i].shows[n-1] == ""; n-- {
			all[i].shows = all[i].shows[:n-1]
		}
	}
	return all
}

// isCommand tells whether a line begins with a program.
func isCommand(line string) bool {
	word, _, _ := strings.Cut(line, " ")
	if strings.HasPrefix(word, "/") || word == "" {
		return false
	}
	_, err := exec.LookPath(word)
	return err == nil
}

// volatile is what differs from run to run, and what stands for it.
var volatile = []struct {
	pattern *regexp.Regexp
	stands  string
}{
	{regexp.MustCompile(`\b(bytes|added_bytes|duration_seconds)=[0-9.]+`), "$1=NUMBER"},
	{regexp.MustCompile(`"(bytes|seconds)": [0-9.]+`), `"$1": NUMBER`},
	{regexp.MustCompile(`^(ok|warning) +clock: .*`), "CLOCK"}, // that of the machine on which the test runs
	{regexp.MustCompile(`^(ok|warning|problem) +space of ([^:]*): .*`), "SPACE of $2"},
	{regexp.MustCompile(`\*-\*-\* \d\d:\d\d:\d\d`), "CALENDAR"}, // with the offset of a machine
	{regexp.MustCompile(`\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b`), "UUID"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d(T| )\d\d:\d\d(:\d\d(\.\d+)?)?(Z| UTC| \+0000 UTC)?`), "TIME"},
	{regexp.MustCompile(`\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun) TIME`), "TIME"},
	{regexp.MustCompile(`\b\d{4}-\d\d-\d\d\b`), "DAY"},
	{regexp.MustCompile(`\b[0-9A-HJKMNP-TV-Z]{26}\b`), "ULID"},
	{regexp.MustCompile(`\bSHA256:[A-Za-z0-9+/]{43}`), "FINGERPRINT"},
	{regexp.MustCompile(`\b[0-9a-f]*([0-9][a-f]|[a-f][0-9])[0-9a-f]*\b`), "HEX"}, // at least one digit and one letter
	{regexp.MustCompile(`\b\d{7,}\b`), "HEX"},
	{regexp.MustCompile(`\b\d+(\.\d+)? ([KMGT]i)?B\b`), "SIZE"},
	{regexp.MustCompile(`\b\d+ %`), "PERCENT"},
	{regexp.MustCompile(`\b(\d+(y|w|d|h|min|s|ms|us) ?)+\b`), "SPAN "},
	{regexp.MustCompile(`SIZE +(-|SPAN ) +`), "SIZE TOOK "}, // restic before 0.17 does not say how long a snapshot took
	{regexp.MustCompile(`\b(process|PID) \d+\b`), "$1 NUMBER"},
	{regexp.MustCompile(`/proc/\d+/fd/\d+`), "FD"},
	{regexp.MustCompile(`\bversion \d+(\.\d+)?[^;]*`), "VERSION"},
	{regexp.MustCompile(`^([-dl][-rwxsStT]{9}) +\d+ +\d+ `), "$1 UID GID "},
	{regexp.MustCompile(`[ \t]+`), " "},
}

// settled is a line without what differs from run to run.
func settled(line string) string {
	for _, v := range volatile {
		line = v.pattern.ReplaceAllString(line, v.stands)
	}
	return strings.TrimSpace(line)
}

// matches tells whether lines are those shown, in which "..." stands for any number of them.
func matches(shown, lines []string) bool {
	switch {
	case len(shown) == 0:
		return len(lines) == 0
	case strings.TrimSpace(shown[0]) == "...":
		return matches(shown[1:], lines) || len(lines) > 0 && matches(shown, lines[1:])
	}
	return len(lines) > 0 && alike(shown[0], lines[0]) && matches(shown[1:], lines[1:])
}

// alike tells whether a line is the one shown, of which " ..." stands for the rest.
func alike(shown, line string) bool {
	if begin, ok := strings.CutSuffix(shown, " ..."); ok {
		return strings.HasPrefix(settled(line), settled(begin))
	}
	return settled(shown) == settled(line)
}

func printed(data []byte) []string {
	text := strings.TrimRight(string(data), "\n")
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

// do runs one step.
func (h *host) do(page string, s step) {
	h.Helper()
	if file, ok := strings.CutPrefix(s.command, "cat "); ok && !s.hidden {
		if _, err := os.Stat(file); err != nil {
			h.write(file, strings.Join(s.shows, "\n")+"\n", 0o644)
			return
		}
	}
	argv := []string{"sh", "-c", s.command}
	if s.hidden {
		argv[1] = "-ec"
	}
	if s.user {
		argv = append([]string{"setpriv", "--reuid=nobody", "--clear-groups"}, argv...)
	}
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// First the programs that are installed, and not those of the checkout: units name what stands beside install-units.
	cmd.Dir, cmd.Env = "/root", append(os.Environ(), "PATH=/usr/bin:"+os.Getenv("PATH"), "HOME=/root", "LC_ALL=C.UTF-8", "TZ=UTC", "RESTIC_CACHE_DIR=/root/cache")
	// One file for both, so that lines stay in their order, and nobody who is left in the background is waited for.
	f, err := os.CreateTemp(h.TempDir(), "")
	if err != nil {
		h.Fatal(err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	runErr := cmd.Run()
	out, err := os.ReadFile(f.Name())
	if err != nil {
		h.Fatal(err)
	}
	where := fmt.Sprintf("%s:%d: %s", page, s.line, strings.TrimSpace(s.command))
	switch {
	case len(s.shows) == 0 || s.hidden:
		if runErr != nil {
			h.Fatalf("%s\n%v\n%s", where, runErr, out)
		}
	case !matches(s.shows, printed(out)):
		h.Errorf("%s\nprints\n%s\nand the page shows\n%s", where, out, strings.Join(s.shows, "\n"))
	}
}

// pages are the paths of all pages, by their names.
func pages(t *testing.T) map[string]string {
	t.Helper()
	found, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(found) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	all := map[string]string{}
	for _, path := range append(found, "../../README.md") {
		all[filepath.Base(path)] = path
	}
	return all
}

// private gives a page folders of its own, which are empty.
func (h *host) private(folders ...string) {
	h.Helper()
	for _, dir := range folders {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			h.Fatal(err)
		}
		// Programs that the tests bring along may lie in it: they stay.
		kept := map[string]*os.File{}
		for _, bin := range filepath.SplitList(os.Getenv("PATH")) {
			if f, err := os.Open(bin); err == nil && strings.HasPrefix(bin, dir+"/") {
				defer f.Close()
				kept[bin] = f
			}
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			h.Fatalf("mount a tmpfs at %s: %v", dir, err)
		}
		for bin, f := range kept {
			if err := os.MkdirAll(bin, 0o755); err != nil {
				h.Fatal(err)
			}
			if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), bin, "", syscall.MS_BIND, ""); err != nil {
				h.Fatalf("keep %s: %v", bin, err)
			}
		}
		h.Cleanup(func() {
			if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
				h.Errorf("unmount %s: %v", dir, err)
			}
		})
	}
}

// lent gives a page copies of files and folders: what it changes in them is gone when it ends.
func (h *host) lent(paths ...string) {
	h.Helper()
	for _, path := range paths {
		copied := filepath.Join(h.TempDir(), "copy")
		h.must("cp", "-a", path, copied)
		if err := syscall.Mount(copied, path, "", syscall.MS_BIND, ""); err != nil {
			h.Fatalf("mount a copy at %s: %v", path, err)
		}
		h.Cleanup(func() {
			if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil {
				h.Errorf("unmount %s: %v", path, err)
			}
		})
	}
}

func TestDocumentation(t *testing.T) {
	if err := prepareSSH(); err != nil { // before a page has folders of its own
		t.Fatal(err)
	}
	all := pages(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		path := all[name]
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		commands := steps(string(text))
		if len(commands) == 0 {
			continue
		}
		t.Run(strings.TrimSuffix(name, ".md"), func(t *testing.T) {
			h := newHost(t)
			h.Cleanup(func() { exec.Command("systemctl", "daemon-reload").Run() })
			h.lent("/etc/hosts", "/etc/systemd/system")
			h.private("/etc/sdbackup", "/etc/credstore", "/srv", "/root", "/home", "/var/lib/wiki1", "/var/lib/photos", textfiles)
			// As after install-units; but nobody watches the configuration, so that what a page shows happens when it says.
			h.must("systemctl", "restart", "backup-timers.service")
			h.must("systemctl", "stop", "backup-timers.path")
			for _, s := range commands {
				h.do(name, s)
			}
			h.run("systemctl", "stop", "backup-timers.path", "backup-timers.service", "remote-backup.socket", "remote-backup.service", "doc-*.service", "wiki*.service")
			h.run("schedule-backup", "stop-timers")
		})
	}
}

func TestSteps(t *testing.T) {
	page := strings.Join([]string{
		"Text.", "", "<!-- run", "mkdir /x", "touch /x/y", "-->", "    # cat /etc/motd", "    # a comment", "    [table]", "", "    [next]", "", "Text.", "",
		"    $ ls \\", "        -l", "    # true", "    # ls", "    a", "    ...", "Text", "    no command",
	}, "\n")
	got := steps(page)
	want := []step{
		{3, "mkdir /x\ntouch /x/y\n", false, true, nil},
		{7, "cat /etc/motd", false, false, []string{"# a comment", "[table]", "", "[next]"}},
		{15, "ls -l", true, false, nil},
		{17, "true", false, false, nil},
		{18, "ls", false, false, []string{"a", "..."}},
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("steps = %+v\nwant %+v", got, want)
	}
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		shown, printed string
		want           bool
	}{
		{"a\nb", "a\nb", true},
		{"a\nb", "a", false},
		{"a", "a\nb", false},
		{"a\n...\nd", "a\nb\nc\nd", true},
		{"    a\n    ...\n    d", "a\nb\nc\nd", true},
		{"...\nd", "d", true},
		{"a\n...", "b", false},
		{"saved bf0a206d at 2026-11-21 07:08:10", "saved 0123abcd at 2027-01-02 03:04:05", true},
		{"wiki1  success  3.8 MiB  4s", "wiki1  success  30 B  1min 20s", true},
		{"wiki1  success  3.8 MiB  4s", "wiki1  failed   3.8 MiB  4s", false},
		{"1 timer started", "2 timers started", false},
	} {
		if got := matches(strings.Split(c.shown, "\n"), printed([]byte(c.printed))); got != c.want {
			t.Errorf("matches(%q, %q) = %t", c.shown, c.printed, got)
		}
	}
	if settled("backup first") == settled("backup last") {
		t.Error("IDs that people choose do not matter")
	}
}
