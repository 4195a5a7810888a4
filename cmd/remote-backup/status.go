package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/remote"
	"sdbackup/internal/schedule"
	records "sdbackup/internal/status"
)

type status struct {
	choice
}

// Help is shown by kong.
func (status) Help() string {
	return `Sends the configuration for "schedule-backup list-backups" and "list-timers" there, and puts what they say into one table.

Example: remote-backup status --all`
}

// told is what a remote tells of itself, in JSON as it sent it.
type told struct {
	Remote  string          `json:"remote"`
	Error   string          `json:"error,omitempty"` // why it tells nothing
	Backups json.RawMessage `json:"backups,omitempty"`
	Timers  json.RawMessage `json:"timers,omitempty"`
}

// maxAnswer bounds what a remote may tell.
const maxAnswer = 16 << 20

// Run asks.
func (c *status) Run(ctx context.Context, root *command, env *cli.Env) error {
	remotes, err := c.find(root, env)
	if err != nil {
		return err
	}
	s := sender(env, len(remotes))
	var mu sync.Mutex
	answers := map[string]told{}
	remote.Each(ctx, remotes, c.Parallel, func(r *config.Remote) remote.Result {
		var out [2]limited
		var said bytes.Buffer
		result := s.Send(ctx, r, [][]string{{"schedule-backup", "list-backups", "--json"}, {"schedule-backup", "list-timers", "--json"}},
			func(i int) io.Writer { return &out[i] }, func(int) io.Writer { return &said })
		answer := told{Remote: r.ID, Backups: out[0].Bytes(), Timers: out[1].Bytes()}
		switch {
		case result.Err != nil:
			answer = told{Remote: r.ID, Error: strings.TrimSpace(said.String() + result.Err.Error())}
		case !json.Valid(answer.Backups) || !json.Valid(answer.Timers): // a backup without a timer has the exit code 1, too
			answer = told{Remote: r.ID, Error: strings.TrimSpace(fmt.Sprintf("%sschedule-backup there ended with exit code %d", &said, result.ExitCode))}
		}
		mu.Lock()
		defer mu.Unlock()
		answers[r.ID] = answer
		return result
	})
	list := []told{}
	rows := [][]string{}
	var silent []string
	for _, r := range remotes {
		answer, asked := answers[r.ID]
		if !asked {
			answer = told{Remote: r.ID, Error: "not asked: " + context.Cause(ctx).Error()}
		}
		more, err := answer.rows(env.Now())
		if err != nil {
			answer = told{Remote: r.ID, Error: "what it tells cannot be read: " + err.Error()}
			more, _ = answer.rows(env.Now())
		}
		if answer.Error != "" {
			silent = append(silent, fmt.Sprintf("%s: %s", r.ID, answer.Error))
		}
		list = append(list, answer)
		rows = append(rows, more...)
	}
	if c.JSON {
		err = cli.JSON(env.Stdout, list)
	} else {
		err = cli.Table(env.Stdout, []string{"REMOTE", "BACKUP", "NAME", "RESULT", "SAVED", "NEXT"}, rows)
	}
	if len(silent) > 0 {
		return errors.Join(err, errors.New(strings.Join(silent, "\n")))
	}
	return err
}

// rows are a remote's in the table.
func (t told) rows(now time.Time) ([][]string, error) {
	if t.Error != "" {
		return [][]string{{t.Remote, cli.None, cli.None, "no answer", cli.None, cli.None}}, nil
	}
	var backups schedule.BackupList
	var timers schedule.TimerList
	if err := errors.Join(json.Unmarshal(t.Backups, &backups), json.Unmarshal(t.Timers, &timers)); err != nil {
		return nil, err
	}
	if len(backups.Backups) == 0 {
		return [][]string{{t.Remote, cli.None, cli.None, cli.None, cli.None, cli.None}}, nil
	}
	var rows [][]string
	for _, b := range backups.Backups {
		row := []string{t.Remote, b.ID, b.Name, string(b.Verdict), cli.None, cli.None}
		switch {
		case b.Running:
			row[3] = "running"
		case b.Verdict == records.Unknown:
			row[3] = cli.None
		}
		if !b.LastSuccess.IsZero() {
			row[4] = cli.Duration(now.Sub(b.LastSuccess)) + " ago"
		}
		i := slices.IndexFunc(timers.Timers, func(e schedule.TimerEntry) bool { return e.Backup == b.ID })
		if i >= 0 && !timers.Timers[i].Next.IsZero() {
			row[5] = timers.Timers[i].Next.Format("Mon 2006-01-02 15:04:05 MST")
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// limited keeps what is not too much.
type limited struct{ bytes.Buffer }

func (l *limited) Write(data []byte) (int, error) {
	if l.Len()+len(data) > maxAnswer {
		return 0, errors.New("a remote tells too much")
	}
	return l.Buffer.Write(data)
}
