package restserver

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Lines of files of users that others have made.
const (
	shaLine    = "sha:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="                               // password
	bcryptLine = "bcrypt:$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga" // allmine; from the tests of golang.org/x/crypto
)

// cheapLine makes failures cheap: without a bcrypt in the file, they cost as much as one of the usual cost.
const cheapLine = "cheap:$2a$04$laRtchC8JgRLejrdN8s3MOpfUgzbZ9N9haY.Icb671/FEywU2Aat6" // pw

// bcryptOf makes a line of a cheap hash.
func bcryptOf(tb testing.TB, user, password string) string {
	tb.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		tb.Fatal(err)
	}
	return user + ":" + string(hash)
}

func shaOf(user, password string) string {
	sum := sha1.Sum([]byte(password))
	return user + ":{SHA}" + base64.StdEncoding.EncodeToString(sum[:])
}

func writeUsers(tb testing.TB, lines ...string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "htpasswd")
	if err := os.WriteFile(path, []byte(strings.Join(append(lines, cheapLine), "\n")), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func TestValidate(t *testing.T) {
	bad := strings.TrimPrefix(bcryptLine, "bcrypt:")
	path := writeUsers(
		t, "# a comment", "", shaLine, "  "+bcryptOf(t, "bob", "colon: and space "), bcryptOf(t, "Jörg.x_y-z@host", "ü"),
		strings.Replace(bcryptOf(t, "y", "pw"), "$2a$", "$2y$", 1), strings.Replace(bcryptOf(t, "b", "pw"), "$2a$", "$2b$", 1),
		bcryptOf(t, "twice", "first"), bcryptOf(t, "twice", "second")+"\r", bcryptOf(t, "empty", ""),
		bcryptOf(t, "a b", "pw"), ":pw", "nothing", "md5:$apr1$x$0123456789abcdefghijkl", "plain:plain", "sha2:{SHA}tooshort", "none:",
		"short:"+bad[1:], "cost:"+strings.Replace(bad, "$10$", "$99$", 1),
	)
	var text bytes.Buffer
	h, err := NewHtpasswd(path, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user, password string
		ok             bool
	}{
		{"sha", "password", true},
		{"sha", "Password", false},
		{"sha", "", false},
		{"sha", "W6ph5Mm5Pz8GgiULbPgzG37mj9g=", false},
		{"bob", "colon: and space ", true},
		{"bob", "colon: and space", false},
		{"Jörg.x_y-z@host", "ü", true},
		{"y", "pw", true},
		{"b", "pw", true},
		{"twice", "second", true},
		{"twice", "first", false},
		{"empty", "", true},
		{"empty", "x", false},
		{"a b", "pw", false},
		{"", "pw", false},
		{"", "", false},
		{"nothing", "", false},
		{"md5", "pw", false},
		{"plain", "plain", false},
		{"sha2", "", false},
		{"none", "", false},
		{"short", "allmine", false},
		{"cost", "allmine", false},
		{"nobody", "pw", false},
		{"# a comment", "", false},
	} {
		for range 2 { // the second from what is remembered
			if ok := h.Validate(c.user, c.password); ok != c.ok {
				t.Errorf("Validate(%q, %q) = %v; want %v", c.user, c.password, ok, c.ok)
			}
		}
	}
	if n := strings.Count(text.String(), "skipped a line"); n != 9 || !strings.Contains(text.String(), "line=11") {
		t.Errorf("%d lines were said to be skipped; want 9, the first of them line 11:\n%s", n, text.String())
	}
	if strings.Contains(text.String(), "apr1") {
		t.Errorf("the log has a password's hash:\n%s", text.String())
	}
}

// TestReload has the file change, in good ways and bad. Time is synctest's.
func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := writeUsers(t, shaOf("old", "pw"))
		var text bytes.Buffer
		h, err := NewHtpasswd(path, slog.New(slog.NewTextHandler(&text, nil)))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		// change gives the file a content and another time, waits until it is looked at again, and tells who may log in.
		change := func(content string) string {
			t.Helper()
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			n++
			when := time.Now().Add(time.Duration(n) * time.Second)
			if err := os.Chtimes(path, when, when); err != nil {
				t.Fatal(err)
			}
			time.Sleep(CheckInterval)
			_ = h.Validate("old", "pw") // looks at the file
			var in []string
			for _, user := range []string{"old", "new", "third"} {
				if _, exists := h.users.hashes[user]; exists && h.Validate(user, "pw") {
					in = append(in, user)
				}
			}
			return strings.Join(in, " ")
		}
		if got := change(cheapLine + "\n" + shaOf("old", "pw") + "\n" + shaOf("new", "pw")); got != "old new" {
			t.Errorf("a user more: %q", got)
		}
		if got := change("\x00\xff garbage\n:\n"); got != "old new" {
			t.Errorf("a file of garbage: %q; want those of before", got)
		}
		if got := change(strings.Repeat("x", 1<<20)); got != "old new" {
			t.Errorf("an endless line: %q; want those of before", got)
		}
		if n := strings.Count(text.String(), "stay as they were"); n != 1 {
			t.Errorf("the failure is said %d times; want once:\n%s", n, text.String())
		}
		if got := change("garbage\n" + cheapLine + "\n" + shaOf("new", "pw")); got != "new" {
			t.Errorf("a line of garbage: %q; want the rest", got)
		}
		if got := change("# nobody any more\n"); got != "" {
			t.Errorf("a file without users: %q; want none", got)
		}
		if got := change(cheapLine + "\n" + shaOf("third", "pw")); got != "third" {
			t.Errorf("another file: %q", got)
		}
		if err := os.Rename(path, path+"~"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(CheckInterval)
		if !h.Validate("third", "pw") || h.Reload() == nil {
			t.Error("without a file, want the users of before, and an error of Reload")
		}
		// Another file of the same size and time, as of rsync.
		info, _ := os.Stat(path + "~")
		if err := os.WriteFile(path, []byte(cheapLine+"\n"+shaOf("other", "pw")), 0o600); err != nil {
			t.Fatal(err)
		}
		_ = os.Chtimes(path, info.ModTime(), info.ModTime())
		time.Sleep(CheckInterval)
		if h.Validate("third", "pw") || !h.Validate("other", "pw") {
			t.Error("another file of the same size and time was not seen")
		}
		// Within the interval it is not looked at, but when it is told so.
		if err := os.WriteFile(path, []byte(cheapLine+"\n"+shaOf("old", "pw")), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(CheckInterval - time.Second)
		if h.Validate("old", "pw") {
			t.Error("the file was read before its time")
		}
		if err := h.Reload(); err != nil || !h.Validate("old", "pw") {
			t.Errorf("Reload: %v", err)
		}
	})
}

