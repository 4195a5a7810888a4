package module

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/restic"
	"sdbackup/internal/status"
)

// The engine files: each attempt is a version in a bucket, made by the package filebackup in this process.

// Files is where the versions of a module of engine files are.
type Files struct {
	config.Bucket

	Prefix   string   `json:"prefix"` // of all its objects, without a slash at the end
	Pipeline []string `json:"pipeline"`
}

// DumpFolder is where the dumps of a module are in a version; no file can be there.
const DumpFolder = "/.sdbackup-dumps"

// SavedFile is where a version says how it was saved; no file can be there.
const SavedFile = "/.sdbackup-saved"

// Saved is how a version was saved. Folders above what was included are in the version, too, and nothing else tells them apart.
type Saved struct {
	Node    string   `json:"node"`
	UID     int      `json:"uid"` // of the user who saved it
	Include []string `json:"include"`
}

// Config is the configuration of filebackup. What is on the machine is not in it but for the files in dir.
func (f Files) Config(password string, environment []string, dir string) (*filebackup.Config, error) {
	c := &filebackup.Config{
		LocalManifestFile: filepath.Join(dir, "manifest"), LocalLockFile: filepath.Join(dir, "lock"),
		S3:     filebackup.S3{Endpoint: f.Endpoint, Region: f.Region, Bucket: f.Name, StorageClass: f.StorageClass},
		Crypto: filebackup.Crypto{Password: strings.TrimSpace(password), RemoteSaltFile: f.Prefix + "/salt_file"}, // as restic reads its
		Retain: f.Retain,

		MetaPipeline: []string{"compress"},
		FilePipeline: []filebackup.Pipeline{{Pattern: "*", Words: f.Pipeline}},

		RemoteManifestDiffFile: f.Prefix + "/manifest_diffs", RemoteGCLogFile: f.Prefix + "/gc_log",
		RemoteGarbageObjectLogFile: f.Prefix + "/garbage_objects", RemoteBasePath: f.Prefix + "/files",
		RemoteSnapshotPath: f.Prefix + "/manifest_snapshots", RemoteExpiredFile: f.Prefix + "/expired_versions",
	}
	if slices.Contains(f.Pipeline, "encrypt") || slices.Contains(f.Pipeline, "hash_names") {
		c.MetaPipeline = append(c.MetaPipeline, "encrypt")
	}
	for _, line := range environment {
		name, value, _ := strings.Cut(line, "=")
		switch name {
		case "AWS_ACCESS_KEY_ID":
			c.S3.AccessKey = value
		case "AWS_SECRET_ACCESS_KEY":
			c.S3.SecretKey = value
		case "AWS_SESSION_TOKEN":
			c.S3.SessionToken = value
		case "AWS_DEFAULT_REGION":
			if c.S3.Region == "" {
				c.S3.Region = value
			}
		}
	}
	if c.S3.AccessKey == "" || c.S3.SecretKey == "" {
		return nil, errors.New("the environment file has no AWS_ACCESS_KEY_ID=... or no AWS_SECRET_ACCESS_KEY=..., which the bucket takes")
	}
	return c, nil
}

// openBucket reads the secrets.
func (a *attempt) openBucket() error {
	password, err := readSecret(credentialPath(a.PasswordFile))
	if err != nil {
		return err
	}
	environment, err := ReadEnvironment(credentialPath(a.EnvironmentFile))
	if err != nil {
		return err
	}
	if a.files, err = a.Plan.Files.Config(string(password), environment, a.CacheDir); err != nil {
		return err
	}
	a.files.BasePath, a.files.Log = "/", a.log
	return nil
}

// bucket calls f with what is in the bucket, and explains its error.
func (a *attempt) bucket(f func(*filebackup.Repository) error) error {
	r, err := filebackup.Open(a.files)
	if err != nil {
		return err
	}
	err = f(r)
	var tamper *filebackup.TamperError
	if errors.As(err, &tamper) {
		a.result.Hint = fmt.Sprintf("look at the bucket with \"file-backup --module %s verify\"; to take it as it is, remove %s.file-backup", a.Module, a.files.LocalManifestFile)
	}
	return err
}

