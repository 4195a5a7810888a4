package restic

import (
	"context"
	"errors"
	"fmt"
)

// Check examines the repository, restic-check(1): its structure, and of n parts of its data the one of that number, from 1 on. With n 0
// no data is read.
func (r Repository) Check(ctx context.Context, number, n int) error {
	args := []string{"check"}
	if n > 0 {
		args = append(args, fmt.Sprintf("--read-data-subset=%d/%d", number, n))
	}
	err := r.run(ctx, call{args: args})
	var exit *ExitError
	if errors.As(err, &exit) && exit.Code == 1 {
		return fmt.Errorf("%w: %s", ErrDamaged, exit.Text)
	}
	return err
}

// ErrDamaged says that a check found errors in the repository.
var ErrDamaged = errors.New("the repository has errors")
