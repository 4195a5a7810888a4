package filebackup

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

const day = 24 * time.Hour

// clock is that of the server, as far as the program sees it.
type clock struct{ ahead atomic.Int64 }

type clockWriter struct {
	http.ResponseWriter
	*clock
}

func (w *clockWriter) WriteHeader(status int) {
	w.Header().Set("Date", time.Now().Add(time.Duration(w.ahead.Load())).UTC().Format(http.TimeFormat))
	w.ResponseWriter.WriteHeader(status)
}

// lockedFixture has a bucket with Object Lock, and a clock.
func lockedFixture(t *testing.T, wrap func(http.Handler) http.Handler) (*fixture, *clock) {
	f, c := newFixture(t), new(clock)
	f.bucket += "-lock"
	if err := f.owner.MakeBucket(t.Context(), f.bucket, minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Skip(err)
	}
	f.c.S3.Bucket, f.c.Retain = f.bucket, "30d"
	f.between(func(next http.Handler) http.Handler {
		if wrap != nil {
			next = wrap(next)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(&clockWriter{w, c}, r) })
	})
	return f, c
}

// ends are the times until when Object Lock keeps objects, by their names and versions.
func (f *fixture) ends() map[[2]string]time.Time {
	f.Helper()
	all := map[[2]string]time.Time{}
	c := f.c
	c.S3.AccessKey, c.S3.SecretKey = f.access, f.secret
	owner, err := Open(&c)
	if err != nil {
		f.Fatal(err)
	}
	for v := range f.owner.ListObjectsIter(f.Context(), f.bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		if v.Err != nil {
			f.Fatal(v.Err)
		}
		if v.IsDeleteMarker {
			continue
		}
		all[[2]string{v.Key, v.VersionID}] = owner.s.retainedUntil(f.Context(), v.Key, v.VersionID)
	}
	return all
}

// latestNeeds are the objects that it takes to restore the latest version, found out without the code that is tested.
func (f *fixture) latestNeeds() (needed [][2]string) {
	f.Helper()
	r := f.open()
	list := f.versions()
	m, err := r.Manifest(f.Context(), list[len(list)-1])
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range m.entries {
		if e.Object != "" {
			needed = append(needed, [2]string{r.c.RemoteBasePath + e.Object, e.ID})
		}
	}
	first := 0
	points, err := r.checkpoints(f.Context(), true)
	if err != nil {
		f.Fatal(err)
	}
	for i, v := range list {
		if c := points.whole[v.ID]; c != nil {
			first = i
			needed = append(needed[:len(needed):len(needed)], [2]string{c.key, c.versions[0]})
		}
	}
	snapshots := 0
	for _, o := range needed {
		if strings.HasPrefix(o[0], r.c.RemoteSnapshotPath) {
			snapshots++
		}
	}
	for i := 0; snapshots > 1; i++ { // only the last one counts
		if strings.HasPrefix(needed[i][0], r.c.RemoteSnapshotPath) {
			needed = append(needed[:i:i], needed[i+1:]...)
			snapshots--
			i--
		}
	}
	for _, v := range list[first:] {
		needed = append(needed, [2]string{r.c.RemoteManifestDiffFile, v.ID})
	}
	if r.c.Crypto.Password != "" {
		salt, err := r.s.head(f.Context(), r.c.Crypto.RemoteSaltFile)
		if err != nil {
			f.Fatal(err)
		}
		needed = append(needed, [2]string{r.c.Crypto.RemoteSaltFile, salt.ID})
	}
	return needed
}

// kept fails unless everything that the latest version needs is kept for nine tenths of so long from now.
func (f *fixture) kept(what string, c *clock, retain time.Duration) {
	f.Helper()
	ends := f.ends()
	for _, o := range f.latestNeeds() {
		if least := time.Now().Add(time.Duration(c.ahead.Load()) + fullRetain(retain) - time.Minute); ends[o].Before(least) {
			f.Errorf("%s: %s, version %s, is kept until %v; want %v at least", what, o[0], o[1], ends[o], least)
		}
	}
}

