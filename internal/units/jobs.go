package units

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// The results of a job that callers here tell apart, as in org.freedesktop.systemd1(5), JobRemoved.
const (
	jobDone     = "done"
	jobFailed   = "failed"   // the unit failed
	jobCanceled = "canceled" // by a job that contradicts it
)

// jobTimeout is how long a job may take that only changes the state of a timer, and takes no time by itself. One that takes
// longer waits for another unit: timers wait for time-sync.target, which may never come where there is no time server.
const jobTimeout = 15 * time.Second

// jobs hears of the ends of jobs. The manager tells the client that asked for a job of its end without being asked to
// (Subscribe would have it tell everybody of everything). It is a dbus.SignalHandler: nothing buffers between the
// connection and it, so no reader that stopped reading can stall the connection.
type jobs struct {
	mu      sync.Mutex
	asking  int                                 // calls under way that will return a job
	early   map[dbus.ObjectPath]string          // jobs that ended while asking > 0: maybe before the answer was read
	waiting map[dbus.ObjectPath][]chan<- string // several may wait for one job: a second stop joins the first
}

func newJobs() *jobs {
	return &jobs{early: map[dbus.ObjectPath]string{}, waiting: map[dbus.ObjectPath][]chan<- string{}}
}

// DeliverSignal implements dbus.SignalHandler.
func (j *jobs) DeliverSignal(iface, name string, signal *dbus.Signal) {
	if iface != managerIface || name != "JobRemoved" {
		return
	}
	var id uint32
	var path dbus.ObjectPath
	var unit, result string
	if err := dbus.Store(signal.Body, &id, &path, &unit, &result); err != nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.asking > 0 {
		j.early[path] = result
	}
	for _, ch := range j.waiting[path] {
		ch <- result // has room for it
	}
	delete(j.waiting, path)
}

// begin is to be called before a job is asked for, end when its answer was claimed.
func (j *jobs) begin() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.asking++
}

func (j *jobs) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.asking--; j.asking == 0 {
		clear(j.early)
	}
}

// claim returns a channel that gets the result of the job.
func (j *jobs) claim(path dbus.ObjectPath) <-chan string {
	ch := make(chan string, 1)
	j.mu.Lock()
	defer j.mu.Unlock()
	if result, ok := j.early[path]; ok {
		ch <- result
		return ch
	}
	j.waiting[path] = append(j.waiting[path], ch)
	return ch
}

// watch has the bus pass on the ends of jobs. A direct connection hears of them anyhow.
func (c *Conn) watch(ctx context.Context) error {
	if c.direct {
		return nil
	}
	c.watchOnce.Do(func() {
		// Whoever comes second relies on it, too.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		c.watchErr = explain(c.bus.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName),
			dbus.WithMatchObjectPath(managerPath), dbus.WithMatchInterface(managerIface), dbus.WithMatchMember("JobRemoved")))
	})
	return c.watchErr
}

// enqueue calls a method of the manager that returns a job, and returns a channel that gets the job's result.
func (c *Conn) enqueue(ctx context.Context, method string, args ...any) (<-chan string, error) {
	if err := c.watch(ctx); err != nil {
		return nil, err
	}
	c.jobs.begin()
	defer c.jobs.end()
	var path dbus.ObjectPath
	if err := c.manager(ctx, method, args, &path); err != nil {
		return nil, err
	}
	return c.jobs.claim(path), nil
}

// await returns the result of a job.
func (c *Conn) await(ctx context.Context, job <-chan string) (string, error) {
	select {
	case result := <-job:
		return result, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	case <-c.bus.Context().Done():
		return "", errDisconnected
	}
}

// do has the manager do something with a unit, and waits until that is done: ErrStuck if it takes longer than limit.
func (c *Conn) do(ctx context.Context, limit time.Duration, method string, args ...any) error {
	job, err := c.enqueue(ctx, method, args...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrStuck)
	defer cancel()
	result, err := c.await(ctx, job)
	if err != nil {
		return err
	}
	if result != jobDone {
		return &JobError{Result: result}
	}
	return nil
}

// JobError is the end of a job that is not "done".
type JobError struct {
	Result string // as in org.freedesktop.systemd1(5): canceled, timeout, failed, dependency, skipped, ...
}

func (e *JobError) Error() string {
	if e.Result == jobFailed {
		return "the unit failed: see its status and log"
	}
	return fmt.Sprintf("the job ended with the result %q", e.Result)
}

// stop stops a unit and waits until it is stopped. A unit that is not loaded is stopped.
func (c *Conn) stop(ctx context.Context, limit time.Duration, unit string) error {
	err := c.do(ctx, limit, "StopUnit", unit, "replace")
	var job *JobError
	switch {
	case isError(err, errNoSuchUnit):
		return nil
	case errors.As(err, &job) && job.Result == jobCanceled:
		return fmt.Errorf("stop: somebody starts it: %w", err)
	}
	return err
}

// resetFailed takes a unit out of the state "failed". Nothing is done for a unit that is not loaded, or not failed.
func (c *Conn) resetFailed(ctx context.Context, unit string) error {
	err := c.manager(ctx, "ResetFailedUnit", []any{unit})
	if isError(err, errNoSuchUnit) {
		return nil
	}
	return err
}
