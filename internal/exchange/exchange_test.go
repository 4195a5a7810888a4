package exchange

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// tree is everything below a folder, with the times of folders.
func tree(t *testing.T, top string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := fmt.Sprint(info.Mode(), info.ModTime().UTC(), info.Sys().(*syscall.Stat_t).Uid)
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(data)
		}
		all[strings.TrimPrefix(path, top)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// scene is live data and what is to replace it: a folder, one that is new, one whose content is exchanged, and what the backup leaves out.
type scene struct {
	t     *testing.T
	dir   string
	store Store
	j     *Journal
	old   map[string]string
}

func (s *scene) write(name, text string, age int) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o640)); err != nil {
		s.t.Fatal(err)
	}
	s.age(path, age)
}

func (s *scene) age(path string, age int) {
	s.t.Helper()
	at := time.Date(2000+age, 1, 1, 0, 0, 0, 0, time.UTC)
	for ; strings.HasPrefix(path, s.dir+"/"); path = filepath.Dir(path) {
		if err := os.Chtimes(path, at, at); err != nil {
			s.t.Fatal(err)
		}
	}
}

func newScene(t *testing.T, dir string) *scene {
	s := &scene{t: t, dir: dir, store: Store{Dir: filepath.Join(dir, "state/restore"), Log: slog.New(slog.DiscardHandler)}}
	for name, text := range map[string]string{
		"data/page": "old", "data/odd\xff\n.tmp": "kept", "data/gone": "old", "data/cache/a": "kept", "data/new/deep/b.tmp": "kept", "data/new/deep/c": "gone",
		"disk/x": "old", "disk/y.tmp": "kept", "disk/only-old": "old", "disk/dir/z": "old",
	} {
		s.write("live/"+name, text, 1)
	}
	stage, inner := dir+"/live/"+module.StagePrefix+"m", dir+"/live/disk/"+module.StagePrefix+"m"
	s.j = NewJournal("m", time.Now())
	s.j.Stages, s.j.Exclude = []string{stage, inner}, []string{"cache", "*.tmp"}
	s.j.Roots = []Root{
		{dir + "/live/data", stage + "/tree/data", false}, {dir + "/live/fresh", stage + "/tree/fresh", false}, {dir + "/live/disk", inner + "/tree/disk", true},
	}
	for _, dir := range []string{dir + "/live", dir + "/live/disk"} {
		if err := s.j.Note(dir); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.store.Save(s.j); err != nil {
		t.Fatal(err)
	}
	for _, dir := range s.j.Stages {
		f, err := OpenStage(dir)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	for name, text := range map[string]string{
		"live/" + module.StagePrefix + "m/tree/data/page": "new", "live/" + module.StagePrefix + "m/tree/data/sub/more": "new",
		"live/" + module.StagePrefix + "m/tree/fresh": "new", "live/disk/" + module.StagePrefix + "m/tree/disk/x": "new", "live/disk/" + module.StagePrefix + "m/tree/disk/dir": "a file now",
		"live/disk/" + module.StagePrefix + "m/tree/disk/only-new": "new",
	} {
		s.write(name, text, 2)
	}
	if err := os.Chmod(inner+"/tree/disk", 0o711); err != nil {
		t.Fatal(err)
	}
	s.age(dir+"/live/data", 1)
	s.age(dir+"/live/disk", 1)
	s.old = s.live()
	return s
}

// live is the live data, without stages.
func (s *scene) live() map[string]string {
	all := tree(s.t, s.dir+"/live")
	maps.DeleteFunc(all, func(name, _ string) bool { return strings.Contains(name, module.StagePrefix) || name == "" })
	return all
}

// isNew tells whether the live data is what it is to become.
func (s *scene) isNew(all map[string]string) error {
	for name, text := range map[string]string{
		"/data/page": "new", "/data/sub/more": "new", "/fresh": "new", "/data/cache/a": "kept", "/data/odd\xff\n.tmp": "kept", "/data/new/deep/b.tmp": "kept",
		"/disk/x": "new", "/disk/y.tmp": "kept", "/disk/dir": "a file now", "/disk/only-new": "new",
	} {
		if !strings.HasSuffix(all[name], text) || !strings.Contains(all[name], "UTC") {
			return fmt.Errorf("%s is %q; want %q", name, all[name], text)
		}
	}
	for _, name := range []string{"/data/gone", "/disk/only-old", "/data/new/deep/c", "/disk/dir/z"} {
		if all[name] != "" {
			return fmt.Errorf("%s is there", name)
		}
	}
	for name, want := range map[string]string{"/data": "2002", "/disk": "2002", "/data/sub": "2002", "/data/new/deep": "2001", "/data/cache": "2001"} {
		if !strings.Contains(all[name], want) {
			return fmt.Errorf("%s is %s; want the time of %s", name, all[name], want)
		}
	}
	if !strings.Contains(all["/disk"], "drwx--x--x") {
		return fmt.Errorf("disk is %s", all["/disk"])
	}
	return nil
}

func (s *scene) clean() {
	s.t.Helper()
	for path := range tree(s.t, s.dir) {
		if strings.Contains(path, ".sdbackup-") || strings.HasSuffix(path, ".journal") {
			s.t.Errorf("%s is left", path)
			return
		}
	}
}

func TestExchange(t *testing.T) {
	s := newScene(t, t.TempDir())
	out, err := s.store.Run(t.Context(), "m")
	if err != nil || !out.Committed || out.Kept != 4 || len(out.Warnings) > 0 {
		t.Fatalf("Run = %+v, %v", out, err)
	}
	if err := s.isNew(s.live()); err != nil {
		t.Error(err)
	}
	s.clean()
}

// A hook that fails, and a signal at any time before the commit, leave everything as it was.
func TestUndo(t *testing.T) {
	s := newScene(t, t.TempDir())
	s.j.Hook = []string{"sh", "-c", "echo no such table; exit 3"}
	if err := s.store.Save(s.j); err != nil {
		t.Fatal(err)
	}
	out, err := s.store.Run(t.Context(), "m")
	if err == nil || !strings.Contains(err.Error(), "restore-state sh: exit status 3 (no such table)") || !out.RolledBack || out.Committed {
		t.Errorf("Run = %+v, %v", out, err)
	}
	same(t, s.live(), s.old)
	s.clean()
	for _, step := range []string{"noted", "planned", "moved", "exchanged", "attributed", "hooked", "started"} {
		s := newScene(t, t.TempDir())
		ctx, cancel := context.WithCancelCause(t.Context())
		s.store.step = func(at string) {
			if at == step {
				cancel(errors.New("interrupted"))
			}
		}
		out, err := s.store.Run(ctx, "m")
		if err == nil || !out.RolledBack {
			t.Errorf("%s: Run = %+v, %v", step, out, err)
		}
		same(t, s.live(), s.old)
		s.clean()
	}
}

// Whatever the hook does to what is live, when it fails everything is as it was: what it rewrote, replaced, removed, or made.
func TestUndoHook(t *testing.T) {
	for name, script := range map[string]string{
		"rewrites what was kept":             "cd data && cp new/deep/b.tmp n && mv n new/deep/b.tmp",
		"rewrites what was kept at a top":    "cd disk && cp y.tmp n && mv n y.tmp",
		"replaces by a file of its own":      "cd disk && cp x n && mv n x",
		"replaces a folder by a copy":        "mv data disk/d2 && cp -a disk/d2 data",
		"removes":                            "rm -r data/page data/sub disk/only-new disk/x fresh",
		"makes again what only the old had":  "touch disk/only-old",
		"replaces what only the new had":     "cp disk/only-new n && mv n disk/only-new && mkdir f && rm fresh && mv f fresh",
		"makes what neither had":             "mkdir disk/created && touch disk/created/x disk/.hidden",
		"puts a file in place of the folder": "rm -r disk/dir data/sub && mkdir disk/dir && touch data/sub",
	} {
		s := newScene(t, t.TempDir())
		s.j.Directory, s.j.Hook = s.dir+"/live", []string{"sh", "-c", script + " || exit 4; exit 3"}
		if err := s.store.Save(s.j); err != nil {
			t.Fatal(err)
		}
		out, err := s.store.Run(t.Context(), "m")
		if err == nil || !strings.Contains(err.Error(), "exit status 3") || !out.RolledBack || len(out.Warnings) > 0 {
			t.Errorf("a hook that %s: Run = %+v, %v", name, out, err)
		}
		got := s.live()
		for path, text := range got { // what was written anew keeps what is written, not its time
			if strings.HasSuffix(path, ".tmp") && strings.HasSuffix(text, "kept") {
				got[path] = s.old[path]
			}
		}
		same(t, got, s.old)
		s.clean()
		if t.Failed() {
			t.Fatalf("a hook that %s", name)
		}
	}
}

// What the hook takes away of what was kept cannot be put back; it may still be elsewhere in the restored data, so that stays.
func TestUndoLost(t *testing.T) {
	s := newScene(t, t.TempDir())
	s.j.Directory, s.j.Hook = s.dir+"/live", []string{"sh", "-c", "mv data/cache data/old; rm -r data/new; touch data/new; exit 3"}
	if err := s.store.Save(s.j); err != nil {
		t.Fatal(err)
	}
	out, err := s.store.Run(t.Context(), "m")
	if err == nil || !out.RolledBack || len(out.Warnings) != 1 || !strings.Contains(out.Warnings[0], "and 1 more that the backup leaves out") || len(out.Retained) != 2 {
		t.Fatalf("Run = %+v, %v", out, err)
	}
	if data, err := os.ReadFile(out.Retained[0] + "/tree/data/old/a"); err != nil || string(data) != "kept" {
		t.Errorf("what was moved: %q, %v", data, err)
	}
	if all := s.live(); !strings.HasSuffix(all["/data/page"], "old") || !strings.HasSuffix(all["/data/odd\xff\n.tmp"], "kept") {
		t.Errorf("the rest is not as it was: %q", all)
	}
}

// application is a unit that uses the live data, and another one that is being stopped, as a service manager has them.
type application struct {
	states map[string]string
	calls  []string
	seen   func(call string)
}

func (a *application) Running(context.Context, []string) (running, ending []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(a.states)) {
		switch a.states[name] {
		case "active":
			running = append(running, name)
		case "deactivating":
			ending = append(ending, name)
		}
	}
	return running, ending, nil
}

func (a *application) all(call, state string, names []string) error {
	a.calls = append(a.calls, call+" "+strings.Join(names, " "))
	if a.seen != nil {
		a.seen(call)
	}
	for _, name := range names {
		a.states[name] = state
	}
	return nil
}

func (a *application) StopAll(_ context.Context, names []string) error {
	return a.all("stop", "inactive", names)
}

func (a *application) StartAll(_ context.Context, names []string) error {
	return a.all("start", "active", names)
}

// withUnits has a module of two units: one runs, one is about to end.
func (s *scene) withUnits() *application {
	a := &application{states: map[string]string{"a.service": "active", "b.service": "deactivating", "c.service": "inactive"}}
	s.store.Manager, s.j.Units = a, []string{"a.service", "b.service", "c.service"}
	if err := s.store.Save(s.j); err != nil {
		s.t.Fatal(err)
	}
	return a
}

func (a *application) want(t *testing.T, calls ...string) {
	t.Helper()
	if !slices.Equal(a.calls, calls) {
		t.Errorf("the manager was asked to %q; want %q", a.calls, calls)
	}
}

// Nothing runs while the data is exchanged, and afterwards what ran before.
func TestUnits(t *testing.T) {
	s := newScene(t, t.TempDir())
	a := s.withUnits()
	a.seen = func(call string) {
		if all := s.live(); call == "start" && s.isNew(all) != nil || call == "stop" && !maps.Equal(all, s.old) {
			t.Errorf("at the %s: %q", call, all)
		}
	}
	out, err := s.store.Run(t.Context(), "m")
	if err != nil || !out.Committed || !slices.Equal(out.Stopped, []string{"a.service"}) {
		t.Errorf("Run = %+v, %v", out, err)
	}
	a.want(t, "stop a.service b.service c.service", "start a.service")

	// None is to be started meanwhile, even where none ran.
	s = newScene(t, t.TempDir())
	a = s.withUnits()
	a.states["a.service"] = "inactive"
	a.seen = func(call string) {
		if call == "stop" && len(a.calls) == 1 {
			a.states["d.timer"] = "active"
		}
	}
	if out, err := s.store.Run(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), "d.timer was started again by something else") || !out.RolledBack {
		t.Errorf("Run = %+v, %v", out, err)
	}
	same(t, s.live(), s.old)
	s.clean()
}

