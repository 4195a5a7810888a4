package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/schedule"
	"sdbackup/internal/units"
	"sdbackup/systemd"
)

type installUnits struct {
	DryRun bool `short:"n" help:"Print the unit files, and change nothing."`
}

// Help implements kong.HelpProvider.
func (*installUnits) Help() string {
	return `For machines where no package has installed the units. A file that it did not write is never replaced.

Examples:

  schedule-backup install-units

  schedule-backup install-units --dry-run`
}

// Run writes the units for the binaries beside this one.
func (c *installUnits) Run(ctx context.Context, env *cli.Env, root *command) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	paths := root.Paths(env)
	installer := schedule.Installer{
		Folder: paths.Units,
		Files:  systemd.Files(paths.User, filepath.Dir(program)),
		Header: []byte(systemd.Header),
		Enable: systemd.Enabled(),
	}
	if dir := filepath.Dir(program); !paths.User && (strings.HasPrefix(dir, "/tmp/") || strings.HasPrefix(dir, "/var/tmp/")) {
		fmt.Fprintf(env.Stderr, "schedule-backup: warning: services do not see %s, for their /tmp is a private one: install the programs elsewhere, say in /usr/local/bin\n", dir)
	}
	if c.DryRun {
		for _, name := range installer.Names() {
			fmt.Fprintf(env.Stdout, "==> %s <==\n%s\n", filepath.Join(installer.Folder, name), installer.Files[name])
		}
		return nil
	}
	if !paths.User && os.Geteuid() != 0 {
		return advise(schedule.ErrNotRoot)
	}
	manager, err := units.Dial(context.WithoutCancel(ctx), paths.User)
	switch {
	case err == nil:
		defer manager.Close()
		installer.Manager = manager
	case !errors.Is(err, units.ErrNoManager):
		return advise(err)
	}
	written, err := installer.Install(ctx)
	for _, path := range written {
		fmt.Fprintln(env.Stdout, path)
	}
	switch {
	case errors.Is(err, schedule.ErrForeignFile):
		return cli.Hint(err, "move it away, or put changes of your own into a drop-in with systemctl edit")
	case err != nil:
		return advise(err)
	case installer.Manager == nil:
		user := ""
		if paths.User {
			user = "--user "
		}
		fmt.Fprintf(env.Stderr, "no manager is running: enable the units with \"systemctl %senable %s\"\n",
			user, strings.Join(installer.Enable, " "))
	case len(written) == 0:
		fmt.Fprintln(env.Stdout, "the units are installed and enabled already")
	}
	return nil
}
