package units

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Calendar is systemd's judgement of one OnCalendar expression.
type Calendar struct {
	Expression string
	Normalized string      // as the manager reports it
	Next       []time.Time // the next elapses, as many as asked for; none when it never elapses again
	Err        error       // why it is no expression; nil when it is one
}

const (
	// A process takes this many expressions: the kernel bounds the size of its arguments.
	maxExpressions = 500
	maxExpression  = 1 << 10 // bytes; systemd's own normalized ones are far below

	// marker is judged after every expression, so that it is known which answers belong to which: systemd-analyze prints
	// nothing on standard output for those that it does not understand. Nobody else writes this very moment.
	marker = "1971-03-05 07:11:13.171923"
)

// Calendars has systemd judge OnCalendar expressions, and computes that many of the next elapses of each. It returns one
// Calendar for every different expression, in their order. It needs no service manager.
//
// errors.Is(err, ErrNoAnalyze) tells that systemd-analyze is missing. What is wrong with an expression is in its Calendar.
func Calendars(ctx context.Context, expressions []string, iterations int) ([]Calendar, error) {
	var list []Calendar
	seen := make(map[string]bool, len(expressions))
	for _, e := range expressions {
		if !seen[e] {
			seen[e] = true
			list = append(list, Calendar{Expression: e, Err: unfit(e)})
		}
	}
	var fit []*Calendar
	for i := range list {
		if list[i].Err == nil {
			fit = append(fit, &list[i])
		}
	}
	for len(fit) > 0 {
		n := min(len(fit), maxExpressions)
		if err := analyze(ctx, fit[:n], iterations); err != nil {
			return nil, err
		}
		fit = fit[n:]
	}
	return list, nil
}

// unfit tells what keeps an expression from being given to systemd-analyze.
func unfit(e string) error {
	switch {
	case strings.TrimSpace(e) == "":
		return errors.New("it is empty")
	case len(e) > maxExpression:
		return fmt.Errorf("it is longer than %d bytes", maxExpression)
	case !utf8.ValidString(e) || strings.ContainsFunc(e, unicode.IsControl):
		return errors.New("it has characters that cannot be printed")
	}
	return nil
}

// analyze runs systemd-analyze once, for all of the list.
func analyze(ctx context.Context, list []*Calendar, iterations int) error {
	args := []string{"calendar", "--iterations=" + strconv.Itoa(max(iterations, 1)), "--"}
	for _, c := range list {
		args = append(args, c.Expression, marker)
	}
	cmd := exec.CommandContext(ctx, "systemd-analyze", args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_COLORS=0", "SYSTEMD_LOG_LEVEL=err", "SYSTEMD_LOG_TARGET=console")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		err = nil // it fails when it does not understand one of the expressions
	}
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return ErrNoAnalyze
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("run systemd-analyze: %w", err)
	}
	if err := assign(list, parseAnalysis(stdout.String()), stderr.String()); err != nil {
		return fmt.Errorf("systemd-analyze: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// analysis is what systemd-analyze prints of one expression.
type analysis struct {
	normalized string
	next       []time.Time
}

// parseAnalysis reads the output of "systemd-analyze calendar":
//
//	  Original form: daily
//	Normalized form: *-*-* 00:00:00
//	    Next elapse: Sun 2026-11-22 00:00:00 CET
//	       (in UTC): Sat 2026-11-21 23:00:00 UTC
//	       From now: 16h left
//	       Iter. #2: Mon 2026-11-23 00:00:00 CET
//	       (in UTC): Sun 2026-11-22 23:00:00 UTC
//	       From now: 1 day 16h left
//
// "Original form" is missing where it is the normalized one, "(in UTC)" where that is the local zone. Versions differ in how
// they number iterations. Lines that are not known are skipped.
func parseAnalysis(output string) []analysis {
	var list []analysis
	for line := range strings.Lines(output) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		if key == "Normalized form" {
			list = append(list, analysis{normalized: value})
			continue
		}
		if len(list) == 0 {
			continue
		}
		last := &list[len(list)-1]
		t, ok := parseElapse(value)
		switch {
		case !ok: // "never"
		case key == "Next elapse" || strings.HasPrefix(key, "Iter"):
			last.next = append(last.next, t)
		case key == "(in UTC)" && len(last.next) > 0:
			last.next[len(last.next)-1] = t
		}
	}
	return list
}

// parseElapse reads a time stamp as systemd prints it, and takes its zone for UTC: for local times a line in UTC follows.
func parseElapse(s string) (time.Time, bool) {
	i := strings.LastIndexByte(s, ' ')
	if i < 0 {
		return time.Time{}, false
	}
	t, err := time.Parse("Mon 2006-01-02 15:04:05", s[:i])
	return t, err == nil && t.Unix() >= 0
}

// assign gives every expression its analysis; those that have none are no expressions.
func assign(list []*Calendar, analyses []analysis, stderr string) error {
	for _, c := range list {
		if len(analyses) > 0 && analyses[0].normalized != marker {
			c.Normalized, c.Next = analyses[0].normalized, analyses[0].next
			analyses = analyses[1:]
		} else {
			c.Err = refusal(c.Expression, stderr)
		}
		if len(analyses) == 0 || analyses[0].normalized != marker {
			return errors.New("its output cannot be understood")
		}
		analyses = analyses[1:]
	}
	if len(analyses) > 0 {
		return errors.New("its output cannot be understood")
	}
	return nil
}

// refusal finds why systemd-analyze refuses an expression, as in
//
//	Failed to parse calendar specification 'dayly': Invalid argument
func refusal(expression, stderr string) error {
	for line := range strings.Lines(stderr) {
		if _, reason, ok := strings.Cut(line, "'"+expression+"': "); ok {
			return errors.New(strings.ToLower(strings.TrimSpace(reason)))
		}
	}
	return errors.New("systemd does not understand it")
}
