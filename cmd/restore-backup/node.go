package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"sdbackup/internal/cli"
	"sdbackup/internal/nodecopy"
	"sdbackup/internal/schedule"
)

// standardInput names it where a file is wanted.
const standardInput = "-"

type node struct {
	File                 string `arg:"" optional:"" name:"file" predictor:"file" help:"The copy, node-backup-UUID.tar.gz.gpg; - reads standard input."`
	Destination          string `predictor:"destination" placeholder:"ID" help:"Take the copy from this destination of the configuration."`
	Node                 string `placeholder:"UUID|NAME" help:"Which node, where several have left copies at the destination."`
	PassphraseFile       string `xor:"passphrase" predictor:"file" placeholder:"FILE" help:"File with the passphrase, which nobody else may read. Default: it is asked for."`
	PassphraseCredential string `xor:"passphrase" placeholder:"NAME" help:"Or: name of a systemd credential with it."`
	Overwrite            bool   `help:"Replace files that differ. Secrets that are replaced are kept."`
	IgnoreMistakes       bool   `help:"Write the configuration although it would have mistakes, as it may have had."`
	DryRun               bool   `short:"n" help:"Say what would be written, and write nothing."`
	Yes                  bool   `short:"y" help:"Do not ask."`
	JSON                 bool   `help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*node) Help() string {
	return `It writes the configuration and its secrets, all or nothing, and starts the timers. It restores no data of modules: the commands
above do that then.

A destination whose ID stands for another place here stays as it is, and is reported.

Examples:

  restore-backup node node-backup-0b55ea4c-0f6a-4c4e-9f0a-6d8f3f1c2a11.tar.gz.gpg

  restore-backup node --destination rescue --node web1 --dry-run`
}

// Run restores a node's configuration.
func (c *node) Run(ctx context.Context, root *command, env *cli.Env) error {
	mistake := func(text string) error { return &cli.ExitError{Code: cli.ExitUsage, Err: errors.New(text)} }
	switch {
	case (c.File == "") == (c.Destination == ""):
		return mistake("want either a file or --destination")
	case c.Node != "" && c.Destination == "":
		return mistake("--node picks one of several copies at a --destination; a file is of one node")
	}
	if c.File != "" && c.File != standardInput {
		if _, err := os.Stat(c.File); errors.Is(err, fs.ErrNotExist) {
			return mistake("there is no file " + c.File)
		}
	}
	tty := cli.Terminal(env)
	if tty == nil && !c.Yes && !c.DryRun {
		return mistake("there is no terminal to ask at; want --yes, or --dry-run to see what would be written")
	}
	copied, err := c.open(ctx, root, env)
	if err != nil {
		return explain(err)
	}
	paths := root.Paths(env)
	plan, err := copied.Plan(paths)
	if err != nil {
		return explain(err)
	}
	plan.Overwrite, plan.IgnoreProblems = c.Overwrite, c.IgnoreMistakes
	report := newNodeReport(plan)
	if !c.JSON {
		if err := report.print(env); err != nil {
			return err
		}
	}
	finish := func(err error) error {
		if c.JSON {
			err = errors.Join(cli.JSON(env.Stdout, report), err)
		}
		return err
	}
	if err := blocked(plan); err != nil {
		return finish(err)
	}
	if c.DryRun {
		fmt.Fprintln(env.Stderr, "Nothing was changed.")
		return finish(nil)
	}
	if !c.Yes {
		agreed, err := cli.Confirm(ctx, env, tty, fmt.Sprintf("Make this machine node %s?", plan.Node.Name))
		if err != nil {
			return finish(err)
		}
		if !agreed {
			fmt.Fprintln(env.Stderr, "Nothing was changed.")
			return finish(&cli.ExitError{Code: cli.ExitFailed})
		}
	}
	if err := plan.Apply(ctx); err != nil {
		return finish(explain(err))
	}
	report.Written = true
	fmt.Fprintf(env.Stderr, "the configuration of node %s is here\n", plan.Node.Name)
	timers, err := schedule.New(paths, env.Log).Start(ctx, false)
	for id, refused := range timers.Refused {
		err = errors.Join(err, fmt.Errorf("backup %s: %w", id, refused))
	}
	if err != nil {
		return finish(cli.Hint(fmt.Errorf("the configuration is written, but the timers are not all started: %s", strings.ReplaceAll(err.Error(), "\n", "; ")),
			`"schedule-backup start-timers" tries again, and "schedule-backup install-units" brings the units they start`))
	}
	report.Timers = timers.String()
	fmt.Fprintln(env.Stderr, report.Timers)
	return finish(nil)
}

// open reads the copy.
func (c *node) open(ctx context.Context, root *command, env *cli.Env) (nodecopy.Copy, error) {
	in := env.Stdin
	if c.File != "" && c.File != standardInput {
		f, err := os.Open(c.File)
		if err != nil {
			return nodecopy.Copy{}, err
		}
		defer f.Close()
		in = f
	}
	passphrase, err := nodecopy.ReadPassphrase(ctx, c.PassphraseFile, c.PassphraseCredential, env.Getenv, func() (string, error) {
		return cli.AskPassphrase(ctx, env, c.File != standardInput)
	})
	if err != nil {
		return nodecopy.Copy{}, err
	}
	var copied nodecopy.Copy
	if c.Destination != "" {
		worker, done := root.restorer(ctx, env)
		defer done()
		copied, err = worker.NodeCopy(ctx, c.Destination, c.Node, passphrase)
	} else {
		copied, err = nodecopy.Decrypt(in, passphrase)
	}
	return copied.WithPassphrase(passphrase), err
}

// blocked is why the plan is not carried out; nil when nothing is in the way.
func blocked(plan nodecopy.Plan) error {
	var errs []error
	if list := plan.Errors(); len(list) > 0 && !plan.IgnoreProblems {
		errs = append(errs, cli.Hint(&nodecopy.ProblemsError{Problems: list}, "--ignore-mistakes writes it all the same: what has none works"))
	}
	if differing := plan.Differing(); len(differing) > 0 && !plan.Overwrite {
		errs = append(errs, cli.Hint(&nodecopy.DiffersError{Paths: differing}, "--overwrite replaces them; secrets that are replaced are kept beside the new ones"))
	}
	return errors.Join(errs...)
}

// nodeReport is a plan as it is printed. It holds no secret.
type nodeReport struct {
	Node      nodecopy.Node      `json:"node"`
	After     nodecopy.Node      `json:"after"`
	Files     []nodeFile         `json:"files"`
	LeftOut   []nodeNote         `json:"left_out"`
	Conflicts []nodeConflict     `json:"conflicts"`
	Waiting   []nodeWaiting      `json:"waiting"`
	Missing   []nodecopy.Missing `json:"missing"`
	Problems  []string           `json:"problems"`
	Written   bool               `json:"written"`
	Timers    string             `json:"timers,omitempty"`
}

type nodeFile struct {
	Path   string         `json:"path"`
	State  nodecopy.State `json:"state"`
	Secret bool           `json:"secret"`
	Kept   string         `json:"kept,omitempty"`
}

type nodeNote struct {
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

type nodeConflict struct {
	ID      string   `json:"id"`
	Place   string   `json:"place"`
	Reason  string   `json:"reason"`
	Backups []string `json:"backups"`
}

type nodeWaiting struct {
	Module  string   `json:"module"`
	Backups []string `json:"backups"`
	Reasons []string `json:"reasons"`
}

func newNodeReport(plan nodecopy.Plan) *nodeReport {
	r := &nodeReport{
		Node: plan.Node, After: plan.After, Files: []nodeFile{}, LeftOut: []nodeNote{}, Conflicts: []nodeConflict{}, Waiting: []nodeWaiting{},
		Missing: append([]nodecopy.Missing{}, plan.Missing...), Problems: []string{},
	}
	for _, f := range plan.Files {
		r.Files = append(r.Files, nodeFile{f.Path, f.State, f.Secret, f.Kept})
	}
	for _, l := range plan.LeftOut {
		r.LeftOut = append(r.LeftOut, nodeNote(l))
	}
	for _, c := range plan.Conflicts {
		r.Conflicts = append(r.Conflicts, nodeConflict{c.ID, c.Place.String(), c.Reason, append([]string{}, c.Backups...)})
	}
	for _, w := range plan.Waiting {
		r.Waiting = append(r.Waiting, nodeWaiting{w.Module, append([]string{}, w.Backups...), w.Reasons})
	}
	for _, p := range plan.Problems {
		if p.Warning || plan.IgnoreProblems { // else they are told as errors
			r.Problems = append(r.Problems, p.String())
		}
	}
	return r
}

// print prints the plan: what is written as a table, and all that is not as it was as sentences.
func (r *nodeReport) print(env *cli.Env) error {
	rows := make([][]string, 0, len(r.Files)+len(r.Conflicts))
	for _, f := range r.Files {
		note := cli.None
		if f.Kept != "" {
			note = "the old one is kept as " + f.Kept
		}
		rows = append(rows, []string{string(f.State), printable(f.Path), note})
	}
	for _, c := range r.Conflicts {
		rows = append(rows, []string{"conflict", "destination " + c.ID, fmt.Sprintf("%s; the one here stays (%s)", c.Reason, c.Place)})
	}
	fmt.Fprintf(env.Stderr, "a copy of node %s (%s)\n", r.Node.Name, r.Node.UUID)
	if err := cli.Table(env.Stdout, []string{"STATE", "PATH", "NOTE"}, rows); err != nil {
		return err
	}
	for _, c := range r.Conflicts {
		if len(c.Backups) > 0 {
			fmt.Fprintf(env.Stderr, "backup %s would go to the destination %s of here\n", strings.Join(c.Backups, ", "), c.ID)
		}
	}
	for _, l := range r.LeftOut {
		fmt.Fprintf(env.Stderr, "not written: %s: %s\n", printable(l.Name), l.Reason)
	}
	for _, m := range r.Missing {
		fmt.Fprintln(env.Stderr, m)
	}
	for _, w := range r.Waiting {
		fmt.Fprintf(env.Stderr, "module %s (backup %s) waits: %s\n", w.Module, cmp.Or(strings.Join(w.Backups, ", "), cli.None), strings.Join(w.Reasons, "; "))
	}
	for _, p := range r.Problems {
		fmt.Fprintln(env.Stderr, p)
	}
	if r.After.UUID != r.Node.UUID {
		fmt.Fprintf(env.Stderr, "this machine is another one to its destinations, %s: with uuid = %q in [node] it goes on with the copy of the old one\n",
			cmp.Or(r.After.UUID, "without a UUID"), r.Node.UUID)
	}
	return nil
}
