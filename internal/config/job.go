package config

import (
	"slices"
	"strings"
)

// The marks begin the IDs of jobs that are no backups. "@" is in no ID of the configuration.
const (
	checkMark = "check@"
	drillMark = "drill@"
)

// CheckID is the ID of the job that checks a backup's repositories, as in "check@1". Timers, records and locks go by it as they
// go by a backup's own ID.
func CheckID(backup string) string { return checkMark + backup }

// DrillID is the ID of the job that restores a module for practice, as in "drill@wiki1".
func DrillID(module string) string { return drillMark + module }

// JobOf returns which backup a job is of, and whether it is its check. A drill is of no backup: see DrillOf.
func JobOf(id string) (backup string, isCheck bool) { return strings.CutPrefix(id, checkMark) }

// DrillOf returns which module a job is the drill of, and whether it is one.
func DrillOf(id string) (module string, isDrill bool) { return strings.CutPrefix(id, drillMark) }

// IsCheck tells whether b is the check of a backup, as Job returns it.
func (b *Backup) IsCheck() bool {
	_, isCheck := JobOf(b.ID)
	return isCheck
}

// IsDrill tells whether b is the drill of a module, as Drill returns it.
func (b *Backup) IsDrill() bool {
	_, isDrill := DrillOf(b.ID)
	return isDrill
}

// HasCheck tells whether a backup's repositories are to be checked.
func (b *Backup) HasCheck() bool { return len(b.Check.Schedule) > 0 }

// HasDrill tells whether a module is to be restored for practice.
func (m *Module) HasDrill() bool { return len(m.Drill.Schedule) > 0 }

// Job returns the backup, or for the ID of its check what a run of that goes by: the same modules, but nothing to remove and nobody to
// tell of a success. For the ID of a drill it is Drill's first turn. It is nil where there is none.
func (c *Config) Job(id string) *Backup {
	if module, isDrill := DrillOf(id); isDrill {
		turns := c.DrillTurns(module)
		if len(turns) == 0 {
			return nil
		}
		return c.Drill(module, turns[0])
	}
	of, isCheck := JobOf(id)
	b := c.Backups[of]
	if !isCheck || b == nil {
		return b
	}
	if !b.HasCheck() {
		return nil
	}
	check := *b
	check.ID, check.Of, check.Name, check.Schedule = id, of, "Check of "+b.Name, b.Check.Schedule
	check.quieten()
	return &check
}

// quieten leaves nothing to remove and nobody to tell of a success.
func (b *Backup) quieten() {
	b.Retention = Retention{}
	b.OnSuccess, b.OnPartial, b.PingURL = nil, nil, ""
}

// DrillTurns returns the enabled backups that save a module which has drills: these take turns.
func (c *Config) DrillTurns(module string) []string {
	if m := c.Modules[module]; m == nil || !m.HasDrill() {
		return nil
	}
	return slices.DeleteFunc(c.BackupIDs(), func(id string) bool {
		return !c.Backups[id].Enabled || !slices.Contains(c.Backups[id].Modules, module)
	})
}

// Drill returns what the drill of a module goes by when it is the turn of a backup, one of DrillTurns: that one's destination, hooks and
// limits. What its timer is made of is the same at every turn.
func (c *Config) Drill(module, backup string) *Backup {
	drill := *c.Backups[backup]
	drill.ID, drill.Of, drill.Name, drill.Schedule = DrillID(module), backup, "Restore drill of module "+module, c.Modules[module].Drill.Schedule
	drill.Modules, drill.MaxParallel = []string{module}, 1
	drill.RandomizedDelay, drill.RandomizedOffset, drill.Accuracy, drill.Persistent = 0, 0, 0, true
	drill.Check = Check{}
	drill.quieten()
	return &drill
}

// JobIDs returns the backups and their checks, after each backup its own, and then the drills.
func (c *Config) JobIDs() []string {
	var ids []string
	for _, id := range c.BackupIDs() {
		ids = append(ids, id)
		if c.Job(CheckID(id)) != nil {
			ids = append(ids, CheckID(id))
		}
	}
	for _, id := range c.DrillIDs() {
		ids = append(ids, DrillID(id))
	}
	return ids
}

// DrillIDs returns the modules that have drills.
func (c *Config) DrillIDs() []string {
	return slices.DeleteFunc(c.ModuleIDs(), func(id string) bool { return len(c.DrillTurns(id)) == 0 })
}
