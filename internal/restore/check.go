package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/module"
)

// Request says what is to be restored, and where to.
type Request struct {
	Repository
	Choice
	Only   []string // paths from the module's directory, or as they were on the machine, or names of dumps; nil: everything
	Target string   // "": a new folder in the working directory

	InPlace bool   // where the module lives, in place of Target
	As      string // as this module; "": as the one that was saved
	Verify  bool

	pick func(context.Context, source, Point) ([]part, error) // in place of Only; nil: what Only says
	held bool                                                 // the caller has the module's lock
}

// Problem is something that stands in the way of a restore.
type Problem struct {
	Text    string `json:"text"`
	Remedy  string `json:"remedy,omitempty"`
	InPlace bool   `json:"in_place,omitempty"` // only of one in place
}

// Plan is a restore that has been looked into. Close must be called of it; more often does no harm.
type Plan struct {
	Request
	Point    Point     // when nothing of the repository is wrong
	Target   string    // absolute
	Problems []Problem // all that was found
	Files    uint64
	Bytes    uint64 // hard links count once for each name

	source source
	parts  []part
	target target
	into   *config.Module // the module that it is to be; nil: none that is installed
	added  string         // the file that will say of a new module
	places []place        // of a restore in place
}

// Close gives back what reading the repository took.
func (p *Plan) Close() {
	if p.source != nil {
		p.source.close()
		p.source = nil
	}
}

// Blocked returns the problems that this restore has.
func (p *Plan) Blocked() []Problem {
	if p.Request.InPlace {
		return p.Problems
	}
	return slices.DeleteFunc(slices.Clone(p.Problems), func(q Problem) bool { return q.InPlace })
}

// Check looks into a restore without writing anything. What is wrong is in the plan, all of it; an error is a mistake of who asks, or that ctx is done.
func (r *Restorer) Check(ctx context.Context, req Request) (*Plan, error) {
	p := &Plan{Request: req, Problems: []Problem{}, into: req.Module}
	if req.As != "" {
		if err := r.checkAs(p); err != nil {
			return nil, err
		}
	}
	if req.InPlace && p.into == nil {
		return nil, usage("restore it into a new folder, or --as a module that is configured", "%s is of no module that is installed, so it has no place", req.Label())
	}
	if err := r.checkRepository(ctx, p); err != nil {
		var mistake *UsageError
		if ctx.Err() != nil || errors.As(err, &mistake) {
			p.Close()
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			return nil, err
		}
		p.problem(err)
	}
	check := r.checkTarget
	if req.InPlace {
		check = r.checkPlaces
	}
	if err := check(ctx, p); err != nil {
		p.Close()
		return nil, err
	}
	p.Problems = append(p.Problems, r.checkModule(p.into)...)
	return p, nil
}

func (p *Plan) problem(err error) {
	p.Problems = append(p.Problems, Problem{Text: err.Error(), Remedy: Remedy(err)})
}

// checkRepository opens the repository and finds the point.
func (r *Restorer) checkRepository(ctx context.Context, p *Plan) error {
	var err error
	if p.source, err = r.source(ctx, p.Repository); err != nil {
		return err
	}
	list, err := p.source.points(ctx)
	if err != nil {
		return err
	}
	point, err := choose(list, p.Choice)
	if err != nil {
		return fmt.Errorf("%s: %w", p.Label(), err)
	}
	if point, err = p.source.look(ctx, point); err != nil {
		return err
	}
	p.Point = point
	return nil
}

// checkTarget examines the folder, and what is to go there.
func (r *Restorer) checkTarget(ctx context.Context, p *Plan) error {
	if p.Target = p.Request.Target; p.Target == "" {
		if len(p.Point.Snapshots) == 0 {
			return nil // nobody knows its name
		}
		p.Target = strings.Join([]string{"restore", strings.ReplaceAll(p.short(), "/", "-"), p.Point.Snapshots[0].Short()}, "-")
	}
	path, err := filepath.Abs(p.Target)
	if err != nil {
		return fmt.Errorf("find the working directory: %w", err)
	}
	p.Target = path
	var problems []Problem
	p.target, problems = look(path)
	p.Problems = append(p.Problems, problems...)
	if len(p.Point.Snapshots) == 0 {
		return nil
	}
	if ok, err := p.scan(ctx); !ok {
		return err
	}
	if m := p.newOwner(); m != nil {
		if _, err := module.LookupUser(m.User, m.Group); err != nil {
			p.Problems = append(p.Problems, Problem{Text: fmt.Sprintf("module %s: %v", m.ID, err), Remedy: "make it, or correct user and group of the module"})
		}
		p.checkPrivileges(func(remedy, format string, args ...any) {
			p.Problems = append(p.Problems, Problem{Text: fmt.Sprintf(format, args...), Remedy: remedy})
		})
	}
	if p.target.parent == "" || p.target.free == 0 && len(problems) > 0 {
		return nil
	}
	p.Problems = append(p.Problems, p.target.holds(p.parts)...)
	if need := p.need(ctx); need > p.target.free {
		p.Problems = append(p.Problems, Problem{
			Text:   fmt.Sprintf("%s are to be restored, and the file system of %s has %s free", size(need), p.target.parent, size(p.target.free)),
			Remedy: "make room, or restore elsewhere with --target",
		})
	}
	return nil
}

