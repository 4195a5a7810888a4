package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/status"
)

// script is a Starter that plays results, the first one for a module's first attempt and so on; the last one repeats.
type script struct {
	mu       sync.Mutex
	results  map[string][]status.Result
	attempts []string
	now, top int // attempts at once: at the moment, and at most
	plans    []module.Plan
	during   func(ctx context.Context, module string) // called in the middle of an attempt
}

func (s *script) Attempt(ctx context.Context, job Job, _ *slog.Logger, progress func(module.Progress)) Attempt {
	id := job.Plan.Module
	s.mu.Lock()
	s.attempts = append(s.attempts, id)
	s.plans = append(s.plans, job.Plan)
	s.now++
	s.top = max(s.top, s.now)
	r := status.Result{Outcome: status.Success}
	if list := s.results[id]; len(list) > 0 {
		r = list[0]
		if len(list) > 1 {
			s.results[id] = list[1:]
		}
	}
	s.mu.Unlock()
	progress(module.Progress{Percent: 50})
	if s.during != nil {
		s.during(ctx, id)
	}
	s.mu.Lock()
	s.now--
	s.mu.Unlock()
	r.Module, r.Backup, r.Run, r.End = id, job.Plan.Backup, job.Plan.Run, time.Now()
	if c := job.Plan.Check; c != nil {
		r.Check = &status.Check{Number: c.Number, Of: c.Of}
	}
	r.Drill = turn(job.Backup)
	cpu := 2 * time.Second
	return Attempt{Result: r, CPU: &cpu}
}

var (
	saved     = status.Result{Outcome: status.Success, Snapshot: "5afe"}
	broken    = status.Result{Outcome: status.Failed, Error: "wrong password"}
	passing   = status.Result{Outcome: status.Failed, Error: "no route to host", Retry: true}
	busy      = status.Result{Outcome: status.Conflict, Error: "already being backed up"}
	unpruned  = status.Result{Outcome: status.Failed, Error: "repository is locked", Retry: true, Snapshot: "5afe"}
	readFault = status.Result{Outcome: status.Partial, Partial: true, Snapshot: "5afe", UnreadableCount: 1}
)

// newRunner returns a Runner of a configuration with the backup "1" of the modules.
func newRunner(t *testing.T, s *script, modules ...string) (*Runner, *config.Backup) {
	t.Helper()
	dir := t.TempDir()
	b := &config.Backup{
		ID: "1", Name: "Nightly", Destination: "archive", Modules: modules, MaxParallel: 1,
		RetryInterval: time.Minute, RetryTimeout: time.Hour, Enabled: true,
	}
	cfg := &config.Config{
		Metrics:      config.Metrics{TextfileDir: filepath.Join(dir, "textfile")},
		Destinations: map[string]*config.Destination{"archive": {ID: "archive", Repository: filepath.Join(dir, "repository")}},
		Modules:      map[string]*config.Module{},
		Backups:      map[string]*config.Backup{"1": b},
	}
	for _, id := range modules {
		cfg.Modules[id] = &config.Module{ID: id, Type: "wiki", UUID: "uuid-of-" + id}
	}
	if err := os.Mkdir(cfg.Metrics.TextfileDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return &Runner{
		Config: cfg,
		Paths:  config.Paths{State: filepath.Join(dir, "state"), Lock: filepath.Join(dir, "lock"), Cache: filepath.Join(dir, "cache")},
		Store:  status.Store{Dir: filepath.Join(dir, "state")},
		Start:  s,
		Log:    slog.New(slog.NewTextHandler(io.Discard, nil)),
		Now:    time.Now,
		Getenv: os.Getenv,
	}, b
}

func TestVerdictIsTheWorstOutcome(t *testing.T) {
	for _, test := range []struct {
		name    string
		results map[string][]status.Result
		want    status.Outcome
	}{
		{"all saved", nil, status.Success},
		{"one failed", map[string][]status.Result{"b": {broken}}, status.Failed},
		{"one partial", map[string][]status.Result{"b": {readFault}}, status.Partial},
		{"failed and partial", map[string][]status.Result{"a": {broken}, "c": {readFault}}, status.Failed},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, _ := newRunner(t, &script{results: test.results}, "a", "b", "c")
			run, err := r.Backup(t.Context(), "1")
			if err != nil {
				t.Fatal(err)
			}
			if run.Outcome != test.want {
				t.Errorf("outcome %s; want %s", run.Outcome, test.want)
			}
			if len(run.Modules) != 3 || run.Modules[0].Module != "a" || run.Modules[2].Module != "c" {
				t.Errorf("modules = %+v, want a, b, c in the order of the configuration", run.Modules)
			}
			rec, err := r.Store.Backup("1")
			if err != nil || rec.LastRun.ID != run.ID || rec.LastRun.Outcome != test.want {
				t.Errorf("on record: %+v, %v; want this run", rec, err)
			}
			if _, err := r.Store.Running("1"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the marker is still there: %v", err)
			}
		})
	}
}