// Recovery stops what runs, in whatever boot, and starts that again, and what ran before in the same boot only.
func TestRecoverUnits(t *testing.T) {
	for _, c := range []struct {
		name  string
		boot  string
		state string // of a.service, when recovery begins
		calls []string
	}{
		{"the same boot", bootID(), "inactive", []string{"start a.service"}},
		{"the same boot, started meanwhile", bootID(), "active", []string{"stop a.service", "start a.service"}},
		{"another boot", "another", "inactive", nil},
		{"another boot, started meanwhile", "another", "active", []string{"stop a.service", "start a.service"}},
		{"another boot, about to end", "another", "deactivating", []string{"stop a.service"}},
	} {
		for _, killed := range []string{"", "noted as undone", "restarted"} {
			s := newScene(t, t.TempDir())
			a := s.withUnits()
			s.interrupt("exchanged")
			j, err := s.store.Load("m")
			if err != nil {
				t.Fatal(err)
			}
			j.Boot = c.boot
			if err := s.store.Save(j); err != nil {
				t.Fatal(err)
			}
			a.states = map[string]string{"a.service": c.state}
			a.calls = nil
			a.seen = func(call string) {
				if s.isNew(s.live()) == nil || call == "start" && killed == "" && !maps.Equal(s.live(), s.old) {
					t.Errorf("%s: at the %s the data is not as it was", c.name, call)
				}
			}
			if killed != "" {
				s.interrupt(killed)
				s.write("live/disk/added", "by the application", 1) // which runs again: nobody undoes what it writes now
			}
			out, err := s.store.Recover(t.Context(), "m")
			if err != nil || !out.RolledBack || len(out.Warnings) > 0 {
				t.Errorf("%s: Recover = %+v, %v", c.name, out, err)
			}
			calls := c.calls
			if n := len(calls); killed == "restarted" && n > 0 && strings.HasPrefix(calls[n-1], "start") {
				calls = append(slices.Clone(calls), calls[n-1])
			}
			a.want(t, calls...)
			if killed != "" {
				if err := os.Remove(s.dir + "/live/disk/added"); err != nil {
					t.Errorf("%s, killed when %s: %v", c.name, killed, err)
				}
				s.age(s.dir+"/live/disk", 1)
			}
			same(t, s.live(), s.old)
			s.clean()
		}
	}
}

