package promfile

import (
	"sdbackup/internal/status"

	dto "github.com/prometheus/client_model/go"
)

// metric is one metric of a file: how it is described, and its value for a backup or a module; false leaves it out.
type metric[T any] struct {
	name, help string
	kind       dto.MetricType
	value      func(T) (float64, bool)
}

const (
	gauge   = dto.MetricType_GAUGE
	counter = dto.MetricType_COUNTER
)

// always is for metrics that every backup or module has.
func always[T any](value func(T) float64) func(T) (float64, bool) {
	return func(v T) (float64, bool) { return value(v), true }
}

// The metrics in the order in which they are written. Their names and HELP texts are part of the interface: while two
// versions write into one folder, a changed HELP makes the collector complain. docs/metrics.md lists them.

var backupMetrics = []metric[Sample]{
	{
		"node_backup_status", "Verdict of the last run that ended: -1 none has, 0 failed, 1 success, 2 a module stayed locked to the end.",
		gauge, always(func(s Sample) float64 { return verdict(s.Status) }),
	},
	{
		"node_backup_running", "Whether a run of the backup is under way.",
		gauge, always(func(s Sample) float64 { return boolean(s.Running) }),
	},
	{
		"node_backup_last_run_timestamp_seconds", "When the last run that ended began.",
		gauge, func(s Sample) (float64, bool) { return timestamp(s.LastRun) },
	},
	{
		"node_backup_last_success_timestamp_seconds", "When a run last ended with every module saved.",
		gauge, func(s Sample) (float64, bool) { return timestamp(s.LastSuccess) },
	},
	{
		"node_backup_duration_seconds", "How long the last run that ended took.",
		gauge, func(s Sample) (float64, bool) { return elapsed(s.Duration), !s.LastRun.IsZero() },
	},
	{
		"node_backup_next_run_timestamp_seconds", "When the backup's timer elapses next, its random delay not included.",
		gauge, func(s Sample) (float64, bool) { return timestamp(s.NextRun) },
	},
	{
		"node_backup_node_copy_status", "Whether the destination has the copy of the node's configuration as it was at the last run: 0 it could not be written, 1 it has.",
		gauge, func(s Sample) (float64, bool) {
			if s.NodeCopy == nil {
				return 0, false
			}
			return verdict(s.NodeCopy.Outcome), true
		},
	},
	{
		"node_backup_node_copy_last_success_timestamp_seconds", "When the destination was last known to have the copy of the node's configuration as it was.",
		gauge, func(s Sample) (float64, bool) { return timestamp(s.LastNodeCopy) },
	},
}

var checkMetrics = []metric[Sample]{
	{
		"node_backup_check_status", "Verdict of the last check of the backup's repositories: -1 none has ended, 0 failed, 1 success, 2 a module stayed locked to the end.",
		gauge, always(func(s Sample) float64 {
			if s.Check == nil {
				return -1
			}
			return verdict(s.Check.LastRun.Outcome)
		}),
	},
	{
		"node_backup_check_last_run_timestamp_seconds", "When the last check that ended began.",
		gauge, func(s Sample) (float64, bool) {
			if s.Check == nil {
				return 0, false
			}
			return timestamp(s.Check.LastRun.Start)
		},
	},
	{
		"node_backup_check_last_success_timestamp_seconds", "When a check last found the repositories of all modules good.",
		gauge, func(s Sample) (float64, bool) {
			if s.Check == nil {
				return 0, false
			}
			return timestamp(s.Check.LastSuccess)
		},
	},
}

type module = *status.Module

var moduleCheckMetrics = []metric[module]{
	{
		"node_backup_module_check_status", "How the last check of the module's repository ended: -1 none has, 0 it failed or found errors, 1 success, 2 the module stayed locked to the end.",
		gauge, always(func(m module) float64 { return verdict(m.Outcome) }),
	},
}

