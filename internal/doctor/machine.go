package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/units"
)

// timers looks whether every enabled backup will run again.
func (d *Doctor) timers(ctx context.Context) []Finding {
	const subject = "timers"
	list, err := d.Scheduler.Timers(ctx)
	if errors.Is(err, units.ErrNoManager) {
		return []Finding{warning(subject, "", "not looked at: there is no service manager")}
	}
	if err != nil {
		return []Finding{problem(subject, "", "%v", err)}
	}
	var out []Finding
	alive := 0
	var next time.Time
	for _, t := range list.Timers {
		if t.Problem != "" {
			out = append(out, problem(subject, "", "backup %s: %s", t.Backup, t.Problem))
			continue
		}
		alive++
		if next.IsZero() || !t.Next.IsZero() && t.Next.Before(next) {
			next = t.Next
		}
		if b := d.Config.Job(t.Backup); b != nil && b.Persistent {
			out = append(out, d.stamp(t.Backup)...)
		}
	}
	switch {
	case len(out) > 0:
	case alive == 0:
		out = append(out, ok(subject, "there are none"))
	case next.IsZero():
		out = append(out, ok(subject, "%s loaded; a run is under way", count(alive, "timer")))
	default:
		out = append(out, ok(subject, "%s loaded; the next elapses at %s", count(alive, "timer"), next.Local().Format("Mon 2006-01-02 15:04:05 MST")))
	}
	return out
}

// stamp looks at the file by which the manager knows when a persistent timer elapsed last.
func (d *Doctor) stamp(backup string) []Finding {
	const subject = "timers"
	path := units.StampFile(d.Paths.User, backup, d.Getenv)
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Finding{warning(subject, "systemctl "+d.userFlag()+"restart "+units.TimerName(backup),
			"backup %s: %s is missing: what is missed while the machine is off is not caught up", backup, path)}
	case err != nil:
		return nil // of another user, who looks after it
	case info.ModTime().After(d.Now().Add(time.Hour)):
		return []Finding{warning(subject, "touch "+path,
			"backup %s: by its time stamp it ran last in the future, at %s: was the clock wrong?", backup, info.ModTime().Local().Format(time.DateTime))}
	}
	return nil
}

// secrets looks who may read them.
func (d *Doctor) secrets(context.Context) []Finding {
	const subject = "secrets"
	var out []Finding
	looked, hiddenFiles := 0, 0
	var seen []string
	look := func(path string) {
		if path == "" || slices.Contains(seen, path) {
			return
		}
		seen = append(seen, path)
		err := config.CheckSecretFile(path)
		switch {
		case errors.Is(err, fs.ErrPermission):
			hiddenFiles++
		case errors.Is(err, fs.ErrNotExist):
			out = append(out, problem(subject, "put it back from your copy: it is the only key to what is stored", "%s is not there", path))
		case err != nil:
			text, remedy, _ := strings.Cut(err.Error(), ": ")
			out = append(out, problem(subject, remedy, "%s", text))
		default:
			looked++
		}
	}
	for _, id := range d.Config.DestinationIDs() {
		dest := d.Config.Destinations[id]
		look(dest.PasswordFile)
		look(dest.EnvironmentFile)
		look(dest.RcloneConfig)
	}
	for _, layer := range d.Paths.Config {
		files, _ := filepath.Glob(filepath.Join(layer, "*.toml"))
		for _, path := range append([]string{layer}, files...) {
			if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o022 != 0 {
				out = append(out, problem(subject, "chmod go-w "+path, "others may write into %s, and so decide what runs as root", path))
			}
		}
	}
	switch {
	case hiddenFiles > 0:
		out = append(out, hidden(subject))
	case len(out) == 0 && looked == 0:
		out = append(out, ok(subject, "no files"))
	case len(out) == 0:
		out = append(out, ok(subject, "%s, which nobody else can read", count(looked, "file")))
	}
	return out
}