// interrupt runs, or recovers, to a step, and goes no further.
func (s *scene) interrupt(step string) {
	s.t.Helper()
	j, err := s.store.Load("m")
	if err != nil {
		s.t.Fatal(err)
	}
	stopped := make(chan struct{})
	store := s.store
	store.step = func(at string) {
		if at == step {
			close(stopped)
			runtime.Goexit()
		}
	}
	go func() {
		if j.State == Staging {
			store.Run(s.t.Context(), "m")
		} else {
			store.Recover(s.t.Context(), "m")
		}
		panic("it never came to " + step)
	}()
	<-stopped
}

// Where the file system is not mounted, nothing counts as removed.
func TestNotMounted(t *testing.T) {
	for _, state := range []State{Staging, Undone, Committed} {
		for _, mountPoint := range []bool{false, true} {
			s := newScene(t, t.TempDir())
			s.j.State, s.j.Retain = state, true
			if err := s.store.Save(s.j); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(s.dir+"/live", s.dir+"/away"); err != nil {
				t.Fatal(err)
			}
			if mountPoint {
				if err := os.MkdirAll(s.dir+"/live/disk", 0o755); err != nil {
					t.Fatal(err)
				}
			}
			out, err := s.store.Recover(t.Context(), "m")
			if err == nil || !strings.Contains(err.Error(), "mount its file system") || len(out.Retained) > 0 {
				t.Errorf("%s: Recover = %+v, %v", state, out, err)
			}
			if mountPoint {
				if err := errors.Join(os.Remove(s.dir+"/live/disk"), os.Remove(s.dir+"/live")); err != nil {
					t.Error(err)
				}
			}
			if err := os.Rename(s.dir+"/away", s.dir+"/live"); err != nil {
				t.Fatal(err)
			}
			if out, err := s.store.Recover(t.Context(), "m"); err != nil || len(out.Retained) != map[State]int{Committed: 2}[state] {
				t.Errorf("%s: Recover = %+v, %v", state, out, err)
			}
			if state != Committed {
				s.clean()
			}
		}
	}
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name := range maps.Keys(got) {
		if got[name] != want[name] {
			t.Errorf("%s is %q; want %q", name, got[name], want[name])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files; want %d", len(got), len(want))
	}
}

// What both the live data and the snapshot have, though it is left out of backups, is not lost.
func TestBoth(t *testing.T) {
	s := newScene(t, t.TempDir())
	s.write("live/"+module.StagePrefix+"m/tree/data/cache/a", "from the snapshot", 2)
	out, err := s.store.Run(t.Context(), "m")
	if err != nil || !out.Committed || len(out.Retained) != 2 || out.Kept != 3 {
		t.Fatalf("Run = %+v, %v", out, err)
	}
	if data, err := os.ReadFile(filepath.Join(out.Retained[0], "tree/data/cache/a")); err != nil || string(data) != "kept" {
		t.Errorf("what was replaced: %q, %v", data, err)
	}
	if data, err := os.ReadFile(s.dir + "/live/data/cache/a"); err != nil || string(data) != "from the snapshot" {
		t.Errorf("what was restored: %q, %v", data, err)
	}
}

// The process is killed at every step, and recovery at every step of its own, too: what is live is all old or all new.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("EXCHANGE_DIR"); dir != "" {
		die(dir)
		return
	}
	kill := func(dir string, recover bool, at int) (died bool) {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
		cmd.Env = append(os.Environ(), "EXCHANGE_DIR="+dir, "EXCHANGE_AT="+strconv.Itoa(at), "EXCHANGE_RECOVER="+strconv.FormatBool(recover))
		out, err := cmd.CombinedOutput()
		if err == nil {
			return false
		}
		if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
			t.Fatalf("%v\n%s", err, out)
		}
		return true
	}
	finished := func(s *scene, what string) {
		out, err := s.store.Recover(t.Context(), "m")
		if err != nil || len(out.Warnings) > 0 {
			t.Errorf("%s: Recover = %+v, %v", what, out, err)
		}
		all := s.live()
		if err := s.isNew(all); err != nil {
			if !maps.Equal(all, s.old) {
				t.Errorf("%s: neither new (%v) nor old:", what, err)
				same(t, all, s.old)
			}
		}
		s.clean()
	}
	kinds := map[bool]int{}
	for at, steps := 1, 100; at <= steps; at++ {
		s := newScene(t, t.TempDir())
		if !kill(s.dir, false, at) {
			steps = 0
		}
		finished(s, fmt.Sprint("killed at ", at))
		kinds[maps.Equal(s.live(), s.old)]++
	}
	if kinds[true] < 8 || kinds[false] < 2 {
		t.Errorf("it ended with the new data %d times, with the old %d times", kinds[false], kinds[true])
	}
	for _, first := range []int{5, 9, 13, 14} { // while it moves, exchanges, and is done
		for at, steps := 1, 100; at <= steps; at++ {
			s := newScene(t, t.TempDir())
			if !kill(s.dir, false, first) {
				t.Fatalf("there is no step %d", first)
			}
			if !kill(s.dir, true, at) {
				steps = 0
			}
			finished(s, fmt.Sprintf("killed at %d, recovery at %d", first, at))
		}
	}
}