// unchanged backs up, without a change, and returns how many requests that took.
func (f *fixture) unchanged() int64 {
	f.Helper()
	r := f.open()
	s, err := r.Backup(f.Context(), BackupOptions{})
	if err != nil || len(s.Versions) > 0 {
		f.Fatalf("backup: %+v, %v", s, err)
	}
	return r.Requests()
}

// What the latest version needs stays kept, whenever it was stored; what it does not need is let go; and that takes no request until it is time.
func TestProlong(t *testing.T) {
	t.Parallel()
	f, c := lockedFixture(t, nil)
	f.pipelines("all")
	for i := range 5 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	f.write("empty", "")
	f.backup()
	f.kept("the first backup", c, 30*day)
	usual := f.unchanged()
	f.write("f0", "changed")
	f.backup()
	f.write("f1", "changed, too")
	f.backup()
	f.kept("the third backup", c, 30*day)
	first := f.ends()
	none := func(what string) {
		t.Helper()
		if n := f.unchanged(); n != usual {
			t.Errorf("%s: a backup of nothing takes %d requests; want %d", what, n, usual)
		}
	}
	none("at once")
	c.ahead.Store(int64(2 * day))
	_ = f.unchanged() // which learns what time it is only from the first answer
	none("after two days")
	f.kept("after two days", c, 30*day)
	c.ahead.Store(int64(4 * day))
	if n := f.unchanged(); n < usual+8 {
		t.Errorf("after four days nothing is prolonged: %d requests", n)
	}
	f.kept("after four days", c, 30*day)
	needed := map[[2]string]bool{}
	for _, o := range f.latestNeeds() {
		needed[o] = true
	}
	let := 0
	for o, end := range f.ends() {
		if strings.HasPrefix(o[0], "files/") && !needed[o] {
			if let++; !end.Equal(first[o]) {
				t.Errorf("%v, which is not needed any more, is prolonged", o)
			}
		}
	}
	if let != 2 {
		t.Errorf("%d old files; want 2", let)
	}
	none("after that")
	// Of a version that is made only what is new is stored for so long.
	c.ahead.Store(int64(6 * day))
	f.write("new", "new")
	f.backup()
	none("after a new version")
	f.kept("a new version", c, 30*day)
	c.ahead.Store(int64(8 * day))
	f.write("new", "newer")
	f.backup()
	f.kept("a version that is due", c, 30*day)
	none("after that version")
	// What this machine knew is lost.
	if err := os.Remove(f.open().c.cachePath()); err != nil {
		t.Fatal(err)
	}
	f.unchanged()
	f.kept("without the local manifest", c, 30*day)
	none("after that")
	// Another span: no end comes nearer.
	before := f.ends()
	f.c.Retain = "10d"
	if err := os.Remove(f.open().c.cachePath()); err != nil {
		t.Fatal(err)
	}
	f.unchanged()
	for o, end := range f.ends() {
		if end.Before(before[o]) {
			t.Errorf("%v was kept until %v, and is until %v", o, before[o], end)
		}
	}
	f.c.Retain = "60d"
	f.unchanged()
	f.kept("a longer span", c, 60*day)
	none("after that")
	f.same(f.dir, f.download("latest"))
}

