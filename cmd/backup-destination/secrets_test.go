package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/cli"
)

// marker is in every secret, so that any trace of one is found.
const marker = "S3cr3tMarker"

// run is main with a world of its own.
func run(stdin io.Reader, stdout, stderr io.Writer, args ...string) int {
	env := &cli.Env{Stdin: stdin, Stdout: stdout, Stderr: stderr, Getenv: func(string) string { return "" }, Now: time.Now}
	return cli.Main("backup-destination", "Keeps destinations.", new(command), args, env)
}

// TestNoSecretIsPrinted runs every command on destinations whose secrets have the marker, also where it fails; the programs that
// they start print what they are given.
func TestNoSecretIsPrinted(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	file("bin/rclone", "#!/bin/sh\ncat \"$2\" >&2\ncat >&2\nexit 1\n", 0o755)
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	secret, password := file("secret", "key "+marker+"\n", 0o600), file("pw", "pw "+marker, 0o600)
	remote := file("rclone.conf", "[x]\ntype = drive\ntoken = {\"a\":\""+marker+"\"}\nurl = https://u:"+marker+"@h/\n", 0o600)
	broken := file("broken.conf", "[x]\ntype = drive\n"+marker+"\n", 0o600)
	lines := file("lines", marker+"\n"+marker+"\n", 0o600)
	hosts := file("hosts", "h ssh-ed25519 AAAA\n", 0o644)
	config := filepath.Join(dir, "etc")
	for _, line := range [][]string{
		{"add", "local", "--provider=local", "--path=/srv/x", "--password-file", password},
		{"add", "s3", "--provider=s3", "--bucket=b", "--region=r", "--access-key-id=a", "--secret-file", secret, "--password-file", password},
		{"add", "smb", "--provider=smb", "--host=h", "--share=b", "--username=u", "--secret-file", secret, "--password-file", password},
		{"add", "sftp", "--provider=sftp", "--host=h", "--username=u", "--known-hosts", hosts, "--secret-file", secret, "--password-file", password},
		{"add", "rest", "--provider=rest", "--url=http://127.0.0.1:1/", "--username=u", "--secret-file", secret, "--password-file", password},
		{"add", "rclone", "--provider=rclone", "--rclone-config", remote, "--password-file", password},
		{"add", "s3", "--provider=s3", "--bucket=b", "--region=r", "--access-key-id=a", "--secret-file", secret},
		{"add", "twice", "--provider=rclone", "--rclone-config", remote},
		{"add", "bad", "--provider=rclone", "--rclone-config", broken},
		{"add", "bad", "--provider=b2", "--bucket=b", "--account=a", "--secret-file", lines},
		{"add", "bad", "--provider=local", "--path=/srv/y", "--secret-file", secret},
		{"add", "bad", "--provider=webdav", "--url=http://u:" + marker + "@h", "--username=u", "--secret-file", secret},
		{"add", "bad", "--provider=s3", "--secret-file", secret},
		{"alter", "s3", "--name=N", "--secret-file", secret},
		{"alter", "rest", "--url=http://127.0.0.1:2/", "--password-file", secret},
		{"alter", "rclone", "--rclone-config", broken},
		{"list"},
		{"list", "--json"},
		{"show", "s3"},
		{"show", "smb"},
		{"show", "sftp", "--json"},
		{"show", "rest", "--json"},
		{"show", "rclone"},
		{"validate", "--timeout=5s"},
		{"validate", "--timeout=5s", "--json"},
		{"export"},
		{"export", "--output", filepath.Join(dir, "all.json")},
		{"import", secret},
		{"import", filepath.Join(dir, "all.json")},
		{"remove", "s3"},
		{"remove", "rest", "--forget-password"},
	} {
		var out bytes.Buffer
		run(strings.NewReader(""), &out, &out, append([]string{"--config", config}, line...)...)
		if strings.Contains(out.String(), marker) {
			t.Errorf("%v prints a secret:\n%s", line, out.String())
		}
	}
	if left, err := filepath.Glob(config + "/destination-*.toml"); err != nil || len(left) != 4 {
		t.Errorf("left are %v, %v; want that the commands did what they are to do", left, err)
	}
	for _, line := range [][]string{{"show", "smb", "--secrets"}, {"export", "--plain"}} { // so that the test is none in vain
		var out bytes.Buffer
		if code := run(strings.NewReader(""), &out, &out, append([]string{"--config", config}, line...)...); code != 0 || !strings.Contains(out.String(), marker) {
			t.Errorf("%v does not print the secret that it is asked for: %d\n%s", line, code, out.String())
		}
	}
}

