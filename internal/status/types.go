package status

import "time"

// Outcome is how an attempt, a module or a run ended.
type Outcome string

// Worst is the verdict over several outcomes: failed before conflict before partial before success.
const (
	Unknown  Outcome = "unknown"  // nothing ended yet
	Success  Outcome = "success"  // saved, retention included
	Partial  Outcome = "partial"  // saved but for some unreadable files, and on-partial = "warn"; of a run, also: but for the node's copy
	Conflict Outcome = "conflict" // the module, or the backup, stayed locked to the end
	Failed   Outcome = "failed"
)

// Result is what one attempt to save one module came to: the JSON object that module-backup prints.
type Result struct {
	Module  string    `json:"module"`
	Backup  string    `json:"backup"`
	Run     string    `json:"run_id"`
	Outcome Outcome   `json:"outcome"`
	Error   string    `json:"error,omitempty"` // one sentence, without secrets
	Hint    string    `json:"hint,omitempty"`  // what the operator can do
	Retry   bool      `json:"retry,omitempty"` // failed for a reason that may pass: network, 5xx, a foreign lock
	Start   time.Time `json:"start"`
	End     time.Time `json:"end"`

	Repository string   `json:"repository,omitempty"`
	Snapshot   string   `json:"snapshot,omitempty"` // ID; "" when none was saved
	Dumps      []string `json:"dumps,omitempty"`    // snapshot IDs of [[dump]] outputs

	Files      uint64 `json:"files"`       // in the snapshots of this attempt
	SizeBytes  uint64 `json:"size_bytes"`  // likewise
	AddedBytes uint64 `json:"added_bytes"` // what the repository grew by

	Partial         bool     `json:"partial,omitempty"`    // some source files could not be read
	Unreadable      []string `json:"unreadable,omitempty"` // the first 100 of them
	UnreadableCount int      `json:"unreadable_count,omitempty"`

	Check *Check `json:"check,omitempty"` // of an attempt that checks; nil: it did not get that far
	Drill *Drill `json:"drill,omitempty"` // of an attempt that restores for practice; Files and SizeBytes are what was proven then

	RetentionDue      bool       `json:"retention_due,omitempty"` // it takes another attempt, with the node's rights
	Retention         *Retention `json:"retention,omitempty"`     // nil: the attempt did not get that far, or no policy
	StaleLocksRemoved int        `json:"stale_locks_removed,omitempty"`

	// Snapshots of this module and backup that the repository holds after the attempt, oldest first, as far as is known.
	Snapshots []Snapshot `json:"snapshots,omitempty"`
	LastPrune time.Time  `json:"last_prune,omitzero"`
}

// Check is which part of the data a check was to read.
type Check struct {
	Number int `json:"number"` // from 1 on
	Of     int `json:"of"`     // 0: none was to be read
}

// Drill is what a restore for practice was made of.
type Drill struct {
	Backup      string    `json:"backup"` // whose snapshots had their turn
	Destination string    `json:"destination"`
	Saved       time.Time `json:"saved,omitzero"` // time of the snapshot
	Sample      int64     `json:"sample_bytes"`   // that were asked for; 0: everything
	Probed      bool      `json:"probed"`         // the module's command found it good
}

// Drilled is how the last drill with the snapshots of one backup ended, and what must outlive it.
type Drilled struct {
	Outcome     Outcome   `json:"outcome"`
	Start       time.Time `json:"start"`
	End         time.Time `json:"end"`
	Files       uint64    `json:"files"`
	SizeBytes   uint64    `json:"size_bytes"`
	LastSuccess time.Time `json:"last_success,omitzero"`
}

// Retention is what forget and prune came to.
type Retention struct {
	Outcome Outcome `json:"outcome"` // Success or Failed
	Error   string  `json:"error,omitempty"`
	Called  bool    `json:"called"` // false: the records showed that nothing could be removed
	Removed int     `json:"removed"`
	Kept    int     `json:"kept"`
	Pruned  bool    `json:"pruned"`
}

