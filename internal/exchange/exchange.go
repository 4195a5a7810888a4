package exchange

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/module"
	"sdbackup/internal/restic"
)

// maxNamed bounds the names in Kept.
const maxNamed = 100

// Run makes the exchange that a journal has been written of. Whoever calls it holds the module's lock.
func (s Store) Run(ctx context.Context, id string) (Outcome, error) {
	j, err := s.Load(id)
	if err == nil && (j == nil || j.State != Staging) {
		err = fmt.Errorf("module %s has no restore that is ready", id)
	}
	if err != nil {
		return Outcome{Module: id}, err
	}
	if err = s.forward(ctx, j); err != nil && j.State == Exchanging {
		return s.back(ctx, j, err)
	}
	return s.finish(j, err), err
}

// Recover undoes an exchange that was interrupted before it was committed, and removes what is left of one. Whoever calls it holds the
// module's lock. Without a journal there is nothing to do.
func (s Store) Recover(ctx context.Context, id string) (Outcome, error) {
	j, err := s.Load(id)
	if err != nil || j == nil {
		return Outcome{Module: id}, err
	}
	if j.State == Exchanging {
		out, err := s.back(ctx, j, errors.New("it was interrupted"))
		if out.RolledBack {
			err = nil // which is what was asked for
		}
		return out, err
	}
	out, err := s.end(j)
	if err != nil {
		out.Error = err.Error()
	}
	return out, err
}

func (s Store) at(step string) {
	if s.step != nil {
		s.step(step)
	}
}

// forward is the way to the commit.
func (s Store) forward(ctx context.Context, j *Journal) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	excluded, err := restic.NewExclusion(j.Exclude)
	if err != nil {
		return err
	}
	if err := Sync(j.Stages); err != nil {
		return err
	}
	var stop []string
	if len(j.Units) > 0 {
		if s.Manager == nil {
			return errors.New("the units of the module cannot be stopped: no service manager can be reached")
		}
		var ending []string
		if j.Stopped, ending, err = s.Manager.Running(ctx, j.Units); err != nil {
			return err
		}
		stop = slices.Concat(j.Units, j.Stopped, ending) // those, too, that do not run: one may be about to be started
	}
	s.at("begin")
	j.State = Exchanging
	if err := s.Save(j); err != nil {
		return err
	}
	s.at("noted")
	if err := s.stop(ctx, j, stop); err != nil {
		return err
	}
	s.at("stopped")
	times, err := j.plan(excluded)
	if err != nil {
		return err
	}
	if err := s.Save(j); err != nil {
		return err
	}
	s.at("planned")
	if err := s.rename(ctx, j, times); err != nil {
		return err
	}
	if err := s.hook(ctx, j); err != nil {
		return err
	}
	s.at("hooked")
	if len(j.Stopped) > 0 {
		if err := s.Manager.StartAll(ctx, j.Stopped); err != nil {
			return fmt.Errorf("start the units of the module again: %w", err)
		}
	}
	s.at("started")
	if err := Sync(j.folders()); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	committed := *j
	committed.State = Committed
	if err := s.Save(&committed); err != nil {
		return err
	}
	j.State = Committed
	s.at("committed")
	return nil
}

// stop stops units, waits for those that are ending, and sees that none of the module is started by something else.
func (s Store) stop(ctx context.Context, j *Journal, names []string) error {
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	if err := s.Manager.StopAll(ctx, slices.Compact(names)); err != nil {
		return fmt.Errorf("stop the units of the module: %w", err)
	}
	running, ending, err := s.Manager.Running(ctx, j.Units)
	if left := append(running, ending...); err == nil && len(left) > 0 {
		err = fmt.Errorf("%s was started again by something else", left[0])
	}
	return err
}

