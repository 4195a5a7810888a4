// backup-destination keeps the places where backups go.
//
// Synopsis:
//
//	backup-destination [--config FOLDER] [--user] add ID --provider=PROVIDER [PARAMETER...]
//	backup-destination [...] alter ID [PARAMETER...]
//	backup-destination [...] remove ID [--force] [--forget-password]
//	backup-destination [...] list [--json]
//	backup-destination [...] show ID [--secrets] [--json]
//	backup-destination [...] validate [--timeout=DURATION] [--json] [ID...]
//	backup-destination [...] undelete ID [--day=DAY|--all] [--repository=TYPE/UUID] [--dry-run] [--json]
//	backup-destination [...] export --output=FILE|--plain [ID...]
//	backup-destination [...] import [--credential] [--json] FILE|- [ID...]
//
// It exits with 0 when all was done; 1 when something failed, and for validate when a destination cannot be used; 2 when the command line
// or the configuration is wrong.
package main

import (
	"errors"
	"io/fs"
	"os"

	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/destination"
)

type command struct {
	cli.Location

	Add      add      `cmd:"" help:"Add a destination."`
	Alter    alter    `cmd:"" help:"Change a destination; what is not mentioned stays as it is."`
	Remove   remove   `cmd:"" help:"Remove a destination from the configuration; what is stored there stays."`
	List     list     `cmd:"" help:"List the destinations and the backups that go there."`
	Show     show     `cmd:"" help:"Show everything about a destination but its secrets."`
	Validate validate `cmd:"" help:"Try whether backups can go to the destinations: list, create, read and delete a probe object."`
	Undelete undelete `cmd:"" help:"List what was deleted and is still kept, or put it back."`
	Export   export   `cmd:"" help:"Write destinations, with their secrets, as a document for import."`
	Import   importer `cmd:"" name:"import" help:"Add the destinations of a document, or of a copy of a node, that are not there yet."`
}

func main() {
	os.Exit(cli.Main("backup-destination", "Keeps the destinations of backups: where they are and how they are reached.",
		new(command), os.Args[1:], cli.OS()))
}

// store returns the destinations of the configuration that the command line names.
func (c *command) store(env *cli.Env) (*destination.Store, error) {
	store, err := destination.Open(c.Paths(env), env.Now, env.Getenv)
	return store, explain(err)
}

// mistakes are those in the configuration; for who does not make one also that there is none where --config says.
func (c *command) mistakes(store *destination.Store) []config.Problem {
	if c.Config != "" {
		return config.Load([]string{c.Config}, nil).Errors()
	}
	_, mistakes := store.List()
	return mistakes
}

// explain gives an error its exit code, and says what the operator can do.
func explain(err error) error {
	var mistake *destination.UsageError
	var unknown *destination.UnknownError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mistake), errors.As(err, &unknown):
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return cli.Hint(err, "run it as root, or with --user for destinations of your own")
	}
	return err
}