// Snapshot is one snapshot in the records.
type Snapshot struct {
	ID   string    `json:"id"` // 64 hex digits
	Time time.Time `json:"time"`
	Dump string    `json:"dump,omitempty"` // file name of a [[dump]]; "" for the files
}

// Module is the record status/<backup>/<module>.json: the last result, and what must outlive it.
type Module struct {
	Result
	Attempts        int       `json:"attempts"`
	LockWaitSeconds float64   `json:"lock_wait_seconds"`
	CPUSeconds      *float64  `json:"cpu_seconds,omitempty"` // nil where the manager does not account for it
	MemoryPeakBytes *uint64   `json:"memory_peak_bytes,omitempty"`
	IOReadBytes     *uint64   `json:"io_read_bytes,omitempty"`
	IOWriteBytes    *uint64   `json:"io_write_bytes,omitempty"`
	LastSuccess     time.Time `json:"last_success,omitzero"`
	StaleLocksTotal int       `json:"stale_locks_removed_total"`
	CPUSecondsTotal float64   `json:"cpu_seconds_total"`
	Checked         int       `json:"checked,omitempty"` // number of the part of the data that was last read and found good
	Unclean         bool      `json:"unclean,omitempty"` // the last attempt was killed: the repository may hold garbage

	Drills map[string]Drilled `json:"drills,omitempty"` // in the record of a drill, by backup
}

// Run is one line of runs/<backup>.jsonl: one ended run.
type Run struct {
	ID           string    `json:"run_id"`
	Backup       string    `json:"backup"`
	Name         string    `json:"name"`
	InvocationID string    `json:"invocation_id,omitempty"` // of the service, sd_id128_get_invocation(3)
	Start        time.Time `json:"start"`
	End          time.Time `json:"end"`
	Outcome      Outcome   `json:"outcome"`
	Error        string    `json:"error,omitempty"` // why there was nothing to iterate: bad configuration, killed, ...
	Modules      []Brief   `json:"modules,omitempty"`
	Due          time.Time `json:"due,omitzero"`        // of a drill: when, as its schedule was then, the next one comes
	NodeCopy     *NodeCopy `json:"node_copy,omitempty"` // nil: none was to be written, or the run did not get that far
}

// NodeCopy is what became of the copy of the node's configuration at a run's destination.
type NodeCopy struct {
	Outcome Outcome   `json:"outcome"`           // Success: it is there as it should be; or Failed
	Error   string    `json:"error,omitempty"`   // one sentence, without secrets
	Written bool      `json:"written,omitempty"` // false: there was no need to
	Time    time.Time `json:"time"`
}

// Brief is what a Run keeps of each module.
type Brief struct {
	Module   string  `json:"module"`
	Outcome  Outcome `json:"outcome"`
	Error    string  `json:"error,omitempty"`
	Snapshot string  `json:"snapshot,omitempty"`
	Attempts int     `json:"attempts"`
}

// Backup is the record status/<backup>.json: what the metrics of the backup as a whole are made from.
type Backup struct {
	LastRun     Run       `json:"last_run"`
	LastSuccess time.Time `json:"last_success,omitzero"`

	NodeCopy     *NodeCopy `json:"node_copy,omitempty"`     // of the last run that got that far
	LastNodeCopy time.Time `json:"last_node_copy,omitzero"` // when it was last there as it should be
}

// Running is the record running/<backup>.json, there from the start of a run until its verdict is on disk.
type Running struct {
	ID           string    `json:"run_id"`
	Backup       string    `json:"backup"`
	Name         string    `json:"name"`
	InvocationID string    `json:"invocation_id,omitempty"`
	PID          int       `json:"pid"`
	Start        time.Time `json:"start"`
	Announced    bool      `json:"announced,omitempty"` // the hooks and pings of the end were begun: never begin them again
}