// scan reads what is to be restored; false if that cannot be done, with an error when ctx is done.
func (p *Plan) scan(ctx context.Context) (bool, error) {
	var err error
	if p.pick != nil {
		p.parts, err = p.pick(ctx, p.source, p.Point)
	} else {
		p.parts, err = scan(ctx, p.source, p.Point, p.Only, p.Module, p.target.fs.caseless, p.owner())
	}
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		p.problem(err)
		return false, nil
	}
	for _, one := range p.parts {
		p.Files += one.has.Files
		p.Bytes += one.has.Bytes
	}
	return true, nil
}

// newOwner is the module whose user is given the new folder; nil: it stays the caller's.
func (p *Plan) newOwner() *config.Module {
	if p.added == "" || os.Geteuid() != 0 {
		return nil
	}
	return p.Module
}

// owner is the user who gets what is restored; nil: root, who may have anything, or the caller, to whom nobody gives anything.
func (p *Plan) owner() *module.User {
	m := p.newOwner()
	if p.Request.InPlace && os.Geteuid() == 0 {
		m = p.into
	}
	if m == nil {
		return nil
	}
	if u, err := module.LookupUser(m.User, m.Group); err == nil && u.UID != 0 { // who is missing is told elsewhere
		return &u
	}
	return nil
}

// short is a name for a folder.
func (p *Plan) short() string {
	if p.As != "" {
		return p.As
	}
	if p.Module != nil {
		return p.Module.ID
	}
	return p.Type + "-" + p.UUID[:min(8, len(p.UUID))]
}

// need is how many bytes the restore takes: where it seems too many, hard links are counted as one.
func (p *Plan) need(ctx context.Context) uint64 {
	if p.Bytes <= p.target.free || len(p.Only) > 0 {
		return p.Bytes
	}
	total := uint64(0)
	for _, one := range p.parts {
		size, err := p.source.size(ctx, one.Snapshot)
		if err != nil {
			return p.Bytes
		}
		total += size
	}
	return total
}

// size writes a number of bytes for people, in powers of 1024.
func size(n uint64) string {
	value, unit := float64(n), 0
	for value >= 1024 && unit < 6 {
		value /= 1024
		unit++
	}
	if unit == 0 {
		return fmt.Sprintf("%d bytes", n)
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGTPE"[unit])
}

// checkModule looks whether the machine has what an installed module needs: its user and its units.
func (r *Restorer) checkModule(m *config.Module) []Problem {
	if m == nil {
		return nil
	}
	var problems []Problem
	if _, err := module.LookupUser(m.User, m.Group); err != nil {
		problems = append(problems, Problem{Text: fmt.Sprintf("module %s: %v", m.ID, err), Remedy: "make it, or correct user and group of the module", InPlace: true})
	}
	for _, unit := range m.Units {
		if text := r.unitProblem(unit); text != "" {
			problems = append(problems, Problem{Text: fmt.Sprintf("module %s: %s", m.ID, text), Remedy: "install it, or correct units of the module", InPlace: true})
		}
	}
	return problems
}

// unitProblem looks for a unit where the service manager does, systemd.unit(5): it may not run here. "" means that it is there.
func (r *Restorer) unitProblem(unit string) string {
	names := []string{unit}
	if at := strings.IndexByte(unit, '@'); at >= 0 {
		names = append(names, unit[:at+1]+unit[strings.LastIndexByte(unit, '.'):])
	}
	for _, dir := range r.unitFolders() {
		for _, name := range names {
			path := filepath.Join(dir, name)
			if _, err := os.Lstat(path); err != nil {
				continue
			}
			if to, err := os.Readlink(path); err == nil && to == "/dev/null" {
				return unit + " is masked"
			}
			return ""
		}
	}
	return "there is no " + unit
}

func (r *Restorer) unitFolders() []string {
	if !r.Paths.User {
		return []string{
			"/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early", "/etc/systemd/system",
			"/run/systemd/system", "/run/systemd/generator", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system", "/run/systemd/generator.late",
		}
	}
	folders := []string{r.Paths.Units}
	if runtime := r.Getenv("XDG_RUNTIME_DIR"); runtime != "" {
		for _, name := range []string{"user.control", "transient", "user", "generator"} {
			folders = append(folders, filepath.Join(runtime, "systemd", name))
		}
	}
	home := r.Getenv("XDG_DATA_HOME")
	if home == "" {
		home = filepath.Join(r.Getenv("HOME"), ".local/share")
	}
	return append(folders, "/etc/systemd/user", "/run/systemd/user", filepath.Join(home, "systemd/user"), "/usr/local/lib/systemd/user", "/usr/lib/systemd/user", "/lib/systemd/user")
}
