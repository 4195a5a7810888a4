// file-backup keeps the versions of a folder's files in an S3 bucket: each file is an object, each backup one atomic commit.
//
// Synopsis:
//
//	file-backup [--config FILE] [backup] [--checksum] [--dry-run] [--accept-bucket] [--json]
//	file-backup [--config FILE] list-versions [--json]
//	file-backup [--config FILE] list-files VERSION [--long] [--json]
//	file-backup [--config FILE] list-changes VERSION [--json]
//	file-backup [--config FILE] download VERSION TARGET [--ignore FILE] [--dry-run] [--json] [PATH...]
//	file-backup [--config FILE] diff VERSION VERSION [--json]
//	file-backup [--config FILE] verify [--read-data] [--json]
//	file-backup [--config FILE] garbage-collect [--dry-run] [--json]
//	file-backup [--config FILE] clean-garbage-log [--dry-run]
//	file-backup [--config FILE] undelete [--dry-run]
//	file-backup [--config FILE] expire --keep-... [--dry-run] [--json]
//
// With --module ID [--destination ID] [--user] every command but backup works on the versions of a module of engine files.
//
// It exits with 0 when all was done; 1 when something failed, files could not be read or something is damaged; 2 when the command
// line or the configuration is wrong; 3 when another file-backup is running with the same lock
// file, or the module is being backed up.
package main

import (
	"context"
	"errors"
	"os"

	"sdbackup/filebackup"
	"sdbackup/internal/cli"
	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/restore"
)

type command struct {
	Config      string `placeholder:"FILE" predictor:"file" help:"Configuration, as that of rrbackup; default: configuration.json in the working directory. With --module, that of modules in place of all layers."`
	Module      string `predictor:"module" placeholder:"ID" help:"Module of engine files, or TYPE/UUID, whose versions are meant."`
	Destination string `predictor:"destination" placeholder:"ID" help:"With --module: destination; needed where there is more than one."`
	User        bool   `help:"With --module: work for the calling user, not for the system."`
	Parallel    int    `placeholder:"N" help:"Files that are worked on at a time. Default: as configured, or 8."`

	Backup   backup       `cmd:"" default:"withargs" help:"Back up the folder; the word backup can be left out."`
	Versions listVersions `cmd:"" name:"list-versions" aliases:"list_versions" help:"List all versions, the newest last."`
	Files    listFiles    `cmd:"" name:"list-files" aliases:"list_files" help:"List the files of a version."`
	Changes  listChanges  `cmd:"" name:"list-changes" aliases:"list_changes" help:"List what a version changed."`
	Download download     `cmd:"" help:"Download a version, or some of its files, into a folder."`
	Diff     diff         `cmd:"" help:"List what differs between two versions."`
	Verify   verify       `cmd:"" help:"Look whether everything that versions need is there and unaltered."`
	Collect  collect      `cmd:"" name:"garbage-collect" aliases:"garbage_collect" help:"Remove objects that no version needs."`
	CleanLog cleanLog     `cmd:"" name:"clean-garbage-log" aliases:"clean_gc_log" help:"Remove what write-only backups have logged as garbage."`
	Undelete undelete     `cmd:"" help:"Bring back objects that were deleted, but not their versions."`
	Expire   expire       `cmd:"" help:"Drop old versions, and the objects that only they need."`
}

func main() {
	os.Exit(cli.Main("file-backup", "Keeps the versions of a folder's files in an S3 bucket, each backup an atomic commit. A VERSION is an ID of list-versions, latest, or a time as in \"2026-11-20 03:00\".",
		new(command), os.Args[1:], cli.OS()))
}

// open opens the bucket to read in it.
func (c *command) open(ctx context.Context, env *cli.Env) (*filebackup.Repository, error) {
	r, _, err := c.repository(ctx, env, false)
	return r, err
}

// openToChange opens the bucket to change something. The lock of a module is held until unlock is called.
func (c *command) openToChange(ctx context.Context, env *cli.Env) (r *filebackup.Repository, unlock func(), err error) {
	return c.repository(ctx, env, true)
}

// repository reads the configuration.
func (c *command) repository(ctx context.Context, env *cli.Env, change bool) (r *filebackup.Repository, unlock func(), err error) {
	if c.Module != "" {
		location := cli.Location{Config: c.Config, User: c.User}
		if location.Config == "" {
			location.Config = env.Getenv("SDBACKUP_CONFIG")
		}
		paths := location.Paths(env)
		worker := &restore.Restorer{Config: config.Load(paths.Config, nil), Paths: paths, Getenv: env.Getenv, Now: env.Now, Log: env.Log}
		r, unlock, err := worker.Versions(ctx, c.Module, c.Destination, change, c.Parallel)
		if err != nil {
			err = cli.Mistakes(env, "file-backup", location, worker.Config.Errors(), explain(err))
		}
		return r, unlock, err
	}
	if c.Destination != "" || c.User {
		return nil, nil, &cli.ExitError{Code: cli.ExitUsage, Err: errors.New("--destination and --user are for --module")}
	}
	if c.Config == "" {
		c.Config = "configuration.json"
	}
	config, err := filebackup.LoadConfig(c.Config)
	if err != nil {
		return nil, nil, explain(err)
	}
	if c.Parallel != 0 {
		config.Parallel = c.Parallel
	}
	config.Log = env.Log
	r, err = filebackup.Open(config)
	return r, func() {}, explain(err)
}

// explain gives an error its exit code, and says what the operator can do.
func explain(err error) error {
	var config *filebackup.ConfigError
	var tamper *filebackup.TamperError
	var locked *filebackup.LockedError
	var busy *lock.HeldError
	var mistake *restore.UsageError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &config):
		var all []error
		for _, p := range config.Problems {
			all = append(all, errors.New(p))
		}
		return &cli.ExitError{Code: cli.ExitUsage, Err: errors.Join(all...)}
	case errors.Is(err, os.ErrNotExist) && !errors.Is(err, filebackup.ErrNotFound):
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	case errors.As(err, &mistake):
		if hint := restore.Remedy(err); hint != "" {
			err = cli.Hint(err, hint)
		}
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	case errors.As(err, &locked), errors.As(err, &busy):
		return &cli.ExitError{Code: cli.ExitLocked, Err: err}
	case errors.As(err, &tamper):
		return cli.Hint(err, "look at the bucket with \"file-backup verify\"; \"file-backup backup --accept-bucket\" takes it as it is")
	case errors.As(err, new(*filebackup.UnretainedError)):
		return cli.Hint(err, "the access key needs s3:PutObjectRetention and s3:GetObjectRetention, and the bucket Object Lock; the next backup tries it again")
	case errors.As(err, new(*filebackup.PasswordError)):
		return cli.Hint(err, "compare the password with the one that the bucket was begun with; if it is right, \"file-backup verify\" tells what is damaged")
	case errors.Is(err, filebackup.ErrNoVersion):
		return cli.Hint(err, "\"file-backup list-versions\" shows them")
	case restore.Remedy(err) != "":
		return cli.Hint(err, restore.Remedy(err))
	}
	return err
}
