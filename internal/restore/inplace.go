package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/exchange"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
	"sdbackup/internal/units"
)

// exchangeTimeout is what the service of an exchange has from SIGTERM to SIGKILL: it stops units, puts everything back, and starts them.
const exchangeTimeout = 15 * time.Minute

// place is something in a snapshot, and where it is to be put.
type place struct {
	exchange.Root
	path  string // in the snapshot
	saved string // the path that was saved, which it is below
	stage string // the folder that it is restored into first
}

// livePath is where a path of the snapshot is to be; false for one that is only on the way to a place.
func (p *Plan) livePath(at string) (string, bool) {
	for _, one := range p.places {
		if within(at, listed(one.path)) {
			return filepath.Join(one.Live, strings.TrimPrefix(at, listed(one.path))), true
		}
	}
	return at, false
}

// checkPlaces examines where a module lives, and what is to go there.
func (r *Restorer) checkPlaces(ctx context.Context, p *Plan) error {
	m := p.into
	add := func(remedy, format string, args ...any) {
		p.Problems = append(p.Problems, Problem{Text: fmt.Sprintf("module %s: ", m.ID) + fmt.Sprintf(format, args...), Remedy: remedy, InPlace: true})
	}
	if os.Geteuid() != 0 && !r.Paths.User {
		add("run it as root", "only root can put things in place")
	}
	if len(m.Units) > 0 && r.Units == nil {
		add("restore it into a new folder, and put it in place yourself", "its units cannot be stopped: no service manager can be reached")
	}
	if err := exchange.Interrupted(r.Paths, m.ID); err != nil {
		add(fmt.Sprintf("put it right first: restore-backup recover %s", m.ID), "%v", err)
	}
	if _, err := restic.NewExclusion(module.Exclude(m.Exclude)); err != nil {
		add("correct exclude of the module", "%v", err)
	}
	if len(p.Point.Snapshots) == 0 {
		return nil
	}
	if ok, err := p.scan(ctx); !ok {
		return err
	}
	for _, one := range p.parts {
		if one.Dump != "" && m.RestoreState == nil {
			add("set restore-state, or name what you want with --path", "the snapshot has the dump %s, and there is no restore-state that takes it", one.Dump)
		}
		if one.Dump == "" {
			p.findPlaces(one, add)
		}
	}
	for i := range p.places {
		p.places[i].check(add)
	}
	p.checkOwner(add)
	p.checkPrivileges(add)
	p.checkRoom(ctx, add)
	return nil
}

type adder func(remedy, format string, args ...any)

// findPlaces says where each path goes: only to what the module's include names, whatever the snapshot says that it was.
func (p *Plan) findPlaces(one part, add adder) {
	m := p.into
	include := included(m)
	if p.As != "" && len(include) != len(one.Paths) {
		add("restore it into a new folder", "it includes %d paths, and the snapshot has %d: they cannot be told apart", len(include), len(one.Paths))
		return
	}
	wanted := one.include
	if wanted == nil {
		wanted = one.Paths
	}
	source := one.Paths // in the order in which they were configured
	if p.As != "" && len(source) > 1 {
		if source = p.sourceOrder(one.Paths); len(source) != len(one.Paths) {
			add("restore it into a new folder", "the snapshot has %d paths, and the configuration does not say any more in which order they were: they cannot be told apart", len(one.Paths))
			return
		}
	}
	for _, s := range one.Paths {
		live := s
		if p.As != "" {
			live = include[slices.Index(source, s)]
		} else if !slices.ContainsFunc(include, func(in string) bool { return within(s, in) }) {
			add("correct include of the module, or restore it into a new folder", "the snapshot has %s, which include does not name", s)
			continue
		}
		for _, w := range wanted {
			at := place{path: w, saved: s}
			switch {
			case within(w, s):
				at.Live = live + strings.TrimPrefix(w, s)
			case within(s, w):
				at.path, at.Live = s, live
			default:
				continue
			}
			if !slices.ContainsFunc(p.places, func(q place) bool { return within(at.path, q.path) }) {
				p.places = append(slices.DeleteFunc(p.places, func(q place) bool { return within(q.path, at.path) }), at)
			}
		}
	}
}

