package config

import (
	"os"
	"path/filepath"
	"strconv"
)

// Paths are the folders of one installation: the system's, or a user's own.
type Paths struct {
	User   bool     // of `--user`
	Config []string // layers, lowest first; or the one file or folder of --config
	State  string   // records: status/, runs/, running/
	Lock   string   // lock files
	Tokens string   // run tokens for the gateway, on a tmpfs
	Socket string   // the gateway's unix socket
	Cache  string   // restic's caches, one folder a repository
	Units  string   // where install-units writes
	Memory string   // links to memory, where nothing better can be had; on a tmpfs
	Remote string   // file with the URL that the configuration of this host is fetched from; where there is none, it is here
}

// SystemPaths are those of the system, file-hierarchy(7).
func SystemPaths() Paths {
	return Paths{
		Config: []string{"/usr/lib/sdbackup", "/run/sdbackup", "/etc/sdbackup"},
		State:  "/var/lib/sdbackup",
		Lock:   "/run/lock/sdbackup",
		Tokens: "/run/sdbackup/tokens",
		Socket: "/run/sdbackup/gateway.sock",
		Cache:  "/var/cache/sdbackup",
		Units:  "/etc/systemd/system",
		Remote: "/etc/sdbackup/remote.url",
	}
}

// UserPaths are those of the calling user, by the XDG base directory specification.
func UserPaths(getenv func(string) string) Paths {
	home := getenv("HOME")
	dir := func(name, fallback string) string {
		if d := getenv(name); filepath.IsAbs(d) { // relative ones are to be ignored, says the specification
			return d
		}
		return fallback
	}
	runtime := dir("XDG_RUNTIME_DIR", filepath.Join("/run/user", strconv.Itoa(os.Getuid())))
	config := dir("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	return Paths{
		User:   true,
		Config: []string{filepath.Join(config, "sdbackup")},
		State:  filepath.Join(dir("XDG_STATE_HOME", filepath.Join(home, ".local/state")), "sdbackup"),
		Lock:   filepath.Join(runtime, "sdbackup"),
		Tokens: filepath.Join(runtime, "sdbackup/tokens"),
		Socket: filepath.Join(runtime, "sdbackup/gateway.sock"),
		Cache:  filepath.Join(dir("XDG_CACHE_HOME", filepath.Join(home, ".cache")), "sdbackup"),
		Units:  filepath.Join(config, "systemd/user"),
		Memory: filepath.Join(runtime, "sdbackup/memory"),
		Remote: filepath.Join(config, "sdbackup/remote.url"),
	}
}
