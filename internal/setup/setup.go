// Package setup writes a first configuration: one destination, one module of chosen folders, one backup.
//
// It decides first and acts then. Plan finds everything that is wrong with what is asked for, all at once, and changes nothing; what it
// returns is judged as schedule-backup check would. Apply makes the destination, with a password of its own, and then the file that uses it.
// Nothing that is there is ever written over. When the second step fails the first one is undone; whoever is killed between them
// finds the destination when he tries again, and it is used.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/config"
	"sdbackup/internal/destination"
	"sdbackup/internal/schedule"
)

const (
	fileName = "first-backup.toml"
	fileMode = 0o644
	// probeTimeout is how long a destination that is there already may take to answer.
	probeTimeout = 30 * time.Second
)

// Setup writes into one installation's configuration.
type Setup struct {
	Paths     config.Paths
	Store     *destination.Store
	Scheduler *schedule.Scheduler // judges the schedule
	Home      string              // of the caller: "~" stands for it where nobody but us reads what was typed
}

// Request is what is asked for.
type Request struct {
	Folders     []string // or files, to be saved
	Destination string   // a folder, or the ID of a destination that is there
	Schedule    string   // OnCalendar; systemd.time(7)
}

// UsageError is a mistake of the caller: nothing was done. Several may be joined.
type UsageError struct{ text string }

func (e *UsageError) Error() string { return e.text }

func usage(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }

// Plan is what is to be written.
type Plan struct {
	File        string // of the module and the backup
	Text        string // of the file
	Destination string // ID
	Folder      string // of a destination that is to be made; "": it is there already
	Module      string // ID
	Backup      string // ID
	Next        time.Time
	Unjudged    bool     // the schedule was not looked at: systemd-analyze is missing
	Notes       []string // what the operator had better know
}

// Result is what was written.
type Result struct {
	Files        []string
	PasswordFile string // of the destination; "": its password is a credential
	PasswordMade bool
}

// Check returns what is wrong with one folder to be saved, and the folder as it is written into the configuration.
func (s *Setup) Check(folder string) (string, error) {
	path, err := s.absolute(folder)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", usage("there is no %s to save", path)
	case err != nil:
		return "", fmt.Errorf("look at what is to be saved: %w", err)
	case !info.IsDir() && !info.Mode().IsRegular():
		return "", usage("%s is neither a folder nor a file", path)
	}
	if err := unix.Access(path, unix.R_OK); err != nil {
		return "", usage("%s cannot be read by you; want another folder, or run it as root", path)
	}
	return path, nil
}

// absolute is a path as it is written into the configuration.
func (s *Setup) absolute(path string) (string, error) {
	if path == "~" || strings.HasPrefix(path, "~/") {
		path = filepath.Join(s.Home, strings.TrimPrefix(path, "~"))
	}
	if strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) || strings.ToValidUTF8(path, "") != path {
		return "", usage("%q holds characters that the configuration cannot", path)
	}
	return filepath.Abs(path)
}

// CheckDestination returns what is wrong with a place: whether the folder can be written to, or the destination be used.
func (s *Setup) CheckDestination(ctx context.Context, place string) error {
	_, _, err := s.destination(ctx, s.load(), place)
	return err
}

// destination finds the ID of the place, and the folder of one that is to be made.
func (s *Setup) destination(ctx context.Context, cfg *config.Config, place string) (id, folder string, err error) {
	if config.ValidID(place) && cfg.Destinations[place] == nil && !strings.ContainsRune(place, '/') {
		if len(cfg.Destinations) == 0 {
			return "", "", usage("%s is neither a folder, which begins with /, nor a destination; \"backup-destination add\" makes destinations", place)
		}
		return "", "", usage("there is no destination %s; want a folder, which begins with /, or one of %s", place, strings.Join(cfg.DestinationIDs(), ", "))
	}
	if d := cfg.Destinations[place]; d != nil {
		for _, p := range cfg.ErrorsOf(config.KindDestination, place) {
			err = errors.Join(err, usage("%s", p))
		}
		if err == nil {
			err = s.probe(ctx, place)
		}
		return place, "", err
	}
	folder, err = s.absolute(place)
	if err != nil {
		return "", "", err
	}
	info, err := os.Stat(folder)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", "", usage("there is no folder %[1]s to keep backups in; mount its disk, or make it: install -d -m 755 %[1]s", folder)
	case err != nil:
		return "", "", fmt.Errorf("look at the destination: %w", err)
	case !info.IsDir():
		return "", "", usage("%s is no folder, and backups are kept in one", folder)
	}
	if err := unix.Access(folder, unix.W_OK|unix.X_OK); err != nil {
		return "", "", usage("%s cannot be written to by you; want another folder, or run it as root", folder)
	}
	for _, known := range cfg.DestinationIDs() { // the same place is not added twice
		if path, ok := cfg.Destinations[known].Local(); ok && filepath.Clean(path) == folder && len(cfg.ErrorsOf(config.KindDestination, known)) == 0 {
			return known, "", nil
		}
	}
	return s.freeDestination(cfg), folder, nil
}