// sourceOrder sorts the paths of a snapshot as the source's include has them; restic sorts them by name. What it does not have is left out.
func (p *Plan) sourceOrder(saved []string) []string {
	var order []string
	if p.Module != nil {
		for _, at := range included(p.Module) {
			if slices.Contains(saved, at) && !slices.Contains(order, at) {
				order = append(order, at)
			}
		}
	}
	return order
}

// included lists the paths of a module as its backups have them.
func included(m *config.Module) []string {
	var paths []string
	for _, text := range m.Include {
		if !filepath.IsAbs(text) {
			text = filepath.Join(m.Directory, text)
		}
		paths = append(paths, realPath(text))
	}
	return paths
}

// realPath follows symbolic links as far as there is something.
func realPath(path string) string {
	if found, err := filepath.EvalSymlinks(path); err == nil {
		return found
	}
	if dir := filepath.Dir(path); dir != path {
		return filepath.Join(realPath(dir), filepath.Base(path))
	}
	return path
}

// check looks at one place, and decides where its stage is: beside it, or, where it cannot be renamed, in it.
func (at *place) check(add adder) {
	above := filepath.Dir(at.Live)
	if found, err := filepath.EvalSymlinks(above); err != nil {
		add("make it, as it was", "there is no folder %s to put %s into", above, filepath.Base(at.Live))
		return
	} else if found != above {
		add("restore it into a new folder", "a symbolic link leads %s to %s: it is another place than when it was saved", above, found)
		return
	}
	at.stage = above
	info, err := os.Lstat(at.Live)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		add("", "examine %s: %v", at.Live, err)
		return
	case info.Mode()&fs.ModeSymlink != 0:
		add("restore it into a new folder", "%s is a symbolic link now", at.Live)
		return
	case info.IsDir():
		if at.Inside, err = exchange.MountRoot(at.Live); err != nil {
			add("", "%v", err)
			return
		}
		if at.Inside {
			at.stage = at.Live
		}
		mounts, err := exchange.MountsBelow(at.Live)
		if err != nil {
			add("", "look for what is mounted below %s: %v", at.Live, err)
		}
		for _, mounted := range mounts {
			add("unmount it first, or name what you want with --path", "%s is mounted below %s, and would go with it", mounted, at.Live)
		}
	}
	if unix.Access(at.stage, unix.W_OK|unix.X_OK) != nil {
		add("restore it elsewhere with --target", "nothing can be written to %s", at.stage)
	}
}

// checkOwner refuses what the module's user would not own: users have other numbers on another machine, and files are restored with their own.
func (p *Plan) checkOwner(add adder) {
	u, err := module.LookupUser(p.into.User, p.into.Group)
	files := p.Point.Files()
	if err != nil || os.Geteuid() != 0 || len(p.places) == 0 || files == nil || files.UID == 0 || u.UID == 0 || files.UID == u.UID {
		return
	}
	advice := "restore it into a new folder, and give the files to it"
	if p.As == "" {
		advice = fmt.Sprintf("give it the old number: usermod -u %d %s; or %s", files.UID, u.Name, advice)
	}
	add(advice, "the snapshot was saved by the user of number %d, to whom the files would belong, and %s is %d here", files.UID, u.Name, u.UID)
}

// checkPrivileges refuses what would give a module's user more than it has.
func (p *Plan) checkPrivileges(add adder) {
	for _, one := range p.parts {
		if one.has.beyond != "" {
			add("name what you want with --path, or restore it into a new folder that stays yours", "%s", one.has.beyond)
			return
		}
	}
}

// checkRoom looks whether all fits beside what is there.
func (p *Plan) checkRoom(ctx context.Context, add adder) {
	need := map[string]uint64{} // by one folder of each file system
	folders := map[uint64]string{}
	count := func(dir string, bytes uint64) {
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil {
			return // told already
		}
		if folders[st.Dev] == "" {
			folders[st.Dev] = dir
		}
		need[folders[st.Dev]] += bytes
	}
	seen := map[string]bool{}
	for _, one := range p.parts {
		if one.Dump != "" {
			count(p.dumpStage(), one.has.Bytes)
			continue
		}
		for _, at := range p.places {
			if !seen[at.saved] {
				seen[at.saved] = true
				count(at.stage, one.has.under[at.saved])
			}
		}
	}
	for dir, bytes := range need {
		where, problems := look(dir)
		for _, problem := range problems {
			if !strings.HasSuffix(problem.Text, "is not empty") && !strings.HasSuffix(problem.Text, "belongs to somebody else") {
				add(problem.Remedy, "%s", problem.Text)
			}
		}
		p.target = where
		if len(need) == 1 {
			bytes = p.need(ctx)
		}
		if bytes > where.free {
			add("make room, or restore elsewhere with --target", "%s are to be restored beside what is there, and the file system of %s has %s free", size(bytes), dir, size(where.free))
		}
		for _, problem := range where.holds(p.parts) {
			add(problem.Remedy, "%s", problem.Text)
		}
	}
}

