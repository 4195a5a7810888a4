package restserver

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // {SHA} is what some files have
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/crypto/bcrypt"
)

const (
	// CheckInterval is how often a login looks whether the file of users has changed.
	CheckInterval = 30 * time.Second
	// PasswordCacheDuration is how long a password that was right is known to be, after its last use.
	PasswordCacheDuration = time.Minute
)

// HtpasswdFile is the users and passwords of a file as Apache's htpasswd makes it, with -B (bcrypt) or -s ({SHA}). It is safe for
// concurrent use.
type HtpasswdFile struct {
	path string
	log  *slog.Logger
	now  func() time.Time

	mu       sync.Mutex // of all below
	users    *users
	loaded   fs.FileInfo // of the file that the users are of
	checked  time.Time
	complain bool // about the next reload that fails; it has been said, if not
}

// users are those of one version of the file, with what is known of their passwords. Another version starts with nothing.
type users struct {
	hashes map[string]passwordHash
	dummy  []byte // a bcrypt hash of nobody's, as costly as the costliest in the file
	key    []byte // random: what is kept of a password is of no use elsewhere

	compare func(hash, password []byte) error // of bcrypt; a test counts

	mu    sync.Mutex
	known map[string]knownPassword // by user
	busy  map[[sha256.Size]byte]*verification
}

type knownPassword struct {
	digest  [sha256.Size]byte
	expires time.Time
}

// verification is one that is under way. Whoever comes with the same user and password waits for it.
type verification struct {
	done chan struct{}
	ok   bool
}

// NewHtpasswd reads a file of users. What is skipped of it, and reloads, are logged; log may be nil.
func NewHtpasswd(path string, log *slog.Logger) (*HtpasswdFile, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &HtpasswdFile{path: path, log: log, now: time.Now, complain: true}
	if err := h.Reload(); err != nil {
		return nil, err
	}
	return h, nil
}

// Reload reads the file again. The users and passwords stay as they were when it fails, also for a file in which every line is wrong;
// one that is empty, but for comments, has no users.
func (h *HtpasswdFile) Reload() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.reload()
}

func (h *HtpasswdFile) reload() error {
	f, err := os.Open(h.path)
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("read users: %w", err)
	}
	hashes, skipped, err := parseHtpasswd(f)
	if err != nil {
		return fmt.Errorf("read users of %s: %w", h.path, err)
	}
	if h.users != nil && len(hashes) == 0 && len(skipped) > 0 {
		return fmt.Errorf("read users of %s: no line names one, and line %d is wrong: %s", h.path, skipped[0].line, skipped[0].why)
	}
	for _, s := range skipped {
		h.log.Warn("skipped a line of the file of users: "+s.why, "path", h.path, "line", s.line)
	}
	fresh, err := newUsers(hashes)
	if err != nil {
		return err
	}
	h.users, h.loaded, h.complain = fresh, info, true
	return nil
}

// sameVersion tells that a file is neither another one nor written to since.
func sameVersion(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// ReloadCheck reads the file again if it is another one, or its time or size has changed; it looks at most once in CheckInterval. A failure is also logged,
// but only the first of several.
func (h *HtpasswdFile) ReloadCheck() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.now()
	if now.Sub(h.checked) < CheckInterval {
		return nil
	}
	h.checked = now
	info, err := os.Stat(h.path)
	if err == nil {
		if sameVersion(info, h.loaded) {
			return nil
		}
		err = h.reload()
	}
	switch {
	case err == nil:
		h.log.Info("read the users again", "path", h.path, "users", len(h.users.hashes))
	case h.complain:
		h.complain = false
		h.log.Error("the users and passwords stay as they were: "+err.Error(), "path", h.path)
	}
	return err
}

// Validate tells whether it is the user's password. It reads the file again as ReloadCheck does.
func (h *HtpasswdFile) Validate(user, password string) bool {
	_ = h.ReloadCheck() // has been logged
	h.mu.Lock()
	u, now := h.users, h.now
	h.mu.Unlock()
	return u.validate(user, password, now)
}

func newUsers(hashes map[string]passwordHash) (*users, error) {
	u := &users{
		hashes: hashes, key: make([]byte, sha256.Size), compare: bcrypt.CompareHashAndPassword,
		known: make(map[string]knownPassword), busy: make(map[[sha256.Size]byte]*verification),
	}
	_, _ = rand.Read(u.key) // never fails
	cost := 0
	for _, h := range hashes {
		cost = max(cost, h.cost)
	}
	if cost == 0 {
		cost = bcrypt.DefaultCost
	}
	var err error
	u.dummy, err = dummyHash(cost)
	return u, err
}