// saveVersion saves files and dumps as one version, or as none.
func (a *attempt) saveVersion(ctx context.Context) error {
	excluded, err := restic.NewExclusion(Exclude(a.Exclude))
	if err != nil {
		return err
	}
	a.files.Ignore = excluded.Matches
	a.files.Include = []string{}
	for _, p := range a.Include {
		path, err := filepath.EvalSymlinks(a.absolute(p))
		if err != nil {
			return fmt.Errorf("source %s: %w", a.absolute(p), err)
		}
		a.files.Include = append(a.files.Include, path)
	}
	if err := a.checkGone(ctx); err != nil {
		return err
	}
	ctx, alive, stop := watch(ctx, a.NoProgressTimeout)
	defer stop()
	saved, err := json.Marshal(Saved{Node: a.Node, UID: os.Getuid(), Include: a.files.Include})
	if err != nil {
		return err
	}
	streams := []filebackup.Stream{{Path: SavedFile, Write: func(_ context.Context, w io.Writer) error {
		_, err := w.Write(saved)
		return err
	}}}
	for _, d := range a.Dumps {
		streams = append(streams, filebackup.Stream{Path: DumpFolder + "/" + d.Filename, Write: func(ctx context.Context, w io.Writer) error {
			if err := a.dump(ctx, d, w, alive); err != nil {
				return fmt.Errorf("dump %s: %s: %w", d.Filename, d.Command[0], err)
			}
			return nil
		}})
	}
	var sum *filebackup.Summary
	err = a.bucket(func(r *filebackup.Repository) (err error) {
		sum, err = r.Backup(ctx, filebackup.BackupOptions{Streams: streams, Progress: func(p filebackup.Progress) {
			alive(uint64(p.Bytes + p.Files + p.Retained))
			percent := 0.0
			if p.TotalBytes > 0 {
				percent = min(100, 100*float64(p.Bytes)/float64(p.TotalBytes))
			}
			a.progress(Progress{Phase: "backup", Percent: percent, BytesDone: uint64(p.Bytes), BytesTotal: uint64(p.TotalBytes)})
		}})
		return err
	})
	unretained := errors.As(err, new(*filebackup.UnretainedError))
	if err != nil && !unretained && !errors.As(err, new(*filebackup.IncompleteError)) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	sum.Files, sum.Size = sum.Files-1, sum.Size-int64(len(saved)) // which is not the module's
	a.savedVersion(sum)
	if unretained {
		a.result.Hint = "the keys of the destination need s3:PutObjectRetention and s3:GetObjectRetention, and the bucket Object Lock; the next backup tries it again"
		return err
	}
	return nil
}

// checkGone says when nothing is left of a bucket that the records know to have had versions. While the local manifest is there, filebackup does.
func (a *attempt) checkGone(ctx context.Context) error {
	if a.MayInit {
		return nil
	}
	if _, err := os.Stat(a.files.LocalManifestFile + ".file-backup"); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return a.bucket(func(r *filebackup.Repository) error {
		list, err := r.Versions(ctx)
		if err == nil && len(list) == 0 {
			err = fmt.Errorf("the repository %s is gone, and the records know that there was one", a.Plan.Repository)
		}
		return err
	})
}