// dumpStage is where the folder of the dumps is made.
func (p *Plan) dumpStage() string {
	if len(p.places) > 0 {
		return p.places[0].stage
	}
	if p.into.Directory != "" {
		return realPath(p.into.Directory)
	}
	return "/var/tmp"
}

// restoreInPlace restores beside the live data, and has it exchanged.
func (r *Restorer) restoreInPlace(ctx context.Context, p *Plan, progress func(Progress)) (result Result, err error) {
	start := time.Now()
	result = p.result()
	m := p.into
	defer func() {
		result.Seconds = time.Since(start).Seconds()
		result.Complete = err == nil
		if err != nil {
			advice := or(Remedy(err), "what is live was not touched")
			err = fmt.Errorf("restore %s in place: %w", p.Label(), err)
			if result.ErrorCount == 0 {
				result.Errors, result.ErrorCount = append(result.Errors, err.Error()), 1
			}
			err = remedy(err, advice)
		}
	}()
	held, err := exchange.Take(r.Paths, m.ID, m.User, m.Group, "restore")
	if err != nil {
		return result, err
	}
	defer held.Release()
	defer func() {
		if err != nil && (result.RolledBack || Remedy(err) == "") {
			err = remedy(err, r.afterwards(m.ID, result.RolledBack))
		}
	}()
	store := r.journals()
	if _, err := store.Recover(ctx, m.ID); err != nil {
		return result, err
	}
	j, err := r.journal(p)
	if err != nil {
		return result, err
	}
	if err := store.Save(j); err != nil {
		return result, err
	}
	if err := p.stage(ctx, j, &result, progress); err != nil {
		if saveErr := store.Save(j); saveErr != nil { // it may have named too much
			return result, errors.Join(err, saveErr)
		}
		_, recoverErr := store.Recover(context.WithoutCancel(ctx), m.ID)
		return result, errors.Join(err, recoverErr)
	}
	progress(Progress{Phase: "exchange", Percent: 100, BytesDone: p.Bytes, BytesTotal: p.Bytes})
	out, err := r.exchange(ctx, m, held)
	result.Units, result.Kept, result.Replaced, result.RolledBack, result.Warnings = out.Stopped, out.Kept, out.Retained, out.RolledBack, out.Warnings
	switch {
	case out.Committed:
		return result, nil
	case err != nil && (out.RolledBack || ctx.Err() == nil):
		return result, err
	case ctx.Err() != nil:
		return result, context.Cause(ctx)
	}
	return result, errors.New(or(out.Error, "it was not finished, and nobody knows why"))
}

// afterwards says what became of the live data when a restore in place failed.
func (r *Restorer) afterwards(id string, rolledBack bool) string {
	j, err := r.journals().Load(id)
	service := units.RestoreServiceName(id)
	switch {
	case err != nil || j != nil && j.State == exchange.Exchanging:
		return fmt.Sprintf("what is live may be half restored and its units are stopped: restore-backup recover %s, and see journalctl -u %s", id, strconv.Quote(service))
	case rolledBack || j != nil && j.State == exchange.Undone:
		return "what is live is as it was before"
	case j != nil && j.State == exchange.Committed:
		return fmt.Sprintf("what was restored is live; restore-backup recover %s removes what it replaced", id)
	case j != nil:
		return fmt.Sprintf("what is live was not touched; restore-backup recover %s removes what was restored", id)
	}
	return "what is live was not touched"
}

