package man

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var epoch = time.Unix(0, 0)

func TestPage(t *testing.T) {
	p := New("run-backup", 1, epoch, "v1")
	p.Name("run-backup", "runs backups")
	p.Section("OPTIONS")
	p.Item(Join(Bold("-n"), ", ", Bold("--dry-run")), Plain("Change nothing: it's `safe` ~ \\d."))
	p.Paragraph(Plain(".TH is no request here, and — is no ASCII"))
	p.Code("'quoted' --flag", "", ".hidden")
	const want = `.TH "RUN\-BACKUP" 1 1970-01-01 "sdbackup v1" "sdbackup"
.SH "NAME"
run\-backup \- runs backups
.SH "OPTIONS"
.TP
\fB\-n\fR, \fB\-\-dry\-run\fR
Change nothing: it\(aqs \(gasafe\(ga \(ti \(rsd.
.PP
\&.TH is no request here, and \[u2014] is no ASCII
.PP
.RS 4
.EX
\(aqquoted\(aq \-\-flag

\&.hidden
.EE
.RE
`
	if got := p.String(); got != want {
		t.Errorf("page\n%s\nwant\n%s", got, want)
	}
}

func TestMarkdown(t *testing.T) {
	p := New("x", 5, epoch, "v1")
	if err := p.Markdown(`# Title

It is [TOML](https://toml.io), see [below](#tables) and ` + "[`run`](run.md)" + `.

## Tables

- one that
  goes on
- **two**

## [module.ID]

| key | type | default | meaning |
| --- | --- | --- | --- |
| ` + "`type`" + ` | text | required | the kind |
| ` + "`user`" + ` | text | root | whose |
| ` + "`exclude`" + ` | texts | none | patterns |

    a = 1

    b = 2
`); err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(p.String(), "\n")
	const want = `.PP
It is TOML (https://toml.io), see below and \fBrun\fR.
.SH "TABLES"
.IP \(bu 3
one that goes on
.IP \(bu 3
\fBtwo\fR
.SH "[module.ID]"
.TP
\fBtype\fR
(text; required) the kind
.TP
\fBuser\fR
(text; default: root) whose
.TP
\fBexclude\fR
(texts) patterns
.PP
.RS 4
.EX
a = 1

b = 2
.EE
.RE
`
	if got != want {
		t.Errorf("page\n%s\nwant\n%s", got, want)
	}
}

func TestMarkdownUnknown(t *testing.T) {
	for _, text := range []string{"an *emphasis*", "an open `code", "> a quote", "```\ncode\n```", "#### deep", "| a |\n| b |", "| a | b |\n| - | - |\n| c |", "## a\nb"} {
		if err := New("x", 5, epoch, "v1").Markdown(text); err == nil {
			t.Errorf("%q is taken; want an error", text)
		}
	}
}

// Whatever a text holds, it becomes no request of roff's and no command for a terminal.
func FuzzMarkdown(f *testing.F) {
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		f.Fatal(err)
	}
	for block := range strings.SplitSeq(string(manual), "\n\n") {
		f.Add(block)
	}
	f.Add(".so /etc/passwd")
	f.Add("'\\\" x\n\n    .so x\n\n- \\fB\n")
	requests := map[string]bool{".TH": true, ".SH": true, ".SS": true, ".PP": true, ".TP": true, ".IP": true, ".RS": true, ".RE": true, ".EX": true, ".EE": true, ".nf": true, ".fi": true}
	f.Fuzz(func(t *testing.T, text string) {
		p := New("x", 5, epoch, "v1")
		_ = p.Markdown(text)
		for line := range strings.Lines(p.String()) {
			line = strings.TrimSuffix(line, "\n")
			if request, _, _ := strings.Cut(line, " "); strings.HasPrefix(line, ".") && !requests[request] || strings.HasPrefix(line, "'") {
				t.Errorf("%q becomes the request %q", text, line)
			}
			if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
				t.Errorf("%q becomes %q", text, line)
			}
		}
	})
}

// mandoc has nothing to say against a page with all that the manual of the configuration is made of.
func TestLint(t *testing.T) {
	if _, err := exec.LookPath("mandoc"); err != nil {
		t.Fatal("this test needs mandoc: test/deps manual installs it")
	}
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	p := New("sdbackup.toml", 5, epoch, "v1")
	p.Name("sdbackup.toml", "configuration")
	p.Section("DESCRIPTION")
	if err := p.Markdown(string(manual)); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sdbackup.toml.5")
	if err := os.WriteFile(file, []byte(p.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mandoc", "-Tlint", "-W", "style", file).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
}
