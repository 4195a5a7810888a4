package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/term"

	"sdbackup/internal/cli"
	"sdbackup/internal/destination"
	"sdbackup/internal/nodecopy"
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
	File                 string   `arg:"" name:"file" help:"The document, or a copy of a node; - reads standard input." predictor:"file"`
	IDs                  []string `arg:"" optional:"" name:"id" help:"Only these destinations of it."`
	Credential           bool     `help:"Keep the secrets as credentials, encrypted by systemd-creds, not in files."`
	PassphraseFile       string   `xor:"passphrase" predictor:"file" placeholder:"FILE" help:"Of a copy of a node: file with its passphrase. Default: it is asked for."`
	PassphraseCredential string   `xor:"passphrase" placeholder:"NAME" help:"Or: name of a systemd credential with it."`
	JSON                 bool     `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*importer) Help() string {
	return `A destination that is there already, by its UUID, is skipped. Of a document, when one cannot be added, none is. Of a copy of a node,
node-backup-UUID.tar.gz.gpg, those whose ID is taken are reported and the others added; it exits with 1 then.

Examples:

  age -d destinations.json.age | backup-destination import -

  backup-destination import node-backup-0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11.tar.gz.gpg cloud`
}

// Run adds the destinations of a document, or of a copy of a node.
func (c *importer) Run(ctx context.Context, env *cli.Env, root *command) error {
	store, err := root.store(env)
	if err != nil {
		return err
	}
	in := env.Stdin
	if c.File != standardInput {
		f, err := os.Open(c.File)
		if errors.Is(err, fs.ErrNotExist) {
			return mistake("there is no file %s", c.File)
		}
		if err != nil {
			return explain(err)
		}
		defer f.Close()
		in = f
	}
	doc, err := c.read(ctx, env, in)
	if err != nil {
		return explain(err)
	}
	if doc, err = doc.Only(c.IDs); err != nil {
		return explain(err)
	}
	done, err := store.Import(ctx, doc, c.Credential)
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		err = cli.JSON(env.Stdout, map[string]any{"imported": done.Added, "skipped": done.Skipped, "left_out": done.LeftOut, "files": append([]string{}, done.Files...)})
	} else {
		_, err = fmt.Fprintf(env.Stdout, "imported: %s\nskipped: %s\n", cmp.Or(strings.Join(done.Added, ", "), cli.None), cmp.Or(strings.Join(done.Skipped, ", "), cli.None))
	}
	if len(done.Files) > 0 {
		fmt.Fprintf(env.Stderr, "the destinations are in %s\n", strings.Join(done.Files, ", "))
	}
	tellLoads(env, done.Loads...)
	errs := []error{err}
	for _, l := range done.LeftOut {
		errs = append(errs, fmt.Errorf("destination %s is not imported: %s", l.ID, l.Reason))
	}
	if len(done.LeftOut) > 0 {
		errs = append(errs, fmt.Errorf("%d imported, %d skipped, %d left out", len(done.Added), len(done.Skipped), len(done.LeftOut)))
	}
	return errors.Join(errs...)
}

// read reads a document or a copy, whichever it is.
func (c *importer) read(ctx context.Context, env *cli.Env, in io.Reader) (destination.Document, error) {
	b := bufio.NewReader(in)
	if !nodecopy.Sniff(b) {
		if c.PassphraseFile != "" || c.PassphraseCredential != "" {
			return destination.Document{}, mistake("only a copy of a node takes a passphrase, and this is none")
		}
		return destination.ReadDocument(b)
	}
	passphrase, err := nodecopy.ReadPassphrase(ctx, c.PassphraseFile, c.PassphraseCredential, env.Getenv, func() (string, error) {
		return cli.AskPassphrase(ctx, env, c.File != standardInput)
	})
	if err != nil {
		return destination.Document{}, err
	}
	copied, err := nodecopy.Decrypt(b, passphrase)
	if err != nil {
		return destination.Document{}, err
	}
	return destination.FromNode(copied)
}
