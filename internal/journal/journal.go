// Package journal writes log lines where they belong: to the journal with fields, by its native protocol, when standard error
// is connected to it; else as plain lines for people.
//
// The attributes backup, module and run become BACKUP_ID=, MODULE_ID= and RUN_ID=, so that `journalctl MODULE_ID=wiki1`
// answers questions; events that programs may want to find have a MESSAGE_ID=, explained in systemd/sdbackup.catalog.
// Values of attributes that are named like secrets are masked.
package journal

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/journal"
)

// Events, systemd.journal-fields(7), MESSAGE_ID=.
const (
	RunStarted       = "185c3fb6ae047ee80723d996b3c1dd46"
	RunFinished      = "519e2ca7d97545a3acb0cac9c6e6802e"
	RunDied          = "69853d414e182de02edb7be3ac972cf0"
	ModuleStarted    = "47f1acca0b1747dbe7edf12aadd8c194"
	ModuleSaved      = "4816ce35376789b77e9487c23d1cc90a"
	ModulePartial    = "b6cca742427ac82859876b835dc3fed3"
	ModuleFailed     = "e40fec81e42a6114442f4745bf2a752a"
	ModuleBusy       = "799d9dc04a333d68def405c2eb31c730"
	RetentionFailed  = "fc76c674690cde59afb958f2d191bb98"
	StaleLockRemoved = "91d8c1046c4d840df6000d73437f5e22"
	HookFailed       = "bac7e37b206a170bef8483fe1f718019"
	NodeCopyFailed   = "5b0f8d6f2c0e4d2fa3b7a4c19e6d7f10"
	TimersReconciled = "c5f2e0b430dc42c45d5e15948a3bd4a4"
)

// Message is the attribute that gives a line its MESSAGE_ID=.
func Message(id string) slog.Attr { return slog.String("message_id", id) }

// Notify tells the service manager the state, sd_notify(3). Outside of a service it does nothing.
func Notify(state string) error {
	_, err := daemon.SdNotify(false, state)
	return err
}

// New returns the handler for a program whose standard error is stderr. The name stands before every plain line.
func New(name string, stderr io.Writer, getenv func(string) string) slog.Handler {
	h := &handler{level: slog.LevelInfo, mu: new(sync.Mutex), name: name, stderr: stderr}
	if getenv("SDBACKUP_DEBUG") != "" {
		h.level = slog.LevelDebug
	}
	h.native = isJournal(stderr, getenv("JOURNAL_STREAM"))
	return h
}

// isJournal tells whether the file is the stream that JOURNAL_STREAM names, systemd.exec(5).
func isJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

type handler struct {
	level  slog.Level
	native bool
	name   string
	stderr io.Writer
	mu     *sync.Mutex
	attrs  []slog.Attr
	prefix string
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(append([]slog.Attr{}, h.attrs...), prefixed(h.prefix, attrs)...)
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.prefix += name + "_"
	return &c
}

// prefixed returns the attributes with their groups' names before theirs. Groups are resolved into their members, or the
// secrets among these would not be known by their names.
func prefixed(prefix string, attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, 0, len(attrs))
	for _, a := range attrs {
		v := a.Value.Resolve()
		switch {
		case v.Kind() != slog.KindGroup:
			out = append(out, slog.Attr{Key: prefix + a.Key, Value: v})
		case a.Key == "":
			out = append(out, prefixed(prefix, v.Group())...)
		default:
			out = append(out, prefixed(prefix+a.Key+"_", v.Group())...)
		}
	}
	return out
}

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	attrs := append([]slog.Attr{}, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, prefixed(h.prefix, []slog.Attr{a})...)
		return true
	})
	if h.native {
		if err := journal.Send(bounded(r.Message), priority(r.Level), fields(attrs)); err == nil {
			return nil
		} // else the plain line reaches the journal by the stream
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.stderr, line(h.name, r, attrs))
	return err
}

// priority is the journal's for a level of slog, syslog(3).
func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

// fields makes journal fields of attributes; those whose names cannot be fields are left out.
func fields(attrs []slog.Attr) map[string]string {
	out := map[string]string{}
	for _, a := range attrs {
		if name := fieldName(a.Key); name != "" {
			out[name] = value(a)
		}
	}
	return out
}

// fieldName is the field for an attribute: capital letters, digits and underscores, not beginning with a digit or an underscore.
func fieldName(key string) string {
	switch key {
	case "backup", "module", "run":
		return strings.ToUpper(key) + "_ID"
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
	name = strings.TrimLeft(name, "_0123456789")
	if len(name) > 64 || name == "MESSAGE" || name == "PRIORITY" {
		return ""
	}
	return name
}

// maxValueBytes bounds one value, and a message.
const maxValueBytes = 16 << 10

func value(a slog.Attr) string {
	if secret(a.Key) {
		return "***"
	}
	return bounded(a.Value.Resolve().String())
}

// bounded makes text valid UTF-8 that is not too long.
func bounded(s string) string {
	if len(s) > maxValueBytes {
		s = strings.ToValidUTF8(s[:maxValueBytes], "") + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// secret tells whether a key's name says that its value is one.
func secret(key string) bool {
	key = strings.ToLower(key)
	for _, end := range []string{"key", "pass", "password", "secret", "token"} {
		if strings.HasSuffix(key, end) {
			return true
		}
	}
	return false
}

// line is a record for people. What the message says already, the IDs of the event and of the run, is left out.
func line(name string, r slog.Record, attrs []slog.Attr) string {
	var b strings.Builder
	b.WriteString(name + ": ")
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(bounded(r.Message))
	for _, a := range attrs {
		switch a.Key {
		case "message_id", "run", "backup", "module":
			continue
		}
		v := value(a)
		if v == "" {
			continue
		}
		if strings.ContainsFunc(v, func(r rune) bool { return r == '"' || unicode.IsSpace(r) || unicode.IsControl(r) }) {
			v = strconv.Quote(v)
		}
		b.WriteString(" " + a.Key + "=" + v)
	}
	return oneLine(b.String()) + "\n"
}

// oneLine keeps hostile text from forging lines or driving a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