// freeDestination is an ID for a destination of which there is not even a password: that may be the only key to something.
func (s *Setup) freeDestination(cfg *config.Config) string {
	taken := map[string]bool{}
	for id := range cfg.Destinations {
		taken[id] = true
	}
	for {
		id := free("archive", taken)
		if _, err := os.Lstat(filepath.Join(s.Store.SecretDir(), id+".password")); err != nil {
			return id
		}
		taken[id] = true
	}
}

// probe tries a destination that is there.
func (s *Setup) probe(ctx context.Context, id string) error {
	verdicts, err := s.Store.Validate(ctx, []string{id}, probeTimeout)
	if err != nil {
		return err
	}
	for _, v := range verdicts {
		if v.Failed() {
			return fmt.Errorf("destination %s cannot be used: %s", id, v.Detail)
		}
	}
	return nil
}

// CheckSchedule returns what is wrong with a schedule.
func (s *Setup) CheckSchedule(ctx context.Context, expression string) error {
	calendars, err := s.Scheduler.Calendars(ctx, []string{expression}, 1)
	if err != nil || len(calendars) == 0 || calendars[0].Err == nil {
		return nil // that it cannot be judged here is told by Plan
	}
	return usage("%q is no schedule: %v; want one as in systemd.time(7), say daily or Mon..Fri 22:30", expression, calendars[0].Err)
}

// free is the name, or with the first number that no item has.
func free[T any](name string, taken map[string]T) string {
	id := name
	for n := 2; ; n++ {
		if _, ok := taken[id]; !ok {
			return id
		}
		id = fmt.Sprintf("%s%d", name, n)
	}
}

// load reads the configuration as it is; a folder that is not there is as good as an empty one.
func (s *Setup) load() *config.Config {
	return config.Load(append(slices.Clone(s.Paths.Config), s.dir()), nil)
}

// dir is the folder that is written to.
func (s *Setup) dir() string { return s.Store.Dir }

// Fresh returns a *UsageError when there is a first configuration already.
func (s *Setup) Fresh() error {
	file := filepath.Join(s.dir(), fileName)
	if _, err := os.Lstat(file); err == nil {
		return usage("there is a first configuration already, %s; change it there, and see \"schedule-backup check\"", file)
	}
	return nil
}

