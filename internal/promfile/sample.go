package promfile

import (
	"time"

	"sdbackup/internal/status"
)

// Sample is what the file of one backup is made from.
type Sample struct {
	ID, Name    string
	Status      status.Outcome // of the last run that ended; status.Unknown: none did
	Running     bool
	LastRun     time.Time // start; zero: none ended
	LastSuccess time.Time // end; zero: none on record
	Duration    time.Duration
	NextRun     time.Time // zero: not known, or there is none
	Modules     map[string]*status.Module

	NodeCopy     *status.NodeCopy // nil: none is wanted, or nothing is known
	LastNodeCopy time.Time        // zero: none on record

	HasCheck bool
	Check    *status.Backup // the record of its check; nil: none ended
	Checks   map[string]*status.Module

	Drills map[string]*drill // of the modules that have drills
}

// drill is what drills with this backup's snapshots of a module came to.
type drill struct {
	status.Drilled
	due time.Time // zero: not known
}

// drill adds the drills of a module, from their records; both are nil where none has ended. A drill that came to nothing at all, say because of
// a mistake in the configuration, says of no backup that its snapshots are good.
func (s *Sample) drill(module string, rec *status.Backup, m *status.Module) {
	d := &drill{Drilled: status.Drilled{Outcome: status.Unknown}}
	if m != nil {
		if last, ok := m.Drills[s.ID]; ok {
			d.Drilled = last
		}
	}
	if rec != nil {
		d.due = rec.LastRun.Due
		if len(rec.LastRun.Modules) == 0 && rec.LastRun.Outcome != status.Success {
			d.Outcome = status.Failed
		}
	}
	if s.Drills == nil {
		s.Drills = map[string]*drill{}
	}
	s.Drills[module] = d
}

// FromRecords returns the Sample of a backup. rec is nil where no run has ended; modules are those that are to be seen and
// have a record. A run that is under way changes nothing but Running, so that an alert about the last one does not clear
// itself.
func FromRecords(id, name string, rec *status.Backup, modules map[string]*status.Module, running bool, next time.Time) Sample {
	s := Sample{ID: id, Name: name, Status: status.Unknown, Running: running, NextRun: next, Modules: modules}
	if rec != nil {
		s.Status = rec.LastRun.Outcome
		s.LastRun = rec.LastRun.Start
		s.LastSuccess = rec.LastSuccess
		s.Duration = rec.LastRun.End.Sub(rec.LastRun.Start)
		s.NodeCopy, s.LastNodeCopy = rec.NodeCopy, rec.LastNodeCopy
	}
	return s
}

// verdict is an outcome as the value of a metric. Partial is a success: whether unreadable files are one was decided by the
// module's on-partial. An outcome that nobody knows is a failure.
func verdict(o status.Outcome) float64 {
	switch o {
	case status.Unknown, "":
		return -1
	case status.Success, status.Partial:
		return 1
	case status.Conflict:
		return 2
	default:
		return 0
	}
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// timestamp is a time in seconds since the epoch, false where there is none.
func timestamp(t time.Time) (float64, bool) { return float64(t.UnixMilli()) / 1000, !t.IsZero() }

// elapsed is a duration in seconds. A clock that was set back in the meantime must not make it negative.
func elapsed(d time.Duration) float64 { return max(0, d.Seconds()) }

func optional(n *uint64) (float64, bool) {
	if n == nil {
		return 0, false
	}
	return float64(*n), true
}