func TestNewHtpasswd(t *testing.T) {
	h, err := NewHtpasswd(writeUsers(t, bcryptLine, shaLine), nil)
	if err != nil || !h.Validate("bcrypt", "allmine") || !h.Validate("sha", "password") {
		t.Errorf("of others: %v", err)
	}
	if _, err := NewHtpasswd(filepath.Join(t.TempDir(), "missing"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	path := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(path, []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if h, err = NewHtpasswd(path, nil); err != nil || len(h.users.hashes) > 0 { // rest-server starts, too
		t.Errorf("of garbage: %v", err)
	}
}

// TestPasswordsAreRemembered counts what costs a bcrypt.
func TestPasswordsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var costs atomic.Int32
		line := bcryptOf(t, "bob", "pw")
		hash, _ := parseHash(strings.TrimPrefix(line, "bob:"))
		u, err := newUsers(map[string]passwordHash{"bob": hash})
		if err != nil {
			t.Fatal(err)
		}
		u.compare = func(hash, password []byte) error {
			costs.Add(1)
			time.Sleep(100 * time.Millisecond)
			return bcrypt.CompareHashAndPassword(hash, password)
		}
		for _, c := range []struct {
			what           string
			after          time.Duration
			user, password string
			ok             bool
			costs          int32
		}{
			{"first", 0, "bob", "pw", true, 1},
			{"again", PasswordCacheDuration - time.Second, "bob", "pw", true, 0},
			{"its time was extended", PasswordCacheDuration - time.Second, "bob", "pw", true, 0},
			{"after its time", PasswordCacheDuration + time.Second, "bob", "pw", true, 1},
			{"wrong", 0, "bob", "wp", false, 1},
			{"wrong again", 0, "bob", "wp", false, 1},
			{"the right one is still known", 0, "bob", "pw", true, 0},
			{"a user there is not costs the same", 0, "eve", "pw", false, 1},
		} {
			time.Sleep(c.after)
			costs.Store(0)
			if ok := u.validate(c.user, c.password, time.Now); ok != c.ok || costs.Load() != c.costs {
				t.Errorf("%s: %v, for %d bcrypts; want %v, for %d", c.what, ok, costs.Load(), c.ok, c.costs)
			}
		}
		// Many at once.
		time.Sleep(2 * PasswordCacheDuration)
		costs.Store(0)
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				if password := []string{"pw", "wp"}[i%2]; u.validate("bob", password, time.Now) != (password == "pw") {
					t.Errorf("%s", password)
				}
			})
		}
		wg.Wait()
		if costs.Load() != 2 {
			t.Errorf("64 at once cost %d bcrypts; want one for each password", costs.Load())
		}
		if len(u.known) != 1 || len(u.busy) != 0 {
			t.Errorf("%d passwords are remembered, %d in the works", len(u.known), len(u.busy))
		}
	})
}

