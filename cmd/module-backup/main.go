// module-backup makes one attempt to save one module, under its lock and as its user, and prints the result as a JSON object. And it runs
// restic on a module's repository for a person.
//
// Synopsis:
//
//	module-backup [--config PATH] [--user] MODULE BACKUP
//	module-backup [...] shell MODULE [--backup BACKUP] -- ARGUMENT...
//
// shell exits with the exit code of restic.
package main

import (
	"os"

	"sdbackup/internal/cli"
)

type command struct {
	cli.Source
	Save  save  `cmd:"" default:"withargs" help:"Save one module for a backup; the word save can be left out."`
	Shell shell `cmd:"" help:"Run restic on a module's repository."`
}

// Told is that an attempt within a run has a plan.
func (c *command) Told(string) bool { return c.Save.Plan }

func main() {
	os.Exit(cli.Main("module-backup", "Saves one module: dump, restic, cleanup and retention, under the module's lock.",
		new(command), os.Args[1:], cli.OS()))
}