// die makes the exchange, or recovers, and is killed at a step.
func die(dir string) {
	n, at := 0, os.Getenv("EXCHANGE_AT")
	store := Store{Dir: filepath.Join(dir, "state/restore"), Log: slog.New(slog.DiscardHandler), step: func(string) {
		if n++; strconv.Itoa(n) == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}}
	run := store.Run
	if os.Getenv("EXCHANGE_RECOVER") == "true" {
		run = store.Recover
	}
	if _, err := run(context.Background(), "m"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// As long as nothing was put right, the data may not be used.
func TestInterrupted(t *testing.T) {
	s := newScene(t, t.TempDir())
	paths := config.Paths{State: s.dir + "/state"}
	s.store.step = func(at string) {
		err := Interrupted(paths, "m")
		if before := at == "begin" || at == "committed" || at == "removed" || at == "ended"; (err == nil) != before {
			t.Errorf("at %q: Interrupted = %v", at, err)
		}
	}
	if err := Interrupted(paths, "m"); err != nil {
		t.Error(err)
	}
	if _, err := s.store.Run(t.Context(), "m"); err != nil {
		t.Error(err)
	}
	s.write("state/restore/m.journal", "torn", 1)
	if err := Interrupted(paths, "m"); err == nil {
		t.Error("a damaged journal does no harm")
	}
	if _, err := s.store.Recover(t.Context(), "m"); err == nil || !strings.Contains(err.Error(), "read the journal of a restore") {
		t.Errorf("Recover = %v", err)
	}
}

// Who owns the folder around the live data cannot lead the exchange elsewhere by a symbolic link.
func TestNoSymlinks(t *testing.T) {
	s := newScene(t, t.TempDir())
	s.store.step = func(at string) {
		if at == "planned" {
			if err := errors.Join(os.Rename(s.dir+"/live", s.dir+"/elsewhere"), os.Symlink("elsewhere", s.dir+"/live")); err != nil {
				t.Fatal(err)
			}
		}
	}
	out, err := s.store.Run(t.Context(), "m")
	if err == nil || out.Committed || out.RolledBack {
		t.Errorf("Run = %+v, %v", out, err)
	}
	if data, _ := os.ReadFile(s.dir + "/elsewhere/data/page"); string(data) != "old" {
		t.Errorf("page = %q", data)
	}
	// When it is as it was, recovery ends well.
	s.store.step = nil
	if err := errors.Join(os.Remove(s.dir+"/live"), os.Rename(s.dir+"/elsewhere", s.dir+"/live")); err != nil {
		t.Fatal(err)
	}
	if out, err := s.store.Recover(t.Context(), "m"); err != nil || !out.RolledBack {
		t.Errorf("Recover = %+v, %v", out, err)
	}
	s.age(s.dir+"/live/data", 1)
	s.age(s.dir+"/live/disk", 1)
	same(t, s.live(), s.old)
	s.clean()
}

// Removing what was replaced stops at other file systems.
func TestRemoveTreeStopsAtMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	dir := t.TempDir()
	at := dir + "/old/inner"
	if err := os.MkdirAll(at, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"); err != nil {
		t.Skip("nothing can be mounted here: ", err)
	}
	defer unix.Unmount(at, unix.MNT_DETACH)
	if err := os.WriteFile(at+"/precious", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if mounts, err := MountsBelow(dir + "/old"); err != nil || len(mounts) != 1 || mounts[0] != at {
		t.Errorf("MountsBelow = %v, %v", mounts, err)
	}
	if root, err := MountRoot(at); err != nil || !root {
		t.Errorf("MountRoot = %v, %v", root, err)
	}
	if err := removeTree(dir + "/old"); err == nil {
		t.Error("it removed the tree with what is mounted in it")
	}
	if _, err := os.Stat(at + "/precious"); err != nil {
		t.Error(err)
	}
}

func FuzzMountsBelow(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2\\040a rw,noatime master:1 - ext3 /dev/root rw\n", "/mnt2 a")
	f.Fuzz(func(t *testing.T, table, path string) {
		for _, at := range mountsBelow(table, path) {
			if len(at) <= len(strings.TrimSuffix(path, "/")) {
				t.Errorf("%q is not below %q", at, path)
			}
		}
	})
}
