package doctor

import (
	"context"
	"errors"
	"fmt"

	"sdbackup/internal/config"
	"sdbackup/internal/restic"
	"sdbackup/internal/restore"
)

// destination tries one destination, and opens a repository there with its password.
func (d *Doctor) destination(ctx context.Context, id string) []Finding {
	subject := "destination " + id
	if errs := d.Config.ErrorsOf(config.KindDestination, id); len(errs) > 0 {
		return []Finding{problem(subject, `see "schedule-backup check"`, "its table has mistakes: %s", errs[0].Message)}
	}
	if !d.mayLook() {
		return []Finding{hidden(subject)}
	}
	verdicts, err := d.Store.Validate(ctx, []string{id}, d.Timeout)
	if err != nil {
		return []Finding{problem(subject, "", "%v", err)}
	}
	for _, v := range verdicts {
		if v.Failed() {
			return []Finding{problem(subject, "backup-destination "+d.userFlag()+"validate "+id, "cannot be used: %s", v.Detail)}
		}
	}
	m := d.savedAt(id)
	if m == nil {
		return []Finding{ok(subject, "can be used; no backup goes there")}
	}
	at := restore.Repository{Destination: d.Config.Destinations[id], Type: m.Type, UUID: m.UUID, Module: m}
	locks, err := d.Restorer.Probe(ctx, at)
	switch {
	case errors.Is(err, restic.ErrNoRepository):
		return []Finding{ok(subject, "can be used; module %s was not saved there yet", m.ID)}
	case errors.Is(err, restic.ErrWrongPassword):
		return []Finding{problem(subject, "put back the password that the repositories were made with", "%v", err)}
	case ctx.Err() != nil:
		return []Finding{problem(subject, "--timeout gives it longer", "%v", context.Cause(ctx))}
	case err != nil:
		return []Finding{problem(subject, restore.Remedy(err), "%v", err)}
	}
	out := []Finding{ok(subject, "can be used, and its password opens the repository of %s", m.ID)}
	for _, l := range locks {
		if l.Stale(d.Now(), hostname()) {
			out = append(out, warning(subject, fmt.Sprintf("the next run removes it; by hand: module-backup %sshell %s -- unlock", d.userFlag(), m.ID),
				"process %d on %s left a lock in the repository of %s", l.PID, l.Host, m.ID))
		}
	}
	return out
}

// savedAt is a module whose repository is at the destination.
func (d *Doctor) savedAt(destination string) *config.Module {
	for _, id := range d.Config.BackupIDs() {
		b := d.Config.Backups[id]
		if b.Destination != destination {
			continue
		}
		for _, m := range b.Modules {
			if found := d.Config.Modules[m]; found != nil && len(d.Config.ErrorsOf(config.KindModule, m)) == 0 {
				return found
			}
		}
	}
	return nil
}
