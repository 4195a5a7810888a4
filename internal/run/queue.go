package run

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/journal"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
)

// firstBackoff is how long a module that failed for a passing reason waits at first; it doubles up to retry-interval.
const firstBackoff = 5 * time.Second

// task is one module of a run, on its way through the queue.
type task struct {
	module   *config.Module
	record   status.Module // as it will be saved
	saved    *status.Result
	removing bool // what is left takes the node's rights: retention behind the gateway
	attempts int
	lockWait time.Duration
	backoff  time.Duration
	since    time.Time // of the first attempt that is to be repeated
}

// queue saves modules, MaxParallel at once and in their order. A module that is locked, or failed for a reason that may
// pass, leaves the queue and comes back at its end when it is worth another attempt; nothing else waits for it meanwhile.
type queue struct {
	*Runner
	backup *config.Backup
	run    string
	log    *slog.Logger

	ready   []*task
	waiting int                // tasks that will come back on woken
	running map[string]float64 // module: percent
	ended   []status.Brief
	total   int

	done     chan ended
	woken    chan *task
	progress chan progress
}

type ended struct {
	task    *task
	attempt Attempt
}

type progress struct {
	module string
	module.Progress
}

// saveModules saves every module of the backup and returns how each fared, in the order of the configuration, and the
// verdict over all.
func (r *Runner) saveModules(ctx context.Context, log *slog.Logger, b *config.Backup, run string) ([]status.Brief, status.Outcome) {
	q := &queue{
		Runner: r, backup: b, run: run, log: log,
		running: map[string]float64{}, total: len(b.Modules),
		done: make(chan ended), woken: make(chan *task), progress: make(chan progress),
	}
	for _, id := range b.Modules {
		q.admit(id)
	}
	for {
		for ctx.Err() == nil && len(q.running) < max(1, b.MaxParallel) && len(q.ready) > 0 {
			q.begin(ctx)
		}
		if ctx.Err() != nil {
			q.abandon(context.Cause(ctx))
		}
		if len(q.running)+q.waiting+len(q.ready) == 0 {
			break
		}
		q.tell()
		select {
		case e := <-q.done:
			q.judge(ctx, e)
		case t := <-q.woken:
			q.waiting--
			q.ready = append(q.ready, t)
		case p := <-q.progress:
			q.running[p.module] = p.Percent
			if r.Progress != nil {
				r.Progress.Update(p.module, p.Percent, p.BytesDone, p.BytesTotal)
			}
		case <-stopped(ctx):
		}
	}
	slices.SortStableFunc(q.ended, func(a, c status.Brief) int {
		return slices.Index(b.Modules, a.Module) - slices.Index(b.Modules, c.Module)
	})
	outcomes := make([]status.Outcome, 0, len(q.ended))
	for _, brief := range q.ended {
		outcomes = append(outcomes, brief.Outcome)
	}
	return q.ended, status.Worst(outcomes...)
}

// stopped is ctx.Done() for as long as ctx is not done: a cancelled run waits for its attempts without spinning.
func stopped(ctx context.Context) <-chan struct{} {
	if ctx.Err() != nil {
		return nil
	}
	return ctx.Done()
}

// admit puts a module into the queue, or fails it at once when its configuration is broken: only that module, not the run.
func (q *queue) admit(id string) {
	t := &task{module: q.Config.Modules[id]}
	if rec, err := q.Store.Module(q.backup.ID, id); err == nil {
		t.record = *rec
	}
	problems := q.Config.ModuleErrors(cmp.Or(q.backup.Of, q.backup.ID), id)
	if t.module == nil || len(problems) > 0 {
		message := fmt.Sprintf("module %s is not in the configuration", id)
		if len(problems) > 0 {
			message = problems[0].String()
		}
		t.module = &config.Module{ID: id}
		q.finish(t, Attempt{Result: q.failure(id, message)})
		return
	}
	q.ready = append(q.ready, t)
}

