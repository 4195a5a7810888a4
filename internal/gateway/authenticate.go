package gateway

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/token"
)

// peerKey is the context's key for the *unix.Ucred of the peer of a unix socket.
type peerKey struct{}

// ConnContext is for http.Server.ConnContext: it notes who is at the other end of a unix socket.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var peer *unix.Ucred
	if raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }) != nil || err != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer)
}

// passwords judges users and passwords; a *restserver.HtpasswdFile does.
type passwords interface {
	Validate(user, password string) bool
}

// authenticator finds out who makes a request.
type authenticator struct {
	tokens    token.Store
	now       func() time.Time
	log       *slog.Logger
	failures  throttle
	onFailure func() // counts
}

// authenticate returns who makes the request; false when nobody who is known does. What is presented counts, in this order: user and
// password, or a run token in place of the password; the certificate; the peer of the unix socket.
func (a *authenticator) authenticate(r *http.Request, st *state) (token.Principal, bool) {
	// From 0.17 on restic that has no password sends an empty one.
	if name, password, ok := r.BasicAuth(); ok && name+password != "" {
		p, ok := a.login(name, password, st)
		if !ok {
			a.refuse(r, name)
		}
		return p, ok
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		name := r.TLS.VerifiedChains[0][0].Subject.CommonName
		p, ok := named(st.cfg, name)
		if !ok {
			a.refuse(r, "certificate "+strconv.Quote(name))
		}
		return p, ok
	}
	if peer, ok := r.Context().Value(peerKey{}).(*unix.Ucred); ok {
		if p, ok := st.ofUID(peer.Uid); ok {
			return p, true
		}
	}
	return token.Principal{}, false // a client that asks first what is wanted has not failed
}

func (a *authenticator) login(name, password string, st *state) (token.Principal, bool) {
	if p, ok := a.tokens.Lookup(password, a.now()); ok {
		return p, p.Name == name
	}
	if st.users == nil || !st.users.Validate(name, password) {
		return token.Principal{}, false
	}
	if name == metricsUser {
		return token.Principal{Name: name}, true
	}
	return named(st.cfg, name)
}

// metricsUser may read /metrics and nothing else, as with rest-server.
const metricsUser = "metrics"

// refuse logs a failure and holds up whoever fails again and again.
func (a *authenticator) refuse(r *http.Request, name string) {
	address := remote(r)
	n, wait := a.failures.fail(address, a.now())
	a.onFailure()
	a.log.Warn("authentication failed", "address", address, "user", name, "failures", n)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	}
}

// remote is the address of the client, without its port: that of a unix socket is its user.
func remote(r *http.Request) string {
	if peer, ok := r.Context().Value(peerKey{}).(*unix.Ucred); ok {
		return "uid " + strconv.Itoa(int(peer.Uid))
	}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		return host
	}
	return r.RemoteAddr
}

// named returns the principal of a name: a node, or a module.
func named(cfg *config.Config, name string) (token.Principal, bool) {
	if name == "" {
		return token.Principal{}, false
	}
	if name == cfg.Node.Name || slices.Contains(cfg.Gateway.Nodes, name) {
		return token.Principal{Name: name, Node: true}, true
	}
	m := cfg.Modules[name]
	if m == nil {
		return token.Principal{}, false
	}
	return token.Principal{Name: name, Grants: grants(cfg, m)}, true
}

// ofUID returns the principal of a local user: root, and who runs the gateway, is the node; anybody else is the modules that run as that
// user.
func (st *state) ofUID(uid uint32) (token.Principal, bool) {
	if uid == 0 || uid == uint32(unix.Geteuid()) {
		return token.Principal{Name: st.cfg.Node.Name, Node: true}, true
	}
	ids := st.modulesOf(uid, time.Now())
	p := token.Principal{Name: "uid " + strconv.Itoa(int(uid))}
	for _, id := range ids {
		p.Name = id
		p.Grants = append(p.Grants, grants(st.cfg, st.cfg.Modules[id])...)
	}
	return p, len(p.Grants) > 0
}

// usersInterval is how often users are looked up anew for one that is unknown: it may have been made since.
const usersInterval = 5 * time.Second

// modulesOf returns the modules that run as a user.
func (st *state) modulesOf(uid uint32, now time.Time) []string {
	st.uidMu.Lock()
	defer st.uidMu.Unlock()
	if ids, known := st.byUID[uid]; known || now.Sub(st.uidsRead) < usersInterval {
		return ids
	}
	st.byUID, st.uidsRead = map[uint32][]string{}, now
	for _, id := range st.cfg.ModuleIDs() {
		m := st.cfg.Modules[id]
		if u, err := module.LookupUser(m.User, m.Group); err == nil {
			st.byUID[u.UID] = append(st.byUID[u.UID], id)
		}
	}
	return st.byUID[uid]
}

// grants are what a module may always use: its repository at the destinations of the backups that save it.
func grants(cfg *config.Config, m *config.Module) []token.Grant {
	var list []token.Grant
	for _, id := range cfg.BackupIDs() {
		b := cfg.Backups[id]
		if d := cfg.Destinations[b.Destination]; d == nil || !d.Gateway || !slices.Contains(b.Modules, m.ID) {
			continue
		}
		if g := (token.Grant{Destination: b.Destination, Repository: m.Type + "/" + m.UUID, Mode: token.Add}); !slices.Contains(list, g) {
			list = append(list, g)
		}
	}
	return list
}

const (
	freeFailures = 3 // before an address is held up
	firstWait    = 250 * time.Millisecond
	maxWait      = 8 * time.Second
	forgetAfter  = 10 * time.Minute
	maxThrottled = 10000 // addresses that are remembered
)

// throttle counts the failures of addresses.
type throttle struct {
	mu   sync.Mutex
	seen map[string]failures
}

type failures struct {
	n    int
	last time.Time
}

// fail counts a failure and returns how many there were, and how long the answer is to be held back.
func (t *throttle) fail(address string, now time.Time) (int, time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen == nil {
		t.seen = map[string]failures{}
	}
	if len(t.seen) >= maxThrottled {
		for a, f := range t.seen {
			if now.Sub(f.last) > forgetAfter {
				delete(t.seen, a)
			}
		}
		if len(t.seen) >= maxThrottled { // an attack from everywhere: then everybody who fails waits
			address = ""
		}
	}
	f := t.seen[address]
	if now.Sub(f.last) > forgetAfter {
		f.n = 0
	}
	f.n++
	f.last = now
	t.seen[address] = f
	if f.n <= freeFailures {
		return f.n, 0
	}
	return f.n, min(firstWait<<min(f.n-freeFailures-1, 10), maxWait)
}