// TestNobodySharesAVerification has a user and a password that together read the same as others do.
func TestNobodySharesAVerification(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hash, _ := parseHash(strings.TrimPrefix(bcryptOf(t, "a", "b\x00c"), "a:"))
		u, err := newUsers(map[string]passwordHash{"a": hash})
		if err != nil {
			t.Fatal(err)
		}
		u.compare = func(hash, password []byte) error {
			time.Sleep(time.Second)
			return bcrypt.CompareHashAndPassword(hash, password)
		}
		var right, wrong bool
		go func() { right = u.validate("a", "b\x00c", time.Now) }()
		synctest.Wait()
		go func() { wrong = u.validate("a\x00b", "c", time.Now) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if !right || wrong {
			t.Errorf("who is a user: %v; who is none: %v", right, wrong)
		}
	})
}

func FuzzHtpasswd(f *testing.F) {
	for _, text := range []string{shaLine, bcryptLine, "", "# x", "a:b", shaLine + "\r\n\n  " + bcryptLine, "x:{SHA}", ":", "\xff:\x00", "x:$2a$31$" + strings.Repeat(".", 53)} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hashes, skipped, err := parseHtpasswd(strings.NewReader(text))
		if err != nil {
			if len(text) < bufio.MaxScanTokenSize { // else a line may be too long
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		lines := strings.Split(text, "\n")
		for _, s := range skipped {
			if s.line < 1 || s.line > len(lines) || s.why == "" {
				t.Errorf("%q: line %d is skipped: %q", text, s.line, s.why)
			}
		}
		if len(hashes)+len(skipped) > len(lines) {
			t.Errorf("%q: %d users and %d skipped of %d lines", text, len(hashes), len(skipped), len(lines))
		}
		for user, hash := range hashes {
			if user == "" || strings.ContainsAny(user, ":/\x00\n \t") {
				t.Errorf("%q: user %q", text, user)
			}
			// What is taken as a hash is one: bcrypt knows it, too.
			if hash.cost > 0 {
				if cost, err := bcrypt.Cost(hash.text); err != nil || cost != hash.cost {
					t.Errorf("%q: hash %q: %d, %v", text, hash.text, cost, err)
				}
			} else if len(hash.sha) != sha1.Size {
				t.Errorf("%q: {SHA} of %d bytes", text, len(hash.sha))
			}
			// A user alone in a file is the same one.
			if hash.cost == 0 {
				again, _, _ := parseHtpasswd(strings.NewReader(fmt.Sprintf("%s:{SHA}%s", user, base64.StdEncoding.EncodeToString(hash.sha))))
				if !bytes.Equal(again[user].sha, hash.sha) {
					t.Errorf("%q: user %q is lost when written again", text, user)
				}
			}
		}
	})
}
