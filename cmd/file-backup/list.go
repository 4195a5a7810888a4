package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"sdbackup/filebackup"
	"sdbackup/internal/cli"
)

// find returns the version that is meant.
func find(ctx context.Context, root *command, env *cli.Env, name string) (*filebackup.Repository, filebackup.Version, error) {
	r, err := root.open(ctx, env)
	if err != nil {
		return nil, filebackup.Version{}, err
	}
	v, err := r.Find(ctx, name)
	return r, v, explain(err)
}

// printable is a name on a line of its own, whatever is in it.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(name)
	}
	return name
}

type listVersions struct {
	JSON bool `help:"Print JSON."`
}

// Run lists versions.
func (c *listVersions) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, err := root.open(ctx, env)
	if err != nil {
		return err
	}
	list, err := r.Versions(ctx)
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		return cli.JSON(env.Stdout, append([]filebackup.Version{}, list...))
	}
	for _, v := range list {
		fmt.Fprintf(env.Stdout, "%s  %s\n", v.Time.Local().Format(time.DateTime), v.ID)
	}
	return nil
}

type listFiles struct {
	Version string `arg:"" predictor:"known" help:"Version: an ID, latest, or a time."`
	Long    bool   `short:"l" help:"Print modes, owners, sizes and times, too."`
	JSON    bool   `help:"Print JSON."`
}

// file is an entry in JSON.
type file struct {
	Path     string            `json:"path"`
	Kind     filebackup.Kind   `json:"kind"`
	Size     *int64            `json:"size,omitempty"`
	Hash     string            `json:"sha256,omitempty"`
	Modified time.Time         `json:"modified"`
	Mode     string            `json:"mode,omitempty"`
	UID      *int              `json:"uid,omitempty"`
	GID      *int              `json:"gid,omitempty"`
	Target   string            `json:"target,omitempty"`
	Object   string            `json:"object,omitempty"`
	ID       string            `json:"version_id,omitempty"`
	Xattrs   map[string][]byte `json:"xattrs,omitempty"`
}

func describe(e *filebackup.Entry) file {
	f := file{Path: e.Path, Kind: e.Kind, Modified: e.ModTime(), Target: e.Target, Object: e.Object, ID: e.ID, Xattrs: e.Xattrs}
	if e.Kind == filebackup.File {
		f.Hash = e.Hash.String()
		if e.HasSize() {
			f.Size = &e.Size
		}
	}
	if e.HasMode() {
		f.Mode, f.UID, f.GID = fmt.Sprintf("%04o", e.Mode), &e.UID, &e.GID
	}
	return f
}

// Run lists the files of a version.
func (c *listFiles) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, v, err := find(ctx, root, env, c.Version)
	if err != nil {
		return err
	}
	list, err := r.Files(ctx, v)
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		files := make([]file, len(list))
		for i, e := range list {
			files[i] = describe(e)
		}
		return cli.JSON(env.Stdout, files)
	}
	if !c.Long {
		for _, e := range list {
			fmt.Fprintln(env.Stdout, printable(e.Path))
		}
		return nil
	}
	rows := make([][]string, len(list))
	for i, e := range list {
		mode, owner, size, name := "-", "-", "-", printable(e.Path)
		if e.HasMode() {
			mode, owner = fmt.Sprintf("%04o", e.Mode), fmt.Sprintf("%d:%d", e.UID, e.GID)
		}
		if e.HasSize() && e.Kind == filebackup.File {
			size = strconv.FormatInt(e.Size, 10)
		}
		if e.Kind == filebackup.Symlink {
			name += " -> " + printable(e.Target)
		}
		rows[i] = []string{e.Kind.String(), mode, owner, size, e.ModTime().Local().Format(time.DateTime), name}
	}
	return cli.Table(env.Stdout, []string{"KIND", "MODE", "OWNER", "SIZE", "MODIFIED", "PATH"}, rows)
}

type listChanges struct {
	Version string `arg:"" predictor:"known" help:"Version: an ID, latest, or a time."`
	JSON    bool   `help:"Print JSON."`
}

// Run lists what a version changed.
func (c *listChanges) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, v, err := find(ctx, root, env, c.Version)
	if err != nil {
		return err
	}
	changes, err := r.Changes(ctx, v)
	if err != nil {
		return explain(err)
	}
	type change struct {
		Status string `json:"status"`
		From   string `json:"moved_from,omitempty"`
		file
	}
	list := make([]change, len(changes))
	for i := range changes {
		list[i] = change{changes[i].Status, changes[i].From, describe(&changes[i].Entry)}
	}
	if c.JSON {
		return cli.JSON(env.Stdout, list)
	}
	for _, l := range list {
		from := ""
		if l.From != "" {
			from = printable(l.From) + " to "
		}
		fmt.Fprintf(env.Stdout, "%s: %s%s\n", l.Status, from, printable(l.Path))
	}
	return nil
}

type diff struct {
	From string `arg:"" predictor:"known" help:"Version: an ID, latest, or a time."`
	To   string `arg:"" predictor:"known" help:"Version to compare with it."`
	JSON bool   `help:"Print JSON."`
}

// Run lists what differs between two versions.
func (c *diff) Run(ctx context.Context, root *command, env *cli.Env) error {
	r, from, err := find(ctx, root, env, c.From)
	if err != nil {
		return err
	}
	to, err := r.Find(ctx, c.To)
	if err != nil {
		return explain(err)
	}
	list, err := r.Diff(ctx, from, to)
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		return cli.JSON(env.Stdout, append([]filebackup.Difference{}, list...))
	}
	for _, d := range list {
		fmt.Fprintf(env.Stdout, "%s: %s\n", d.Status, printable(d.Path))
	}
	return nil
}
