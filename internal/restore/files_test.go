package restore

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/module"
	"sdbackup/internal/restic"
	"sdbackup/internal/s3test"
	"sdbackup/internal/status"
)

const photosUUID = "6792c7db-9450-4bd3-84a3-034cd0087839"

// newBucketWorld is a world with a module photos of engine files.
func newBucketWorld(t *testing.T) *world {
	t.Helper()
	address, secret := s3test.Start(t)
	w := newWorld(t, "")
	w.data = filepath.Join(w.dir, "photos")
	w.write("keys", "AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY="+secret+"\n")
	w.check(os.Chmod(filepath.Join(w.dir, "keys"), 0o600))
	w.check(os.WriteFile(filepath.Join(w.dir, "etc/photos.toml"), []byte(fmt.Sprintf(`
[destination.bucket]
bucket = "files"
endpoint = "http://%[1]s"
password-file = "%[2]s/password"
environment-file = "%[2]s/keys"
[module.photos]
engine = "files"
restore-state = ["true"]
type = "photos"
uuid = "%[3]s"
directory = "%[2]s/photos"
include = ["data"]
dump = [{filename = "db.sql", command = ["echo", "a dump"]}]
[backup.photos]
schedule = "daily"
destination = "bucket"
modules = ["photos"]
retention = 7
`, address, w.dir, photosUUID)), 0o600))
	w.Restorer.Config = config.Load(w.Paths.Config, nil)
	for _, p := range w.Restorer.Config.Errors() {
		t.Fatal(p)
	}
	w.write("photos/data/a", "one")
	w.write("photos/data/folder/b", "two")
	w.check(os.Symlink("folder/b", filepath.Join(w.dir, "photos/data/link")))
	return w
}

// save backs the module up and returns the version.
func (w *world) saveVersion() string {
	w.t.Helper()
	c := w.Restorer.Config
	p := module.NewPlan(c, w.Paths, c.Backups["photos"], c.Modules["photos"], "run1", nil)
	p.PasswordFile, p.EnvironmentFile, p.CacheDir = filepath.Join(w.dir, "password"), filepath.Join(w.dir, "keys"), filepath.Join(w.dir, "cache")
	p.LockFile = filepath.Join(w.dir, "photos.lock")
	r := module.Run(w.t.Context(), p, nil, w.Log)
	if r.Outcome != status.Success {
		w.t.Fatal(r.Error)
	}
	return r.Snapshot
}

// What is wrong with a bucket is said once, in words that fit it.
func TestVersionsThatCannotBeListed(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	var log strings.Builder
	w.Log = slog.New(slog.NewTextHandler(&log, nil))
	at, err := w.Find(t.Context(), "photos", "", "")
	w.check(err)
	if _, err := w.List(t.Context(), ListOptions{Repository: &at}); err == nil || !strings.Contains(err.Error(), "photos: nothing was saved there yet") || Remedy(err) != "" {
		t.Errorf("List before the first version = %v (%s)", err, Remedy(err))
	}
	w.saveVersion()
	w.write("photos/data/a", "one again")
	w.saveVersion()
	w.write("password", "another")
	log.Reset()
	for _, sizes := range []bool{false, true} {
		_, err := w.List(t.Context(), ListOptions{Repository: &at, Sizes: sizes})
		if !errors.Is(err, restic.ErrWrongPassword) || !strings.Contains(err.Error(), "password does not open the repository photos/") || !strings.Contains(Remedy(err), "password-file") {
			t.Errorf("List with a wrong password = %v (%s)", err, Remedy(err))
		}
	}
	plan, err := w.Check(t.Context(), Request{Repository: at, Target: filepath.Join(w.dir, "restored")})
	w.check(err)
	defer plan.Close()
	if len(plan.Problems) != 1 || !strings.Contains(plan.Problems[0].Text, "password does not open") {
		t.Errorf("Check with a wrong password found %+v", plan.Problems)
	}
	if log.Len() > 0 {
		t.Errorf("besides the error this is told: %s", log.String())
	}
}

