package promfile

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/status"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

var update = flag.Bool("update", false, "rewrite the files in testdata and the example in docs/metrics.md")

var night = time.Date(2026, 3, 2, 2, 0, 12, 345e6, time.UTC)

func ptr[T any](v T) *T { return &v }

// samples are the states that a backup can be in, by the names of their files in testdata.
func samples() map[string]Sample {
	next := night.Truncate(24 * time.Hour).Add(26 * time.Hour)
	run := func(o status.Outcome) *status.Backup {
		return &status.Backup{
			LastRun:     status.Run{ID: "r1", Start: night, End: night.Add(94500 * time.Millisecond), Outcome: o},
			LastSuccess: night.Add(94500*time.Millisecond - 24*time.Hour),
		}
	}
	wiki := &status.Module{
		Result: status.Result{
			Outcome: status.Success, Start: night, End: night.Add(42 * time.Second),
			Files: 5213, SizeBytes: 734003200, AddedBytes: 1153433, Snapshots: make([]status.Snapshot, 11),
			Retention: &status.Retention{Outcome: status.Success, Called: true, Removed: 1, Kept: 11},
		},
		Attempts: 1, CPUSeconds: ptr(3.5), CPUSecondsTotal: 128.25, MemoryPeakBytes: ptr(uint64(96 << 20)),
		IOReadBytes: ptr(uint64(1200 << 10)), IOWriteBytes: ptr(uint64(2300 << 10)), LastSuccess: night.Add(42 * time.Second),
	}
	success := run(status.Success)
	success.LastSuccess = success.LastRun.End
	mail := *wiki
	mail.Start, mail.End, mail.LastSuccess = night.Add(42*time.Second), night.Add(94*time.Second), night.Add(94*time.Second)
	mail.Files, mail.SizeBytes, mail.AddedBytes = 88123, 9663676416, 41943040

	broken := mail
	broken.Result = status.Result{Outcome: status.Failed, Error: "wrong password", Start: mail.Start, End: mail.Start.Add(time.Second)}
	broken.MemoryPeakBytes, broken.IOReadBytes, broken.IOWriteBytes, broken.CPUSeconds = nil, nil, nil, nil
	broken.LastSuccess = night.Add(-24 * time.Hour)

	busy := broken
	busy.Result = status.Result{Outcome: status.Conflict, Start: mail.Start, End: mail.Start}
	busy.Attempts, busy.LockWaitSeconds = 60, 3600

	partial := *wiki
	partial.Outcome, partial.Partial, partial.StaleLocksTotal = status.Partial, true, 2
	partial.Retention = &status.Retention{Outcome: status.Failed, Called: true}

	modules := func(wiki, mail *status.Module) map[string]*status.Module {
		return map[string]*status.Module{"wiki1": wiki, "mail1": mail}
	}
	checked := FromRecords("1", "Nightly to the archive", success, modules(wiki, &mail), false, next)
	checked.HasCheck, checked.Check, checked.Checks = true, run(status.Failed), modules(
		&status.Module{Result: status.Result{Outcome: status.Success}}, &status.Module{Result: status.Result{Outcome: status.Failed}})
	copied, uncopied := *success, *run(status.Partial)
	copied.NodeCopy = &status.NodeCopy{Outcome: status.Success, Written: true, Time: night.Add(2 * time.Second)}
	copied.LastNodeCopy = copied.NodeCopy.Time
	uncopied.NodeCopy, uncopied.LastNodeCopy = &status.NodeCopy{Outcome: status.Failed, Error: "no space"}, night.Add(-24*time.Hour)
	unchecked := checked
	unchecked.Check, unchecked.Checks = nil, nil
	// wiki1 was restored well from this backup and badly since, and mail1 from another one only.
	drilled := FromRecords("1", "Nightly to the archive", success, modules(wiki, &mail), false, next)
	practice := &status.Backup{LastRun: status.Run{ID: "d1", Start: night, Due: night.Add(31 * 24 * time.Hour), Outcome: status.Success, Modules: []status.Brief{{}}}}
	drilled.drill("wiki1", practice, &status.Module{Drills: map[string]status.Drilled{"1": {
		Outcome: status.Failed, Start: night, End: night.Add(3 * time.Second), LastSuccess: night.Add(-31 * 24 * time.Hour),
	}}})
	drilled.drill("mail1", practice, &status.Module{Drills: map[string]status.Drilled{"2": {Outcome: status.Success, Start: night, End: night}}})
	mistaken := FromRecords("1", "Nightly to the archive", success, modules(wiki, &mail), false, next)
	mistaken.drill("wiki1", &status.Backup{LastRun: status.Run{ID: "d2", Start: night, End: night, Outcome: status.Failed}}, &status.Module{
		Drills: map[string]status.Drilled{"1": {Outcome: status.Success, Start: night, End: night.Add(42 * time.Second), Files: 12, SizeBytes: 64 << 20, LastSuccess: night}},
	})
	mistaken.drill("mail1", nil, nil)
	return map[string]Sample{
		"drilled":     drilled,
		"mistaken":    mistaken,
		"checked":     checked,
		"unchecked":   unchecked,
		"copied":      FromRecords("1", "Nightly to the archive", &copied, modules(wiki, &mail), false, next),
		"uncopied":    FromRecords("1", "Nightly to the archive", &uncopied, modules(wiki, &mail), false, next),
		"first-run":   FromRecords("1", "Nightly to the archive", nil, nil, true, next),
		"success":     FromRecords("1", "Nightly to the archive", success, modules(wiki, &mail), false, next),
		"failed":      FromRecords("1", "Nightly to the archive", run(status.Failed), modules(wiki, &broken), false, next),
		"running":     FromRecords("1", "Nightly to the archive", run(status.Failed), modules(wiki, &broken), true, next),
		"conflict":    FromRecords("web.2-a", "Web", run(status.Conflict), modules(wiki, &busy), false, next),
		"partial":     FromRecords("3", "Weekly", run(status.Partial), modules(&partial, &mail), false, time.Time{}),
		"odd-name":    FromRecords("4", "a \"quoted\" \\ name\nof two lines, with \xff and ü", run(status.Success), nil, false, next),
		"clock-moved": FromRecords("5", "Clock", &status.Backup{LastRun: status.Run{Start: night, End: night.Add(-time.Hour)}}, nil, false, next),
	}
}