func TestAtMostMaxParallelAtOnce(t *testing.T) {
	var modules []string
	for i := range 20 {
		modules = append(modules, fmt.Sprint("m", i))
	}
	gate := make(chan struct{}, 20)
	s := &script{during: func(context.Context, string) { gate <- struct{}{} }}
	r, b := newRunner(t, s, modules...)
	b.MaxParallel = 3
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Success {
		t.Fatalf("Backup = %+v, %v", run, err)
	}
	if s.top > 3 || s.top < 1 {
		t.Errorf("%d attempts at once, want at most 3", s.top)
	}
	if len(s.attempts) != 20 {
		t.Errorf("%d attempts, want 20", len(s.attempts))
	}
}

// A passing failure waits at the end of the list, with growing pauses; a lasting one is not tried again.
func TestTransientFailuresAreRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{results: map[string][]status.Result{"a": {passing, passing, saved}, "b": {broken}}}
		r, _ := newRunner(t, s, "a", "b", "c")
		start := time.Now()
		run, err := r.Backup(t.Context(), "1")
		if err != nil {
			t.Fatal(err)
		}
		if want := []string{"a", "b", "c", "a", "a"}; !slices.Equal(s.attempts, want) {
			t.Errorf("attempts = %v, want %v", s.attempts, want)
		}
		if waited := time.Since(start); waited != firstBackoff+2*firstBackoff {
			t.Errorf("waited %s, want %s", waited, 3*firstBackoff)
		}
		if run.Modules[0].Outcome != status.Success || run.Modules[0].Attempts != 3 {
			t.Errorf("module a: %+v, want a success in 3 attempts", run.Modules[0])
		}
		if rec, err := r.Store.Module("1", "a"); err != nil || rec.CPUSecondsTotal != 6 {
			t.Errorf("record of a: %+v, %v; want the CPU time of all 3 attempts", rec, err)
		}
	})
}

func TestRetryTimeoutEndsTrying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{results: map[string][]status.Result{"a": {passing}}}
		r, b := newRunner(t, s, "a")
		b.RetryTimeout = 10 * time.Minute
		start := time.Now()
		run, err := r.Backup(t.Context(), "1")
		if err != nil || run.Outcome != status.Failed {
			t.Fatalf("Backup = %+v, %v; want a failure", run, err)
		}
		if took := time.Since(start); took != b.RetryTimeout {
			t.Errorf("gave up after %s, want %s", took, b.RetryTimeout)
		}
		if !strings.Contains(run.Modules[0].Error, "no route to host") {
			t.Errorf("error = %q, want the last one", run.Modules[0].Error)
		}
	})
}

// What an earlier attempt saved is not saved again: only its retention is left to do.
func TestSavedSnapshotIsHandedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{results: map[string][]status.Result{"a": {unpruned, saved}}}
		r, _ := newRunner(t, s, "a")
		if run, err := r.Backup(t.Context(), "1"); err != nil || run.Outcome != status.Success {
			t.Fatalf("Backup = %+v, %v", run, err)
		}
		if s.plans[0].Saved != nil || s.plans[1].Saved == nil || s.plans[1].Saved.Snapshot != "5afe" {
			t.Errorf("the second plan knows of %+v, want the snapshot of the first", s.plans[1].Saved)
		}
	})
}

// A busy module comes back the moment its lock is freed, long before the interval.
func TestBusyModuleWaitsForItsLock(t *testing.T) {
	s := &script{results: map[string][]status.Result{"a": {busy, saved}}}
	r, b := newRunner(t, s, "a", "b")
	b.RetryInterval = time.Hour
	if err := lock.EnsureDir(r.Paths.Lock); err != nil {
		t.Fatal(err)
	}
	held, err := lock.TryExclusive(lock.ModulePath(r.Paths.Lock, "a"), "other")
	if err != nil {
		t.Fatal(err)
	}
	s.during = func(_ context.Context, id string) {
		if id == "b" {
			held.Release()
		}
	}
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Success {
		t.Fatalf("Backup = %+v, %v", run, err)
	}
	rec, err := r.Store.Module("1", "a")
	if err != nil || rec.Attempts != 2 || rec.LockWaitSeconds <= 0 {
		t.Errorf("record = %+v, %v; want 2 attempts and the time waited", rec, err)
	}
}

