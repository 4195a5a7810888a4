// Package restore finds what can be restored and restores it: into a new folder, or where the module lives, by way of internal/exchange.
//
// A repository is reached as backups reach it, directly or through the gateway, but with a token that can only read. What belongs together
// is a Point: the snapshot of a module's files and those of its dumps, which one run has saved. Before a byte is written, Check looks
// for all that could stand in the way, and tells it at once.
//
// Restic restores; this package sees to what its older versions do not do: holes in sparse files (before 0.15), and extended attributes
// security.*, which are about the system that was saved and stay away (before 0.18). With Verify, restic reads the content again and this
// package compares type, size, time, mode and owner with what the snapshot says.
package restore

import (
	"log/slog"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/units"
)

// Restorer restores from the destinations of a configuration.
type Restorer struct {
	Config *config.Config
	Paths  config.Paths
	Getenv func(string) string
	Now    func() time.Time
	Log    *slog.Logger
	Units  *units.Conn // nil: no service manager can be reached
	Exe    string      // path of restore-backup, for a service
}

// parallel is how many repositories, or questions to a gateway, are under way at a time.
const parallel = 8
