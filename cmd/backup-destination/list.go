package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

// whole is a writer that hides from cli.Table that it is a terminal: values are not to be cut.
type whole struct{ io.Writer }

type list struct {
	JSON bool `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*list) Help() string {
	return `Destinations that were written by hand are listed, too.

Example:

  backup-destination list --json`
}

// Run lists the destinations.
func (c *list) Run(env *cli.Env, root *command) error {
	store, err := root.store(env)
	if err != nil {
		return err
	}
	entries, _ := store.List()
	return cli.Mistakes(env, "backup-destination", root, root.mistakes(store), c.print(env, entries))
}

func (c *list) print(env *cli.Env, entries []destination.Entry) error {
	if c.JSON {
		return cli.JSON(env.Stdout, map[string]any{"destinations": entries})
	}
	if len(entries) == 0 {
		_, err := fmt.Fprintln(env.Stdout, "no destinations")
		return err
	}
	var rows [][]string
	for _, e := range entries {
		rows = append(rows, []string{e.ID, e.Name, e.Provider, e.Repository, cmp.Or(strings.Join(e.Backups, ", "), cli.None)})
	}
	return cli.Table(env.Stdout, []string{"ID", "NAME", "PROVIDER", "REPOSITORY", "BACKUPS"}, rows)
}

type show struct {
	ID      string `arg:"" name:"id" help:"ID of the destination." predictor:"destination"`
	Secrets bool   `help:"Print the secrets, too. Only root may."`
	JSON    bool   `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*show) Help() string {
	return `Example:

  backup-destination show cloud --secrets`
}

// Run shows one destination.
func (c *show) Run(ctx context.Context, env *cli.Env, root *command) error {
	if c.Secrets && os.Geteuid() != 0 && !root.User {
		return cli.Hint(errors.New("--secrets: only root may see them"), "run it as root")
	}
	store, err := root.store(env)
	if err != nil {
		return err
	}
	d, err := store.Show(ctx, c.ID, c.Secrets)
	if err != nil {
		return cli.Mistakes(env, "backup-destination", root, root.mistakes(store), explain(err))
	}
	if c.JSON {
		return cli.JSON(env.Stdout, d)
	}
	rows := [][]string{}
	row := func(key, value string) {
		if value != "" {
			rows = append(rows, []string{key, value})
		}
	}
	row("id", d.ID)
	row("name", d.Name)
	row("provider", d.Provider)
	row("repository", d.Repository)
	row("uuid", d.UUID)
	row("file", d.Place)
	row("backups", strings.Join(d.Backups, ", "))
	row("password-file", d.PasswordFile)
	row("password-credential", d.PasswordCredential)
	row("rclone-config", d.RcloneConfig)
	row("rclone-credential", d.RcloneCredential)
	row("environment-file", d.EnvironmentFile)
	row("gateway", fmt.Sprint(d.Gateway))
	if d.MaxSize > 0 {
		row("max-size", cli.Bytes(uint64(d.MaxSize)))
	}
	if d.KeepDeleted > 0 {
		row("keep-deleted", cli.Duration(time.Duration(d.KeepDeleted*float64(time.Second))))
	}
	for _, key := range slices.Sorted(maps.Keys(d.Options)) {
		row("rclone: "+key, d.Options[key])
	}
	for _, key := range slices.Sorted(maps.Keys(d.Secrets)) {
		row("secret: "+key, d.Secrets[key])
	}
	if d.Unreadable != "" {
		fmt.Fprintf(env.Stderr, "backup-destination: rclone's options are not shown: %s\n", d.Unreadable)
	}
	return cli.Table(whole{env.Stdout}, []string{"KEY", "VALUE"}, rows)
}