func format(t testing.TB, s Sample) []byte {
	t.Helper()
	data, err := Format(s)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func golden(name string) string { return filepath.Join("testdata", name+".prom") }

func TestGolden(t *testing.T) {
	for name, sample := range samples() {
		got := format(t, sample)
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(golden(name), got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden(name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant, as in testdata (rewrite it with -update)\n%s", name, got, want)
		}
	}
}

func parse(t testing.TB, text []byte) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("node_exporter's parser: %v, of\n%s", err, text)
	}
	return families
}

// What is read back with the parser of node_exporter is what went in.
func TestReadBack(t *testing.T) {
	all := map[string]string{}
	for _, m := range slices.Concat(backupMetrics, checkMetrics) {
		all[m.name] = m.help
	}
	for _, m := range slices.Concat(moduleMetrics, moduleCheckMetrics) {
		all[m.name] = m.help
	}
	for _, m := range moduleDrillMetrics {
		all[m.name] = m.help
	}
	seen := map[string]bool{}
	for name, sample := range samples() {
		for metric, family := range parse(t, format(t, sample)) {
			seen[metric] = true
			if family.GetHelp() != all[metric] {
				t.Errorf("%s: HELP of %s is %q; want %q in every file", name, metric, family.GetHelp(), all[metric])
			}
			for _, series := range family.Metric {
				if series.TimestampMs != nil {
					t.Errorf("%s: %s has a timestamp", name, metric)
				}
				want := []string{"id", "name"}
				if strings.HasPrefix(metric, "node_backup_module_") {
					want = []string{"id", "module", "name"}
				}
				for i, l := range series.Label {
					if len(series.Label) != len(want) || l.GetName() != want[i] {
						t.Errorf("%s: labels of %s are %v; want %v", name, metric, series.Label, want)
						break
					}
				}
				if v := series.GetGauge().GetValue() + series.GetCounter().GetValue(); v < 0 && v != -1 {
					t.Errorf("%s: %s is %v", name, metric, v)
				}
			}
		}
	}
	for metric := range all {
		if !seen[metric] {
			t.Errorf("no sample has %s", metric)
		}
	}
}

