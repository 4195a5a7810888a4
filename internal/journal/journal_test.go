package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/journal"
)

// logged is what one call leaves on a standard error that is not the journal.
func logged(log func(*slog.Logger)) string {
	var b bytes.Buffer
	log(slog.New(New("run-backup", &b, func(string) string { return "" })))
	return b.String()
}

type valuer struct{ slog.Value }

func (v valuer) LogValue() slog.Value { return v.Value }

func TestLine(t *testing.T) {
	for name, c := range map[string]struct {
		log  func(*slog.Logger)
		want string
	}{
		"information":          {func(l *slog.Logger) { l.Info("backup 1 begins") }, "backup 1 begins"},
		"warning":              {func(l *slog.Logger) { l.Warn("slow") }, "warning: slow"},
		"error":                {func(l *slog.Logger) { l.Error("gone") }, "error: gone"},
		"attributes":           {func(l *slog.Logger) { l.Info("saved", "snapshot", "bf0a206d", "bytes", 12) }, "saved snapshot=bf0a206d bytes=12"},
		"those of the event":   {func(l *slog.Logger) { l.With("backup", 1, "module", "w", "run", "r").Info("m", Message(RunDied)) }, "m"},
		"empty value":          {func(l *slog.Logger) { l.Info("failed", "hint", "") }, "failed"},
		"blanks are quoted":    {func(l *slog.Logger) { l.Info("m", "hint", "do this") }, `m hint="do this"`},
		"quotes are quoted":    {func(l *slog.Logger) { l.Info("m", "a", `x"y`) }, `m a="x\"y"`},
		"error value":          {func(l *slog.Logger) { l.Info("m", "error", errors.New("no")) }, "m error=no"},
		"newline in message":   {func(l *slog.Logger) { l.Info("a\nrun-backup: forged\r\n") }, "a run-backup: forged  "},
		"newline in value":     {func(l *slog.Logger) { l.Info("m", "a", "x\ny=z") }, `m a="x\ny=z"`},
		"carriage return":      {func(l *slog.Logger) { l.Info("m", "a", "x\ry=z") }, `m a="x\ry=z"`},
		"wide blank":           {func(l *slog.Logger) { l.Info("m", "a", "x\u2003y") }, `m a="x\u2003y"`},
		"escape sequence":      {func(l *slog.Logger) { l.Info("\x1b[2Jm\x9b1m", "a", "\x1b[1m") }, ` [2Jm?1m a="\x1b[1m"`},
		"C1 control character": {func(l *slog.Logger) { l.Info("m\u009b1m") }, "m 1m"},
		"invalid UTF-8":        {func(l *slog.Logger) { l.Info("m\xff", "a", "\xc3(") }, "m? a=?("},
		"key":                  {func(l *slog.Logger) { l.Info("m", "a\nb", "c") }, "m a b=c"},
		"huge value":           {func(l *slog.Logger) { l.Info("m", "a", strings.Repeat("x", 1<<20)) }, "m a=" + strings.Repeat("x", maxValueBytes) + "…"},
		"huge message":         {func(l *slog.Logger) { l.Info(strings.Repeat("x", 1<<20)) }, strings.Repeat("x", maxValueBytes) + "…"},
		"cut in a rune":        {func(l *slog.Logger) { l.Info("m", "a", "x"+strings.Repeat("é", maxValueBytes)) }, "m a=x" + strings.Repeat("é", maxValueBytes/2-1) + "…"},
		"secret":               {func(l *slog.Logger) { l.Info("m", "restic_password", "hunter2") }, "m restic_password=***"},
		"secret in a group":    {func(l *slog.Logger) { l.Info("m", slog.Group("env", "B2_KEY", "hunter2", "a", 1)) }, "m env_B2_KEY=*** env_a=1"},
		"secret of a logger":   {func(l *slog.Logger) { l.With("token", "hunter2").Info("m") }, "m token=***"},
		"secret of a valuer":   {func(l *slog.Logger) { l.Info("m", "a", valuer{slog.GroupValue(slog.String("pass", "hunter2"))}) }, "m a_pass=***"},
		"inlined group":        {func(l *slog.Logger) { l.Info("m", slog.Group("", "a", 1)) }, "m a=1"},
		"group of a logger":    {func(l *slog.Logger) { l.WithGroup("g").WithGroup("").With("a", 1).Info("m", "b", 2) }, "m g_a=1 g_b=2"},
		"debug is silent":      {func(l *slog.Logger) { l.Debug("m") }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			want := c.want
			if want != "" {
				want = "run-backup: " + want + "\n"
			}
			if got := logged(c.log); got != want {
				t.Errorf("line = %.200q; want %.200q", got, want)
			}
		})
	}
}