func (q *queue) begin(ctx context.Context) {
	t := q.ready[0]
	q.ready = q.ready[1:]
	id := t.module.ID
	q.running[id] = 0
	log := q.log.With("module", id)
	if t.removing {
		log.Info(fmt.Sprintf("module %s: retention begins", id))
	} else {
		t.attempts++
		log.Info(fmt.Sprintf("module %s: attempt %d begins", id, t.attempts), journal.Message(journal.ModuleStarted))
	}
	plan := module.NewPlan(q.Config, q.Paths, q.backup, t.module, q.run, &t.record)
	plan.Saved = t.saved
	if q.Init {
		plan.MayInit = true
	}
	job := Job{Plan: plan, Module: t.module, Destination: q.Config.Destinations[q.backup.Destination], Backup: q.backup, Gateway: q.Config.Gateway}
	if t.removing || plan.Check != nil && job.Destination != nil && job.Destination.Gateway {
		job = job.asNode()
	}
	go func() {
		attempt := q.Start.Attempt(ctx, job, log, func(p module.Progress) {
			q.progress <- progress{id, p}
		})
		q.describe(ctx, job, &attempt.Result, log)
		q.done <- ended{t, attempt}
	}()
}

// judge decides what an attempt that ended means: the end of its module, or another attempt later.
func (q *queue) judge(ctx context.Context, e ended) {
	t, result := e.task, &e.attempt.Result
	delete(q.running, t.module.ID)
	if q.Progress != nil {
		q.Progress.Remove(t.module.ID)
	}
	if result.RetentionDue {
		q.keep(t, e.attempt)
		t.removing = true
		q.ready = append([]*task{t}, q.ready...)
		return
	}
	busy := result.Outcome == status.Conflict
	if (!busy && !result.Retry) || ctx.Err() != nil {
		q.finish(t, e.attempt)
		return
	}
	if t.since.IsZero() {
		t.since = q.Now()
	}
	left := q.backup.RetryTimeout - q.Now().Sub(t.since)
	if left <= 0 {
		result.Error = fmt.Sprintf("%s; given up after %s (retry-timeout)", result.Error, q.backup.RetryTimeout)
		q.finish(t, e.attempt)
		return
	}
	q.keep(t, e.attempt)
	q.waiting++
	if busy {
		q.log.Info(fmt.Sprintf("module %s waits: %s", t.module.ID, result.Error),
			journal.Message(journal.ModuleBusy), "module", t.module.ID)
		go q.waitForLock(ctx, t, min(left, q.backup.RetryInterval))
		return
	}
	t.backoff = min(max(2*t.backoff, firstBackoff), q.backup.RetryInterval)
	q.log.Warn(fmt.Sprintf("module %s: %s; another attempt in %s", t.module.ID, result.Error, min(left, t.backoff)),
		"module", t.module.ID, "hint", result.Hint)
	go q.wait(ctx, t, min(left, t.backoff))
}

// keep remembers of an attempt what counts although another one follows.
func (q *queue) keep(t *task, a Attempt) {
	if a.Result.Snapshot != "" || a.Result.RetentionDue {
		t.saved = &a.Result // the snapshots are there: the next attempt has only the retention left
	}
	t.record.StaleLocksTotal += a.Result.StaleLocksRemoved
	t.record.CPUSecondsTotal += a.cpuSeconds()
	t.record.Unclean = t.record.Unclean || a.Unclean
}

// waitForLock wakes the task when its module's lock is freed, and after the interval at the latest.
func (q *queue) waitForLock(ctx context.Context, t *task, interval time.Duration) {
	began := q.Now()
	waitCtx, cancel := context.WithTimeout(ctx, interval)
	defer cancel()
	if err := lock.Wait(waitCtx, lock.ModulePath(q.Paths.Lock, t.module.ID)); err != nil {
		<-waitCtx.Done() // cannot be waited for: then it is the interval
	}
	t.lockWait += q.Now().Sub(began)
	q.woken <- t
}

func (q *queue) wait(ctx context.Context, t *task, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	q.woken <- t
}

// abandon fails what has not begun when the run is stopped.
func (q *queue) abandon(cause error) {
	for _, t := range q.ready {
		result := q.failure(t.module.ID, fmt.Sprintf("not saved: the run was stopped: %v", cause))
		if t.saved != nil {
			result = *t.saved
			result.Outcome, result.Error, result.RetentionDue = status.Failed, fmt.Sprintf("the snapshot is saved, but the run was stopped before retention: %v", cause), false
		}
		q.finish(t, Attempt{Result: result})
	}
	q.ready = nil
}

