package main

import (
	"context"
	"time"

	"sdbackup/filebackup"
	"sdbackup/internal/cli"
)

// maxCompleted is how many versions a shell is told of: what one request lists.
const maxCompleted = 1000

// spare is left of the time of a completion when it is no longer waited for what has expired.
const spare = 500 * time.Millisecond

// Known completes versions: "latest", and the IDs, the newest first.
func (c *command) Known(ctx context.Context, env *cli.Env, flag func(string) string) []string {
	asked := command{Config: flag("--config"), Module: flag("--module"), Destination: flag("--destination"), User: flag("--user") != ""}
	r, err := asked.open(ctx, env)
	if err != nil {
		return nil
	}
	end, _ := ctx.Deadline()
	ctx, cancel := context.WithDeadline(ctx, end.Add(-spare))
	defer cancel()
	list, _ := r.Recent(ctx, maxCompleted) // better some that have expired than none
	if len(list) == 0 {
		return nil
	}
	names := []string{filebackup.Latest}
	for _, v := range list {
		names = append(names, v.ID)
	}
	return names
}
