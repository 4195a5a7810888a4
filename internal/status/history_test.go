package status

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func historyOf(s Store) string { return filepath.Join(s.Dir, "runs/1.jsonl") }

func ids(t testing.TB, s Store, n int) []string {
	t.Helper()
	runs, err := s.Runs("1", n)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range runs {
		ids = append(ids, r.ID)
	}
	return ids
}

func TestRuns(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	end(t, s, ended(0, "a", Success), ended(1, "b", Failed), ended(2, "c", Success))
	for n, want := range map[int][]string{-1: nil, 0: nil, 1: {"c"}, 2: {"b", "c"}, 3: {"a", "b", "c"}, 99: {"a", "b", "c"}} {
		if got := ids(t, s, n); !slices.Equal(got, want) {
			t.Errorf("Runs(%d) = %v; want %v", n, got, want)
		}
	}
}

func TestEndAgainIsOneLine(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	end(t, s, ended(0, "a", Success), ended(1, "b", Success))
	if err := os.Remove(filepath.Join(s.Dir, "status/1.json")); err != nil { // killed between the two files
		t.Fatal(err)
	}
	end(t, s, ended(1, "b", Success))
	if got := ids(t, s, 9); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("history is %v; want a, b", got)
	}
	if _, err := os.Stat(filepath.Join(s.Dir, "status/1.json")); err != nil {
		t.Error(err)
	}
}

// The last line can be torn at any byte, and a loss of power can leave zeros in its place.
func TestTornLastLine(t *testing.T) {
	line, err := json.Marshal(ended(1, "torn", Success))
	if err != nil {
		t.Fatal(err)
	}
	tails := map[string]bool{strings.Repeat("\x00", 4096): false, "\n\n": false, "null": false, "{}\n": false}
	for n := range line {
		tails[string(line[:n])] = false
	}
	tails[string(line)] = true // all of it but its end: nothing is lost
	for tail, whole := range tails {
		s := Store{Dir: t.TempDir()}
		first, err := json.Marshal(ended(0, "a", Success))
		if err != nil {
			t.Fatal(err)
		}
		put(t, historyOf(s), string(first)+"\n"+tail)
		want := []string{"a"}
		if whole {
			want = append(want, "torn")
		}
		if got := ids(t, s, 9); !slices.Equal(got, want) {
			t.Errorf("read with the end %q: %v; want %v", tail, got, want)
		}
		end(t, s, ended(2, "b", Success))
		if got := ids(t, s, 9); !slices.Equal(got, append(want, "b")) {
			t.Errorf("read with the end %q and another run: %v; want %v", tail, got, append(want, "b"))
		}
	}
}

// lines returns the lines of n runs, each made size bytes long.
func lines(t testing.TB, n, size int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		run := ended(i, fmt.Sprint(i), Failed)
		line, err := json.Marshal(run)
		if err != nil {
			t.Fatal(err)
		}
		if more := size - len(line) - len(`,"error":""`) - 1; more > 0 {
			run.Error = strings.Repeat("x", more)
			if line, err = json.Marshal(run); err != nil {
				t.Fatal(err)
			}
		}
		b.Write(append(line, '\n'))
	}
	return b.String()
}

func TestHistoryIsBounded(t *testing.T) {
	for _, test := range []struct {
		name     string
		runs     int
		size     int // of each, in bytes
		want     int // runs afterwards
		maxBytes int
	}{
		{"short", 10, 0, 11, maxHistoryBytes},
		{"at its bound", maxRuns + maxRuns/4 - 1, 0, maxRuns + maxRuns/4, maxHistoryBytes},
		{"too many runs", maxRuns + maxRuns/4, 0, maxRuns, maxHistoryBytes},
		{"far too many", 3 * maxRuns, 0, maxRuns, maxHistoryBytes},
		{"too many bytes", 40, maxHistoryBytes / 20, 10, maxHistoryBytes/2 + 1000},
		{"each too big", 3, maxHistoryBytes * 2, 1, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Store{Dir: t.TempDir()}
			put(t, historyOf(s), lines(t, test.runs, test.size))
			end(t, s, ended(test.runs, "last", Success))
			got := ids(t, s, 10*maxRuns)
			if len(got) != test.want || got[len(got)-1] != "last" {
				t.Fatalf("%d runs, the last one %s; want %d and this run", len(got), got[len(got)-1], test.want)
			}
			if len(got) > 1 && got[len(got)-2] != fmt.Sprint(test.runs-1) {
				t.Errorf("before the last run is %s; want %d", got[len(got)-2], test.runs-1)
			}
			info, err := os.Stat(historyOf(s))
			if err != nil || info.Size() > int64(test.maxBytes) {
				t.Errorf("%d bytes, %v; want at most %d", info.Size(), err, test.maxBytes)
			}
			if info.Mode().Perm() != fileMode {
				t.Errorf("mode %o", info.Mode().Perm())
			}
		})
	}
}

