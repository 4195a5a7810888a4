package module

import (
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/status"
)

// Plan is all that an attempt needs to know. run-backup hands it over on standard input, so that a run uses one reading
// of the configuration, and the module's user need not be able to read it. It holds no secret, only where they are.
type Plan struct {
	Run        string `json:"run_id"`
	Backup     string `json:"backup"`
	Module     string `json:"module"`
	Node       string `json:"node"` // restic --host
	Repository string `json:"repository"`

	// Files as the process that runs the plan can open them. Relative: in $CREDENTIALS_DIRECTORY.
	PasswordFile    string `json:"password_file"`
	EnvironmentFile string `json:"environment_file,omitempty"`
	RepositoryFile  string `json:"repository_file,omitempty"` // where the repository is, with a run token; "": Repository says it
	CACert          string `json:"ca_cert,omitempty"`         // certificates that vouch for the gateway; "": the system's
	CacheDir        string `json:"cache_dir"`
	LockFile        string `json:"lock_file"`

	Directory    string        `json:"directory"`
	Include      []string      `json:"include,omitempty"`
	Exclude      []string      `json:"exclude,omitempty"`
	DumpState    []string      `json:"dump_state,omitempty"`
	CleanupState []string      `json:"cleanup_state,omitempty"`
	Dumps        []config.Dump `json:"dumps,omitempty"`
	RequireMount []string      `json:"require_mount,omitempty"`
	MinFiles     int           `json:"min_files,omitempty"`
	OnPartial    string        `json:"on_partial,omitempty"`

	Files             *Files           `json:"files,omitempty"` // nil: of engine restic
	Check             *Check           `json:"check,omitempty"` // nil: the attempt saves
	Retention         config.Retention `json:"retention"`
	Gateway           bool             `json:"gateway,omitempty"`  // the repository is reached through it
	AddOnly           bool             `json:"add_only,omitempty"` // removing takes another attempt, with the node's rights
	PruneInterval     time.Duration    `json:"prune_interval"`
	Timeout           time.Duration    `json:"timeout"`
	NoProgressTimeout time.Duration    `json:"no_progress_timeout"`

	// What the records know.
	MayInit   bool              `json:"may_init"`            // no success is on record: the repository may be made when it is missing
	Snapshots []status.Snapshot `json:"snapshots,omitempty"` // of this module and backup, oldest first
	LastPrune time.Time         `json:"last_prune,omitzero"`
	Unclean   bool              `json:"unclean,omitempty"` // an attempt was killed since the last prune
	Saved     *status.Result    `json:"saved,omitempty"`   // an earlier attempt of this run saved the snapshots: only retention is left
}

// Progress is one report of how far an attempt is, a line of JSON on the same socket that the plan came by.
type Progress struct {
	Phase      string  `json:"phase"`   // "dump", "backup", "retention", "cleanup"
	Percent    float64 `json:"percent"` // 0 to 100; 0 while unknown
	BytesDone  uint64  `json:"bytes_done"`
	BytesTotal uint64  `json:"bytes_total"`
}