func TestBusyToTheEndIsConflict(t *testing.T) {
	s := &script{results: map[string][]status.Result{"a": {busy}}}
	r, b := newRunner(t, s, "a", "b")
	b.RetryInterval, b.RetryTimeout = 5*time.Millisecond, 50*time.Millisecond
	if err := lock.EnsureDir(r.Paths.Lock); err != nil {
		t.Fatal(err)
	}
	held, err := lock.TryExclusive(lock.ModulePath(r.Paths.Lock, "a"), "other")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Conflict {
		t.Errorf("Backup = %+v, %v; want a conflict", run, err)
	}
}

// A cancelled run waits for what runs, begins nothing more, and has a verdict.
func TestCancelledRunHasVerdict(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &script{during: func(ctx context.Context, _ string) {
		cancel(errors.New("terminated"))
		<-ctx.Done()
	}}
	r, _ := newRunner(t, s, "a", "b")
	run, err := r.Backup(ctx, "1")
	if err != nil {
		t.Fatal(err)
	}
	if run.Outcome != status.Failed || !strings.Contains(run.Error, "terminated") || len(s.attempts) != 1 {
		t.Errorf("run = %+v after attempts %v; want it failed after one", run, s.attempts)
	}
	if run.Modules[1].Outcome != status.Failed {
		t.Errorf("module b: %+v, want failed: it was not saved", run.Modules[1])
	}
	if rec, err := r.Store.Backup("1"); err != nil || rec.LastRun.Outcome != status.Failed {
		t.Errorf("on record: %+v, %v", rec, err)
	}
}

func TestOneRunAtATime(t *testing.T) {
	s := &script{}
	r, _ := newRunner(t, s, "a")
	var inner error
	s.during = func(ctx context.Context, _ string) { _, inner = r.Backup(ctx, "1") }
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Success {
		t.Fatalf("Backup = %+v, %v", run, err)
	}
	if !errors.Is(inner, ErrRunning) {
		t.Errorf("the second run: %v, want ErrRunning", inner)
	}
	if runs, _ := r.Store.Runs("1", 10); len(runs) != 1 {
		t.Errorf("%d runs on record, want 1", len(runs))
	}
}

// What is wrong with the configuration is a failed run on record, and only of what it is wrong with.
func TestBrokenConfiguration(t *testing.T) {
	t.Run("module", func(t *testing.T) {
		r, _ := newRunner(t, &script{}, "a", "b")
		r.Config.Problems = []config.Problem{{Kind: config.KindModule, ID: "a", Key: "module.a.include", Message: "is missing"}}
		run, err := r.Backup(t.Context(), "1")
		if err != nil || run.Outcome != status.Failed || run.Modules[0].Outcome != status.Failed || run.Modules[1].Outcome != status.Success {
			t.Errorf("Backup = %+v, %v; want a failed and b saved", run, err)
		}
	})
	t.Run("destination", func(t *testing.T) {
		r, _ := newRunner(t, &script{}, "a")
		r.Config.Problems = []config.Problem{{Kind: config.KindDestination, ID: "archive", Key: "destination.archive.repository", Message: "is missing"}}
		run, err := r.Backup(t.Context(), "1")
		if !errors.Is(err, ErrConfiguration) || run.Outcome != status.Failed {
			t.Errorf("Backup = %+v, %v; want failed, ErrConfiguration", run, err)
		}
		if rec, err := r.Store.Backup("1"); err != nil || rec.LastRun.Outcome != status.Failed {
			t.Errorf("on record: %+v, %v; want failed", rec, err)
		}
	})
	t.Run("unreadable file", func(t *testing.T) {
		r, _ := newRunner(t, &script{}, "a")
		delete(r.Config.Backups, "1")
		r.Config.Problems = []config.Problem{{Kind: config.KindFile, Message: "expected a key"}}
		run, err := r.Backup(t.Context(), "1")
		if !errors.Is(err, ErrConfiguration) || run.Outcome != status.Failed {
			t.Errorf("Backup = %+v, %v; want failed, ErrConfiguration", run, err)
		}
		if _, err := os.Stat(filepath.Join(r.Config.Metrics.TextfileDir, "backup1.prom")); err != nil {
			t.Error("no metrics of the failed run")
		}
	})
	t.Run("mistyped", func(t *testing.T) {
		r, _ := newRunner(t, &script{}, "a")
		run, err := r.Backup(t.Context(), "2")
		if !errors.Is(err, ErrConfiguration) {
			t.Errorf("Backup = %+v, %v; want ErrConfiguration", run, err)
		}
		if _, err := os.Stat(filepath.Join(r.Config.Metrics.TextfileDir, "backup2.prom")); err == nil {
			t.Error("a mistyped ID left metrics")
		}
	})
}

