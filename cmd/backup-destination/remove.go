package main

import (
	"context"
	"fmt"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

type remove struct {
	ID             string `arg:"" name:"id" help:"ID of the destination." predictor:"destination"`
	Force          bool   `help:"Remove the backups that go there as well: their tables are cut out of their files."`
	ForgetPassword bool   `help:"Remove the password of the restic repositories as well; without a copy of it nobody can read what is stored."`
}

// Help implements kong.HelpProvider.
func (*remove) Help() string {
	return `What is stored is never touched, and its password is kept unless --forget-password is given.

Example:

  backup-destination remove cloud --force`
}

// Run removes a destination.
func (c *remove) Run(ctx context.Context, env *cli.Env, root *command) error {
	store, err := root.store(env)
	if err != nil {
		return err
	}
	removed, err := store.Remove(ctx, destination.Removal{ID: c.ID, Force: c.Force, ForgetPassword: c.ForgetPassword})
	if err != nil {
		return explain(err)
	}
	if len(removed.Backups) > 0 {
		fmt.Fprintf(env.Stderr, "removed from %s: backup %s\n", strings.Join(removed.Files, ", "), strings.Join(removed.Backups, ", "))
	}
	fmt.Fprintf(env.Stderr, "destination %s is removed; what is stored in %s stays\n", removed.ID, removed.Repository)
	if removed.Kept != "" {
		fmt.Fprintf(env.Stderr, "its password is kept in %s: without it nobody can read what is stored\n", removed.Kept)
	}
	return nil
}