// finish puts the end of a module on record.
func (q *queue) finish(t *task, a Attempt) {
	rec := remember(t.record, a, t.attempts, t.lockWait)
	if err := q.Store.SaveModule(q.backup.ID, t.module.ID, &rec); err != nil {
		// The result is in the verdict all the same; but what cannot be kept must not count as saved.
		q.log.Error("write the record of the module", "module", t.module.ID, "error", err)
		rec.Outcome, rec.Error = status.Failed, fmt.Sprintf("write the record of the module: %v", err)
	}
	q.report(&rec)
	q.ended = append(q.ended, status.Brief{
		Module: t.module.ID, Outcome: rec.Outcome, Error: rec.Error, Snapshot: rec.Snapshot, Attempts: t.attempts,
	})
}

// remember makes the new record of a module from its last one and the attempt that decided.
func remember(last status.Module, a Attempt, attempts int, lockWait time.Duration) status.Module {
	rec := status.Module{
		Result:          a.Result,
		Attempts:        attempts,
		LockWaitSeconds: lockWait.Seconds(),
		MemoryPeakBytes: a.MemoryPeak,
		IOReadBytes:     a.IORead,
		IOWriteBytes:    a.IOWrite,
		LastSuccess:     last.LastSuccess,
		StaleLocksTotal: last.StaleLocksTotal + a.Result.StaleLocksRemoved,
		CPUSecondsTotal: last.CPUSecondsTotal + a.cpuSeconds(),
		Unclean:         last.Unclean || a.Unclean,
		Checked:         last.Checked,
		Drills:          drilled(last.Drills, a.Result),
	}
	if c := a.Result.Check; c != nil && a.Result.Outcome == status.Success {
		rec.Checked = c.Number
	}
	if a.CPU != nil {
		seconds := a.CPU.Seconds()
		rec.CPUSeconds = &seconds
	}
	if rec.Outcome == status.Success || rec.Outcome == status.Partial {
		rec.LastSuccess = rec.End
	}
	if rec.Retention != nil && rec.Retention.Pruned {
		rec.Unclean = false
	}
	// A failed attempt says nothing about what the repository holds: what was known stays known.
	if rec.Repository == "" {
		rec.Repository = last.Repository
	}
	if rec.Repository == last.Repository {
		if len(rec.Snapshots) == 0 {
			rec.Snapshots = last.Snapshots
		}
		if rec.LastPrune.IsZero() {
			rec.LastPrune = last.LastPrune
		}
	}
	return rec
}

// report writes the log line of a module's end.
func (q *queue) report(rec *status.Module) {
	log := q.log.With("module", rec.Module)
	switch rec.Outcome {
	case status.Success:
		if d := rec.Drill; d != nil {
			log.Info(fmt.Sprintf("module %s restored from destination %s and found good: %d files", rec.Module, d.Destination, rec.Files),
				"snapshot", rec.Snapshot, "bytes", rec.SizeBytes)
			return
		}
		if q.backup.IsCheck() {
			log.Info(fmt.Sprintf("module %s checked and found good", rec.Module))
			return
		}
		log.Info(fmt.Sprintf("module %s saved", rec.Module), journal.Message(journal.ModuleSaved),
			"snapshot", rec.Snapshot, "bytes", rec.SizeBytes, "added_bytes", rec.AddedBytes)
	case status.Partial:
		log.Warn(fmt.Sprintf("module %s saved but for %d unreadable files", rec.Module, rec.UnreadableCount),
			journal.Message(journal.ModulePartial), "snapshot", rec.Snapshot)
	case status.Conflict:
		log.Warn(fmt.Sprintf("module %s not saved: %s", rec.Module, rec.Error), journal.Message(journal.ModuleBusy))
	default:
		log.Error(fmt.Sprintf("module %s failed: %s", rec.Module, rec.Error), journal.Message(journal.ModuleFailed), "hint", rec.Hint)
	}
}

// failure is the result of a module that no attempt was made for.
func (q *queue) failure(id, message string) status.Result {
	now := q.Now()
	return status.Result{
		Module: id, Backup: q.backup.ID, Run: q.run, Outcome: status.Failed, Error: message, Start: now, End: now, Drill: turn(q.backup),
	}
}

// tell keeps `systemctl status` current.
func (q *queue) tell() {
	if q.Status == nil {
		return
	}
	line := fmt.Sprintf("%d of %d modules", len(q.ended), q.total)
	for _, id := range q.backup.Modules {
		if percent, ok := q.running[id]; ok {
			line += fmt.Sprintf(", %s %.0f%%", id, percent)
		}
	}
	if q.waiting > 0 {
		line += fmt.Sprintf(", %d waiting", q.waiting)
	}
	q.Status(line)
}
