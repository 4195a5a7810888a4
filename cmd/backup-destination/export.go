package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/term"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
)

type export struct {
	IDs    []string `arg:"" optional:"" name:"id" help:"IDs of destinations; all without." predictor:"destination"`
	Output string   `placeholder:"FILE" help:"Write to this new file, which only you can read." predictor:"file"`
	Plain  bool     `help:"Write to standard output, secrets in the clear: for a program that encrypts them."`
}

// Help implements kong.HelpProvider.
func (*export) Help() string {
	return `The document holds every secret in the clear.

Examples:

  backup-destination export --output=/root/destinations.json

  backup-destination export --plain | age -p > destinations.json.age`
}

// Run writes destinations as a document.
func (c *export) Run(ctx context.Context, env *cli.Env, root *command) error {
	if c.Plain == (c.Output != "") {
		return mistake("want either --output with a file that only you can read, or --plain for standard output: the document holds every secret")
	}
	if f, ok := env.Stdout.(*os.File); c.Plain && ok && term.IsTerminal(int(f.Fd())) {
		return mistake("secrets are not written to a terminal; want --output with a file, or a pipe to a program that encrypts them")
	}
	store, err := root.store(env)
	if err != nil {
		return err
	}
	doc, err := store.Export(ctx, c.IDs)
	if err != nil {
		return explain(err)
	}
	if c.Plain {
		return cli.JSON(env.Stdout, doc)
	}
	f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already; want the name of a new file", c.Output)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(cli.JSON(f, doc), f.Sync(), f.Close()); err != nil {
		os.Remove(c.Output)
		return err
	}
	fmt.Fprintf(env.Stderr, "%s holds %d destinations with their secrets in the clear: keep it accordingly\n", c.Output, len(doc.Destinations))
	return nil
}

type importer struct {
	File       string `arg:"" name:"file" help:"The document; - reads standard input." predictor:"file"`
	Credential bool   `help:"Keep the secrets as credentials, encrypted by systemd-creds, not in files."`
}

// Help implements kong.HelpProvider.
func (*importer) Help() string {
	return `A destination that is there already, by its UUID, is skipped. When one cannot be added, none is.

Example:

  age -d destinations.json.age | backup-destination import -`
}

// Run adds the destinations of a document.
func (c *importer) Run(ctx context.Context, env *cli.Env, root *command) error {
	store, err := root.store(env)
	if err != nil {
		return err
	}
	in := env.Stdin
	if c.File != standardInput {
		f, err := os.Open(c.File)
		if err != nil {
			return explain(err)
		}
		defer f.Close()
		in = f
	}
	doc, err := destination.ReadDocument(in)
	if err != nil {
		return explain(err)
	}
	done, err := store.Import(ctx, doc, c.Credential)
	if err != nil {
		return explain(err)
	}
	fmt.Fprintf(env.Stdout, "imported: %s\nskipped: %s\n", or(strings.Join(done.Added, ", "), none), or(strings.Join(done.Skipped, ", "), none))
	if len(done.Files) > 0 {
		fmt.Fprintf(env.Stderr, "the destinations are in %s\n", strings.Join(done.Files, ", "))
	}
	tellLoads(env, done.Loads...)
	return nil
}