// plan finds out what is to be renamed. It changes nothing of the live data, and returns the times that folders of the new data are to have.
func (j *Journal) plan(excluded restic.Exclusion) (map[string]int64, error) {
	times := map[string]int64{}
	for _, dir := range j.Stages {
		if err := checkStage(dir); err != nil {
			return nil, err
		}
	}
	for _, r := range j.Roots {
		mounts, err := MountsBelow(r.Live)
		if err != nil {
			return nil, err
		}
		if len(mounts) > 0 {
			return nil, fmt.Errorf("something is mounted below %s: %s", r.Live, mounts[0])
		}
		if _, err := os.Lstat(r.Staged); err != nil {
			return nil, fmt.Errorf("what is to become %s was not restored: %w", r.Live, err)
		}
		if err := j.keep(r, excluded, times); err != nil {
			return nil, err
		}
		if r.Inside {
			if err := j.inside(r); err != nil {
				return nil, err
			}
			continue
		}
		one := item{Live: r.Live, Staged: r.Staged}
		if err := j.add(one); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// add adds an item as it is now.
func (j *Journal) add(one item) (err error) {
	if one.Old, err = inode(one.Live); err != nil {
		return err
	}
	if one.New == 0 {
		if one.New, err = inode(one.Staged); err != nil {
			return err
		}
	}
	j.Items = append(j.Items, one)
	return j.Note(filepath.Dir(one.Live))
}

// Note notes what a live folder is like in which something will be made or renamed.
func (j *Journal) Note(dir string) (err error) {
	if j.Noted == nil {
		j.Noted = map[string]noted{}
	}
	if _, ok := j.Noted[dir]; !ok {
		j.Noted[dir], err = note(dir)
	}
	return err
}

// isOurs tells of a path whether it is neither of the old data nor of the new.
func (j *Journal) isOurs(path string) bool {
	return filepath.Base(path) == "lost+found" || slices.Contains(j.Stages, path) || j.Dumps != nil && j.Dumps.Live == path
}

// inside adds what is in a folder that cannot be renamed itself.
func (j *Journal) inside(r Root) error {
	names := map[string]bool{}
	for _, dir := range []string{r.Live, r.Staged} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := filepath.Join(r.Live, e.Name())
			if !j.isOurs(path) {
				names[e.Name()] = true
			}
		}
	}
	for name := range names {
		one := item{Live: filepath.Join(r.Live, name), Staged: filepath.Join(r.Staged, name)}
		at := slices.IndexFunc(j.Moves, func(m move) bool { return m.From == one.Live })
		if at >= 0 { // it will have been moved
			one.New = j.Moves[at].Inode
			j.Items = append(j.Items, one)
			continue
		}
		if err := j.add(one); err != nil {
			return err
		}
	}
	var both [2]attribute
	for i, dir := range []string{r.Live, r.Staged} {
		f, err := openFolder(dir)
		if err != nil {
			return err
		}
		both[i], err = f.attributes()
		f.close()
		if err != nil {
			return fmt.Errorf("read the attributes of %s: %w", dir, err)
		}
	}
	if before, ok := j.Noted[r.Live]; ok { // a stage was made in it since
		both[0].MTime = before.MTime
	}
	j.Tops = append(j.Tops, top{r.Live, both[0], both[1]})
	return nil
}

