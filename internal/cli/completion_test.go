package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const completionConfig = `
[destination.archive]
repository = "/srv/backup"
password-credential = "archive"

[destination.cloud]
repository = 7 # nor here

[module.wiki1]
type = "dokuwiki"
uuid = "3792c7db-9450-4bd3-84a3-034cd0087839"
directory = "/var/lib/wiki1"
include = ["data"]

[module.mail1]
type = "mail"
directory = 7 # a mistake hides no ID

[backup.1]
schedule = "daily"
destination = "archive"
modules = ["wiki1"]
retention = 30

[backup.nightly]
schedule = "daily"
destination = "archive"
modules = ["mail1"]
retention = 30
`

// programs builds the three programs and returns their folder, and a folder with web.toml.
func programs(t *testing.T) (bin, dir string) {
	t.Helper()
	bin, dir = t.TempDir(), t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", bin+"/", "../../cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", build.Args, err, out)
	}
	if err := os.WriteFile(filepath.Join(dir, "web.toml"), []byte(completionConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	return bin, dir
}

// environment is what a shell gives to a program, without what this test was started with.
func environment(bin, dir string, more ...string) []string {
	return append([]string{
		"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "XDG_CONFIG_HOME=" + dir + "/config", "TERM=dumb", "INPUTRC=/dev/null",
	}, more...)
}

func TestCompletion(t *testing.T) {
	bin, dir := programs(t)
	user := filepath.Join(dir, "config/sdbackup")
	if err := os.MkdirAll(user, 0o700); err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(completionConfig, "nightly", "mine")
	if err := os.WriteFile(filepath.Join(user, "web.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		env  []string
		want string
	}{
		{"run-backup --config web.toml ", nil, "1 nightly"},
		{"run-backup --config web.toml n", nil, "nightly"},
		{"run-backup --config web.toml x", nil, ""},
		{"run-backup --config=web.toml ", nil, "1 nightly"},
		{"run-backup --config web.toml 1 ", nil, "1 nightly"},
		{"run-backup --config web.toml --json 1 nightly n", nil, "nightly"},
		{"run-backup --config nowhere.toml ", nil, ""},
		{"run-backup --user ", nil, "1 mine"},
		{"run-backup ", []string{"SDBACKUP_CONFIG=web.toml"}, "1 nightly"},
		{"run-backup --config w", nil, "web.toml"},
		{"run-backup --c", nil, "--config"},
		{"run-backup --n", nil, "--no-units"},
		{"run-backup --recover", nil, ""},
		{"run-backup --config web.toml n ignored", []string{"COMP_POINT=30"}, "nightly"},
		{"module-backup --config web.toml ", nil, "mail1 save shell wiki1"},
		{"module-backup --config web.toml wiki1 ", nil, "1 nightly save shell"},
		{"module-backup --config web.toml save wiki1 ", nil, "1 nightly"},
		{"module-backup --config web.toml save wiki1 1 ", nil, ""},
		{"module-backup save --config web.toml wiki1 ", nil, "1 nightly"},
		{"module-backup --config web.toml shell ", nil, "mail1 wiki1"},
		{"module-backup --config web.toml shell wiki1 --backup ", nil, "1 nightly"},
		{"restore-backup --config web.toml ", nil, "browse check-eligibility drill list mail1 mount node recover restore wiki1"},
		{"restore-backup --config web.toml list w", nil, "wiki1"},
		{"restore-backup --config web.toml check-eligibility ", nil, "mail1 wiki1"},
		{"restore-backup --config web.toml browse m", nil, "mail1"},
		{"restore-backup --config web.toml wiki1 --destination ", nil, "archive cloud"},
		{"restore-backup --config web.toml list --backup ", nil, "1 nightly"},
		{"backup-destination --config web.toml show ", nil, "archive cloud"},
		{"backup-destination --config=web.toml alter c", nil, "cloud"},
		{"backup-destination --config web.toml remove ", nil, "archive cloud"},
		{"backup-destination --config web.toml undelete a", nil, "archive"},
		{"backup-destination --config web.toml validate archive c", nil, "cloud"},
		{"backup-destination --config web.toml export a", nil, "archive"},
		{"backup-destination --config web.toml add ", nil, ""},
		{"backup-destination u", nil, "undelete"},
		{"schedule-backup ", nil, "check doctor init install-units list-backups list-timers start-timers stop-timers"},
		{"schedule-backup --config web.toml init --to ", nil, "archive cloud"},
		{"schedule-backup list-", nil, "list-backups list-timers"},
		{"schedule-backup check --v", nil, "--verbose --version"},
	} {
		t.Run(strings.Join(append(c.env, c.line), " "), func(t *testing.T) {
			name, _, _ := strings.Cut(c.line, " ")
			cmd := exec.Command(filepath.Join(bin, name), name, "", "")
			cmd.Dir, cmd.Env = dir, environment(bin, dir, append([]string{"COMP_LINE=" + c.line}, c.env...)...)
			out, err := cmd.CombinedOutput()
			got := strings.Fields(string(out))
			slices.Sort(got)
			if err != nil || strings.Join(got, " ") != c.want {
				t.Errorf("completions of %q = %q, %v; want %q", c.line, got, err, c.want)
			}
		})
	}
}

// TestCompletionInBash types at bash. ESC * inserts all completions; then "echo" goes to the beginning of the line.
func TestCompletionInBash(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("no bash here")
	}
	bin, dir := programs(t)
	for line, want := range map[string]string{
		"run-backup --config web.toml ":                "1 nightly",
		"run-backup --config=web.toml ":                "1 nightly",
		"run-backup --config web.toml 1 n":             "nightly",
		"module-backup --config web.toml ":             "mail1 save shell wiki1",
		"module-backup --config web.toml save wiki1 ":  "1 nightly",
		"backup-destination --config web.toml alter c": "cloud",
		"schedule-backup list-":                        "list-backups list-timers",
		"schedule-backup --config web.toml check ":     "",
	} {
		t.Run(line, func(t *testing.T) {
			name, _, _ := strings.Cut(line, " ")
			cmd := exec.Command(bash, "--norc", "--noprofile", "-i")
			cmd.Dir, cmd.Env = dir, environment(bin, dir)
			cmd.Stdin = strings.NewReader(fmt.Sprintf("eval \"$(%s --completion bash)\"\n%s\x1b*\x01echo COMPLETED: \nexit\n", name, line))
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("bash: %v", err)
			}
			kept := line[:strings.LastIndexByte(line, ' ')+1]
			for got := range strings.Lines(string(out)) {
				if got, ok := strings.CutPrefix(got, "COMPLETED: "); ok {
					if strings.TrimSpace(got) != strings.TrimSpace(kept+want) {
						t.Errorf("bash makes %q of %q; want %q", got, line, kept+want)
					}
					return
				}
			}
			t.Errorf("bash completed nothing of %q; it printed:\n%s", line, out)
		})
	}
}

func TestCompletionFlag(t *testing.T) {
	for shell, want := range map[string]string{
		"bash": "complete -o nosort -C x x\n",
		"zsh":  zshCompletion("x") + "\n",
		"fish": "complete -c x -f -a \"(env COMP_LINE=(commandline -cp) x)\"\n",
	} {
		for _, args := range [][]string{{"--completion", shell}, {"--completion=" + shell}} {
			code, stdout, stderr := run("x", args, nil)
			if code != ExitOK || stdout != want || stderr != "" {
				t.Errorf("x %q: %d, stdout %q, stderr %q; want %q", args, code, stdout, stderr, want)
			}
		}
	}
	if code, _, stderr := run("x", []string{"--completion", "nonsense"}, nil); code != ExitUsage || !strings.Contains(stderr, "want bash, zsh or fish") {
		t.Errorf("--completion nonsense: %d, stderr %q; want %d and the shells", code, stderr, ExitUsage)
	}
}