func TestRestoreVersions(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	at, err := w.Find(t.Context(), "photos", "", "")
	w.check(err)
	if _, err := w.Check(t.Context(), Request{Repository: at}); err != nil {
		t.Fatal(err) // it is a problem of the plan
	}
	if _, err := w.Probe(t.Context(), at); !errors.Is(err, restic.ErrNoRepository) {
		t.Errorf("nothing was saved: %v", err)
	}
	first := w.saveVersion()
	w.write("photos/data/a", "one again")
	latest := w.saveVersion()
	if _, err := w.Probe(t.Context(), at); err != nil {
		t.Error(err)
	}

	list, err := w.List(t.Context(), ListOptions{Sizes: true, Destination: "bucket"})
	w.check(err)
	if len(list.Repositories) != 1 || len(list.Repositories[0].Points) != 2 {
		t.Fatalf("%+v", list)
	}
	whole, err := w.List(t.Context(), ListOptions{Sizes: true, Repository: &at})
	w.check(err)
	for i, bytes := range []uint64{19, 13} { // the newest first
		p := whole.Repositories[0].Points[i]
		if len(p.Snapshots) != 2 || *p.FileCount() != 3 || *p.Bytes() != bytes || p.Snapshots[1].Dump != "db.sql" || p.Snapshots[0].Host != "web1" || len(p.Snapshots[0].Paths) != 1 {
			t.Errorf("point %d is %+v", i, p)
		}
	}
	if p := list.Repositories[0].Points[0]; p.Snapshots[0].ID != latest || p.Backup != "photos" || *p.FileCount() != 3 || *p.Bytes() != 19 || p.Snapshots[0].Short() != latest {
		t.Errorf("%+v", p)
	}

	restore := func(req Request) (Result, error) {
		t.Helper()
		req.Repository, req.Verify = at, true
		plan, err := w.Check(t.Context(), req)
		if err != nil {
			return Result{}, err
		}
		defer plan.Close()
		for _, p := range plan.Blocked() {
			return Result{}, errors.New(p.Text)
		}
		return w.Restore(t.Context(), plan, func(Progress) {})
	}
	holds := func(path, want string) {
		t.Helper()
		data, err := os.ReadFile(path)
		if string(data) != want {
			t.Errorf("%s: %q, %v; want %q", path, data, err, want)
		}
	}
	all := filepath.Join(w.dir, "out/all")
	r, err := restore(Request{Target: all})
	if err != nil || !r.Verified || !r.Complete || r.Files != 3 || len(r.Snapshots) != 1 || r.Dumps != all+"/dumps" {
		t.Errorf("%+v, %v", r, err)
	}
	holds(all+w.dir+"/photos/data/a", "one again")
	holds(all+w.dir+"/photos/data/link", "two")
	holds(all+"/dumps/db.sql", "a dump\n")
	if info, err := os.Stat(all); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info, err)
	}
	if entries, _ := os.ReadDir(all); len(entries) != 2 {
		t.Errorf("%v", entries)
	}

	part := filepath.Join(w.dir, "out/part")
	r, err = restore(Request{Target: part, Choice: Choice{Snapshot: first}, Only: []string{"data/a"}})
	if err != nil || r.Files != 1 || r.Dumps != "" || !r.Verified {
		t.Errorf("%+v, %v", r, err)
	}
	holds(part+w.dir+"/photos/data/a", "one")
	dump := filepath.Join(w.dir, "out/dump")
	r, err = restore(Request{Target: dump, Only: []string{"dumps/db.sql"}})
	if err != nil || r.Files != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	holds(dump+"/dumps/db.sql", "a dump\n")

	plan, err := w.Check(t.Context(), Request{Repository: at, Target: filepath.Join(w.dir, "out/dry")})
	w.check(err)
	if r, err := w.DryRun(t.Context(), plan); err != nil || r.Files != 3 || r.Bytes != 19 {
		t.Errorf("%+v, %v", r, err)
	}

	for _, tc := range []struct {
		req  Request
		want string
	}{
		{Request{Only: []string{"nothing"}}, "the snapshot has no nothing"},
		{Request{Choice: Choice{Snapshot: "zzz"}}, "there is no snapshot zzz"},
		{Request{Target: all}, "is not empty"},
	} {
		if _, err := restore(tc.req); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v; want %s", tc.req, err, tc.want)
		}
	}
	if err := w.Mount(t.Context(), at, "", w.dir, func() { t.Error("it is mounted") }); err == nil || !strings.Contains(Remedy(err), "restore-backup browse photos") {
		t.Error(err)
	}
	// Damage is found, and named.
	damaged := filepath.Join(w.dir, "out/damaged")
	plan, err = w.Check(t.Context(), Request{Repository: at, Target: damaged, Verify: true})
	w.check(err)
	for _, e := range plan.source.(*versions).entries(plan.Point.Snapshots[0]) {
		e.Hash[0]++
	}
	if r, err := w.Restore(t.Context(), plan, func(Progress) {}); err == nil || r.Complete || r.Verified {
		t.Errorf("other contents than are on record: %+v", r)
	}
}

// Only files are dumps, and only those that a backup can have put there.
func TestIsDump(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		path string
		kind filebackup.Kind
		want string
	}{
		{module.DumpFolder + "/db.sql", filebackup.File, "db.sql"},
		{module.DumpFolder + "/db.sql", filebackup.Symlink, ""},
		{module.DumpFolder + "/db.sql", filebackup.Folder, ""},
		{module.DumpFolder + "/a/b", filebackup.File, ""},
		{module.DumpFolder, filebackup.File, ""},
		{"/db.sql", filebackup.File, ""},
	} {
		if got := isDump(&filebackup.Entry{Path: c.path, Kind: c.kind}); got != c.want {
			t.Errorf("%s, a %v, is the dump %q; want %q", c.path, c.kind, got, c.want)
		}
	}
}
