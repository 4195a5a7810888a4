package config

import "strings"

// checkMark begins the ID of a backup's check. "@" is in no ID of the configuration.
const checkMark = "check@"

// CheckID is the ID of the job that checks a backup's repositories, as in "check@1". Timers, records and locks go by it as they
// go by a backup's own ID.
func CheckID(backup string) string { return checkMark + backup }

// JobOf returns which backup a job is of, and whether it is its check.
func JobOf(id string) (backup string, isCheck bool) { return strings.CutPrefix(id, checkMark) }

// IsCheck tells whether b is the check of a backup, as Job returns it.
func (b *Backup) IsCheck() bool {
	_, isCheck := JobOf(b.ID)
	return isCheck
}

// HasCheck tells whether a backup's repositories are to be checked.
func (b *Backup) HasCheck() bool { return len(b.Check.Schedule) > 0 }

// Job returns the backup, or for the ID of its check what a run of that goes by: the same modules, but nothing to remove and nobody to
// tell of a success. It is nil where there is none.
func (c *Config) Job(id string) *Backup {
	of, isCheck := JobOf(id)
	b := c.Backups[of]
	if !isCheck || b == nil {
		return b
	}
	if !b.HasCheck() {
		return nil
	}
	check := *b
	check.ID, check.Name, check.Schedule = id, "Check of "+b.Name, b.Check.Schedule
	check.Retention = Retention{}
	check.OnSuccess, check.OnPartial, check.PingURL = nil, nil, ""
	return &check
}

// JobIDs returns the backups and their checks: after each backup its own.
func (c *Config) JobIDs() []string {
	var ids []string
	for _, id := range c.BackupIDs() {
		ids = append(ids, id)
		if c.Job(CheckID(id)) != nil {
			ids = append(ids, CheckID(id))
		}
	}
	return ids
}
