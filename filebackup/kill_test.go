package filebackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// errKilled is what every step fails with after a death; it is none that is tried again.
var errKilled = fmt.Errorf("killed: %w", context.Canceled)

// dieAt makes everything fail from the n-th step on, as after SIGKILL, and records the steps.
func (f *fixture) dieAt(n int) (steps *[]string) {
	var mu sync.Mutex
	steps = new([]string)
	f.c.Fault = func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		if n >= 0 && len(*steps) >= n {
			return errKilled
		}
		*steps = append(*steps, step)
		return nil
	}
	return steps
}

func stored(steps []string) (n int) {
	for _, s := range steps {
		if strings.HasPrefix(s, "put files/") || strings.HasPrefix(s, "complete files/") {
			n++
		}
	}
	return n
}

// A run is killed at each of its steps. What was there before stays, the next run finishes the job, and nothing is stored twice.
func TestKillAtEachStep(t *testing.T) {
	for _, mode := range []string{"plain", "split", "all"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				f := newFixture(t)
				f.c.Parallel, f.c.SnapshotInterval = 1, 2
				if mode == "split" {
					f.c.SplitChunkSize = 3
				} else {
					f.pipelines(mode)
				}
				f.write("a", "one")
				f.write("stays", "stays")
				f.backup()
				first := f.download("latest")
				id := f.versions()[0].ID
				for i := range 3 {
					f.write(fmt.Sprint("new", i), fmt.Sprint("content ", i))
				}
				f.write("a", "one, changed")
				f.write("large", strings.Repeat("0123456789abcdef", 6<<16))
				f.remove("stays")
				steps := f.dieAt(n)
				_, err := f.open().Backup(t.Context(), BackupOptions{})
				died := errors.Is(err, errKilled)
				f.c.Fault = nil
				f.same(first, f.download(id))
				for _, v := range f.versions()[1:] {
					f.download(v.ID)
				}
				dead := stored(*steps)
				again := f.dieAt(-1)
				f.backup()
				f.c.Fault = nil
				f.same(f.dir, f.download("latest"))
				f.same(first, f.download(id))
				if got := dead + stored(*again); got != 5 {
					t.Errorf("killed after %q: %d objects were stored by both runs; want 5", (*steps)[max(0, len(*steps)-1):], got)
				}
				if g, err := f.open().GarbageCollect(t.Context(), true); err != nil || len(g.Objects)+len(g.Missing) > 0 {
					t.Errorf("killed after %q: garbage %+v, %v", (*steps)[max(0, len(*steps)-1):], g, err)
				}
				if s := f.backup(); len(s.Versions) > 0 {
					t.Errorf("killed after %q: a third run makes a version: %+v", (*steps)[max(0, len(*steps)-1):], s)
				}
				if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
					t.Errorf("killed after %q: verify: %+v, %v", (*steps)[max(0, len(*steps)-1):], v, err)
				}
				if _, err := os.Stat(f.c.journalPath()); !os.IsNotExist(err) {
					t.Errorf("the journal is left: %v", err)
				}
				if !died {
					if n < 8 {
						t.Errorf("there are only %d steps", n)
					}
					return
				}
				if t.Failed() {
					return
				}
			}
		})
	}
}

// Without the journal of the dead run, what it stored is garbage and is removed.
func TestKillAndLoseTheJournal(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.Parallel = 1
	for i := range 5 {
		f.write(fmt.Sprint("new", i), fmt.Sprint("content ", i))
	}
	steps := f.dieAt(4)
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errKilled) {
		t.Fatalf("%v, %q", err, *steps)
	}
	f.c.Fault = nil
	if err := os.Remove(f.c.journalPath()); err != nil {
		t.Fatal(err)
	}
	// The log in the bucket may be of another machine whose backup is running.
	f.backup()
	f.same(f.dir, f.download("latest"))
	g, err := f.open().GarbageCollect(t.Context(), false)
	if err != nil || g.Left != stored(*steps) || len(g.Objects) > 0 {
		t.Errorf("garbage: %+v, %v; want %d objects left alone", g, err, stored(*steps))
	}
	if err := f.open().s.remove(t.Context(), "gc_log", ""); err != nil { // it is known to be dead
		t.Fatal(err)
	}
	if g, err = f.open().GarbageCollect(t.Context(), false); err != nil || len(g.Objects) != stored(*steps) {
		t.Errorf("garbage: %+v, %v; want %d objects", g, err, stored(*steps))
	}
	f.same(f.dir, f.download("latest"))
}