var moduleDrillMetrics = []metric[*drill]{
	{
		"node_backup_module_drill_status", "How the last restore drill with this backup's snapshots of the module ended: -1 none has, 0 failed, 1 success.",
		gauge, always(func(d *drill) float64 { return verdict(d.Outcome) }),
	},
	{
		"node_backup_module_drill_timestamp_seconds", "When a restore drill with this backup's snapshots of the module last ended well.",
		gauge, func(d *drill) (float64, bool) { return timestamp(d.LastSuccess) },
	},
	{
		"node_backup_module_drill_due_timestamp_seconds", "When, as the last restore drill of the module left it, the next one is due; with several backups they take turns.",
		gauge, func(d *drill) (float64, bool) { return timestamp(d.due) },
	},
	{
		"node_backup_module_drill_duration_seconds", "How long the last restore drill with this backup's snapshots of the module took.",
		gauge, func(d *drill) (float64, bool) { return elapsed(d.End.Sub(d.Start)), !d.End.IsZero() },
	},
	{
		"node_backup_module_drill_files", "Number of files that the last restore drill with this backup's snapshots of the module proved.",
		gauge, func(d *drill) (float64, bool) { return float64(d.Files), !d.End.IsZero() },
	},
	{
		"node_backup_module_drill_size_bytes", "Size of what the last restore drill with this backup's snapshots of the module proved.",
		gauge, func(d *drill) (float64, bool) { return float64(d.SizeBytes), !d.End.IsZero() },
	},
}

var moduleMetrics = []metric[module]{
	{
		"node_backup_module_status", "How the module ended in its last run: -1 not yet, 0 failed, 1 saved, 2 it stayed locked to the end.",
		gauge, always(func(m module) float64 { return verdict(m.Outcome) }),
	},
	{
		"node_backup_module_last_success_timestamp_seconds", "When the module was last saved.",
		gauge, func(m module) (float64, bool) { return timestamp(m.LastSuccess) },
	},
	{
		"node_backup_module_duration_seconds", "How long the last attempt took.",
		gauge, func(m module) (float64, bool) { return elapsed(m.End.Sub(m.Start)), !m.End.IsZero() },
	},
	{
		"node_backup_module_size_bytes", "Size of what the last attempt saved, before deduplication and compression.",
		gauge, always(func(m module) float64 { return float64(m.SizeBytes) }),
	},
	{
		"node_backup_module_files", "Number of files that the last attempt saved.",
		gauge, always(func(m module) float64 { return float64(m.Files) }),
	},
	{
		"node_backup_module_added_bytes", "How much the last attempt added to the repository.",
		gauge, always(func(m module) float64 { return float64(m.AddedBytes) }),
	},
	{
		"node_backup_module_snapshots", "Number of snapshots that the repository holds of the module and backup, as far as the records know.",
		gauge, always(func(m module) float64 { return float64(len(m.Snapshots)) }),
	},
	{
		"node_backup_module_attempts", "Number of attempts that the last run made.",
		gauge, always(func(m module) float64 { return float64(m.Attempts) }),
	},
	{
		"node_backup_module_lock_wait_seconds", "How long the last run waited for the module's lock.",
		gauge, always(func(m module) float64 { return m.LockWaitSeconds }),
	},
	{
		"node_backup_module_partial", "Whether the last attempt could not read some of the module's files.",
		gauge, always(func(m module) float64 { return boolean(m.Partial) }),
	},
	{
		"node_backup_module_retention_status", "How retention ended in the last attempt: -1 it was not reached or nothing is ever removed, 0 failed, 1 success.",
		gauge, always(func(m module) float64 {
			if m.Retention == nil {
				return -1
			}
			return verdict(m.Retention.Outcome)
		}),
	},
	{
		"node_backup_module_stale_locks_removed_total", "Number of restic locks of dead processes that were removed from the module's repository.",
		counter, always(func(m module) float64 { return float64(m.StaleLocksTotal) }),
	},
	{
		"node_backup_module_cpu_seconds_total", "CPU time that all attempts have used, where the service manager accounts for it.",
		counter, func(m module) (float64, bool) {
			return m.CPUSecondsTotal, m.CPUSeconds != nil || m.CPUSecondsTotal > 0
		},
	},
	{
		"node_backup_module_memory_peak_bytes", "Most memory that the last attempt used at a time, where the service manager accounts for it.",
		gauge, func(m module) (float64, bool) { return optional(m.MemoryPeakBytes) },
	},
	{
		"node_backup_module_io_read_bytes", "What the last attempt read from block devices, where the service manager accounts for it.",
		gauge, func(m module) (float64, bool) { return optional(m.IOReadBytes) },
	},
	{
		"node_backup_module_io_write_bytes", "What the last attempt wrote to block devices, where the service manager accounts for it.",
		gauge, func(m module) (float64, bool) { return optional(m.IOWriteBytes) },
	},
}