// However a run dies, it is found and recorded as failed once, with its hooks.
func TestRecover(t *testing.T) {
	began := func(t *testing.T, r *Runner) status.Run {
		run := status.Run{ID: newID(), Backup: "1", Name: "Nightly", Start: time.Now()}
		if err := r.Store.Begin(running(run)); err != nil {
			t.Fatal(err)
		}
		return run
	}
	hook := func(t *testing.T, b *config.Backup) func() int {
		path := filepath.Join(t.TempDir(), "told")
		b.OnFailure = []string{"sh", "-c", `cat >> "$0"; echo >> "$0"`, path}
		return func() int {
			data, _ := os.ReadFile(path)
			return strings.Count(string(data), "\n")
		}
	}
	t.Run("before the verdict", func(t *testing.T) {
		r, b := newRunner(t, &script{}, "a")
		told := hook(t, b)
		run := began(t, r)
		for range 2 {
			if err := r.Recover(t.Context(), "1", "signal=KILL"); err != nil {
				t.Fatal(err)
			}
		}
		rec, err := r.Store.Backup("1")
		if err != nil || rec.LastRun.ID != run.ID || rec.LastRun.Outcome != status.Failed || !strings.Contains(rec.LastRun.Error, "signal=KILL") {
			t.Errorf("on record: %+v, %v; want the dead run", rec, err)
		}
		if m, err := r.Store.Module("1", "a"); err != nil || !m.Unclean || m.Outcome != status.Failed {
			t.Errorf("module on record: %+v, %v; want failed and unclean", m, err)
		}
		if told() != 1 {
			t.Errorf("the hook ran %d times, want once", told())
		}
	})
	t.Run("between verdict and hooks", func(t *testing.T) {
		r, b := newRunner(t, &script{}, "a")
		b.OnSuccess = []string{"touch", filepath.Join(t.TempDir(), "told")}
		run := began(t, r)
		run.End, run.Outcome = time.Now(), status.Success
		if err := r.Store.End(run); err != nil {
			t.Fatal(err)
		}
		if err := r.RecoverAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if rec, err := r.Store.Backup("1"); err != nil || rec.LastRun.Outcome != status.Success {
			t.Errorf("on record: %+v, %v; want the success that was written", rec, err)
		}
		if runs, _ := r.Store.Runs("1", 10); len(runs) != 1 {
			t.Errorf("%d runs in the history, want 1", len(runs))
		}
		if _, err := os.Stat(b.OnSuccess[1]); err != nil {
			t.Error("the hook did not run")
		}
	})
	t.Run("after the hooks", func(t *testing.T) {
		r, b := newRunner(t, &script{}, "a")
		told := hook(t, b)
		began(t, r)
		if err := r.Store.Announce("1"); err != nil {
			t.Fatal(err)
		}
		if err := r.RecoverAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if told() != 0 {
			t.Error("the hook ran a second time")
		}
	})
	t.Run("a living run", func(t *testing.T) {
		s := &script{}
		r, _ := newRunner(t, s, "a")
		var inner error
		s.during = func(ctx context.Context, _ string) { inner = r.RecoverAll(ctx) }
		run, err := r.Backup(t.Context(), "1")
		if err != nil || inner != nil || run.Outcome != status.Success {
			t.Errorf("Backup = %+v, %v, %v; want a success that nothing disturbed", run, err, inner)
		}
	})
}

func TestHookGetsVerdict(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	s := &script{results: map[string][]status.Result{"a": {broken}}}
	r, b := newRunner(t, s, "a")
	b.OnFailure = []string{"sh", "-c", `cat > "$0"; echo "$BACKUP_ID $BACKUP_OUTCOME $RUN_ID" > "$0.env"`, out}
	b.OnSuccess = []string{"touch", out + ".success"}
	run, err := r.Backup(t.Context(), "1")
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	var got status.Run
	if err := json.Unmarshal(data, &got); err != nil || got.ID != run.ID || got.Outcome != status.Failed {
		t.Errorf("the hook read %s", data)
	}
	if env, _ := os.ReadFile(out + ".env"); string(env) != "1 failed "+run.ID+"\n" {
		t.Errorf("the hook's environment: %q", env)
	}
	if _, err := os.Stat(out + ".success"); err == nil {
		t.Error("the hook for a success ran, too")
	}
}

