package status_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/promfile"
	"sdbackup/internal/status"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestMain lets the test binary be the program that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("WRITE_RECORDS_IN"); dir != "" {
		fmt.Println("error:", runForEver(site(dir)))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// site is the folder of a host's records and metrics.
type site string

func (s site) store() status.Store { return status.Store{Dir: filepath.Join(string(s), "state")} }
func (s site) textfiles() string   { return filepath.Join(string(s), "textfile") }

// run writes all that a run writes, from the marker to its removal, and calls after when each step is done.
func (s site) run(id string, after func(step string)) error {
	store, now := s.store(), time.Now()
	run := status.Run{ID: id, Backup: "1", Name: "Nightly", Start: now, End: now, Outcome: status.Success}
	module := status.Module{Result: status.Result{
		Module: "wiki1", Run: id, Outcome: status.Success,
		Snapshots: make([]status.Snapshot, 300), // some pages
	}}
	metrics := func(running bool) error {
		rec, err := store.Backup("1")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		modules := map[string]*status.Module{"wiki1": &module}
		return promfile.Write(s.textfiles(), promfile.FromRecords("1", "Nightly", rec, modules, running, now))
	}
	for _, step := range []struct {
		name string
		act  func() error
	}{
		{"begin", func() error { return store.Begin(status.Running{ID: id, Backup: "1", Start: now}) }},
		{"metrics", func() error { return metrics(true) }},
		{"module", func() error { return store.SaveModule("1", "wiki1", &module) }},
		{"end", func() error { return store.End(run) }},
		{"verdict", func() error { return metrics(false) }},
		{"announce", func() error { return store.Announce("1") }},
		{"remove", func() error { return store.RemoveRunning("1") }},
	} {
		if err := step.act(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		after(step.name)
	}
	return nil
}

func runForEver(s site) error {
	for n := 0; ; n++ {
		id := fmt.Sprintf("%s-%04d", os.Getenv("WRITE_RECORDS_AS"), n)
		if err := s.run(id, func(step string) { fmt.Println(step, id) }); err != nil {
			return err
		}
	}
}

// killWriter runs a writer and kills it a while after it has reported so many steps. It returns the last run that the writer
// said has ended; "" where none did.
func (s site) killWriter(t *testing.T, name string, steps int, later time.Duration) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WRITE_RECORDS_IN="+string(s), "WRITE_RECORDS_AS="+name)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	last := ""
	lines := bufio.NewScanner(out)
	reported := func() {
		step, id, _ := strings.Cut(lines.Text(), " ")
		switch step {
		case "error:":
			t.Fatalf("writer %s: %s", name, id)
		case "end":
			last = id
		}
	}
	for range steps {
		if !lines.Scan() {
			t.Fatalf("writer %s ended by itself", name)
		}
		reported()
	}
	for began := time.Now(); time.Since(began) < later; { // not a sleep: those are too coarse to hit a step's middle
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for lines.Scan() {
		reported()
	}
	return last
}

// litter returns the temporary files there are.
func (s site) litter(t *testing.T) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(string(s), func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), ".") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// check fails the test unless everything parses, and the run is on record and with it all that had ended before.
func (s site) check(t *testing.T, ended string) {
	t.Helper()
	// The files themselves: Backup makes up for one that is damaged.
	for _, name := range []string{"running/1.json", "status/1.json", "status/1/wiki1.json"} {
		data, err := os.ReadFile(filepath.Join(s.store().Dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && !json.Valid(data) {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if _, err := s.store().Running("1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := s.store().Module("1", "wiki1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	rec, err := s.store().Backup("1")
	if err != nil && !errors.Is(err, fs.ErrNotExist) || err == nil && rec.LastRun.ID < ended {
		t.Errorf("the last run on record is %+v, %v; want %s or a later one", rec, err, ended)
	}
	runs, err := s.store().Runs("1", 2*status.TrimAt)
	if err != nil || len(runs) > status.TrimAt+3 { // a kill between append and trim leaves one more
		t.Errorf("%d runs in the history, %v", len(runs), err)
	}
	for i, run := range runs {
		if i > 0 && run.ID <= runs[i-1].ID {
			t.Errorf("run %s is in the history behind %s", run.ID, runs[i-1].ID)
		}
	}
	if ended != "" && !slices.ContainsFunc(runs, func(run status.Run) bool { return run.ID == ended }) {
		t.Errorf("run %s had ended and is not in the history", ended)
	}
	entries, err := os.ReadDir(s.textfiles())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".prom") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(s.textfiles(), e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(data))
		if e.Name() != "backup1.prom" || err != nil || families["node_backup_module_io_write_bytes"] != nil || families["node_backup_module_partial"] == nil {
			t.Errorf("%s: %v in\n%s", e.Name(), err, data)
		}
	}
}

// Whenever a writer of status, history and metrics is killed, everything parses, nothing that had ended is forgotten, and
// the next writer goes on and clears up. Every third time the history is about to be trimmed.
func TestKilledAtAnyPoint(t *testing.T) {
	kills := 90
	if testing.Short() {
		kills = 20
	}
	s := site(t.TempDir())
	if err := os.Mkdir(s.textfiles(), 0o755); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	const warmUp = 20
	for n := range warmUp {
		if err := s.run(fmt.Sprintf("0000-%04d", n), func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	perStep := time.Since(began) / (7 * warmUp)

	seed := rand.Uint64()
	t.Logf("seed %d, %v a step", seed, perStep)
	rng := rand.New(rand.NewPCG(seed, 0))
	littered := 0
	for kill := range kills {
		name := fmt.Sprintf("%04d", kill+1)
		if kill%3 == 0 {
			var lines strings.Builder
			for n := range status.TrimAt - rng.IntN(2) {
				fmt.Fprintf(&lines, "{\"run_id\":\"%s!%04d\",\"backup\":\"1\"}\n", name, n) // '!' sorts before '-'
			}
			if err := os.WriteFile(filepath.Join(s.store().Dir, "runs/1.jsonl"), []byte(lines.String()), 0o640); err != nil {
				t.Fatal(err)
			}
		}
		steps, later := 1+rng.IntN(20), time.Duration(rng.Int64N(int64(2*perStep)))
		ended := s.killWriter(t, name, steps, later)
		s.check(t, ended)
		if t.Failed() {
			t.Fatalf("writer %s was killed %v after %d steps", name, later, steps)
		}
		litter := s.litter(t)
		if len(litter) > 0 {
			littered++
		}
		if len(litter) > 2 { // of this one, and of the one before when this one did not get to clear up after it
			t.Fatalf("litter piles up: %v", litter)
		}
	}
	t.Logf("%d of %d kills left a temporary file", littered, kills)
	if err := s.run("9999-0000", func(string) {}); err != nil {
		t.Fatal(err)
	}
	s.check(t, "9999-0000")
	if litter := s.litter(t); len(litter) > 0 {
		t.Errorf("litter of killed writers is still there: %v", litter)
	}
}
