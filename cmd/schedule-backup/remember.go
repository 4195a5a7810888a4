package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sdbackup/internal/atomicfile"
	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/remote"
)

// remember notes on disk where the configuration of this host is when that is on another one: the runs that timers start fetch it there. Of a
// configuration that was sent nothing else stays, so one that cannot be fetched gets no timers.
func (c *command) remember(ctx context.Context, env *cli.Env) (forget func(), err error) {
	forget = func() {}
	paths := c.Paths(env)
	url := c.Remote
	if config.InMemory(c.Config) && url == "" {
		if url = env.Getenv(remote.URLEnv); url == "" {
			return nil, &cli.ExitError{Code: cli.ExitUsage, Err: cli.Hint(errors.New("timers would start runs that have no configuration: what was sent is forgotten"),
				"say in the table of this remote where it can fetch its configuration: url = \"https://HOST:PORT/configuration/REMOTE\"")}
		}
		fetched, err := c.Fetcher(env).Fetch(ctx, url)
		if err != nil {
			return nil, fmt.Errorf("runs could not fetch their configuration: %w", err)
		}
		c.Config, forget = fetched.Config, fetched.Close
	}
	if url == "" {
		return forget, nil
	}
	if old, err := os.ReadFile(paths.Remote); err == nil && string(old) == url+"\n" {
		return forget, nil
	}
	err = os.MkdirAll(filepath.Dir(paths.Remote), 0o755)
	if err == nil {
		err = atomicfile.Write(paths.Remote, []byte(url+"\n"), 0o644)
	}
	if err != nil {
		forget()
		return nil, fmt.Errorf("note where the configuration is: %w", err)
	}
	return forget, nil
}