func TestFailingHookChangesNoVerdict(t *testing.T) {
	r, b := newRunner(t, &script{}, "a")
	b.OnSuccess = []string{"/no/such/program"}
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Success {
		t.Errorf("Backup = %+v, %v; want a success", run, err)
	}
}

func TestPings(t *testing.T) {
	for _, test := range []struct {
		result status.Result
		want   []string
	}{
		{saved, []string{"/id/start", "/id"}},
		{broken, []string{"/id/start", "/id/fail"}},
	} {
		var mu sync.Mutex
		var got []string
		server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, req.URL.Path)
		}))
		r, b := newRunner(t, &script{results: map[string][]status.Result{"a": {test.result}}}, "a")
		b.PingURL = server.URL + "/id"
		if _, err := r.Backup(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		server.Close()
		if !slices.Equal(got, test.want) {
			t.Errorf("pings = %v, want %v", got, test.want)
		}
	}
}

// A URL that answers nothing costs nobody the verdict, and is not in the log: it is as good as a password.
func TestPingURLIsNotLogged(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer server.Close()
	r, b := newRunner(t, &script{}, "a")
	var log strings.Builder
	r.Log = slog.New(slog.NewTextHandler(&log, nil))
	b.PingURL = server.URL + "/planted-token"
	run, err := r.Backup(t.Context(), "1")
	if err != nil || run.Outcome != status.Success {
		t.Fatalf("Backup = %+v, %v", run, err)
	}
	if strings.Contains(log.String(), "planted-token") || !strings.Contains(log.String(), "502") {
		t.Errorf("log = %s; want the answer and not the URL", log.String())
	}
}

// A check goes through the parts of the data one by one, again where one was not found good, and changes nothing of its backup's records.
func TestChecks(t *testing.T) {
	good := status.Result{Outcome: status.Success}
	s := &script{results: map[string][]status.Result{"a": {saved, good, broken, good, good}}}
	r, b := newRunner(t, s, "a")
	b.Check = config.Check{Schedule: []string{"weekly"}, ReadDataSubset: 2}
	b.Retention = config.Retention{KeepLast: 1}
	b.OnSuccess = []string{"false"}
	if _, err := r.Backup(t.Context(), "1"); err != nil {
		t.Fatal(err)
	}
	before, err := r.Store.Module("1", "a")
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		number int
		status string
	}{{1, "1"}, {2, "0"}, {2, "1"}, {1, "1"}} {
		run, err := r.Backup(t.Context(), "check@1")
		if err != nil || run.Backup != "check@1" {
			t.Fatalf("check %d: %+v, %v", i, run, err)
		}
		plan := s.plans[i+1]
		if plan.Check == nil || *plan.Check != (module.Check{Number: want.number, Of: 2}) || plan.MayInit || !plan.Retention.IsZero() {
			t.Errorf("check %d: plan %+v, check %+v; want part %d of 2", i, plan, plan.Check, want.number)
		}
		data, err := os.ReadFile(filepath.Join(r.Config.Metrics.TextfileDir, "backup1.prom"))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			`node_backup_status{id="1",name="Nightly"} 1`, `node_backup_check_status{id="1",name="Nightly"} ` + want.status,
			`node_backup_module_check_status{id="1",module="a",name="Nightly"} ` + want.status, `node_backup_running{id="1",name="Nightly"} 0`,
		} {
			if !strings.Contains(string(data), line+"\n") {
				t.Errorf("check %d: no %s in\n%s", i, line, data)
			}
		}
	}
	after, err := r.Store.Module("1", "a")
	if err != nil || after.Run != before.Run || after.Snapshot != before.Snapshot {
		t.Errorf("the record of the backup has become %+v, %v", after, err)
	}
	if _, err := r.Backup(t.Context(), "check@2"); !errors.Is(err, ErrConfiguration) {
		t.Errorf("a check of no backup: %v", err)
	}
	if files, _ := filepath.Glob(filepath.Join(r.Config.Metrics.TextfileDir, "*")); len(files) != 1 {
		t.Errorf("textfiles %v; want that of the backup alone", files)
	}
}