func TestBackwards(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	contents := []string{"", "\n", "a", "a\n", "\n\na\n\nb"}
	for range 50 {
		var b strings.Builder
		for range rng.IntN(8) {
			b.WriteString(strings.Repeat("x", rng.IntN(3*readChunkBytes)))
			b.WriteString(strings.Repeat("\n", rng.IntN(3)))
		}
		contents = append(contents, b.String())
	}
	for i, content := range contents {
		want := strings.Split(content, "\n")
		slices.Reverse(want)
		if content == "" {
			want = []string{""}
		}
		var got []string
		var err error
		for at, line := range backwards(strings.NewReader(content), &err) {
			got = append(got, string(line))
			if !strings.HasPrefix(content[at:], string(line)) {
				t.Errorf("content %d: a line is not where it is said to be, %d", i, at)
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("content %d of %d bytes: %d lines, %v; want %d", i, len(content), len(got), err, len(want))
		}
	}
}

// Whatever a history holds, a run that is added is the last one, and takes no other away.
func FuzzHistory(f *testing.F) {
	f.Add([]byte("{\"run_id\":\"a\"}\n{\"run"))
	f.Add([]byte("{\"run_id\":\"a\"}"))
	f.Add([]byte("\x00\n\n{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := Store{Dir: t.TempDir()}
		put(t, historyOf(s), string(data))
		before := ids(t, s, maxRuns)
		if slices.Contains(before, "") {
			t.Errorf("a run without an ID in %q", data)
		}
		if err := s.append(ended(0, "added", Success)); err != nil {
			t.Fatal(err)
		}
		if got, want := ids(t, s, maxRuns), append(before, "added"); !slices.Equal(got, want[max(0, len(want)-maxRuns):]) {
			t.Errorf("with %q: %q; want %q", data, got, want)
		}
		if after, err := os.ReadFile(historyOf(s)); err != nil || !bytes.HasSuffix(after, []byte("\n")) {
			t.Errorf("ends in no line: %q, %v", after, err)
		}
	})
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"run_id":"a","outcome":"failed","last_run":{"run_id":"a"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := Store{Dir: t.TempDir()}
		put(t, filepath.Join(s.Dir, "running/1.json"), string(data))
		put(t, filepath.Join(s.Dir, "status/1.json"), string(data))
		put(t, filepath.Join(s.Dir, "status/1/wiki1.json"), string(data))
		if r, err := s.Running("1"); (err == nil) != (r != nil && r.ID != "") {
			t.Errorf("Running = %+v, %v", r, err)
		}
		if b, err := s.Backup("1"); (err == nil) != (b != nil && b.LastRun.ID != "") {
			t.Errorf("Backup = %+v, %v", b, err)
		}
		if m, err := s.Module("1", "wiki1"); (err == nil) != (m != nil && m.Outcome != "") {
			t.Errorf("Module = %+v, %v", m, err)
		}
	})
}

// What the end of a run costs when the history is as long as it gets.
func BenchmarkEnd(b *testing.B) {
	s := Store{Dir: b.TempDir()}
	put(b, historyOf(s), lines(b, maxRuns, 300))
	for i := 0; b.Loop(); i++ {
		end(b, s, ended(i, fmt.Sprint("run", i), Success))
	}
}