// openTerminal returns both ends of a pseudo-terminal, pty(7).
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals: %v", err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// answer types lines into a terminal, each when what is typed is not shown.
func answer(t *testing.T, master, slave *os.File, questions <-chan string, lines map[string]string) {
	for question := range questions {
		for {
			state, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
			if err != nil {
				t.Error(err)
				return
			}
			if state.Lflag&unix.ECHO == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
		text, ok := lines[strings.TrimSpace(question)]
		if !ok {
			t.Errorf("unexpected question %q", question)
		}
		fmt.Fprintf(master, "%s\n", text)
	}
}

// asked is a standard error that passes questions on.
type asked struct {
	bytes.Buffer
	questions chan string
}

func (a *asked) Write(b []byte) (int, error) {
	if bytes.HasSuffix(b, []byte(": ")) {
		a.questions <- string(b)
	}
	return a.Buffer.Write(b)
}

func TestTerminal(t *testing.T) {
	config := filepath.Join(t.TempDir(), "etc")
	for name, c := range map[string]struct {
		answers map[string]string
		code    int
		stdout  int // its length
		stderr  string
	}{
		"given": {map[string]string{
			"application key:": marker, "password of the restic repositories (empty: make one):": "pw" + marker, "once more:": "pw" + marker,
		}, 0, 0, "destination given is in"},
		"made": {map[string]string{
			"application key:": marker, "password of the restic repositories (empty: make one):": "",
		}, 0, 65, "Keep a copy"},
		"differ": {map[string]string{
			"application key:": marker, "password of the restic repositories (empty: make one):": "a" + marker, "once more:": "b" + marker,
		}, 2, 0, "the two passwords differ"},
		"none": {map[string]string{
			"application key:": "", "password of the restic repositories (empty: make one):": "",
		}, 2, 0, "--secret-file: is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			master, slave := openTerminal(t)
			stderr := &asked{questions: make(chan string, 10)}
			done := make(chan struct{})
			go func() {
				answer(t, master, slave, stderr.questions, c.answers)
				close(done)
			}()
			var stdout bytes.Buffer
			code := run(slave, &stdout, stderr, "--config", config, "add", name, "--provider=b2", "--bucket="+name, "--account=a")
			close(stderr.questions)
			<-done
			if code != c.code || stdout.Len() != c.stdout || !strings.Contains(stderr.String(), c.stderr) || strings.Contains(stderr.String(), marker) {
				t.Errorf("add: %d, stdout %q, stderr %q; want %d and %q", code, stdout.String(), stderr.String(), c.code, c.stderr)
			}
			fd := int(master.Fd()) // once: it makes reads wait
			if err := unix.SetNonblock(fd, true); err != nil {
				t.Fatal(err)
			}
			shown := make([]byte, 4096)
			if n, _ := unix.Read(fd, shown); n > 0 && bytes.Contains(shown[:n], []byte(marker)) {
				t.Errorf("the terminal shows %q", shown[:n])
			}
		})
	}
	_, slave := openTerminal(t)
	var stderr bytes.Buffer
	if code := run(strings.NewReader(""), slave, &stderr, "--config", config, "export", "--plain"); code != 2 || !strings.Contains(stderr.String(), "not written to a terminal") {
		t.Errorf("export to a terminal: %d, %s", code, stderr.String())
	}
}
