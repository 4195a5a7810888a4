package main

import (
	"cmp"
	"context"
	"strings"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

type validate struct {
	IDs     []string      `arg:"" optional:"" name:"id" help:"IDs of destinations; all without." predictor:"destination"`
	Timeout time.Duration `default:"30s" placeholder:"DURATION" help:"How long each may take; default ${default}."`
	JSON    bool          `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*validate) Help() string {
	return `It fails when one of them cannot be read, written to and deleted from. The probe object is named sdbackup-probe-...
The bucket of modules of engine files is only listed.

Example:

  backup-destination validate cloud --timeout=1m`
}

// words say for people what is wrong.
var words = map[destination.Outcome]string{
	destination.OK: "ok", destination.NotAccessible: "not accessible", destination.NoWrite: "no write permission",
	destination.NoDelete: "no delete permission", destination.NoRead: "no read permission", destination.NotTested: "not tested",
}

// Run examines destinations.
func (c *validate) Run(ctx context.Context, env *cli.Env, root *command) error {
	if c.Timeout <= 0 {
		return mistake("--timeout: want more than 0, as in 30s")
	}
	store, err := root.store(env)
	if err != nil {
		return err
	}
	return cli.Mistakes(env, "backup-destination", root, root.mistakes(store), c.validate(ctx, env, store))
}

func (c *validate) validate(ctx context.Context, env *cli.Env, store *destination.Store) error {
	verdicts, err := store.Validate(ctx, c.IDs, c.Timeout)
	if err != nil {
		return explain(err)
	}
	failed := false
	var rows [][]string
	for _, v := range verdicts {
		failed = failed || v.Failed()
		detail := v.Detail
		if v.Leftover != "" {
			detail = strings.TrimPrefix(detail+"; "+v.Leftover+" stays there", "; ")
		}
		rows = append(rows, []string{v.ID, words[v.Outcome], cli.Duration(v.Duration), cmp.Or(detail, cli.None)})
	}
	if c.JSON {
		err = cli.JSON(env.Stdout, map[string]any{"destinations": verdicts})
	} else {
		err = cli.Table(whole{env.Stdout}, []string{"ID", "RESULT", "TIME", "DETAIL"}, rows)
	}
	if err == nil && failed {
		return &cli.ExitError{Code: cli.ExitFailed}
	}
	return err
}