// keep finds what the backup leaves out of the live data, and makes room for it in the new one.
func (j *Journal) keep(r Root, excluded restic.Exclusion, times map[string]int64) error {
	if _, err := os.Lstat(r.Live); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return filepath.WalkDir(r.Live, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if slices.Contains(j.Stages, path) || path != r.Live && j.Dumps != nil && path == j.Dumps.Live {
			return fs.SkipDir
		}
		if !excluded.Matches(path) {
			return nil
		}
		rel, err := filepath.Rel(r.Live, path)
		if err != nil {
			return err
		}
		room, err := r.room(rel, times)
		if err != nil {
			return fmt.Errorf("make room for %s: %w", path, err)
		}
		if !room { // both have it: nobody can tell which is wanted
			j.Retain = true
			if len(j.Kept.Both) < maxNamed {
				j.Kept.Both = append(j.Kept.Both, path)
			}
		} else {
			m := move{From: path, To: filepath.Join(r.Staged, rel)}
			if m.Inode, err = inode(path); err != nil {
				return err
			}
			if err := j.Note(filepath.Dir(path)); err != nil {
				return err
			}
			j.Moves = append(j.Moves, m)
			j.Kept.Count++
			if len(j.Kept.First) < maxNamed {
				j.Kept.First = append(j.Kept.First, path)
			}
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// room makes the folders above a path in the new data as they are in the live data; false if something is in the way.
func (r Root) room(rel string, times map[string]int64) (bool, error) {
	if rel == "." {
		return false, nil
	}
	dir := filepath.Dir(rel)
	var missing []string
	for at := dir; ; at = filepath.Dir(at) {
		info, err := os.Lstat(filepath.Join(r.Staged, at))
		if err == nil && !info.IsDir() {
			return false, nil
		}
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		missing = append(missing, at)
		if at == "." {
			return false, nil
		}
	}
	if _, err := os.Lstat(filepath.Join(r.Staged, rel)); err == nil {
		return false, nil
	}
	note := func(staged, like string) (err error) {
		if _, ok := times[staged]; !ok {
			times[staged], err = mtime(like)
		}
		return err
	}
	for _, at := range slices.Backward(missing) {
		above, staged, live := filepath.Join(r.Staged, filepath.Dir(at)), filepath.Join(r.Staged, at), filepath.Join(r.Live, at)
		if err := errors.Join(note(above, above), makeLike(staged, live), note(staged, live)); err != nil {
			return false, err
		}
	}
	folder := filepath.Join(r.Staged, dir)
	return true, note(folder, folder)
}

// rename makes the new data the live one.
func (s Store) rename(ctx context.Context, j *Journal, times map[string]int64) error {
	for _, m := range j.Moves {
		if err := rename(m.From, m.To, unix.RENAME_NOREPLACE); err != nil {
			return err
		}
		s.at("moved")
	}
	for dir, t := range times {
		if err := setMTime(dir, t); err != nil {
			return err
		}
	}
	for i, t := range j.Tops { // moves change the time of the staged folder
		root := j.Roots[slices.IndexFunc(j.Roots, func(r Root) bool { return r.Live == t.Path })]
		if want, ok := times[root.Staged]; ok {
			j.Tops[i].New.MTime = want
		}
	}
	for _, one := range j.Items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := one.swap(false); err != nil {
			return err
		}
		s.at("exchanged")
	}
	for _, t := range j.Tops {
		if err := t.New.apply(t.Path); err != nil {
			return err
		}
		s.at("attributed")
	}
	return Sync(j.folders())
}

// folders are those in which something is renamed.
func (j *Journal) folders() []string {
	var dirs []string
	for _, r := range j.Roots {
		if r.Inside {
			dirs = append(dirs, r.Live)
		} else {
			dirs = append(dirs, filepath.Dir(r.Live))
		}
	}
	return append(dirs, j.Stages...)
}

// hook makes the application take what was restored.
func (s Store) hook(ctx context.Context, j *Journal) error {
	if j.Dumps != nil {
		if err := rename(j.Dumps.Staged, j.Dumps.Live, unix.RENAME_NOREPLACE); err != nil {
			j.Dumps = nil // what is there is not ours
			return fmt.Errorf("hand over the dumps: %w", err)
		}
	}
	if j.Hook == nil {
		return nil
	}
	return module.Hook{Name: "restore-state", Argv: j.Hook, Directory: j.Directory, User: j.User, Group: j.Group, Env: j.Env, Log: s.Log}.Run(ctx)
}

// back puts the live data back as it was, starts the units again, and says why.
func (s Store) back(ctx context.Context, j *Journal, cause error) (Outcome, error) {
	ctx = context.WithoutCancel(ctx)
	out := Outcome{Module: j.Module, Stopped: j.Stopped, Error: cause.Error()}
	fail := func(err error) (Outcome, error) {
		err = fmt.Errorf("%w; and the live data could not be put back: %w", cause, err)
		out.Error = err.Error()
		return out, err
	}
	var stop []string
	if s.Manager != nil && len(j.Units) > 0 {
		// Whatever runs has begun since, also after a boot; what that has still to start, it starts.
		running, ending, err := s.Manager.Running(ctx, j.Units)
		if err != nil {
			return fail(err)
		}
		stop = slices.Concat(running, ending)
		if j.Boot != bootID() {
			j.Stopped, j.Boot = nil, bootID()
		}
		for _, name := range running {
			if !slices.Contains(j.Stopped, name) {
				j.Stopped = append(j.Stopped, name)
			}
		}
	}
	// It may say "committed" on a disk that did not take all of it.
	j.State = Exchanging
	if err := s.Save(j); err != nil {
		return fail(err)
	}
	if err := s.stop(ctx, j, stop); err != nil {
		return fail(err)
	}
	s.at("back")
	if err := s.undo(j); err != nil {
		return fail(err)
	}
	s.at("undone")
	// Before anything is started: what that writes is not to be undone.
	j.State = Undone
	if err := s.Save(j); err != nil {
		return fail(err)
	}
	s.at("noted as undone")
	ended := s.finish(j, cause)
	ended.Stopped = out.Stopped
	return ended, cause
}

// restart starts the units again when what was live is back.
func (s Store) restart(j *Journal) error {
	if len(j.Stopped) == 0 || j.Boot != bootID() {
		return nil
	}
	if s.Manager == nil {
		return fmt.Errorf("no service manager can be reached to start what ran before: %v", j.Stopped)
	}
	if err := s.Manager.StartAll(context.Background(), j.Stopped); err != nil {
		return fmt.Errorf("the live data is as it was, but its units could not be started again: %w", err)
	}
	return nil
}

// undo renames everything back. What somebody has made or replaced meanwhile goes into the stage, and with it.
func (s Store) undo(j *Journal) error {
	var errs []error
	for _, t := range slices.Backward(j.Tops) {
		errs = append(errs, t.Old.apply(t.Path))
		s.at("top undone")
	}
	for _, one := range slices.Backward(j.Items) {
		errs = append(errs, one.undo())
		s.at("item undone")
	}
	for _, r := range j.Roots {
		if slices.ContainsFunc(j.Tops, func(t top) bool { return t.Path == r.Live }) { // else it has no items yet
			errs = append(errs, s.clear(j, r))
		}
	}
	for _, m := range slices.Backward(j.Moves) {
		there, err := m.undo()
		if errs = append(errs, err); !there && !slices.Contains(j.Lost, m.From) {
			j.Lost = append(j.Lost, m.From)
		}
		s.at("move undone")
	}
	for dir, n := range j.Noted {
		errs = append(errs, setMTime(dir, n.MTime))
	}
	for _, t := range j.Tops {
		errs = append(errs, t.Old.apply(t.Path))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return Sync(j.folders())
}

// clear moves what neither the old data nor the new has out of a folder whose content was exchanged.
func (s Store) clear(j *Journal, r Root) error {
	entries, err := os.ReadDir(r.Live)
	errs := []error{err}
	for _, e := range entries {
		path := filepath.Join(r.Live, e.Name())
		if !j.isOurs(path) && !slices.ContainsFunc(j.Items, func(i item) bool { return i.Live == path }) {
			errs = append(errs, rename(path, filepath.Join(r.Staged, e.Name()), unix.RENAME_NOREPLACE))
			s.at("cleared")
		}
	}
	return errors.Join(errs...)
}

// finish ends it. What cannot be removed does not make it fail.
func (s Store) finish(j *Journal, cause error) Outcome {
	out, err := s.end(j)
	if err != nil {
		out.Warnings = append(out.Warnings, err.Error())
	}
	if cause != nil {
		out.Error = cause.Error()
	}
	return out
}

// end removes what is not needed any more, and the journal. With an error the journal stays, so that it is tried again.
func (s Store) end(j *Journal) (Outcome, error) {
	out := Outcome{Module: j.Module, Committed: j.State == Committed, RolledBack: j.State == Undone, Stopped: j.Stopped, Kept: j.Kept.Count}
	if out.RolledBack {
		if err := s.restart(j); err != nil {
			out.Warnings = append(out.Warnings, err.Error())
		}
		s.at("restarted")
	}
	var errs []error
	for _, dir := range j.Stages {
		above := filepath.Dir(dir)
		if err := j.Noted[above].check(above); err != nil {
			errs = append(errs, err)
			continue
		}
		if j.Dumps != nil && filepath.Dir(j.Dumps.Live) == above {
			errs = append(errs, removeTree(j.Dumps.Live))
		}
		if retain := j.State == Committed && j.Retain || j.State == Undone && len(j.Lost) > 0; !retain {
			errs = append(errs, removeTree(dir))
			s.at("removed")
		} else {
			kept := filepath.Join(above, module.ReplacedPrefix+j.Module+"-"+j.Time.UTC().Format("20060102T150405Z"))
			err := rename(dir, kept, unix.RENAME_NOREPLACE)
			if errors.Is(err, fs.ErrNotExist) { // an earlier call has done it
				_, err = os.Lstat(kept)
			}
			errs = append(errs, err)
			if err == nil {
				out.Retained = append(out.Retained, kept)
			}
			s.at("kept")
		}
		if time, ok := j.time(above); ok {
			errs = append(errs, setMTime(above, time))
		}
	}
	if len(j.Lost) > 0 {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%s and %d more that the backup leaves out were removed or moved while the restored data was live; what that was then is in %s",
			j.Lost[0], len(j.Lost)-1, strings.Join(out.Retained, ", ")))
	}
	err := errors.Join(errs...)
	if err == nil {
		err = s.remove(j)
	}
	s.at("ended")
	if err != nil {
		err = fmt.Errorf("not everything that the restore needs no more could be removed: %w", err)
	}
	return out, err
}

// time is what a folder that a stage was in is to have in the end; false: what is in it was replaced, and its time is that of now.
func (j *Journal) time(dir string) (int64, bool) {
	if j.State != Committed {
		return j.Noted[dir].MTime, true
	}
	for _, t := range j.Tops {
		if t.Path == dir {
			return t.New.MTime, true
		}
	}
	return 0, false
}

// NewJournal returns a journal of nothing yet.
func NewJournal(id string, now time.Time) *Journal {
	return &Journal{Module: id, State: Staging, Boot: bootID(), Time: now}
}
