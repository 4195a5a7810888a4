package module

import (
	"context"
	"errors"

	"sdbackup/internal/config"
	"sdbackup/internal/restic"
	"sdbackup/internal/status"
)

// Check is what an attempt examines in place of saving.
type Check struct {
	Number int `json:"number"` // which part of the data is read, from 1 on
	Of     int `json:"of"`     // so many parts; 0: no data is read
}

// nextCheck is the check that comes after what is on record: the next part of the data, or the same again if that was not found good.
func nextCheck(c config.Check, rec *status.Module) *Check {
	next := &Check{Of: c.ReadDataSubset}
	if next.Of > 0 {
		next.Number = 1
		if rec != nil {
			next.Number = rec.Checked%next.Of + 1
		}
	}
	return next
}

// check examines the repository.
func (a *attempt) check(ctx context.Context) error {
	a.progress(Progress{Phase: "check"})
	a.result.Check = &status.Check{Number: a.Plan.Check.Number, Of: a.Plan.Check.Of}
	err := a.withRepository(ctx, func(ctx context.Context) error {
		return a.repository.Check(ctx, a.Plan.Check.Number, a.Plan.Check.Of)
	})
	if err != nil {
		if errors.Is(err, restic.ErrDamaged) {
			a.result.Hint = "see the log for what restic found, and its manual, \"Troubleshooting\", for what can be done"
		}
		return err
	}
	a.result.Outcome = status.Success
	return nil
}
