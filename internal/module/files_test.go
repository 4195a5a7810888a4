package module

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/filebackup"
	"sdbackup/internal/config"
	"sdbackup/internal/roottest"
	"sdbackup/internal/s3test"
	"sdbackup/internal/status"
)

// newFilesPlan is newPlan with the engine files.
func newFilesPlan(t *testing.T) Plan {
	t.Helper()
	address, secret := s3test.Start(t)
	p := newPlan(t)
	p.Files = &Files{config.Bucket{Name: "files", Endpoint: "http://" + address}, "wiki/3792c7db-9450-4bd3-84a3-034cd0087839", []string{"compress", "encrypt"}}
	p.Repository = "files:files/" + p.Files.Prefix
	p.EnvironmentFile = filepath.Join(p.Directory, "environment")
	if err := os.WriteFile(p.EnvironmentFile, []byte("AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY="+secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// versions opens what the plan saves to.
func (p Plan) versions(t *testing.T) *filebackup.Repository {
	t.Helper()
	environment, err := ReadEnvironment(p.EnvironmentFile)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Files.Config(password, environment, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r, err := filebackup.Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// latest downloads the latest version and returns the folder.
func (p Plan) latest(t *testing.T) string {
	t.Helper()
	r := p.versions(t)
	v, err := r.Find(t.Context(), "latest")
	if err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	if _, err := r.Download(t.Context(), v, target, filebackup.DownloadOptions{}); err != nil {
		t.Fatal(err)
	}
	return target
}

func read(t *testing.T, elem ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Error(err)
	}
	return string(data)
}

// The life of a module of engine files: versions with files and dumps, what is excluded, retention, hooks, a check.
func TestFilesLife(t *testing.T) {
	t.Parallel()
	p := newFilesPlan(t)
	page := filepath.Join(p.Directory, "data/page.txt")
	hooks := filepath.Join(p.Directory, "hooks")
	p.Retention = config.Retention{KeepLast: 2}
	p.Exclude = []string{"data/sub"}
	p.DumpState = []string{"sh", "-c", "echo dump >> " + hooks}
	p.CleanupState = []string{"sh", "-c", "echo cleanup >> " + hooks}
	p.Dumps = []config.Dump{{Command: []string{"cat", page}, Filename: "db.sql"}}
	var ids []string
	for i, removed := range []int{0, 0, 1, 1} {
		text := strings.Repeat("x", i+1)
		if err := os.WriteFile(page, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, log := attemptOf(t, p)
		want(t, r, status.Success, "")
		if r.Snapshot == "" || r.Files != 2 || r.SizeBytes != uint64(2*len(text)) || r.Retention == nil || r.Retention.Removed != removed {
			t.Errorf("%+v %+v\n%s", r, r.Retention, log)
		}
		if n := len(r.Snapshots); n != min(i+1, 2) || r.Snapshots[n-1].ID != r.Snapshot {
			t.Errorf("on record: %+v", r.Snapshots)
		}
		ids = append(ids, r.Snapshot)
		p = p.next(r)
		restored := p.latest(t)
		if read(t, restored, page) != text || read(t, restored, DumpFolder, "db.sql") != text {
			t.Error("not as it was saved")
		}
		if _, err := os.Stat(filepath.Join(restored, p.Directory, "data/sub")); err == nil {
			t.Error("what is excluded was saved")
		}
	}
	// Nothing has changed: the version stays, and the module is saved.
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	if r.Snapshot != ids[3] || r.AddedBytes != 0 || len(r.Snapshots) != 2 || r.Retention.Called {
		t.Errorf("%+v %+v", r, r.Retention)
	}
	p = p.next(r)
	if got := read(t, hooks); got != strings.Repeat("dump\ncleanup\n", 5) {
		t.Errorf("hooks: %q", got)
	}
	// A prune that is due collects garbage.
	p.LastPrune = time.Now().Add(-8 * 24 * time.Hour)
	r, _ = attemptOf(t, p)
	want(t, r, status.Success, "")
	if !r.Retention.Pruned || time.Since(r.LastPrune) > time.Minute {
		t.Errorf("%+v", r.Retention)
	}
	// The cache is only one; what is left elsewhere is found to be gone.
	if err := os.RemoveAll(p.CacheDir); err != nil {
		t.Fatal(err)
	}
	r, _ = attemptOf(t, p)
	want(t, r, status.Success, "")
	if r.Snapshot != ids[3] {
		t.Errorf("%+v", r)
	}
	for part := 1; part <= 2; part++ {
		c := p
		c.Check = &Check{part, 2}
		r, _ = attemptOf(t, c)
		want(t, r, status.Success, "")
	}
	moved := p
	files := *p.Files
	files.Prefix += "x"
	moved.Files, moved.CacheDir = &files, p.CacheDir+"2"
	r, _ = attemptOf(t, moved)
	want(t, r, status.Failed, "is gone, and the records know that there was one")
	moved.Check = &Check{}
	r, _ = attemptOf(t, moved)
	want(t, r, status.Failed, "to check")
}

func TestFilesFailures(t *testing.T) {
	t.Parallel()
	p := newFilesPlan(t)
	// A dump that fails, or prints nothing, leaves no version.
	for _, command := range []string{"echo half; echo broken >&2; exit 3", "true"} {
		p.Dumps = []config.Dump{{Command: []string{"sh", "-c", command}, Filename: "db.sql"}}
		r, _ := attemptOf(t, p)
		want(t, r, status.Failed, "dump db.sql: sh: ")
	}
	if list, err := p.versions(t).Versions(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("%v, %v", list, err)
	}
	p.Dumps = nil
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	p = p.next(r)

	wrong := p
	wrong.PasswordFile = filepath.Join(p.Directory, "wrong")
	if err := os.WriteFile(wrong.PasswordFile, []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong.CacheDir += "2"
	r, _ = attemptOf(t, wrong)
	want(t, r, status.Failed, "wrong password")
	if r.Retry {
		t.Error("a wrong password is tried again")
	}

	keyless := p
	keyless.EnvironmentFile = filepath.Join(p.Directory, "keyless")
	if err := os.WriteFile(keyless.EnvironmentFile, []byte("RESTIC_X=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ = attemptOf(t, keyless)
	want(t, r, status.Failed, "the environment file has no AWS_ACCESS_KEY_ID")

	// A stopped attempt cleans up, and the next one goes on.
	stuck := p
	stuck.Dumps = []config.Dump{{Command: []string{"sh", "-c", "echo begun; sleep 1000"}, Filename: "db.sql"}}
	cleaned := filepath.Join(p.Directory, "cleaned")
	stuck.CleanupState = []string{"touch", cleaned}
	ctx, cancel := context.WithCancel(t.Context())
	r = Run(ctx, stuck, func(q Progress) {
		if q.Phase == "dump" && q.BytesDone > 0 {
			cancel()
		}
	}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	want(t, r, status.Failed, "context canceled")
	if _, err := os.Stat(cleaned); err != nil {
		t.Error(err)
	}
	r, _ = attemptOf(t, p)
	want(t, r, status.Success, "")

	// A server that is away may be back.
	away := p
	gone := *p.Files
	gone.Endpoint = "http://127.0.0.1:1"
	away.Files = &gone
	r, _ = attemptOf(t, away)
	want(t, r, status.Failed, "")
	if !r.Retry {
		t.Errorf("no other attempt is made: %+v", r)
	}
}

// What cannot be read makes it partial, also for a user who is not root.
func TestFilesPartial(t *testing.T) {
	t.Parallel()
	if !roottest.ModesApply(t) {
		return
	}
	p := newFilesPlan(t)
	p.OnPartial = "warn"
	closed := filepath.Join(p.Directory, "data/closed")
	if err := os.WriteFile(closed, []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	r, _ := attemptOf(t, p)
	want(t, r, status.Partial, "")
	if r.UnreadableCount != 1 || !strings.Contains(r.Unreadable[0], closed) {
		t.Errorf("%+v", r)
	}
}

// A version that Object Lock does not keep as the destination says is there, and the module has failed.
func TestFilesUnretained(t *testing.T) {
	t.Parallel()
	p := newFilesPlan(t)
	r, _ := attemptOf(t, p)
	want(t, r, status.Success, "")
	saved := r.Snapshot
	p.Files.Retain = "30d" // of a bucket without Object Lock
	r, _ = attemptOf(t, p)
	want(t, r, status.Failed, "the version is stored, but it could not be seen to that Object Lock keeps")
	if r.Snapshot != saved || len(r.Snapshots) == 0 || !strings.Contains(r.Hint, "s3:PutObjectRetention") {
		t.Errorf("%+v; want the version %s and a hint", r, saved)
	}
}
