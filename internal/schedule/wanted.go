package schedule

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/units"
)

// Wanted is what a configuration asks of the manager.
type Wanted struct {
	Timers    []units.Timer    // of the enabled backups, in the order of their IDs
	Undecided map[string]bool  // backups whose timer cannot be computed: what is loaded of them stays as it is
	Disabled  map[string]bool  // backups that want no timer
	Blind     bool             // a file could not be read: a backup that no other file names may stand in it
	Problems  []config.Problem // found while computing, beside those the configuration has itself
}

// timerKeys are the keys that a timer is made from. A mistake in any other key of a backup does not keep its timer from
// being started: its runs then fail, which is on record and raises an alert, as a missing timer does not.
var timerKeys = []string{"enabled", "schedule", "check", "check.schedule", "randomized-delay", "randomized-offset", "accuracy", "persistent"}

// Expressions returns the OnCalendar expressions of all backups, each once, in the order of their IDs.
func Expressions(cfg *config.Config) []string {
	var all []string
	seen := map[string]bool{}
	for _, id := range cfg.JobIDs() {
		for _, e := range cfg.Job(id).Schedule {
			if !seen[e] {
				seen[e] = true
				all = append(all, e)
			}
		}
	}
	return all
}

// Want computes the timers of a configuration. Calendars has systemd's judgement of every expression of Expressions;
// offset gives the stable offset of a backup within its randomized-offset.
func Want(
	cfg *config.Config,
	calendars map[string]units.Calendar,
	offset func(backup string, window time.Duration) (time.Duration, error),
) Wanted {
	w := Wanted{Undecided: map[string]bool{}, Disabled: map[string]bool{}}
	broken, brokenDrill := map[string]bool{}, map[string]bool{}
	for _, p := range cfg.Errors() {
		switch p.Kind {
		case config.KindFile:
			w.Blind = true
		case config.KindBackup:
			broken[p.ID] = broken[p.ID] || preventsTimer(p)
		case config.KindModule:
			if preventsDrill(p) {
				brokenDrill[config.DrillID(p.ID)] = true
			}
		}
	}
	for _, id := range cfg.ModuleIDs() {
		// A backup with errors may be the one that saves the module.
		if cfg.Modules[id].HasDrill() && cfg.Job(config.DrillID(id)) == nil && len(broken) > 0 {
			brokenDrill[config.DrillID(id)] = true
		}
	}
	maps.Copy(w.Undecided, brokenDrill)
	for id := range broken { // a backup may be too broken to be among cfg.Backups
		w.Undecided[id], w.Undecided[config.CheckID(id)] = broken[id], broken[id]
	}
	for _, id := range cfg.JobIDs() {
		b := cfg.Job(id)
		backup, _ := config.JobOf(id)
		onCalendar, problems := onCalendar(cfg, b, calendars, offset)
		broken := broken[backup] || brokenDrill[id]
		if len(b.Schedule) == 0 && !broken {
			problems = append(problems, problemOf(cfg, b, "schedule", "is empty; want when to run, say \"daily\""))
		}
		w.Problems = append(w.Problems, problems...)
		switch {
		case broken: // and it is said why
		case !b.Enabled:
			w.Disabled[id] = true
		case hasError(problems):
			w.Undecided[id] = true
		default:
			w.Timers = append(w.Timers, units.Timer{
				ID:              id,
				Description:     b.Name,
				OnCalendar:      onCalendar,
				RandomizedDelay: b.RandomizedDelay,
				Accuracy:        b.Accuracy,
				Persistent:      b.Persistent,
			})
		}
	}
	return w
}

// preventsTimer tells whether an error of a backup's table leaves open what timer it asks for.
func preventsTimer(p config.Problem) bool {
	key := strings.TrimPrefix(p.Key, "backup."+p.ID) // what is left is "", or .KEY, or .KEY[INDEX]
	key, _, _ = strings.Cut(strings.TrimPrefix(key, "."), "[")
	return key == "" || slices.Contains(timerKeys, key)
}

// preventsDrill tells whether an error of a module's table leaves open what timer its drill asks for.
func preventsDrill(p config.Problem) bool {
	key := strings.TrimPrefix(p.Key, "module."+p.ID)
	return key == "" || key == ".drill" || strings.HasPrefix(key, ".drill.schedule")
}

// onCalendar returns the expressions of a backup's timer, normalized and with its offset, and what is wrong with them.
func onCalendar(
	cfg *config.Config,
	b *config.Backup,
	calendars map[string]units.Calendar,
	offset func(backup string, window time.Duration) (time.Duration, error),
) (expressions []string, problems []config.Problem) {
	problem := func(key, format string, args ...any) {
		problems = append(problems, problemOf(cfg, b, key, format, args...))
	}
	var shift time.Duration
	if b.RandomizedOffset > 0 {
		var err error
		if shift, err = offset(b.ID, b.RandomizedOffset); err != nil {
			problem("randomized-offset", "%v", err)
			return nil, problems
		}
	}
	for _, e := range b.Schedule {
		c, ok := calendars[e]
		switch {
		case !ok:
			problem("schedule", "%q was not judged by systemd", e)
			continue
		case c.Err != nil:
			problem("schedule", "%q is no OnCalendar expression: %v; want one as in systemd.time(7), say \"daily\" or \"Mon..Fri 22:30\"",
				e, c.Err)
			continue
		case len(c.Next) == 0:
			problem("schedule", "%q never elapses again", e)
			problems[len(problems)-1].Warning = true
		}
		if shift == 0 {
			expressions = append(expressions, c.Normalized)
			continue
		}
		shifted, err := units.Shift(c.Normalized, shift)
		if err != nil {
			problem("randomized-offset", "%q cannot be shifted: %v; use randomized-delay", e, err)
			continue
		}
		expressions = append(expressions, shifted...)
	}
	return expressions, problems
}

// problemOf is an error about a key of a backup.
func problemOf(cfg *config.Config, b *config.Backup, key, format string, args ...any) config.Problem {
	if module, isDrill := config.DrillOf(b.ID); isDrill {
		return config.Problem{
			Position: cfg.PositionOf(config.KindModule, module, "drill."+key),
			Kind:     config.KindModule,
			ID:       module,
			Key:      "module." + module + ".drill." + key,
			Message:  fmt.Sprintf(format, args...),
		}
	}
	id, isCheck := config.JobOf(b.ID)
	if isCheck && key == "schedule" {
		key = "check.schedule"
	}
	return config.Problem{
		Position: cfg.PositionOf(config.KindBackup, id, key),
		Kind:     config.KindBackup,
		ID:       id,
		Key:      "backup." + id + "." + key,
		Message:  fmt.Sprintf(format, args...),
	}
}

func hasError(problems []config.Problem) bool {
	return slices.ContainsFunc(problems, func(p config.Problem) bool { return !p.Warning })
}

// keeps tells whether whatever is loaded and written for the backup is to stay although no timer is wanted for it.
func (w Wanted) keeps(cfg *config.Config, id string) bool {
	if w.Undecided[id] {
		return true
	}
	return w.Blind && cfg.Job(id) == nil
}
