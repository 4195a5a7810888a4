package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/dbus"
)

// Change is what makes the loaded timers the wanted ones.
type Change struct {
	Start     []Timer
	Replace   []Timer
	Stop      []string // backup IDs
	Unchanged []string // backup IDs
	Foreign   []string // backup IDs: a timer of that name is loaded that is not ours, and stays as it is

	// Reschedule has the IDs of those of Replace that are to elapse at other times than before. What the new schedule would
	// have had done before now was never missed, and must not be caught up.
	Reschedule map[string]bool

	// RemoveStamps has the time stamps of the timers in Stop removed: their backups are gone, and one that is given the same
	// ID some day must not catch up for them. Without, a timer that is started again catches up what it missed.
	RemoveStamps bool
}

// Empty tells whether there is nothing to do.
func (c Change) Empty() bool { return len(c.Start)+len(c.Replace)+len(c.Stop) == 0 }

// Diff compares the wanted timers with the loaded ones. The OnCalendar of both must be normalized; their order does not
// matter.
func Diff(want []Timer, have []LoadedTimer) Change {
	change := Change{Reschedule: map[string]bool{}}
	loaded := make(map[string]LoadedTimer, len(have))
	for _, t := range have {
		loaded[t.ID] = t
	}
	wanted := make(map[string]bool, len(want))
	for _, t := range want {
		t = t.normalized()
		wanted[t.ID] = true
		old, ok := loaded[t.ID]
		switch {
		case !ok:
			change.Start = append(change.Start, t)
		case !old.Ours:
			change.Foreign = append(change.Foreign, t.ID)
		case old.Active && !old.differs(t):
			change.Unchanged = append(change.Unchanged, t.ID)
		default:
			change.Replace = append(change.Replace, t)
			// A timer that becomes persistent may find a stamp of long ago, when it was so before.
			change.Reschedule[t.ID] = t.Persistent && (!old.Persistent || old.reschedules(t))
		}
	}
	for _, t := range have {
		if t.Ours && !wanted[t.ID] {
			change.Stop = append(change.Stop, t.ID)
		}
	}
	return change
}

// Apply carries out a change, and returns an error for each backup whose timer was not changed as it says. A timer that could
// not be replaced may be stopped; the next Diff finds it missing.
//
// Starting a timer that is persistent and has missed an elapse starts its service. Once ctx is done nothing further is begun.
func (c *Conn) Apply(ctx context.Context, change Change) map[string]error {
	type act struct {
		id string
		do func(context.Context) error
	}
	var acts []act
	for _, id := range change.Stop {
		acts = append(acts, act{id, func(ctx context.Context) error { return c.stopTimer(ctx, id, change.RemoveStamps) }})
	}
	for _, t := range change.Replace {
		acts = append(acts, act{t.ID, func(ctx context.Context) error { return c.replaceTimer(ctx, t, change.Reschedule[t.ID]) }})
	}
	for _, t := range change.Start {
		acts = append(acts, act{t.ID, func(ctx context.Context) error { return c.startTimer(ctx, t) }})
	}
	var (
		mu    sync.Mutex
		errs  = map[string]error{}
		stuck atomic.Bool
		begun = make([]bool, len(acts))
	)
	each(ctx, len(acts), func(i int) {
		begun[i] = true
		err := ErrStuck
		if !stuck.Load() { // else the others would be, too: fail now rather than after jobTimeout each
			err = acts[i].do(context.WithoutCancel(ctx))
		}
		if err == nil {
			return
		}
		if errors.Is(err, ErrStuck) {
			stuck.Store(true)
		}
		mu.Lock()
		defer mu.Unlock()
		errs[acts[i].id] = err
	})
	for i, a := range acts {
		if !begun[i] {
			errs[a.id] = fmt.Errorf("not begun: %w", context.Cause(ctx))
		}
	}
	return errs
}

// startTimer makes a timer.
func (c *Conn) startTimer(ctx context.Context, t Timer) error {
	t = t.normalized()
	name := TimerName(t.ID)
	var err error
	// A unit that was just stopped is loaded until the manager gets round to collecting it.
	for _, pause := range []time.Duration{0, 1, 10, 100, 1000} {
		time.Sleep(pause * time.Millisecond)
		err = c.do(ctx, c.patience, "StartTransientUnit", name, "fail", t.properties(), []sd.PropertyCollection{})
		if !isError(err, errUnitExists) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	return nil
}

// replaceTimer makes a timer anew. With reschedule, it is as if the timer had elapsed right now.
func (c *Conn) replaceTimer(ctx context.Context, t Timer, reschedule bool) error {
	if reschedule {
		if err := touchStamp(c.user, t.ID, time.Now()); err != nil {
			return fmt.Errorf("keep the new schedule from elapsing at once: %w", err) // the old one stays
		}
	}
	if err := c.unloadTimer(ctx, t.ID); err != nil {
		return err
	}
	return c.startTimer(ctx, t)
}

// stopTimer stops a timer for good and leaves neither it nor a failed service behind. A run that is under way goes on.
func (c *Conn) stopTimer(ctx context.Context, id string, removeStamp bool) error {
	if err := c.unloadTimer(ctx, id); err != nil {
		return err
	}
	if err := c.resetFailed(ctx, ServiceName(id)); err != nil {
		return fmt.Errorf("reset %s: %w", ServiceName(id), err)
	}
	if !removeStamp {
		return nil
	}
	if err := os.Remove(stampFile(c.user, id, os.Getenv)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the time stamp of %s: %w", TimerName(id), err)
	}
	return nil
}

// unloadTimer stops a timer; the manager then collects it.
func (c *Conn) unloadTimer(ctx context.Context, id string) error {
	name := TimerName(id)
	if err := c.stop(ctx, c.patience, name); err != nil {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	if err := c.resetFailed(ctx, name); err != nil {
		return fmt.Errorf("reset %s: %w", name, err)
	}
	return nil
}
