package units

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// Documentation is the entry of a timer's Documentation= by which we know it for one of ours.
const Documentation = "man:schedule-backup(1)"

// DefaultSlice is where the services of backups and modules are, unless told otherwise.
const DefaultSlice = "backup.slice"

const (
	instancePrefix = "backup@"
	jobPrefix      = "backup-" // before the ID of a job other than the backup itself, as in check@1
	modulePrefix   = "module-backup-"
	timerSuffix    = ".timer"
	serviceSuffix  = ".service"

	maxUnitName = 255 // bytes, systemd.unit(5)
)

// TimerName is the name of a backup's timer, or of another job's: backup@1.timer, backup-check@1.timer. Every character that an ID may
// have is allowed in the instance part of a unit's name, so that %i gives the ID back; nothing is escaped.
func TimerName(job string) string { return instance(job) + timerSuffix }

// ServiceName is the name of the service that runs a backup or another job: the one that its timer activates.
func ServiceName(job string) string { return instance(job) + serviceSuffix }

func instance(job string) string {
	if strings.Contains(job, "@") {
		return jobPrefix + job
	}
	return instancePrefix + job
}

// isService tells whether a unit runs a backup or another job.
func isService(unit string) bool {
	_, ok := jobOf(unit, serviceSuffix)
	return ok
}

// ModuleServiceName is the name of the service that saves a module within a run of a backup.
//
// Dashes of the backup's ID are escaped as systemd-escape(1) does it, so that the first dash after the prefix ends it: "a-b"
// with "c" and "a" with "b-c" are told apart. Drop-ins therefore work for the modules of all backups (module-backup-.service.d)
// and for those of one (module-backup-1-.service.d); see systemd.unit(5). Where a name would become longer than systemd allows,
// which takes a backup ID with dozens of dashes, a hash stands for that ID.
func ModuleServiceName(backup, module string) string {
	return modulesPrefix(backup) + module + serviceSuffix
}

// modulesPrefix is what the names of all services of a backup's modules begin with, and no others.
func modulesPrefix(backup string) string {
	const longestModule = 64
	prefix := modulePrefix + strings.NewReplacer("-", `\x2d`, "@", `\x40`).Replace(backup) + "-"
	if len(prefix)+longestModule+len(serviceSuffix) > maxUnitName {
		sum := sha256.Sum256([]byte(backup))
		prefix = modulePrefix + hex.EncodeToString(sum[:16]) + "-"
	}
	return prefix
}

// kinds are the jobs that are no backups.
var kinds = []string{"check@", "drill@"}

// jobOf returns the ID of the job that a timer or service is of.
func jobOf(unit, suffix string) (id string, ok bool) {
	name, ok := strings.CutSuffix(unit, suffix)
	if !ok {
		return "", false
	}
	if id, ok := strings.CutPrefix(name, instancePrefix); ok {
		return id, id != ""
	}
	for _, kind := range kinds {
		if id, ok := strings.CutPrefix(name, jobPrefix+kind); ok && id != "" {
			return kind + id, true
		}
	}
	return "", false
}
