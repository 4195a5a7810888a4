package cli

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// called runs a program and returns its exit code and what it prints.
func called(t *testing.T, bin, dir, name string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
	cmd.Dir, cmd.Env = dir, environment(bin, dir)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			t.Fatalf("%v: %v", cmd.Args, err)
		}
		code = exit.ExitCode()
	}
	return code, out.String(), errOut.String()
}

// named lists what programs there are.
func named(t *testing.T, bin string) []string {
	t.Helper()
	entries, err := os.ReadDir(bin)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%s: %v, %v", bin, entries, err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// listed finds the commands in a help text; a second line of a command's help is indented by more.
var listed = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*)(?: |$)`)

// commands returns the command lines of a program that have a help of their own: that of the program, where it has no commands, or all below it.
func commands(t *testing.T, bin, dir, name string, words ...string) [][]string {
	t.Helper()
	code, help, stderr := called(t, bin, dir, name, append(words, "--help")...)
	if code != ExitOK || stderr != "" {
		t.Fatalf("%s %s --help: %d, %s", name, strings.Join(words, " "), code, stderr)
	}
	_, list, ok := strings.Cut(help, "\nCommands:\n")
	if !ok {
		return [][]string{words}
	}
	list, _, _ = strings.Cut(list, "\n\n")
	var all [][]string
	for _, m := range listed.FindAllStringSubmatch(list, -1) {
		all = append(all, commands(t, bin, dir, name, append(slices.Clone(words), m[1])...)...)
	}
	if len(all) == 0 {
		t.Fatalf("%s %s --help lists no commands:\n%s", name, words, help)
	}
	return all
}

// Every command's help has an example, which is one of itself, and every command tells what is wrong with a command line in the same way.
func TestEveryCommand(t *testing.T) {
	bin, dir := programs(t)
	for _, name := range named(t, bin) {
		for _, words := range commands(t, bin, dir, name) {
			line := strings.Join(append([]string{name}, words...), " ")
			_, help, _ := called(t, bin, dir, name, append(words, "--help")...)
			_, example, ok := strings.Cut(help, "Example")
			if !ok || !strings.Contains(example, name+" ") && !strings.Contains(example, name+"\n") {
				t.Errorf("%s --help has no example of it:\n%s", line, help)
			}
			code, stdout, stderr := called(t, bin, dir, name, append(words, "--no-such-flag")...)
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			if code != ExitUsage || stdout != "" || len(lines) != 2 || !strings.HasPrefix(lines[0], name+": ") || !strings.Contains(lines[0], "--no-such-flag") ||
				lines[1] != name+": hint: see \""+name+" --help\"" {
				t.Errorf("%s --no-such-flag: %d, stdout %q, stderr %q", line, code, stdout, stderr)
			}
		}
	}
}

func TestEveryVersion(t *testing.T) {
	bin, dir := programs(t)
	for _, name := range named(t, bin) {
		code, stdout, stderr := called(t, bin, dir, name, "--version")
		want := regexp.MustCompile(`^` + name + ` \S+ \(commit [0-9a-z]+, ` + regexp.QuoteMeta(runtime.Version()) + `\)\n$`)
		if code != ExitOK || !want.MatchString(stdout) || stderr != "" {
			t.Errorf("%s --version: %d, stdout %q, stderr %q", name, code, stdout, stderr)
		}
	}
}