func TestVerdicts(t *testing.T) {
	for outcome, want := range map[status.Outcome]float64{
		status.Unknown: -1, "": -1, status.Failed: 0, "strange": 0, status.Success: 1, status.Partial: 1, status.Conflict: 2,
	} {
		if got := verdict(outcome); got != want {
			t.Errorf("verdict(%q) = %v; want %v", outcome, got, want)
		}
	}
}

// An alert about the last run must not clear itself because the next one has begun.
func TestRunningChangesNothingElse(t *testing.T) {
	for name, sample := range samples() {
		sample.Running = false
		before := string(format(t, sample))
		sample.Running = true
		during := string(format(t, sample))
		running := regexp.MustCompile(`(?m)^node_backup_running\{.*\} [01]$`)
		if got := len(running.FindAllString(during, -1)); got != 1 {
			t.Errorf("%s: %d lines tell whether it runs; want 1", name, got)
		}
		if before == during || running.ReplaceAllString(before, "") != running.ReplaceAllString(during, "") {
			t.Errorf("%s: before the run\n%s\nduring it\n%s", name, before, during)
		}
	}
}

func TestWhatIsNotKnownIsLeftOut(t *testing.T) {
	text := string(format(t, FromRecords("1", "Nightly", nil, map[string]*status.Module{"new": {}, "none": nil}, false, time.Time{})))
	for _, name := range []string{
		"node_backup_next_run_timestamp_seconds", "node_backup_last_run_timestamp_seconds", "node_backup_duration_seconds",
		"node_backup_last_success_timestamp_seconds", "node_backup_module_last_success_timestamp_seconds",
		"node_backup_module_memory_peak_bytes", "node_backup_module_cpu_seconds_total", `module="none"`,
	} {
		if strings.Contains(text, name) {
			t.Errorf("%s is in\n%s", name, text)
		}
	}
	if !strings.Contains(text, `node_backup_status{id="1",name="Nightly"} -1`) {
		t.Errorf("no status -1 in\n%s", text)
	}
}

// A counter must not vanish for one run without accounting, and come back.
func TestCounterOutlivesARunWithoutAccounting(t *testing.T) {
	m := &status.Module{CPUSecondsTotal: 7}
	text := string(format(t, FromRecords("1", "Nightly", nil, map[string]*status.Module{"a": m}, false, time.Time{})))
	if want := `node_backup_module_cpu_seconds_total{id="1",module="a",name="Nightly"} 7`; !strings.Contains(text, want) {
		t.Errorf("no %s in\n%s", want, text)
	}
}

func FuzzLabels(f *testing.F) {
	f.Add("1", "wiki1", "Nightly")
	f.Add("a\xff", "b\n\"\\", "ü\x00\r\u2028")
	f.Add("", "{}=,", strings.Repeat("long ", 100_000))
	f.Add("# HELP", " \t", "\xed\xa0\x80\\n")
	f.Fuzz(func(t *testing.T, id, module, name string) {
		sample := samples()["copied"]
		sample.ID, sample.Name = id, name
		sample.Modules = map[string]*status.Module{module: sample.Modules["wiki1"]}
		families := parse(t, format(t, sample))
		if got, want := len(families), len(backupMetrics)+len(moduleMetrics); got != want {
			t.Fatalf("%d metrics; want %d", got, want)
		}
		for metric, family := range families {
			if len(family.Metric) != 1 {
				t.Fatalf("%d series of %s; want 1", len(family.Metric), metric)
			}
			for _, l := range family.Metric[0].Label {
				want := map[string]string{"id": id, "module": module, "name": name}[l.GetName()]
				if got := l.GetValue(); got != strings.ToValidUTF8(want, "\uFFFD") {
					t.Errorf("%s of %s is %q; want %q", l.GetName(), metric, got, want)
				}
			}
		}
	})
}