func TestDebugWhenAsked(t *testing.T) {
	var b bytes.Buffer
	slog.New(New("x", &b, func(key string) string { return map[string]string{"SDBACKUP_DEBUG": "1"}[key] })).Debug("m")
	if b.String() != "x: m\n" {
		t.Errorf("with SDBACKUP_DEBUG=1 a debug line is %q; want %q", b.String(), "x: m\n")
	}
}

func TestLoggersDoNotShareAttributes(t *testing.T) {
	var b bytes.Buffer
	base := slog.New(New("x", &b, func(string) string { return "" })).With("a", 1)
	one, two := base.With("b", 2), base.With("c", 3)
	one.Info("m")
	two.Info("m")
	if want := "x: m a=1 b=2\nx: m a=1 c=3\n"; b.String() != want {
		t.Errorf("lines = %q; want %q", b.String(), want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("saved", "snapshot", "bf0a206d")
	f.Add("a\nb", "k\re", "\x1b[2J\u2028\xff")
	f.Add("", "password", "hunter2")
	f.Fuzz(func(t *testing.T, message, key, value string) {
		got := line("x", slog.NewRecord(time.Time{}, slog.LevelInfo, message, 0), []slog.Attr{slog.String(key, value)})
		text, ended := strings.CutSuffix(got, "\n")
		if !ended || !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl) {
			t.Errorf("line(%q, %q, %q) = %q; want one line of text", message, key, value, got)
		}
		if !strings.HasPrefix(text, "x: ") {
			t.Errorf("line(%q, %q, %q) = %q; want the name first", message, key, value, got)
		}
	})
}

func TestFieldName(t *testing.T) {
	for key, want := range map[string]string{
		"backup": "BACKUP_ID", "module": "MODULE_ID", "run": "RUN_ID", "message_id": "MESSAGE_ID",
		"added_bytes": "ADDED_BYTES", "retry-timeout": "RETRY_TIMEOUT", "a.b c": "A_B_C",
		"_PID": "PID", "__CURSOR": "CURSOR", "9lives": "LIVES", "é": "", "": "", "_": "", "123": "",
		"message": "", "MESSAGE": "", "_message": "", "priority": "",
		strings.Repeat("a", 64): strings.Repeat("A", 64), strings.Repeat("a", 65): "",
	} {
		if got := fieldName(key); got != want {
			t.Errorf("fieldName(%q) = %q; want %q", key, got, want)
		}
	}
}

// field is what journald takes as the name of a field of a client's, systemd.journal-fields(7).
var field = regexp.MustCompile(`^[A-Z][A-Z0-9_]{0,63}$`)

func FuzzFieldName(f *testing.F) {
	for _, key := range []string{"backup", "_PID", "9", "a=b", "a\nMESSAGE", "é", ""} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		if got := fieldName(key); got != "" && !field.MatchString(got) {
			t.Errorf("fieldName(%q) = %q; want a field's name or nothing", key, got)
		}
	})
}

func TestSecret(t *testing.T) {
	for key, want := range map[string]bool{
		"password": true, "restic_password": true, "AWS_SECRET_ACCESS_KEY": true, "pass": true, "api_token": true, "Secret": true,
		"snapshot": false, "message_id": false, "password-file": false, "keys": false, "hint": false, "": false,
	} {
		if got := secret(key); got != want {
			t.Errorf("secret(%q) = %t; want %t", key, got, want)
		}
	}
}

func TestFields(t *testing.T) {
	got := fields([]slog.Attr{
		slog.String("backup", "1"), slog.Int("bytes", 5), slog.String("token", "hunter2"), slog.String("é", "left out"),
		slog.String("error", "a\nb\xff"), Message(RunStarted),
	})
	want := map[string]string{"BACKUP_ID": "1", "BYTES": "5", "TOKEN": "***", "ERROR": "a\nb?", "MESSAGE_ID": RunStarted}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("fields = %q; want %q", got, want)
	}
}

func TestPriority(t *testing.T) {
	for level, want := range map[slog.Level]journal.Priority{
		slog.LevelDebug: journal.PriDebug, slog.LevelInfo: journal.PriInfo, slog.LevelWarn: journal.PriWarning,
		slog.LevelError: journal.PriErr, slog.LevelError + 4: journal.PriErr, slog.LevelInfo + 1: journal.PriInfo,
	} {
		if got := priority(level); got != want {
			t.Errorf("priority(%v) = %d; want %d", level, got, want)
		}
	}
}

