package units

import (
	"cmp"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// The settings of a service by their names in unit files, with values as in TOML, so that those of the configuration simply
// take the place of ours.
//
// A module's program reads files, writes to its repository and cache, and talks to networks. But it also runs the module's
// hooks, about which nothing is known: for root, who may have reasons to use devices, set-user-ID programs and capabilities,
// only what reaches the kernel and other services is closed. An unprivileged user gets no privileges beyond what reading needs.

// accounting is what the figures of a service come from.
func accounting() map[string]any {
	return map[string]any{
		"CPUAccounting": true, "MemoryAccounting": true, "IOAccounting": true, "TasksAccounting": true,
	}
}

// hiding are settings that hide folders, the folders that each hides, and what to do where something in them is needed.
var hiding = []struct {
	name     string
	folders  []string
	fallback any // nil: leave the setting out
}{
	{"ProtectHome", []string{"/home", "/root", "/run/user"}, "read-only"}, // ProtectSystem=strict does not cover these
	{"PrivateTmp", []string{"/tmp", "/var/tmp"}, nil},
	{"ProtectKernelModules", []string{"/usr/lib/modules", "/lib/modules"}, nil},
}

// additive are settings that add to ours rather than replace it.
var additive = []string{"ReadWritePaths"}

// settings are the sandbox, accounting and limits of the service.
func (s Service) settings(user bool, resolve func(string) string) ([]sd.Property, error) {
	all := accounting()
	all["Slice"] = cmp.Or(s.Slice, DefaultSlice)
	all["UMask"] = "0077"
	all["LimitCORE"] = int64(0) // restic has the secrets in memory
	all["OOMPolicy"] = "stop"   // the program itself gets the chance to clean up when a child of it was killed
	if !user && !s.Unconfined {
		// A manager of a user has not the privileges that a sandbox takes.
		maps.Copy(all, s.sandbox(resolve))
	}
	for name, value := range s.Properties {
		ours, ok := all[name].([]any)
		if !ok || !slices.Contains(additive, name) {
			all[name] = value
			continue
		}
		list, err := parseWords(value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, word := range list {
			ours = append(ours, word)
		}
		all[name] = ours
	}
	var list []sd.Property
	for _, name := range slices.Sorted(maps.Keys(all)) {
		p, err := ParseProperty(name, all[name])
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// sandbox is the sandbox of a service of the system.
func (s Service) sandbox(resolve func(string) string) map[string]any {
	var needed []string
	for _, path := range slices.Concat(s.Argv[:1], []string{s.WorkingDirectory}, s.ReadPaths, s.ReadWritePaths) {
		if path != "" {
			needed = append(needed, filepath.Clean(path), resolve(path))
		}
	}
	all := map[string]any{
		"ProtectSystem":           "strict",
		"ProtectKernelTunables":   true,
		"ProtectKernelLogs":       true,
		"ProtectControlGroups":    true,
		"ProtectHostname":         true,
		"RestrictRealtime":        true,
		"RestrictSUIDSGID":        true,
		"LockPersonality":         true,
		"SystemCallArchitectures": "native",
		"RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
	}
	writable := []any{}
	for _, path := range s.ReadWritePaths {
		writable = append(writable, "-"+filepath.Clean(path)) // that one is missing is for the program to say
	}
	for _, h := range hiding {
		switch {
		case !touches(needed, h.folders):
			all[h.name] = true
		case h.fallback != nil:
			all[h.name] = h.fallback
		case h.name == "PrivateTmp": // there must be a place for temporary files
			writable = append(writable, "/tmp", "/var/tmp")
		}
	}
	all["ReadWritePaths"] = writable
	if s.unprivileged() {
		all["NoNewPrivileges"] = true
		all["ProtectClock"] = true // allows no devices but pseudo ones, too
		all["CapabilityBoundingSet"] = ""
		if s.ReadAll {
			all["CapabilityBoundingSet"], all["AmbientCapabilities"] = "CAP_DAC_READ_SEARCH", "CAP_DAC_READ_SEARCH"
		}
		if allowed, err := parseBool(s.Properties["NoNewPrivileges"]); err == nil && allowed == false {
			// For a user without privileges every filter of system calls implies NoNewPrivileges=, systemd.exec(5).
			for _, name := range filters {
				delete(all, name)
			}
			// And a program that changes the user has no use for the capabilities of nobody.
			delete(all, "CapabilityBoundingSet")
		}
	}
	return all
}

// filters are those of our settings that are, at least partly, filters of system calls.
var filters = []string{
	"ProtectClock", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
	"RestrictAddressFamilies", "RestrictRealtime", "RestrictSUIDSGID", "LockPersonality", "SystemCallArchitectures",
}

func (s Service) unprivileged() bool { return s.User != "" && s.User != "root" && s.User != "0" }

// touches tells whether any path is in one of the folders, or around one.
func touches(paths, folders []string) bool {
	return slices.ContainsFunc(paths, func(p string) bool {
		return slices.ContainsFunc(folders, func(f string) bool { return isBelow(p, f) || isBelow(f, p) })
	})
}

// isBelow tells whether the path is the folder, or in it.
func isBelow(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}
