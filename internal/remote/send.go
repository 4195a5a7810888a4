package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"sdbackup/internal/config"
)

// Outcomes of a Result.
const (
	Applied     = "applied"     // the command ended with exit code 0
	Failed      = "failed"      // it did not, or its end is not known
	Unreachable = "unreachable" // it was not begun: nobody answers, or one of both refuses the other
)

// Result is what sending to a remote came to.
type Result struct {
	Remote   string
	Outcome  string
	ExitCode int // of the command there; 0 with another outcome than Applied: it has none
	Err      error
	Duration time.Duration
}

// Sender sends configurations to remotes and has commands run there.
type Sender struct {
	Keys   *Keys
	Batch  bool                       // nobody can be asked for anything
	Signal func(error) syscall.Signal // the signal that cancelled a context
}

// link is a connection to a remote, over which receivers can be started.
type link interface {
	start(command string, stdout, stderr io.Writer) (session, error)
	close()
}

// session is a receiver that was started over a link.
type session interface {
	io.WriteCloser // its standard input
	wait() (code int, err error)
}

// UnreachableError says that nothing was begun.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// Send sends a remote's configuration and runs commands there, one after the other over one connection. The writers get what they print;
// the worst exit code counts.
func (s *Sender) Send(ctx context.Context, r *config.Remote, commands [][]string, stdout, stderr func(command int) io.Writer) Result {
	begun := time.Now()
	result := Result{Remote: r.ID, Outcome: Applied}
	code, err := s.send(ctx, r, commands, stdout, stderr)
	result.ExitCode, result.Err, result.Duration = code, err, time.Since(begun)
	switch {
	case errors.As(err, new(*UnreachableError)):
		result.Outcome = Unreachable
	case err != nil || code != 0:
		result.Outcome = Failed
	}
	return result
}

func (s *Sender) send(ctx context.Context, r *config.Remote, commands [][]string, stdout, stderr func(int) io.Writer) (int, error) {
	var packages []*Package
	defer func() {
		for _, p := range packages {
			p.Close()
		}
	}()
	for _, command := range commands {
		p, err := Pack(r, command)
		if err != nil {
			return 0, &ConfigurationError{err}
		}
		packages = append(packages, p)
	}
	l, err := s.connect(ctx, r)
	if err != nil {
		return 0, fmt.Errorf("remote %s: %w", r.ID, err)
	}
	defer l.close()
	worst := 0
	for i, p := range packages {
		code, err := s.apply(ctx, r, l, p, stdout(i), stderr(i))
		if err != nil {
			return 0, fmt.Errorf("remote %s: %w", r.ID, err)
		}
		worst = max(worst, code)
	}
	return worst, nil
}

// ConfigurationError says that there is nothing that could be sent.
type ConfigurationError struct{ err error }

func (e *ConfigurationError) Error() string { return e.err.Error() }
func (e *ConfigurationError) Unwrap() error { return e.err }

func (s *Sender) connect(ctx context.Context, r *config.Remote) (link, error) {
	if r.Connection == config.OpenSSH {
		return openSSH{ctx, r, s.Batch}, nil
	}
	l, err := dialSSH(ctx, r, s.Keys)
	if err != nil {
		return nil, &UnreachableError{err}
	}
	return l, nil
}

// apply has one bundle received and its command run.
func (s *Sender) apply(ctx context.Context, r *config.Remote, l link, p *Package, stdout, stderr io.Writer) (int, error) {
	receiver, err := l.start(quote(r.BinaryPath)+" receive", stdout, stderr)
	if err != nil {
		return 0, &UnreachableError{err}
	}
	type ending struct {
		code int
		err  error
	}
	ended := make(chan ending, 1)
	go func() {
		code, err := receiver.wait()
		ended <- ending{code, err}
	}()
	over := make(chan struct{})
	var talking sync.WaitGroup
	talking.Go(func() { s.talk(ctx, r, receiver, p, over) })
	end := <-ended
	close(over)
	receiver.Close()
	talking.Wait()
	if ctx.Err() != nil && end.err == nil && end.code == 0 {
		return 0, context.Cause(ctx)
	}
	return end.code, end.err
}

// talk writes the bundle, and after it a byte now and then, by which the receiver knows that somebody waits. What fails here shows in how
// the receiver ends.
func (s *Sender) talk(ctx context.Context, r *config.Remote, w io.WriteCloser, p *Package, over <-chan struct{}) {
	if err := p.write(w, ""); err != nil {
		w.Close() // a cut bundle runs nothing
		return
	}
	tick := time.NewTicker(r.Keepalive / 3)
	defer tick.Stop()
	done := ctx.Done()
	for {
		message := byte(0)
		select {
		case <-over:
			return
		case <-done:
			done = nil
			message = byte(s.Signal(context.Cause(ctx)))
		case <-tick.C:
		}
		if _, err := w.Write([]byte{message}); err != nil {
			return
		}
	}
}

// quote writes a word for a shell.
func quote(word string) string {
	var b []byte
	b = append(b, '\'')
	for i := range len(word) {
		if word[i] == '\'' {
			b = append(b, `'\''`...)
			continue
		}
		b = append(b, word[i])
	}
	return string(append(b, '\''))
}

// Each does something for every remote, so many at once, and returns the results in the order of the remotes. Those that are not begun when
// ctx is done are unreachable.
func Each(ctx context.Context, remotes []*config.Remote, parallel int, do func(*config.Remote) Result) []Result {
	results := make([]Result, len(remotes))
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(parallel, len(remotes)) {
		workers.Go(func() {
			for i := range next {
				if ctx.Err() != nil {
					results[i] = Result{Remote: remotes[i].ID, Outcome: Unreachable, Err: fmt.Errorf("remote %s: not begun: %w", remotes[i].ID, context.Cause(ctx))}
					continue
				}
				results[i] = do(remotes[i])
			}
		})
	}
	for i := range remotes {
		next <- i
	}
	close(next)
	workers.Wait()
	return results
}
