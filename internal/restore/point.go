package restore

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/restic"
)

// Snapshot is one snapshot of a point.
type Snapshot struct {
	ID      string    `json:"id"`
	Dump    string    `json:"dump,omitempty"` // file name of a [[dump]]; "" for the files
	Time    time.Time `json:"time"`
	Host    string    `json:"host"`
	Files   *uint64   `json:"files,omitempty"`   // nil where nobody knows
	Bytes   *uint64   `json:"bytes,omitempty"`   // likewise
	Seconds *float64  `json:"seconds,omitempty"` // that the backup took; likewise
	Paths   []string  `json:"paths"`
	UID     uint32    `json:"uid"` // of the user who saved it
}

// Short is the ID as restic shows it; that of a version in a bucket is not shortened, for they may begin alike.
func (s Snapshot) Short() string {
	if len(s.ID) != resticID {
		return s.ID
	}
	return s.ID[:8]
}

// resticID is the length of restic's IDs.
const resticID = 64

// Point is what one run has saved of a module: its files, its dumps, or both.
type Point struct {
	Time      time.Time  `json:"time"` // of the files, else of the last dump
	Run       string     `json:"run_id,omitempty"`
	Backup    string     `json:"backup,omitempty"`
	Module    string     `json:"module,omitempty"` // as it was called then
	Snapshots []Snapshot `json:"snapshots"`        // the files first
}

// Files is the snapshot of the files, if there is one.
func (p Point) Files() *Snapshot {
	if len(p.Snapshots) > 0 && p.Snapshots[0].Dump == "" {
		return &p.Snapshots[0]
	}
	return nil
}

// saved are the paths of the files' snapshot.
func (p Point) saved() []string {
	if s := p.Files(); s != nil {
		return s.Paths
	}
	return nil
}

// Bytes is the size of all snapshots; nil where nobody knows.
func (p Point) Bytes() *uint64 {
	return p.sum(func(s Snapshot) *uint64 { return s.Bytes })
}

// FileCount is the number of files in all snapshots; nil where nobody knows.
func (p Point) FileCount() *uint64 {
	return p.sum(func(s Snapshot) *uint64 { return s.Files })
}

func (p Point) sum(of func(Snapshot) *uint64) *uint64 {
	total := uint64(0)
	for _, s := range p.Snapshots {
		n := of(s)
		if n == nil {
			return nil
		}
		total += *n
	}
	return &total
}

// Duration is how long all snapshots took to save; false where nobody knows.
func (p Point) Duration() (time.Duration, bool) {
	total := 0.0
	for _, s := range p.Snapshots {
		if s.Seconds == nil {
			return 0, false
		}
		total += *s.Seconds
	}
	return time.Duration(total * float64(time.Second)), true
}

// points groups snapshots by the run that saved them, the newest first. The files are the last thing that a run saves, and it saves nothing
// twice: what comes after is of another attempt, or of another run by hand, which all have the same ID.
func points(list []restic.Snapshot) []Point {
	groups := map[string]*Point{} // that are not complete
	var order []*Point
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b restic.Snapshot) int { return a.Time.Compare(b.Time) })
	for _, s := range list {
		run, backup := s.Tag("run"), s.Tag("backup")
		key := run + "\x00" + backup
		if run == "" {
			key = s.ID // somebody made it by hand
		}
		dump := s.Tag("dump")
		p := groups[key]
		if p == nil || slices.ContainsFunc(p.Snapshots, func(other Snapshot) bool { return other.Dump == dump }) {
			p = &Point{Time: s.Time, Run: run, Backup: backup, Module: s.Tag("module")}
			groups[key], order = p, append(order, p)
		}
		if dump == "" {
			delete(groups, key)
		}
		one := Snapshot{ID: s.ID, Dump: dump, Time: s.Time, Host: s.Host, Paths: s.Paths, UID: s.UID}
		if c := s.Summary; c != nil {
			seconds := c.End.Sub(c.Start).Seconds()
			one.Files, one.Bytes, one.Seconds = &c.Files, &c.Bytes, &seconds
		}
		p.Snapshots = append(p.Snapshots, one)
	}
	all := make([]Point, 0, len(order))
	for _, p := range order {
		slices.SortStableFunc(p.Snapshots, func(a, b Snapshot) int { return cmp.Compare(a.Dump, b.Dump) })
		p.Time = p.Snapshots[0].Time
		for _, s := range p.Snapshots {
			if p.Files() == nil && s.Time.After(p.Time) {
				p.Time = s.Time
			}
		}
		all = append(all, *p)
	}
	slices.SortStableFunc(all, func(a, b Point) int { return b.Time.Compare(a.Time) })
	return all
}

// Choice says which point is wanted; the zero value is the latest one.
type Choice struct {
	Snapshot string    // "latest", or the beginning of a snapshot's ID
	At       time.Time // or: the last one that was there at that time
	Backup   string    // only those of this backup; "": of any
}

// choose returns the point that is wanted. Only by its ID one is chosen that lacks the files, because its run failed after the dumps.
func choose(all []Point, c Choice) (Point, error) {
	var wanted []Point
	for _, p := range all {
		if c.Backup == "" || p.Backup == c.Backup {
			wanted = append(wanted, p)
		}
	}
	const look = `"restore-backup list MODULE" shows the snapshots`
	if len(wanted) == 0 {
		if c.Backup != "" {
			return Point{}, remedy(fmt.Errorf("there is no snapshot of backup %s", c.Backup), look)
		}
		return Point{}, remedy(fmt.Errorf("there is no snapshot"), "nothing was saved yet, or retention removed it")
	}
	if c.Snapshot != "" && c.Snapshot != "latest" {
		return byID(wanted, c.Snapshot, look)
	}
	files := slices.ContainsFunc(wanted, func(p Point) bool { return p.Files() != nil })
	for _, p := range wanted {
		if (!files || p.Files() != nil) && (c.At.IsZero() || !p.Time.After(c.At)) {
			return p, nil
		}
	}
	oldest := wanted[len(wanted)-1].Time
	return Point{}, remedy(fmt.Errorf("there is no snapshot as old as %s: the oldest is of %s", c.At.Local().Format(time.DateTime), oldest.Local().Format(time.DateTime)), look)
}

func byID(all []Point, prefix, look string) (Point, error) {
	var found []Point
	for _, p := range all {
		if slices.ContainsFunc(p.Snapshots, func(s Snapshot) bool {
			return strings.HasPrefix(s.ID, prefix) || strings.HasPrefix(s.ID, strings.ToLower(prefix))
		}) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Point{}, remedy(fmt.Errorf("there is no snapshot %s", prefix), look)
	}
	return Point{}, usage("give more of the ID", "more than one snapshot begins with %s", prefix)
}

// ParseAt reads a time: one of this machine's time zone, as systemd.time(7) writes it, or RFC 3339. A day alone means its end.
func ParseAt(text string, zone *time.Location) (time.Time, error) {
	for _, layout := range []string{"2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02T15:04:05", "2006-01-02T15:04"} {
		if t, err := time.ParseInLocation(layout, text, zone); err == nil {
			if strings.Count(layout, ":") == 1 {
				t = t.Add(time.Minute - time.Nanosecond) // the whole minute counts
			} else {
				t = t.Add(time.Second - time.Nanosecond)
			}
			return t, nil
		}
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, zone); err == nil {
		return t.AddDate(0, 0, 1).Add(-time.Nanosecond), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, usage(`want one as in "2026-11-20 03:00"; a day alone means its end`, "%q is no time", text)
	}
	return t, nil
}