func or(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

func (r *Restorer) journals() exchange.Store {
	s := exchange.Store{Dir: exchange.Dir(r.Paths), Log: r.Log}
	if r.Units != nil {
		s.Manager = r.Units
	}
	return s
}

// journal is the journal of a plan. What it names in the end to be removed is not there yet.
func (r *Restorer) journal(p *Plan) (*exchange.Journal, error) {
	m := p.into
	j := exchange.NewJournal(m.ID, r.Now())
	j.Units, j.Exclude, j.Hook, j.User, j.Group, j.Directory = m.Units, module.Exclude(m.Exclude), m.RestoreState, m.User, m.Group, m.Directory
	j.Env = []string{"MODULE_ID=" + m.ID, "RESTORE_TIME=" + p.Point.Time.UTC().Format(time.RFC3339), "RESTORE_SNAPSHOT=" + p.Point.Snapshots[0].ID}
	var errs []error
	stage := func(dir string) string {
		path := filepath.Join(dir, module.StagePrefix+m.ID)
		if !slices.Contains(j.Stages, path) {
			j.Stages = append(j.Stages, path)
			errs = append(errs, free(path), j.Note(dir))
		}
		return path
	}
	for _, at := range p.places {
		root := at.Root
		root.Staged = filepath.Join(stage(at.stage), treeFolder, at.path)
		j.Roots = append(j.Roots, root)
	}
	if slices.ContainsFunc(p.parts, func(one part) bool { return one.Dump != "" }) {
		dir := p.dumpStage()
		j.Dumps = &exchange.Root{Live: filepath.Join(dir, module.DumpsPrefix+m.ID), Staged: filepath.Join(stage(dir), dumpFolder)}
		j.Env = append(j.Env, "RESTORE_DUMPS="+j.Dumps.Live)
		errs = append(errs, free(j.Dumps.Live))
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return j, nil
}

// free tells whether nothing is at a path.
func free(path string) error {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = foreign(path)
	}
	return err
}

// treeFolder is where files are in a stage, beside dumpFolder.
const treeFolder = "tree"

// stage restores everything into the stages.
func (p *Plan) stage(ctx context.Context, j *exchange.Journal, result *Result, progress func(Progress)) error {
	var before uint64
	verified := p.Verify
	for i, dir := range j.Stages {
		held, err := exchange.OpenStage(dir)
		if errors.Is(err, fs.ErrExist) {
			j.Stages = j.Stages[:i] // neither it nor those that were not made yet are ours
			return foreign(dir)
		}
		if err != nil {
			return err
		}
		defer held.Close()
		if err := exchange.CanExchange(held); err != nil {
			return remedy(fmt.Errorf("the file system of %s cannot exchange folders: %w", dir, err), "restore it into a new folder")
		}
		g := goal{dir: self(held) + "/" + treeFolder, dumps: self(held) + "/" + dumpFolder, held: held}
		for _, one := range p.parts {
			if one.Dump == "" {
				one.include, one.selection = p.at(dir, j, one)
			}
			if one.Dump == "" && len(one.include) > 0 || one.Dump != "" && filepath.Dir(j.Dumps.Staged) == dir {
				g.parts = append(g.parts, one)
			}
		}
		err = p.restoreTo(ctx, g, result, &before, progress)
		if err == nil {
			var good bool
			good, err = p.after(ctx, g, result, progress)
			verified = verified && good
		}
		if err != nil {
			return plainly(err, self(held), dir)
		}
		if j.Dumps != nil && filepath.Dir(j.Dumps.Staged) == dir {
			if err := giveTo(g.dumps, p.into); err != nil {
				return err
			}
		}
	}
	result.Verified = verified
	return nil
}

// foreign is the error of a name that we need and somebody else has.
func foreign(path string) error {
	return remedy(fmt.Errorf("there is a %s, of which no journal knows", path), "look into it, and remove it")
}

// plainly says an error with the name that a folder has for people.
func plainly(err error, path, name string) error {
	text := err.Error()
	for _, self := range []string{path, "/proc/self/fd/3"} {
		text = strings.ReplaceAll(text, self, name)
	}
	if text == err.Error() {
		return err
	}
	return remedy(errors.New(text), Remedy(err))
}

// at is what of a part goes into a stage.
func (p *Plan) at(stage string, j *exchange.Journal, one part) ([]string, selection) {
	var include []string
	s := selection{vague: map[string]bool{}}
	for i, at := range p.places {
		if strings.HasPrefix(j.Roots[i].Staged, stage+"/") {
			include = append(include, at.path)
			s.paths = append(s.paths, listed(at.path))
			s.vague[listed(at.path)] = listed(at.path) != at.path
		}
	}
	return include, s
}

// giveTo gives the folder of the dumps to the module's user.
func giveTo(dir string, m *config.Module) error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := module.LookupUser(m.User, m.Group)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(u.UID), int(u.GID))
	})
}