// staleLock is how long a module may be locked before that is odd.
const staleLock = 24 * time.Hour

// locks looks for locks of ours that somebody holds who should not.
func (d *Doctor) locks(context.Context) []Finding {
	const subject = "locks"
	paths, _ := filepath.Glob(filepath.Join(d.Paths.Lock, "*.lock"))
	var out []Finding
	held, hiddenFiles := 0, 0
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".lock")
		holder, err := lock.Holder(path)
		switch {
		case errors.Is(err, fs.ErrPermission):
			hiddenFiles++
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			out = append(out, warning(subject, "", "%s: %v", name, err))
		case holder == nil:
		case holder.Gone:
			out = append(out, problem(subject, "see what it left running: fuser -v "+path, "%s: %v", name, holder))
		case !holder.Since.IsZero() && d.Now().Sub(holder.Since) > staleLock:
			out = append(out, warning(subject, fmt.Sprintf("see whether it gets on: systemctl status %d", holder.PID), "%s: %v", name, holder))
		default:
			held++
		}
	}
	switch {
	case hiddenFiles > 0:
		out = append(out, hidden(subject))
	case len(out) == 0 && held > 0:
		out = append(out, ok(subject, "%d held by runs that are under way", held))
	case len(out) == 0:
		out = append(out, ok(subject, "none is held"))
	}
	return out
}

// Below these parts of a file system that are free, something is to be done about it.
const (
	scarceFree = 0.10
	noFree     = 0.02
)

// space looks at the folders that backups write into.
func (d *Doctor) space(context.Context) []Finding {
	places := map[string]string{}
	var order []string
	add := func(subject, path string) {
		if path != "" && places[subject] == "" {
			places[subject] = path
			order = append(order, subject)
		}
	}
	for _, id := range d.Config.DestinationIDs() {
		if path, local := d.Config.Destinations[id].Local(); local {
			add("space of destination "+id, path)
		}
	}
	add("space of records", existing(d.Paths.State))
	add("space of caches", existing(d.Paths.Cache))
	var out []Finding
	for _, subject := range order {
		if f, found := free(subject, places[subject]); found {
			out = append(out, f)
		}
	}
	return out
}

// existing is the folder, or the nearest one above it that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		path = filepath.Dir(path)
	}
	return path
}

func free(subject, path string) (Finding, bool) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil || fs.Blocks == 0 {
		return Finding{}, false // of a destination, another question tells
	}
	part := float64(fs.Bavail) / float64(fs.Blocks)
	text := fmt.Sprintf("%s: %s free, %.0f %%", path, size(fs.Bavail*uint64(fs.Bsize)), 100*part)
	const remedy = "keep less, or make room: df " // with the path
	switch {
	case part < noFree:
		return problem(subject, remedy+path, "%s", text), true
	case part < scarceFree:
		return warning(subject, remedy+path, "%s", text), true
	}
	if fs.Files > 0 && float64(fs.Ffree)/float64(fs.Files) < noFree {
		return problem(subject, "df -i "+path, "%s, but hardly an inode is free", text), true
	}
	return ok(subject, "%s", text), true
}

// size writes bytes for people.
func size(n uint64) string {
	value, unit := float64(n), 0
	for value >= 1024 && unit < 5 {
		value, unit = value/1024, unit+1
	}
	if unit == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGTP"[unit])
}

// linger looks whether a user's timers run while nobody is logged in.
func (d *Doctor) linger(context.Context) []Finding {
	u, err := user.Current()
	if err != nil {
		return []Finding{warning("linger", "", "not looked at: %v", err)}
	}
	if _, err := os.Stat(filepath.Join("/var/lib/systemd/linger", u.Username)); err != nil {
		return []Finding{warning("linger", "loginctl enable-linger "+u.Username, "%s does not linger: nothing runs while %[1]s is not logged in", u.Username)}
	}
	return []Finding{ok("linger", "%s lingers: backups run without a login", u.Username)}
}
