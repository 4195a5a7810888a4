// Package doctor looks at all that backups need on a machine, and tells what is wrong and what can be done about it.
//
// Every question has its own time, and all are asked side by side: one that gets no answer, because a remote folder hangs, is a finding
// itself and holds up nothing. Nothing is changed, but for the small object with which destinations are tried. What only root may see
// is said not to have been looked at.
package doctor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/destination"
	"sdbackup/internal/restore"
	"sdbackup/internal/schedule"
	"sdbackup/internal/units"
)

// Level is how bad a finding is.
type Level string

// The levels.
const (
	OK      Level = "ok"
	Warning Level = "warning" // backups are made, but something is not as it should be, or could not be looked at
	Problem Level = "problem" // backups are not made, or will not be, or cannot be restored
)

// Finding is the answer to one question.
type Finding struct {
	Subject string `json:"subject"`
	Level   Level  `json:"level"`
	Text    string `json:"text"`
	Remedy  string `json:"remedy,omitempty"`
}

func ok(subject, format string, args ...any) Finding {
	return Finding{Subject: subject, Level: OK, Text: fmt.Sprintf(format, args...)}
}

func warning(subject, remedy, format string, args ...any) Finding {
	return Finding{Subject: subject, Level: Warning, Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

func problem(subject, remedy, format string, args ...any) Finding {
	return Finding{Subject: subject, Level: Problem, Text: fmt.Sprintf(format, args...), Remedy: remedy}
}

// Doctor examines one installation.
type Doctor struct {
	Paths     config.Paths
	Config    *config.Config
	Store     *destination.Store
	Restorer  *restore.Restorer
	Scheduler *schedule.Scheduler
	Getenv    func(string) string
	Now       func() time.Time
	Log       *slog.Logger
	IsRoot    bool
	Timeout   time.Duration // for one question

	Dial func(ctx context.Context) (*units.Conn, error)
	Proc string // in place of /proc, for tests
}

// question is one thing to look at, which may have several answers.
type question struct {
	subject string
	ask     func(ctx context.Context) []Finding
}

// Examine asks all questions and returns the answers, always in the same order.
func (d *Doctor) Examine(ctx context.Context) ([]Finding, error) {
	questions := []question{
		{"configuration", d.configuration},
		{"systemd", d.systemd},
		{"restic", d.restic},
		{"rclone", d.rclone},
		{"units", d.unitFiles},
		{"timers", d.timers},
		{"clock", d.clock},
		{"metrics", d.metrics},
		{"secrets", d.secrets},
		{"locks", d.locks},
		{"space", d.space},
	}
	if d.Paths.User {
		questions = append(questions, question{"linger", d.linger})
	}
	for _, id := range d.Config.DestinationIDs() {
		questions = append(questions, question{"destination " + id, func(ctx context.Context) []Finding { return d.destination(ctx, id) }})
	}
	answers := make([][]Finding, len(questions))
	waiting := make([]chan []Finding, len(questions))
	ctx, cancel := context.WithTimeoutCause(ctx, d.Timeout, fmt.Errorf("no answer within %s", d.Timeout))
	defer cancel()
	for i, q := range questions {
		waiting[i] = make(chan []Finding, 1) // who answers too late is not waited for
		go func() { waiting[i] <- q.ask(ctx) }()
	}
	// What is told to stop gets a moment to say so, in words of its own.
	const grace = time.Second
	late := time.NewTimer(d.Timeout + grace)
	defer late.Stop()
	for i, q := range questions {
		select {
		case answers[i] = <-waiting[i]:
		case <-late.C:
			late.Reset(0) // for those that follow
			select {
			case answers[i] = <-waiting[i]:
			default:
				answers[i] = []Finding{problem(q.subject, "see whether a remote folder or a server hangs; --timeout gives it longer", "no answer within %s", d.Timeout)}
			}
		}
	}
	if err := context.Cause(ctx); err != nil && ctx.Err() == context.Canceled {
		return nil, err
	}
	return slices.Concat(answers...), nil
}

// mayLook tells whether the secrets and records of the installation can be read.
func (d *Doctor) mayLook() bool { return d.IsRoot || d.Paths.User }

// hidden says that something was not looked at.
func hidden(subject string) Finding {
	return warning(subject, "run it as root", "not looked at: only root may")
}

// dial connects to the manager.
func (d *Doctor) dial(ctx context.Context) (*units.Conn, error) {
	if d.Dial != nil {
		return d.Dial(ctx)
	}
	return units.Dial(ctx, d.Paths.User)
}

// inUse are the destinations of enabled backups.
func (d *Doctor) inUse() map[string]bool {
	used := map[string]bool{}
	for _, id := range d.Config.BackupIDs() {
		if b := d.Config.Backups[id]; b.Enabled {
			used[b.Destination] = true
		}
	}
	return used
}

func (d *Doctor) configuration(context.Context) []Finding {
	const subject = "configuration"
	errs, warnings := len(d.Config.Errors()), len(d.Config.Warnings())
	check := `see "schedule-backup check"`
	switch {
	case errs > 0:
		return []Finding{problem(subject, check, "%s", count(errs, "mistake"))}
	case len(d.Config.Backups) == 0:
		return []Finding{warning(subject, `"schedule-backup init" writes a first one`, "there is no backup in it")}
	}
	text := fmt.Sprintf("%s, %s, %s", count(len(d.Config.Backups), "backup"), count(len(d.Config.Modules), "module"), count(len(d.Config.Destinations), "destination"))
	if warnings > 0 {
		return []Finding{warning(subject, check, "%s; %s", text, count(warnings, "warning"))}
	}
	return []Finding{ok(subject, "%s", text)}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// proc is where the kernel tells of processes.
func (d *Doctor) proc() string {
	if d.Proc != "" {
		return d.Proc
	}
	return "/proc"
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}
