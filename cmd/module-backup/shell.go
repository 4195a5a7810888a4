package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"sdbackup/internal/cli"
	"sdbackup/internal/module"
	"sdbackup/internal/run"
)

type shell struct {
	Module string   `arg:"" predictor:"module" help:"Module whose repository it is."`
	Args   []string `arg:"" help:"Arguments of restic, after --."`
	Backup string   `predictor:"backup" placeholder:"ID" help:"Backup whose destination holds the repository; needed where more than one saves the module."`
}

// Help is shown by kong.
func (shell) Help() string {
	return `restic gets the repository, its password and its cache, and runs as the user that backups of the module run as. Behind the gateway it may remove, too.

Example: module-backup shell wiki1 -- snapshots --latest 3`
}

func (c *shell) Run(ctx context.Context, location *command, env *cli.Env) error {
	paths := location.Paths(env)
	job, err := find(paths, c.Module, c.Backup)
	if err != nil {
		return err
	}
	code, err := run.Shell(ctx, paths, job, module.Shell{Args: c.Args, Stdin: env.Stdin, Stdout: env.Stdout, Stderr: env.Stderr})
	switch {
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 && !paths.User:
		return cli.Hint(err, "run it as root, or with --user for backups of your own")
	case err != nil:
		return err
	case code != cli.ExitOK:
		return &cli.ExitError{Code: code} // restic has said why
	}
	return nil
}