// Plan decides what to write. A *UsageError, or several joined, says what is wrong with the request.
func (s *Setup) Plan(ctx context.Context, r Request) (Plan, error) {
	cfg := s.load()
	p := Plan{
		File:   filepath.Join(s.dir(), fileName),
		Module: free("files", cfg.Modules), Backup: free("first", cfg.Backups),
	}
	var errs []error
	if err := s.Fresh(); err != nil {
		return p, err
	}
	var folders []string
	for _, f := range r.Folders {
		path, err := s.Check(f)
		if err != nil {
			errs = append(errs, err)
		} else if !slices.Contains(folders, path) {
			folders = append(folders, path)
		}
	}
	if len(r.Folders) == 0 {
		errs = append(errs, usage("no folders; want those that are to be saved"))
	}
	var err error
	if r.Destination == "" {
		errs = append(errs, usage("no destination; want a folder to keep backups in, or the ID of a destination, --to"))
	} else if p.Destination, p.Folder, err = s.destination(ctx, cfg, r.Destination); err != nil {
		errs = append(errs, err)
	}
	if err := s.CheckSchedule(ctx, r.Schedule); err != nil {
		errs = append(errs, err)
	}
	place := p.Folder
	if d := cfg.Destinations[p.Destination]; d != nil {
		place, _ = d.Local()
	}
	exclude := excluded(folders, place, s.Paths.Cache)
	for _, f := range folders {
		if place != "" && isBelow(resolve(f), resolve(place)) {
			errs = append(errs, usage("%s is in the destination %s; want what is not a backup itself", f, place))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return p, err
	}
	p.Notes = notes(folders, place)
	p.Text = p.toml(folders, exclude, r.Schedule)
	return p, s.judge(ctx, &p)
}

// judge holds the file against everything else that is configured, as schedule-backup check does.
func (s *Setup) judge(ctx context.Context, p *Plan) error {
	tmp, err := os.MkdirTemp("", "schedule-backup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	text := p.Text
	if p.Folder != "" { // its password is not there yet
		text += fmt.Sprintf("\n[destination.%s]\nrepository = %s\npassword-credential = \"x\"\n", p.Destination, quote(p.Folder))
	}
	file := filepath.Join(tmp, fileName)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	judging := *s.Scheduler
	judging.Load = func() *config.Config {
		return config.Load(append(slices.Clone(s.Paths.Config), s.dir(), file), nil)
	}
	verdict, err := judging.Check(ctx, 1)
	if err != nil {
		return err
	}
	p.Unjudged = verdict.Unjudged
	var errs []error
	for _, problem := range verdict.Problems {
		if problem.File != file {
			continue // it was there before, and stops nothing of ours
		}
		problem.File = p.File
		if problem.Warning {
			p.Notes = append(p.Notes, strings.TrimPrefix(problem.Key+": ", ": ")+problem.Message)
		} else {
			errs = append(errs, usage("%s", problem))
		}
	}
	for _, e := range verdict.Elapses {
		if e.Backup == p.Backup && len(e.Next) > 0 {
			p.Next = e.Next[0]
		}
	}
	return errors.Join(errs...)
}

// excluded are the patterns for what lies in the folders and is no use in a backup.
func excluded(folders []string, places ...string) []string {
	var out []string
	for _, p := range append(places, "/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp") {
		if p == "" {
			continue
		}
		real := resolve(p)
		if slices.ContainsFunc(folders, func(f string) bool { f = resolve(f); return f != real && isBelow(real, f) }) {
			out = append(out, escape(real))
		}
	}
	return out
}

// notes tells of what may not be meant.
func notes(folders []string, place string) []string {
	var out []string
	for _, f := range folders {
		if place != "" && sameDisk(f, place) {
			out = append(out, fmt.Sprintf("%s is on the same file system as %s: what breaks one breaks both, so keep another backup elsewhere", place, f))
			break
		}
	}
	return out
}

func sameDisk(a, b string) bool {
	var x, y syscall.Stat_t
	return syscall.Stat(a, &x) == nil && syscall.Stat(b, &y) == nil && x.Dev == y.Dev
}

// resolve follows symbolic links, as far as that is possible.
func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

func isBelow(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

// escape makes a pattern of a path that matches that path alone; restic's are those of Go's filepath.Match.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// quote writes a string for TOML; there are no control characters in it.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func quoteAll(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// toml is the text of the file.
func (p Plan) toml(folders, exclude []string, expression string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `# Written by "schedule-backup init"; change what you like. docs/configuration.md tells what else there is.
version = 1

[module.%s]
type = "files"
uuid = %s # it names the repository: never change it
include = %s
`, p.Module, quote(config.NewUUID()), quoteAll(folders))
	if len(exclude) > 0 {
		fmt.Fprintf(&b, "exclude = %s\n", quoteAll(exclude))
	}
	fmt.Fprintf(&b, `
[backup.%s]
name = "First backup"
schedule = %s # OnCalendar of systemd.time(7)
destination = %s
modules = [%s]
retention = { keep-daily = 7, keep-weekly = 4, keep-monthly = 12 }

[backup.%[1]s.check] # the repository is examined, and all of its data is read within twelve weeks
schedule = "weekly"
read-data-subset = 12
`, p.Backup, quote(expression), quote(p.Destination), quote(p.Module))
	return b.String()
}

// Apply makes the destination where it is to be made, and writes the file.
func (s *Setup) Apply(ctx context.Context, p Plan) (result Result, err error) {
	if err := atomicfile.MakeDir(s.dir(), 0o755); err != nil {
		return result, err
	}
	if p.Folder != "" {
		made, e := s.Store.Add(ctx, destination.Request{ID: p.Destination, Provider: "local", Parameters: map[string]string{"path": p.Folder}})
		if e != nil {
			return result, e
		}
		result.Files, result.PasswordMade = made.Files, true
		defer func() {
			if err == nil {
				return
			}
			if _, e := s.Store.Remove(context.WithoutCancel(ctx), destination.Removal{ID: p.Destination, ForgetPassword: true}); e != nil {
				err = errors.Join(err, fmt.Errorf("and the destination that was made cannot be removed: %w", e))
			}
		}()
	}
	if err := create(p.File, []byte(p.Text)); err != nil {
		return Result{}, err
	}
	result.Files = append(result.Files, p.File)
	if d := s.load().Destinations[p.Destination]; d != nil {
		result.PasswordFile = d.PasswordFile
	}
	return result, nil
}

// create writes a file that must not be there, whole and durable or not at all.
func create(path string, data []byte) error {
	tmp := path + ".new" // no suffix that anybody reads
	if err := atomicfile.Write(tmp, data, fileMode); err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); err != nil { // unlike a rename, it replaces nothing
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := atomicfile.SyncDir(filepath.Dir(path)); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}