func TestIsJournal(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	own := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	closed, err := os.Open(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, c := range map[string]struct {
		w      io.Writer
		stream string
		want   bool
	}{
		"the stream":            {f, own, true},
		"another file":          {f, fmt.Sprintf("%d:%d", st.Dev, st.Ino+1), false},
		"another device":        {f, fmt.Sprintf("%d:%d", st.Dev+1, st.Ino), false},
		"no variable":           {f, "", false},
		"nonsense":              {f, "journal", false},
		"no file":               {io.Discard, own, false},
		"a file that is closed": {closed, own, false},
	} {
		if got := isJournal(c.w, c.stream); got != c.want {
			t.Errorf("%s: isJournal(%q) = %t; want %t", name, c.stream, got, c.want)
		}
	}
}

// Where journald cannot be reached, the line goes down the stream.
func TestNativeFallsBackToTheLine(t *testing.T) {
	if conn, err := net.Dial("unixgram", "/run/systemd/journal/socket"); err == nil {
		conn.Close()
		t.Skip("a journal runs here, and is not to be written to")
	}
	var b bytes.Buffer
	h := &handler{native: true, name: "x", stderr: &b, mu: New("x", &b, func(string) string { return "" }).(*handler).mu}
	if err := h.Handle(context.Background(), slog.NewRecord(time.Time{}, slog.LevelInfo, "m", 0)); err != nil {
		t.Fatal(err)
	}
	if b.String() != "x: m\n" {
		t.Errorf("line = %q; want %q", b.String(), "x: m\n")
	}
}

func TestNotify(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	if err := Notify("STATUS=1 of 2"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, err := conn.Read(buf)
	if err != nil || string(buf[:n]) != "STATUS=1 of 2" {
		t.Errorf("the manager read %q, %v; want the state", buf[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("STATUS=x"); err != nil {
		t.Errorf("outside of a service: %v; want nothing", err)
	}
}

// messages are the constants of journal.go that are IDs, by name.
func messages(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "journal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range file.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			continue
		}
		for _, s := range decl.Specs {
			spec := s.(*ast.ValueSpec)
			if lit, ok := spec.Values[0].(*ast.BasicLit); ok && lit.Kind == token.STRING {
				out[spec.Names[0].Name], _ = strconv.Unquote(lit.Value)
			}
		}
	}
	if len(out) == 0 {
		t.Fatal("journal.go has no message IDs")
	}
	return out
}

func TestMessageIDs(t *testing.T) {
	seen := map[string]string{}
	for name, id := range messages(t) {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
			t.Errorf("%s = %q; want 128 bits in hexadecimal", name, id)
		}
		if other := seen[id]; other != "" {
			t.Errorf("%s and %s have one ID", name, other)
		}
		seen[id] = name
	}
}

const catalogFile = "../../systemd/sdbackup.catalog"

func TestCatalog(t *testing.T) {
	text, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	entries := map[string]string{}
	for _, part := range strings.Split("\n"+string(text), "\n-- ")[1:] {
		id, body, _ := strings.Cut(part, "\n")
		if _, twice := entries[id]; twice {
			t.Errorf("%s has two entries", id)
		}
		entries[id] = body
	}
	for name, id := range messages(t) {
		body, ok := entries[id]
		if !ok {
			t.Errorf("%s has no entry", name)
			continue
		}
		delete(entries, id)
		header, explanation, _ := strings.Cut(body, "\n\n")
		if !regexp.MustCompile(`^Subject: .+\nDefined-By: sdbackup\nSupport: \S+$`).MatchString(header) {
			t.Errorf("%s: header = %q; want Subject, Defined-By and Support", name, header)
		}
		if strings.TrimSpace(explanation) == "" {
			t.Errorf("%s is not explained", name)
		}
	}
	for id := range entries {
		t.Errorf("%s is no event of ours", id)
	}
}

// journalctl itself reads the catalog.
func TestCatalogCompiles(t *testing.T) {
	journalctl, err := exec.LookPath("journalctl")
	if err != nil {
		t.Skip("no journalctl here")
	}
	text, err := os.ReadFile(catalogFile)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, dir := range []string{"usr/lib/systemd/catalog", "var/lib/systemd/catalog"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "usr/lib/systemd/catalog/sdbackup.catalog"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(journalctl, "--root="+root, "--update-catalog").CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("journalctl --update-catalog: %v: %s", err, out)
	}
	out, err := exec.Command(journalctl, "--root="+root, "--list-catalog").CombinedOutput()
	if err != nil {
		t.Fatalf("journalctl --list-catalog: %v: %s", err, out)
	}
	for name, id := range messages(t) {
		if !strings.Contains(string(out), id+" sdbackup: ") {
			t.Errorf("journalctl does not know %s; its catalog is:\n%s", name, out)
		}
	}
}