// Garbage collection leaves alone what a backup on another machine is storing.
func TestGarbageOfTheLiving(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "one")
	f.backup()
	f.write("b", "two")
	other := &fixture{TB: t, server: f.server, owner: f.owner, bucket: f.bucket, dir: f.dir, c: f.c}
	other.c.LocalManifestFile = filepath.Join(t.TempDir(), "manifest")
	other.c.LocalLockFile = other.c.LocalManifestFile + ".lock"
	other.c.Fault = func(step string) error {
		if step != "put manifest_diffs" {
			return nil
		}
		g, err := f.open().GarbageCollect(t.Context(), false)
		if err != nil || g.Left != 1 || len(g.Objects) != 0 {
			t.Errorf("garbage: %+v, %v; want one object left alone", g, err)
		}
		if s, err := f.open().Backup(t.Context(), BackupOptions{DryRun: true}); err != nil || s.New != 1 {
			t.Errorf("dry run: %+v, %v", s, err)
		}
		return nil
	}
	other.backup()
	f.same(f.dir, f.download("latest"))
}

// runHelper makes this program a file-backup that can be killed.
func runHelper() bool {
	text := os.Getenv("FILEBACKUP_TEST_CONFIG")
	if text == "" {
		return false
	}
	var c Config
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	r, err := Open(&c)
	if err == nil {
		_, err = r.Backup(context.Background(), BackupOptions{})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// A backup is killed at any time, over and over. Whatever version is listed can be downloaded and is what the folder was.
func TestKillAtRandom(t *testing.T) {
	kills := 200
	if s := os.Getenv("FILEBACKUP_TEST_KILLS"); s != "" {
		kills, _ = strconv.Atoi(s)
	}
	if testing.Short() {
		kills = 20
	}
	const buckets = 4
	for i := range buckets {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.c.SnapshotInterval = 5
			f.pipelines([]string{"plain", "all", "encrypted", "plain"}[i])
			f.c.SplitChunkSize = []int{0, 0, 7, 0}[i]
			f.c.Log = nil
			text, err := json.Marshal(struct {
				*Config
				Log, Fault, Ignore bool `json:",omitempty"`
			}{Config: &f.c})
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewPCG(uint64(i), uint64(time.Now().UnixNano())))
			states := map[string]string{} // by version; "" of a part of a state
			known := map[string]bool{}
			killed, split := 0, f.c.SplitChunkSize > 0
			for n := 0; killed < kills/buckets; n++ {
				for range 1 + random.IntN(12) {
					name := fmt.Sprintf("d%d/f%d", random.IntN(3), random.IntN(15))
					switch random.IntN(5) {
					case 0:
						f.remove(name)
					default:
						f.write(name, strings.Repeat(fmt.Sprint(random.Int()), 1+random.IntN(3000)))
					}
				}
				if n%10 == 3 {
					f.write("large", strings.Repeat(fmt.Sprint(random.Int64()), 400000))
				}
				now := tree(f, f.dir)
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "FILEBACKUP_TEST_CONFIG="+string(text))
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
				out := new(strings.Builder)
				cmd.Stderr = out
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				select {
				case err := <-ended:
					if err != nil {
						t.Fatalf("backup %d: %v: %s", n, err, out)
					}
				case <-time.After(time.Duration(random.IntN(900)) * time.Millisecond):
					_ = cmd.Process.Kill()
					<-ended
					killed++
				}
				list := f.versions()
				for k, v := range list {
					if known[v.ID] {
						continue
					}
					known[v.ID] = true
					states[v.ID] = now
					if split && k < len(list)-1 {
						states[v.ID] = ""
					}
				}
				if split && len(list) > 0 { // the last may be a part, too
					if tree(f, f.download("latest")) != now {
						states[list[len(list)-1].ID] = ""
					}
				}
			}
			f.backup()
			f.same(f.dir, f.download("latest"))
			list := f.versions()
			t.Logf("%d kills, %d versions", killed, len(list))
			for _, v := range list {
				got := tree(f, f.download(v.ID))
				if want := states[v.ID]; want != "" && got != want {
					t.Errorf("version %s holds\n%s\nthe folder was\n%s", v.ID, got, want)
				}
			}
			if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
				t.Errorf("verify: %+v, %v", v, err)
			}
			g, err := f.open().GarbageCollect(t.Context(), false)
			if err != nil || len(g.Missing) > 0 {
				t.Errorf("garbage: %+v, %v", g, err)
			}
			t.Logf("%d objects of garbage", len(g.Objects))
			f.same(f.dir, f.download("latest"))
		})
	}
}