// dummyHash is a bcrypt hash of that cost. A real one would cost as much to make, and at the highest cost that takes days.
func dummyHash(cost int) ([]byte, error) {
	hash, err := bcrypt.GenerateFromPassword([]byte("nobody"), bcrypt.MinCost)
	if err != nil {
		return nil, fmt.Errorf("make a hash: %w", err)
	}
	copy(hash[4:6], fmt.Sprintf("%02d", cost)) // $2a$04$
	return hash, nil
}

// validate asks what is known first. Whoever fails has cost a bcrypt, so that the time does not tell who is a user.
func (u *users) validate(user, password string, now func() time.Time) bool {
	mac := hmac.New(sha256.New, u.key)
	_, _ = fmt.Fprintf(mac, "%d:%s%s", len(user), user, password) // no two pairs are the same text
	var digest [sha256.Size]byte
	mac.Sum(digest[:0])

	u.mu.Lock()
	if k, ok := u.known[user]; ok && now().Before(k.expires) && subtle.ConstantTimeCompare(k.digest[:], digest[:]) == 1 {
		k.expires = now().Add(PasswordCacheDuration)
		u.known[user] = k
		u.mu.Unlock()
		return true
	}
	v, busy := u.busy[digest]
	if busy {
		u.mu.Unlock()
		<-v.done
		return v.ok
	}
	v = &verification{done: make(chan struct{})}
	u.busy[digest] = v
	u.mu.Unlock()

	hash, exists := u.hashes[user]
	v.ok = exists && u.matches(hash, password)
	if !v.ok && hash.cost == 0 {
		_ = u.compare(u.dummy, []byte(password))
	}
	u.mu.Lock()
	delete(u.busy, digest)
	if v.ok {
		u.known[user] = knownPassword{digest, now().Add(PasswordCacheDuration)} // one for each user: it cannot grow
	}
	u.mu.Unlock()
	close(v.done)
	return v.ok
}

// passwordHash is what a file has in place of a password.
type passwordHash struct {
	sha  []byte // SHA-1
	text []byte // bcrypt
	cost int    // of bcrypt, or 0
}

func (u *users) matches(h passwordHash, password string) bool {
	if h.cost > 0 {
		return u.compare(h.text, []byte(password)) == nil
	}
	sum := sha1.Sum([]byte(password)) //nolint:gosec // see above
	return subtle.ConstantTimeCompare(sum[:], h.sha) == 1
}

// skippedLine is a line of a file of users that names none.
type skippedLine struct {
	line int // from 1
	why  string
}

// parseHtpasswd reads lines USER:HASH; the last of a user counts. Lines that are empty, but for space, or begin with # are comments.
func parseHtpasswd(r io.Reader) (hashes map[string]passwordHash, skipped []skippedLine, err error) {
	hashes = make(map[string]passwordHash)
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		user, text, _ := strings.Cut(string(line), ":")
		if !isUser(user) {
			skipped = append(skipped, skippedLine{n, "a user name has letters, digits and . _ - @ only, and a colon after it"})
			continue
		}
		hash, ok := parseHash(text)
		if !ok {
			skipped = append(skipped, skippedLine{n, "want a password as of htpasswd -B or -s"})
			continue
		}
		hashes[user] = hash
	}
	return hashes, skipped, lines.Err()
}

func isUser(name string) bool {
	for _, c := range name {
		if !unicode.IsLetter(c) && (c < '0' || c > '9') && !strings.ContainsRune("._-@", c) {
			return false
		}
	}
	return name != ""
}

func parseHash(text string) (passwordHash, bool) {
	if sum, ok := strings.CutPrefix(text, "{SHA}"); ok {
		sha, err := base64.StdEncoding.DecodeString(sum)
		return passwordHash{sha: sha}, err == nil && len(sha) == sha1.Size
	}
	if !strings.HasPrefix(text, "$2a$") && !strings.HasPrefix(text, "$2b$") && !strings.HasPrefix(text, "$2y$") {
		return passwordHash{}, false
	}
	if len(text) != bcryptLen || strings.Trim(text[bcryptSaltAt:], bcryptAlphabet) != "" {
		return passwordHash{}, false
	}
	cost, err := bcrypt.Cost([]byte(text))
	return passwordHash{text: []byte(text), cost: cost}, err == nil
}

// $2b$10$ and 53 of the alphabet: salt and hash.
const (
	bcryptLen      = 60
	bcryptSaltAt   = 7
	bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
)
