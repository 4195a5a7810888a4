package module

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/restic"
	"sdbackup/internal/status"
)

// retain applies the retention to the snapshots of this module and backup, and prunes when something was removed, when the
// last time is longer ago than the interval, or when a killed attempt may have left garbage. A call of restic that the
// records show to be needless is not made.
func (a *attempt) retain(ctx context.Context) error {
	now := time.Now()
	a.result.LastPrune = a.LastPrune
	due := a.Unclean || !a.LastPrune.IsZero() && a.PruneInterval > 0 && now.Sub(a.LastPrune) >= a.PruneInterval
	// Without a record of an older run nothing is known of a repository that was there before.
	unknown := a.LastPrune.IsZero() && !a.initialised
	if a.LastPrune.IsZero() {
		a.result.LastPrune = now // there is nothing to prune in a new repository
	}
	if a.AddOnly && (due || a.forgets(unknown)) {
		a.result.RetentionDue = true
		return nil
	}
	r := &status.Retention{Outcome: status.Success}
	a.result.Retention = r
	forget, prune := a.forget, func() error { return a.withRepository(ctx, a.repository.Prune) }
	if a.files != nil {
		forget, prune = a.expire, func() error { return a.collectGarbage(ctx) }
	}
	err := forget(ctx, r, due || unknown)
	if err == nil && due && !r.Pruned {
		a.progress(Progress{Phase: "retention", Percent: 100})
		if err = prune(); err == nil {
			r.Called, r.Pruned = true, true
		}
	}
	if r.Pruned {
		a.result.LastPrune = now
	}
	r.Kept = len(a.result.Snapshots)
	if err != nil {
		r.Outcome, r.Error = status.Failed, err.Error()
		a.log.Error("retention failed: "+err.Error(), journal.Message(journal.RetentionFailed))
	}
	return err
}

// forget applies the policy to every group of snapshots: the files, and each dump.
func (a *attempt) forget(ctx context.Context, r *status.Retention, always bool) error {
	if a.Retention.IsZero() {
		return nil
	}
	for _, dump := range a.groups() {
		if !always && a.keepsAll(dump) {
			continue
		}
		a.progress(Progress{Phase: "retention", Percent: 100})
		r.Called = true
		if err := a.forgetGroup(ctx, dump, r); err != nil {
			return err
		}
	}
	return nil
}

// groups are the snapshots that the policy is applied to by themselves: "" for the files, and each dump.
func (a *attempt) groups() []string {
	var groups []string
	if len(a.Include) > 0 {
		groups = append(groups, "")
	}
	for _, d := range a.Dumps {
		groups = append(groups, d.Filename)
	}
	return groups
}

// keepsAll tells whether the records show that the policy removes nothing of a group.
func (a *attempt) keepsAll(dump string) bool {
	var times []time.Time
	for _, s := range a.result.Snapshots {
		if s.Dump == dump {
			times = append(times, s.Time)
		}
	}
	return restic.KeepsAll(a.Retention, times)
}

// forgets tells whether forget would be called for any group.
func (a *attempt) forgets(always bool) bool {
	if a.Retention.IsZero() {
		return false
	}
	return always || slices.ContainsFunc(a.groups(), func(dump string) bool { return !a.keepsAll(dump) })
}

func (a *attempt) forgetGroup(ctx context.Context, dump string, r *status.Retention) error {
	var f restic.Forgotten
	err := a.withRepository(ctx, func(ctx context.Context) (err error) {
		f, err = a.repository.Forget(ctx, a.Retention, a.Node, a.tags(dump, false))
		return err
	})
	if err != nil {
		return err
	}
	if err := a.verify(ctx, dump, f); err != nil {
		return err
	}
	r.Removed += len(f.Remove)
	r.Pruned = r.Pruned || len(f.Remove) > 0
	var known []status.Snapshot
	for _, s := range a.result.Snapshots {
		if s.Dump != dump {
			known = append(known, s)
		}
	}
	for _, s := range f.Keep {
		known = append(known, status.Snapshot{ID: s.ID, Time: s.Time, Dump: dump})
	}
	a.result.Snapshots = known
	return nil
}

// verify holds what forget says against what the repository holds: restic 0.17 ends well also when it could not remove
// snapshots, and the one just saved must never go.
func (a *attempt) verify(ctx context.Context, dump string, f restic.Forgotten) error {
	kept := map[string]bool{}
	for _, s := range f.Keep {
		kept[s.ID] = true
	}
	if newest := a.newest(dump); newest != "" && !containsPrefix(kept, newest) {
		return fmt.Errorf("forget did not keep the snapshot %.8s, which was just saved", newest)
	}
	there, err := a.remaining(ctx, dump, f)
	if err != nil || there == nil {
		return err
	}
	for _, s := range f.Remove {
		if there[s.ID] {
			return fmt.Errorf("forget says that it removed the snapshot %.8s, but it is still there", s.ID)
		}
	}
	for id := range kept {
		if !there[id] {
			return fmt.Errorf("forget says that it kept the snapshot %.8s, but it is gone", id)
		}
	}
	return nil
}

// newest is the snapshot of a group that this attempt saved.
func (a *attempt) newest(dump string) string {
	if dump == "" {
		return a.result.Snapshot
	}
	for i := len(a.result.Snapshots) - 1; i >= 0; i-- {
		if s := a.result.Snapshots[i]; s.Dump == dump {
			return s.ID
		}
	}
	return ""
}

// containsPrefix: restic before 0.17 names a new snapshot by the beginning of its ID only.
func containsPrefix(ids map[string]bool, prefix string) bool {
	for id := range ids {
		if strings.HasPrefix(id, prefix) {
			return true
		}
	}
	return false
}

// remaining returns the snapshots that are in the repository, nil when nothing was removed and it would cost a call. Those of a
// local repository are files named by their IDs.
func (a *attempt) remaining(ctx context.Context, dump string, f restic.Forgotten) (map[string]bool, error) {
	there := map[string]bool{}
	if folder, local := (&config.Destination{Repository: a.Plan.Repository}).Local(); local {
		entries, err := os.ReadDir(filepath.Join(folder, "snapshots"))
		if err != nil {
			return nil, errors.New("the repository's snapshots cannot be listed: " + plain(err).Error())
		}
		for _, e := range entries {
			there[e.Name()] = true
		}
		return there, nil
	}
	if len(f.Remove) == 0 {
		return nil, nil
	}
	list, err := a.repository.Snapshots(ctx, a.Node, a.tags(dump, false))
	if err != nil {
		return nil, err
	}
	for _, s := range list {
		there[s.ID] = true
	}
	return there, nil
}
