package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"sdbackup/internal/config"
	"sdbackup/internal/remote"
)

// Source is a Location whose configuration may also be on another host.
type Source struct {
	Location
	Remote string `short:"r" placeholder:"URL" env:"SDBACKUP_REMOTE" help:"Fetch the configuration there, https://HOST:PORT/configuration/REMOTE, work by it alone, and forget it."`
	Wait   bool   `short:"w" help:"Keep what --remote has fetched until Enter, to look at."`
}

// fetching is a grammar with a Source.
type fetching interface {
	fetch(ctx context.Context, env *Env) (forget func(), err error)
}

// Bereft is a grammar that goes on when its configuration cannot be fetched, to put that on record.
type Bereft interface{ Bereft(err error) }

// Told is a grammar some of whose commands, as in "save <module> <backup>", are told all that they need and fetch nothing: they run with the
// rights of a module, or before there is a network.
type Told interface{ Told(command string) bool }

// fetch fetches the configuration if it is on another host, and returns what lets go of it in the end. Where the configuration of this host
// is, may be said once for all, in a file.
func (s *Source) fetch(ctx context.Context, env *Env) (func(), error) {
	paths := s.Paths(env)
	if s.Remote != "" && s.Config != "" {
		return nil, &ExitError{Code: ExitUsage, Err: errors.New("want either --config or --remote ($SDBACKUP_CONFIG, $SDBACKUP_REMOTE)")}
	}
	if s.Remote == "" && s.Config == "" {
		data, err := os.ReadFile(paths.Remote)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("see where the configuration is: %w", err)
		}
		s.Remote = strings.TrimSpace(string(data))
	}
	if s.Remote == "" {
		if s.Wait {
			return nil, &ExitError{Code: ExitUsage, Err: errors.New("--wait wants --remote")}
		}
		return func() {}, nil
	}
	fetched, err := s.Fetcher(env).Fetch(ctx, s.Remote)
	if err != nil {
		return nil, err
	}
	s.Config = fetched.Config
	return func() {
		defer fetched.Close()
		if s.Wait {
			untilEnter(ctx, env, fetched)
		}
	}, nil
}

// Fetcher returns what fetches configurations for this installation.
func (s *Source) Fetcher(env *Env) *remote.Fetcher {
	links := s.Paths(env).Memory
	if links == "" {
		links = config.UserPaths(env.Getenv).Memory
	}
	return &remote.Fetcher{Getenv: env.Getenv, User: s.User, LinksDir: links}
}

// untilEnter waits for Enter.
func untilEnter(ctx context.Context, env *Env, fetched *remote.Fetched) {
	remote.Show()
	fmt.Fprintf(env.Stderr, "the configuration is in %s until you press Enter\n", strings.Replace(fetched.Path, "self", fmt.Sprint(os.Getpid()), 1))
	entered := make(chan struct{})
	go func() {
		_, _ = bufio.NewReader(env.Stdin).ReadString('\n') // its end is as good
		close(entered)
	}()
	select {
	case <-entered:
	case <-ctx.Done():
	}
}
