package config

import (
	"fmt"
	"time"
)

// Config is what all files of one configuration say together. Items that have errors are in it as far as they could
// be read, so that one broken item does not hide the others; Problems says what is wrong with which.
type Config struct {
	Node         Node
	Metrics      Metrics
	Gateway      Gateway
	Serve        Serve
	Destinations map[string]*Destination
	Modules      map[string]*Module
	Backups      map[string]*Backup
	Remotes      map[string]*Remote
	Files        []string // the files that were read, lowest layer first
	Problems     []Problem

	places map[string]Position // of tables and keys, by their dotted names
}

// Position is where an item or a key stands.
type Position struct {
	File string
	Line int // from 1; 0: the file as a whole
}

func (p Position) String() string {
	if p.Line == 0 {
		return shown(p.File)
	}
	return fmt.Sprintf("%s:%d", shown(p.File), p.Line)
}

// Kind is the kind of table a Problem is about.
type Kind string

// The tables of the grammar; KindFile stands for a file, or a part of it, of which nobody knows what it was to define.
const (
	KindFile        Kind = "file"
	KindNode        Kind = "node"
	KindMetrics     Kind = "metrics"
	KindGateway     Kind = "gateway"
	KindDestination Kind = "destination"
	KindModule      Kind = "module"
	KindBackup      Kind = "backup"
	KindServe       Kind = "serve"
	KindRemote      Kind = "remote"
)

// Problem is one thing wrong with the configuration, printed as `file:line: key: what is wrong, what would be right`.
type Problem struct {
	Position
	Kind    Kind
	ID      string // of the destination, module or backup; else ""
	Key     string // dotted, as in `backup.1.retention.keep-last`; "" for a whole file
	Message string
	Warning bool // a warning stops nothing
}

// Node is the [node] table.
type Node struct {
	Name string // default: the host name; restic's --host

	// Of the copy of the configuration that runs leave at their destinations; without a passphrase there is none.
	UUID                 string // default: made from machine-id(5)
	PassphraseFile       string // of mode 0600 or stricter
	PassphraseCredential string // or: name of a systemd credential
}

// Metrics is the [metrics] table.
type Metrics struct {
	TextfileDir string // node_exporter's --collector.textfile.directory; "" writes no metrics
}

// Destination is a [destination.ID] table: where backups go.
type Destination struct {
	Position
	ID                 string
	Name               string
	Repository         string  // prefix of restic repositories, in restic's own notation
	PasswordFile       string  // of mode 0600 or stricter
	PasswordCredential string  // or: name of a systemd credential
	EnvironmentFile    string  // NAME=value lines for restic's environment; "" for none
	Bucket             *Bucket // where modules of engine files are saved; nil: none are

	Gateway          bool          // modules reach it through the gateway; default: where the repository is of rclone's
	UUID             string        // that backup-destination knows it by; "" for none
	RcloneConfig     string        // rclone.conf with the remote that the repository names
	RcloneCredential string        // or: name of a systemd credential with it
	MaxSize          int64         // bytes that its repositories may take together; 0: no limit
	KeepDeleted      time.Duration // how long what was deleted is kept; 0: not at all
}

// Bucket is what a [destination.ID] table says of an S3 bucket.
type Bucket struct {
	Name         string `json:"name"`
	Endpoint     string `json:"endpoint,omitempty"` // URL; "": Amazon's
	Region       string `json:"region,omitempty"`
	StorageClass string `json:"storage_class,omitempty"`
	Retain       string `json:"retain,omitempty"` // by Object Lock, as in "30d"; "": not
}

// The engines: what saves a module.
const (
	EngineRestic = "restic"
	EngineFiles  = "files" // sdbackup/filebackup
)

// Module is a [module.ID] table: one application instance with data to save.
type Module struct {
	Position
	ID           string
	Engine       string   // default EngineRestic
	Pipeline     []string // of engine files: what is done to its files; default compress, encrypt
	Type         string
	UUID         string
	UIName       string
	User         string // default root, in a user's configuration that user
	Group        string // default: the user's
	Directory    string // relative includes start here; the working directory of hooks
	Include      []string
	Exclude      []string
	DumpState    []string // argument vector; nil for none
	CleanupState []string
	Dumps        []Dump
	RequireMount []string       // paths that must be mount points before anything is saved
	MinFiles     int            // fewer files than that in a snapshot means failed
	OnPartial    string         // "fail" (default) or "warn"
	ReadAll      bool           // CAP_DAC_READ_SEARCH
	Resources    map[string]any // systemd properties for the module's service, as TOML gives them
	Units        []string       // that use its files: stopped while they are restored in place
	RestoreState []string       // argument vector of what makes the application take what was restored; nil for none
	Drill        Drill

	// Kept by the gateway, of a destination that it serves.
	MaxSize       int64 // bytes that a repository may take; 0: no limit
	UploadLimit   int64 // bytes per second; 0: no limit
	DownloadLimit int64
}

// Drill is a [module.ID.drill] table: a restore for practice. The zero value is none.
type Drill struct {
	Schedule []string // systemd OnCalendar expressions
	Sample   int64    // bytes, about, of files picked at random; 0: everything
	Command  []string // is given what was restored and says by its exit code whether it is good; nil for none
}

// Dump is a [[module.ID.dump]] table: a program whose output becomes a file in a snapshot.
type Dump struct {
	Command  []string
	Filename string // name of that file in the snapshot, without a slash
}

// Backup is a [backup.ID] table: a schedule, a destination, modules and a retention.
type Backup struct {
	Position
	ID                string
	Of                string   // where Job made it, of a check or drill: the backup that it is of
	Name              string   // default "Backup ID"
	Schedule          []string // systemd OnCalendar expressions
	RandomizedDelay   time.Duration
	RandomizedOffset  time.Duration
	Accuracy          time.Duration // AccuracyUSec; default 1m
	Persistent        bool          // default true
	Destination       string        // ID
	Modules           []string      // IDs, in the order in which they are saved
	MaxParallel       int           // default 1
	RetryInterval     time.Duration // default 60s
	RetryTimeout      time.Duration // default 1h
	Timeout           time.Duration // wall clock of one attempt of a module; default 24h, 0: none
	NoProgressTimeout time.Duration // of an attempt whose bytes and files stand still; default 1h, 0: none
	PruneInterval     time.Duration // default 7d
	Enabled           bool          // default true
	Retention         Retention
	Check             Check
	OnSuccess         []string // hooks: argument vectors; nil for none
	OnFailure         []string
	OnConflict        []string
	OnPartial         []string
	PingURL           string
}

// Check is a [backup.ID.check] table: restic-check(1) of its modules' repositories. The zero value is none.
type Check struct {
	Schedule       []string // systemd OnCalendar expressions
	ReadDataSubset int      // n: every check reads an n-th of the data, another one each time; 0: none of it
}

// Retention is which snapshots to keep, in the words of restic-forget(1). The zero value keeps everything.
type Retention struct {
	KeepLast, KeepHourly, KeepDaily, KeepWeekly, KeepMonthly, KeepYearly int
	KeepWithin                                                           string // restic's duration, as in "1y5m7d2h"
}

// IsZero tells whether every snapshot is kept.
func (r Retention) IsZero() bool { return r == Retention{} }
