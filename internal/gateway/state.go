package gateway

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/restserver"
)

// state is one reading of the configuration, and what was made of it.
type state struct {
	cfg          *config.Config
	users        passwords
	destinations map[string]*destination
	modules      map[string]*config.Module // by TYPE/UUID
	limiters     map[string]*limiters      // by module
	mark         string                    // of the files as they were read

	uidMu    sync.Mutex
	byUID    map[uint32][]string // modules
	uidsRead time.Time
}

type limiters struct{ upload, download *rate.Limiter }

// checkInterval is how long a change of the configuration may go unnoticed.
const checkInterval = 250 * time.Millisecond

// current returns the state, made anew when the configuration has changed.
func (s *Server) current() *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := time.Now(); s.state == nil || now.Sub(s.checked) >= checkInterval {
		s.refresh()
		s.checked = time.Now()
	}
	return s.state
}

// fresh is current for a name that nobody knows: perhaps it was just added.
func (s *Server) fresh() *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refresh()
	return s.state
}

// refresh reads the configuration if any of its files has changed. What was made of a destination that has not changed is kept.
func (s *Server) refresh() {
	mark := s.mark()
	if s.state != nil && s.state.mark == mark {
		return
	}
	cfg := config.Load(s.Paths.Config, nil)
	next := &state{cfg: cfg, destinations: map[string]*destination{}, modules: map[string]*config.Module{}, limiters: map[string]*limiters{}, mark: mark}
	old := map[string]*destination{}
	if s.state != nil {
		old = maps.Clone(s.state.destinations)
	}
	for _, id := range cfg.DestinationIDs() {
		d := cfg.Destinations[id]
		if !d.Gateway {
			continue
		}
		secrets, err := s.secrets(d)
		bare := *d
		bare.Position = config.Position{} // that it moved within its file changes nothing
		// %#v, for with %v it would be printed by the method that it has of its Position: as a line of a file.
		key := fmt.Sprintf("%#v %s %v %v", bare, fileMark(secrets.rcloneConfig), secrets.environment, err)
		if was := old[id]; was != nil && was.key == key {
			next.destinations[id] = was
			delete(old, id)
			continue
		}
		problems := cfg.ErrorsOf(config.KindDestination, id)
		made := newDestination(d, secrets, key, filepath.Join(s.Paths.State, "gateway", id), problems, s.Log)
		if made.err == nil && err != nil {
			made.err = err
		}
		next.destinations[id] = made
	}
	for _, p := range cfg.Errors() {
		s.Log.Error("configuration: " + p.String())
		if p.Kind == config.KindFile {
			// Nobody knows what the file was to say: what it said before goes on.
			for id, d := range old {
				if next.destinations[id] == nil {
					next.destinations[id] = d
					delete(old, id)
				}
			}
		}
	}
	for id, m := range cfg.Modules {
		next.modules[m.Type+"/"+m.UUID] = m
		l := new(limiters)
		if m.UploadLimit > 0 {
			l.upload = newLimiter(m.UploadLimit)
		}
		if m.DownloadLimit > 0 {
			l.download = newLimiter(m.DownloadLimit)
		}
		next.limiters[id] = l
	}
	next.users = s.htpasswd(cfg)
	s.state = next
	for _, d := range old {
		go d.close()
	}
}

// htpasswd returns the users of the file that the configuration names; nil where it names none, or it was never readable.
func (s *Server) htpasswd(cfg *config.Config) passwords {
	path := cfg.Gateway.HtpasswdFile
	if path == "" {
		s.users = nil
		return nil
	}
	if s.users == nil || s.usersPath != path {
		users, err := restserver.NewHtpasswd(path, s.Log)
		if err != nil {
			s.Log.Error("read the users: " + err.Error())
			s.users = nil
			return nil
		}
		s.users, s.usersPath = users, path
	}
	return s.users
}

// secrets finds the secrets of a destination.
func (s *Server) secrets(d *config.Destination) (secrets, error) {
	out := secrets{rcloneConfig: d.RcloneConfig}
	if d.RcloneCredential != "" {
		found, err := module.FindCredential(d.RcloneCredential, s.Getenv)
		if err != nil {
			return out, err
		}
		if found.Encrypted {
			return out, fmt.Errorf("the credential %s is encrypted: add LoadCredentialEncrypted=%s to backup-gateway.service", d.RcloneCredential, d.RcloneCredential)
		}
		out.rcloneConfig = found.Path
	}
	for _, path := range []string{out.rcloneConfig, d.EnvironmentFile} {
		if path == "" {
			continue
		}
		if err := config.CheckSecretFile(path); err != nil {
			return out, err
		}
	}
	if d.EnvironmentFile != "" {
		env, err := module.ReadEnvironment(d.EnvironmentFile)
		if err != nil {
			return out, err
		}
		out.environment = env
	}
	return out, nil
}

// mark tells whether any file that the state was made of has changed.
func (s *Server) mark() string {
	var b strings.Builder
	for _, layer := range s.Paths.Config {
		b.WriteString(fileMark(layer))
		names, _ := filepath.Glob(filepath.Join(layer, "*.toml"))
		for _, name := range names {
			b.WriteString(fileMark(name))
		}
	}
	if s.state != nil {
		for _, d := range s.state.cfg.Destinations {
			b.WriteString(fileMark(d.RcloneConfig) + fileMark(d.EnvironmentFile))
		}
	}
	return b.String()
}

func fileMark(path string) string {
	if path == "" {
		return ""
	}
	info, err := os.Stat(path)
	if err != nil {
		return path + " " + err.Error() + "\n"
	}
	return fmt.Sprintln(path, info.Size(), info.ModTime().UnixNano(), inode(info))
}

// limits are the max-sizes that an upload to a repository is held against.
func (st *state) limits(d *destination, repository string) []limit {
	var list []limit
	if m := st.module(repository); m != nil && m.MaxSize > 0 {
		list = append(list, limit{repository, "the repository of module " + m.ID, m.MaxSize})
	}
	if d.MaxSize > 0 {
		list = append(list, limit{"", "the destination " + d.ID, d.MaxSize})
	}
	return list
}

// module returns whose repository it is, or whose repository it is in; nil when it is no module's of this configuration.
func (st *state) module(repository string) *config.Module {
	parts := strings.SplitN(repository, "/", 3)
	if len(parts) < 2 {
		return nil
	}
	return st.modules[parts[0]+"/"+parts[1]]
}

func (st *state) names() []string { return slices.Sorted(maps.Keys(st.destinations)) }

// snapshot returns a copy.
func (u *usage) snapshot() map[string]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.bytes)
}

func inode(info os.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
