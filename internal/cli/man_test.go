package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	helpFlag    = regexp.MustCompile(`(?m)^ +(?:-\w, )?--([][a-z0-9-]+)`)
	helpCommand = regexp.MustCompile(`(?m)^  ([a-z][a-z-]*)(?: |$)`)
)

// The manual page of every program has the commands and flags that its help has, and mandoc and man-db have nothing to say against it.
func TestManual(t *testing.T) {
	for _, tool := range []string{"mandoc", "man"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("this test needs %s: test/deps manual installs it", tool)
		}
	}
	bin, dir := programs(t)
	entries, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		t.Run(name, func(t *testing.T) {
			print := func(args ...string) string {
				cmd := exec.Command(filepath.Join(bin, name), args...)
				cmd.Env = environment(bin, dir, "SOURCE_DATE_EPOCH=86400")
				out, err := cmd.Output()
				if err != nil {
					t.Fatalf("%s: %v", cmd.Args, err)
				}
				return string(out)
			}
			page := print("--man")
			if first, _, _ := strings.Cut(page, "\n"); !strings.Contains(first, " 1 1970-01-02 ") {
				t.Errorf("the page begins with %s; want SOURCE_DATE_EPOCH's day", first)
			}
			for _, section := range []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "SEE ALSO"} {
				if !strings.Contains(page, `.SH "`+section+`"`) {
					t.Errorf("the page has no %s", section)
				}
			}
			if strings.Contains(page, "Exit codes") || !strings.Contains(page, ".TP\n\\fB0\\fR\n") {
				t.Error("the exit codes are not in EXIT STATUS")
			}
			var compare func(words []string)
			compare = func(words []string) {
				help := print(append(slices.Clone(words), "--help")...)
				for _, m := range helpFlag.FindAllStringSubmatch(help, -1) {
					if !strings.Contains(page, `\fB\-\-`+strings.ReplaceAll(m[1], "-", `\-`)+`\fR`) {
						t.Errorf("%v: the page does not have --%s", words, m[1])
					}
				}
				_, list, _ := strings.Cut(help, "\nCommands:\n")
				list, _, _ = strings.Cut(list, "\n\n")
				for _, m := range helpCommand.FindAllStringSubmatch(list, -1) {
					compare(append(slices.Clone(words), m[1]))
				}
				section := `.SS "` + strings.ReplaceAll(strings.Join(words, " "), "-", `\-`)
				if list == "" && len(words) > 0 && !strings.Contains(page, section+`"`) && !strings.Contains(page, section+" (") { // with its aliases
					t.Errorf("the page does not have the command %v", words)
				}
			}
			compare(nil)

			file := filepath.Join(t.TempDir(), name+".1")
			if err := os.WriteFile(file, []byte(page), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, argv := range [][]string{
				{"mandoc", "-Tlint", "-W", "style", file},
				{"man", "--warnings", "--encoding=UTF-8", "--troff-device=utf8", "--ditroff", "--local-file", file},
			} {
				cmd := exec.Command(argv[0], argv[1:]...)
				cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
				var complaint bytes.Buffer
				cmd.Stderr = &complaint
				if argv[0] == "mandoc" {
					cmd.Stdout = &complaint
				}
				err := cmd.Run()
				if err != nil || complaint.Len() > 0 {
					t.Errorf("%s: %v\n%s", argv[0], err, &complaint)
				}
			}
		})
	}
}
