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
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
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
	stage, inner := dir+"/live/"+StagePrefix+"m", dir+"/live/disk/"+StagePrefix+"m"
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
		"live/" + StagePrefix + "m/tree/data/page": "new", "live/" + StagePrefix + "m/tree/data/sub/more": "new",
		"live/" + StagePrefix + "m/tree/fresh": "new", "live/disk/" + StagePrefix + "m/tree/disk/x": "new", "live/disk/" + StagePrefix + "m/tree/disk/dir": "a file now",
		"live/disk/" + StagePrefix + "m/tree/disk/only-new": "new",
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
	maps.DeleteFunc(all, func(name, _ string) bool { return strings.Contains(name, StagePrefix) || name == "" })
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
	s.write("live/"+StagePrefix+"m/tree/data/cache/a", "from the snapshot", 2)
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