// A run dies while it prolongs. The next one does it all.
func TestKillWhileProlonging(t *testing.T) {
	t.Parallel()
	f, c := lockedFixture(t, nil)
	f.c.Parallel = 1
	f.write("a", "a")
	f.write("b", "b")
	f.backup()
	for n := 0; ; n++ {
		c.ahead.Add(int64(4 * day))
		f.write("c", fmt.Sprint("changed ", n))
		steps := f.dieAt(5 + n) // the log, the file, the diff, and the local manifest come before
		_, err := f.open().Backup(t.Context(), BackupOptions{})
		f.c.Fault = nil
		if err == nil {
			if n < 4 {
				t.Errorf("there were only %d steps: %q", n, *steps)
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		if s, err := f.open().Backup(t.Context(), BackupOptions{}); err != nil {
			t.Fatalf("after %q: %+v, %v", *steps, s, err)
		}
		f.kept(fmt.Sprintf("after a death at %q", (*steps)[len(*steps)-1]), c, 30*day)
	}
}

// The first run died after it had stored the salt. That is kept for as long as the first version.
func TestProlongSalt(t *testing.T) {
	t.Parallel()
	f, c := lockedFixture(t, nil)
	f.pipelines("encrypted")
	f.write("a", "a")
	f.dieAt(1)
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	f.c.Fault = nil
	c.ahead.Store(int64(20 * day))
	f.backup()
	f.kept("the first version", c, 30*day)
}

// What cannot be prolonged is told of, beside a version that is there, until it can.
func TestProlongRefused(t *testing.T) {
	t.Parallel()
	var refused atomic.Value
	refused.Store("")
	f, c := lockedFixture(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if part := refused.Load().(string); part != "" && r.URL.Query().Has("retention") && strings.Contains(r.URL.Path, part) {
				refuse(w, 403, "AccessDenied")
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	for i := range 2 * maxUnretained {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	f.backup()
	f.write("g", "new")
	for part, want := range map[string]int{"files/f7": 1, "files/": maxUnretained} {
		c.ahead.Add(int64(5 * day))
		refused.Store(part)
		s, err := f.open().Backup(t.Context(), BackupOptions{})
		var unretained *UnretainedError
		if !errors.As(err, &unretained) || s == nil || s.Latest.ID == "" || len(unretained.Failed) < want || len(unretained.Failed) > want+f.c.parallel() ||
			!strings.Contains(err.Error(), "files/f") || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: %+v, %v; want %d objects named", part, s, err, want)
		}
	}
	refused.Store("")
	f.unchanged()
	f.kept("when it is allowed again", c, 30*day)
	f.same(f.dir, f.download("latest"))
	// In a bucket without Object Lock it is said, too.
	plain := newFixture(t)
	plain.write("a", "a")
	plain.backup()
	plain.c.Retain = "30d"
	if s, err := plain.open().Backup(t.Context(), BackupOptions{}); s == nil || !errors.As(err, new(*UnretainedError)) {
		t.Errorf("without Object Lock: %+v, %v", s, err)
	}
}

// With what the documentation says of the policy, a write-only key stores and prolongs, and can take nothing back.
func TestProlongWriteOnly(t *testing.T) {
	t.Parallel()
	f, c := lockedFixture(t, nil)
	f.pipelines("encrypted")
	f.write("a", "one")
	f.backup()
	f.policy("## Write-only", f.user(), "## Object Lock")
	f.c.WriteOnly = true
	c.ahead.Store(int64(5 * day))
	f.write("b", "two")
	if s, err := f.open().Backup(t.Context(), BackupOptions{}); err != nil {
		t.Fatalf("%+v, %v", s, err)
	}
	f.kept("by a write-only key", c, 30*day)
	user, mode := f.client(t, f.c.S3.AccessKey, f.c.S3.SecretKey), minio.Compliance
	for o, end := range f.ends() {
		sooner := end.Add(-day)
		if end.IsZero() {
			continue
		}
		if err := user.PutObjectRetention(t.Context(), f.bucket, o[0], minio.PutObjectRetentionOptions{Mode: &mode, RetainUntilDate: &sooner, VersionID: o[1], GovernanceBypass: true}); err == nil {
			t.Errorf("the key can let go of %v", o)
		}
	}
}

// What was stored while nothing was to be kept, or for a shorter time, is prolonged when it is to be kept again.
func TestProlongAfterAnotherSpan(t *testing.T) {
	t.Parallel()
	for _, other := range []string{"", "5d"} {
		f, c := lockedFixture(t, nil)
		f.write("a", "a")
		f.backup()
		f.kept("the first backup", c, 30*day)
		f.c.Retain = other
		f.write("b", "b")
		f.backup()
		f.c.Retain = "30d"
		f.unchanged()
		f.kept(fmt.Sprintf("after retain was %q", other), c, 30*day)
	}
	// The run dies before it says until when it keeps what it has stored.
	f, c := lockedFixture(t, nil)
	f.write("a", "a")
	f.backup()
	f.c.Retain = "5d"
	f.write("b", "b")
	f.c.Fault = func(step string) error {
		if strings.HasPrefix(step, "remove gc_log") {
			return errKilled
		}
		return nil
	}
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	f.c.Fault, f.c.Retain = nil, "30d"
	f.unchanged()
	f.kept("after a death", c, 30*day)
}