// savedVersion puts what was saved into the result. Where nothing has changed, the latest version is what was saved.
func (a *attempt) savedVersion(sum *filebackup.Summary) {
	r := a.result
	r.Snapshot = sum.Latest.ID
	r.Files, r.SizeBytes, r.AddedBytes = uint64(sum.Files), uint64(sum.Size), uint64(sum.Bytes)
	r.Unreadable, r.UnreadableCount = sum.Unreadable[:min(len(sum.Unreadable), restic.MaxUnreadable)], len(sum.Unreadable)
	r.Partial = r.UnreadableCount > 0
	r.Snapshots = slices.Clone(a.Snapshots)
	if !slices.ContainsFunc(r.Snapshots, func(s status.Snapshot) bool { return s.ID == sum.Latest.ID }) && sum.Latest.ID != "" {
		r.Snapshots = append(r.Snapshots, status.Snapshot{ID: sum.Latest.ID, Time: sum.Latest.Time})
	}
}

// expire applies the policy to the versions, unless the records show that it drops none.
func (a *attempt) expire(ctx context.Context, r *status.Retention, always bool) error {
	if a.Retention.IsZero() || !always && a.keepsAll("") {
		return nil
	}
	keep := filebackup.Keep{
		Last: a.Retention.KeepLast, Hourly: a.Retention.KeepHourly, Daily: a.Retention.KeepDaily, Weekly: a.Retention.KeepWeekly,
		Monthly: a.Retention.KeepMonthly, Yearly: a.Retention.KeepYearly,
	}
	if a.Retention.KeepWithin != "" {
		var err error
		if keep.Within, err = filebackup.ParseDuration(a.Retention.KeepWithin); err != nil {
			return fmt.Errorf("keep-within: %w", err)
		}
	}
	a.progress(Progress{Phase: "retention", Percent: 100})
	r.Called = true
	return a.bucket(func(repository *filebackup.Repository) error {
		x, err := repository.Expire(ctx, keep, false)
		if err = a.unlessKept(err); err != nil || x == nil {
			return err
		}
		r.Removed, r.Pruned = len(x.Dropped), len(x.Dropped) > 0
		a.result.Snapshots = nil
		for _, v := range x.Kept {
			a.result.Snapshots = append(a.result.Snapshots, status.Snapshot{ID: v.ID, Time: v.Time})
		}
		return nil
	})
}

// collectGarbage removes what no version refers to.
func (a *attempt) collectGarbage(ctx context.Context) error {
	return a.bucket(func(r *filebackup.Repository) error {
		_, err := r.GarbageCollect(ctx, false)
		return a.unlessKept(err)
	})
}

// unlessKept takes it for no failure that Object Lock keeps what was to be removed, if that was wanted: it is removed as garbage later.
func (a *attempt) unlessKept(err error) error {
	var kept *filebackup.KeptError
	if a.Plan.Files.Retain == "" || !errors.As(err, &kept) {
		return err
	}
	a.log.Info("kept by Object Lock until it may be removed: " + kept.Error())
	return nil
}

// checkVersions examines all versions.
func (a *attempt) checkVersions(ctx context.Context) error {
	part := a.Plan.Check
	a.result.Check = &status.Check{Number: part.Number, Of: part.Of}
	a.progress(Progress{Phase: "check"})
	ctx, alive, stop := watch(ctx, a.NoProgressTimeout)
	defer stop()
	return a.bucket(func(r *filebackup.Repository) error {
		v, err := r.Verify(ctx, filebackup.VerifyOptions{ReadData: part.Of > 0, Part: part.Number, Of: part.Of, Progress: func(p filebackup.Progress) {
			alive(uint64(p.Files + p.Bytes))
			a.progress(Progress{Phase: "check", BytesDone: uint64(p.Bytes)})
		}})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			return err
		case len(v.Problems) > 0:
			for _, p := range v.Problems {
				a.log.Error(p)
			}
			a.result.Hint = fmt.Sprintf("see the log for all of them; \"file-backup --module %s undelete\" brings back what was deleted but not overwritten", a.Module)
			return fmt.Errorf("%w: %d problems, the first: %s", restic.ErrDamaged, len(v.Problems), v.Problems[0])
		case v.Versions == 0:
			return fmt.Errorf("there is no repository %s to check", a.Plan.Repository)
		}
		a.result.Outcome = status.Success
		return nil
	})
}