// exchange has the exchange made: by a service, which the manager has cleaned up after whatever kills it, or, without a manager, here.
func (r *Restorer) exchange(ctx context.Context, m *config.Module, held *lock.Lock) (exchange.Outcome, error) {
	store := r.journals()
	if r.Units == nil {
		return store.Run(ctx, m.ID)
	}
	// Not a pipe: it has no reader when this process was killed.
	fd, err := unix.MemfdCreate("outcome", unix.MFD_CLOEXEC)
	if err != nil {
		return exchange.Outcome{}, err
	}
	told := os.NewFile(uintptr(fd), "outcome")
	defer told.Close()
	argv := func(words ...string) []string {
		all := []string{r.Exe}
		if r.Paths.User {
			all = append(all, "--user")
		}
		return append(append(all, words...), m.ID)
	}
	service := units.RestoreServiceName(m.ID)
	end, runErr := r.Units.Run(ctx, units.Service{
		Name: service, Description: "Restore in place of module " + m.ID,
		Argv: argv("exchange"), StopPost: argv("recover", "--json"), Unconfined: true,
		LogFields: []string{"MODULE_ID=" + m.ID}, Stdin: held.File(), Stdout: told, TimeoutStop: exchangeTimeout,
	})
	out, known := outcome(told)
	if runErr != nil {
		running, ending, err := r.Units.Running(context.WithoutCancel(ctx), []string{service})
		if err != nil || len(running)+len(ending) > 0 {
			return out, remedy(runErr, fmt.Sprintf("its service may go on with it: see systemctl status %s; if it does not, restore-backup recover %s puts it right", strconv.Quote(service), m.ID))
		}
	}
	// The service has ended, or never began: nobody else holds the lock.
	if left, err := store.Load(m.ID); err != nil || left != nil && left.State != exchange.Committed {
		recovered, recoverErr := store.Recover(context.WithoutCancel(ctx), m.ID)
		if recoverErr != nil {
			return recovered, errors.Join(runErr, recoverErr)
		}
		out, known = recovered, true
	}
	switch {
	case runErr != nil:
		return out, runErr
	case out.Committed:
		return out, nil
	case !known:
		return out, fmt.Errorf("%s told no outcome (%s): see journalctl -u %s", service, end, strconv.Quote(service))
	case end.Signal != 0:
		out.Error = fmt.Sprintf("its service was killed (%s)", end)
	}
	return out, errors.New(out.Error)
}

// outcome is the last one that was written to a file.
func outcome(from *os.File) (exchange.Outcome, bool) {
	var last exchange.Outcome
	known := false
	for d := json.NewDecoder(io.NewSectionReader(from, 0, 1<<24)); ; {
		var one exchange.Outcome
		if d.Decode(&one) != nil {
			return last, known
		}
		last, known = one, true
	}
}

// Exchange is the part of a restore in place that changes what is live, in a service of its own.
func (r *Restorer) Exchange(ctx context.Context, id string) (exchange.Outcome, error) {
	release, err := r.lockJournal(id)
	if err != nil {
		return exchange.Outcome{Module: id}, err
	}
	defer release()
	return r.journals().Run(ctx, id)
}

// Recover puts right what a restore in place of the module has left, or of all modules where the ID is "".
func (r *Restorer) Recover(ctx context.Context, id string) ([]exchange.Outcome, error) {
	ids := []string{id}
	var errs []error
	if id == "" {
		var err error
		if ids, err = r.journals().Modules(); err != nil {
			return nil, err
		}
	}
	all := []exchange.Outcome{}
	for _, id := range ids {
		if j, err := r.journals().Load(id); err == nil && j == nil {
			continue
		}
		release, err := r.lockJournal(id)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out, err := r.journals().Recover(ctx, id)
		release()
		if err != nil {
			err = fmt.Errorf("recover module %s: %w", id, err)
		}
		all, errs = append(all, out), append(errs, err)
	}
	return all, errors.Join(errs...)
}

func (r *Restorer) lockJournal(id string) (func(), error) {
	user, group := "", ""
	if m := r.Config.Modules[id]; m != nil {
		user, group = m.User, m.Group
	}
	if j, err := r.journals().Load(id); err == nil && j != nil {
		user, group = j.User, j.Group
	}
	return exchange.Lock(r.Paths, id, user, group)
}
