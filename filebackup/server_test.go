package filebackup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
)

// between puts something between the program and its server.
func (f *fixture) between(wrap func(http.Handler) http.Handler) {
	f.Helper()
	u, err := url.Parse(f.endpoint)
	if err != nil {
		f.Fatal(err)
	}
	pass := &httputil.ReverseProxy{
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(u); r.Out.Host = r.In.Host }, // which is signed
		ErrorLog: nil, ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	s := httptest.NewServer(wrap(pass))
	f.Cleanup(s.Close)
	f.c.S3.Endpoint = s.URL
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>as the test says</Message></Error>`, code)
}

// recorder keeps an answer, so that it can be altered.
type recorder struct {
	http.ResponseWriter
	status int
	body   bytes.Buffer
}

func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }

// alter lets answers through altered.
func alter(next http.Handler, w http.ResponseWriter, r *http.Request, change func([]byte) []byte) {
	rec := &recorder{ResponseWriter: w, status: 200}
	next.ServeHTTP(rec, r)
	body := change(rec.body.Bytes())
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(rec.status)
	_, _ = w.Write(body)
}

// A server that fails now and then is no reason for a backup or a download to fail.
func TestServerThatFails(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("all")
	for i := range 20 {
		f.write(fmt.Sprint("f", i), strings.Repeat(fmt.Sprint(i), 5000))
	}
	f.write("large", strings.Repeat("0123456789abcdef", 7<<16))
	var n atomic.Int64
	f.between(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch k := n.Add(1); {
			case k%7 == 0:
				refuse(w, 500, "InternalError")
			case k%7 == 2:
				refuse(w, 503, "SlowDown")
			case k%7 == 4: // the answer is lost
				rec := &recorder{ResponseWriter: httptest.NewRecorder(), status: 200}
				next.ServeHTTP(rec, r)
				panic(http.ErrAbortHandler)
			case k%7 == 5 && r.Method == http.MethodGet: // a cut body
				rec := &recorder{ResponseWriter: w, status: 200}
				next.ServeHTTP(rec, r)
				w.WriteHeader(rec.status)
				_, _ = w.Write(rec.body.Bytes()[:rec.body.Len()/2])
				panic(http.ErrAbortHandler)
			default:
				next.ServeHTTP(w, r)
			}
		})
	})
	f.backup()
	f.same(f.dir, f.download("latest"))
	f.write("f1", "changed")
	if s := f.backup(); s.Changed != 1 {
		t.Errorf("second backup: %+v", s)
	}
	f.same(f.dir, f.download("latest"))
	f.remove("f2")
	if err := os.Remove(f.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	f.backup()
	f.same(f.dir, f.download("latest"))
	if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

func TestServerThatRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "a")
	f.backup()
	for code, want := range map[string]string{
		"RequestTimeTooSkewed":  "clock is 1h0m[0-9]s ahead of the server's",
		"AccessDenied":          "not allowed",
		"SignatureDoesNotMatch": "secret key",
		"InvalidAccessKeyId":    "access key",
		"NoSuchBucket":          "is not there",
	} {
		var n atomic.Int64
		f.between(func(http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n.Add(1)
				w.Header().Set("Date", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat))
				refuse(w, 403, code)
			})
		})
		_, err := f.open().Backup(t.Context(), BackupOptions{})
		if err == nil || !regexp.MustCompile(want).MatchString(err.Error()) || n.Load() > 1 {
			t.Errorf("%s: %v after %d requests; want %q after one", code, err, n.Load(), want)
		}
	}
}

// Objects that were altered are found and named, by downloads and by verify, and nothing of them is written.
func TestTampering(t *testing.T) {
	for _, mode := range []string{"plain", "all", "encrypted"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.pipelines(mode)
			f.c.ChunkSize = 1000
			f.write("good", "good")
			f.write("bad", strings.Repeat("content ", 500))
			f.write("other", strings.Repeat("another ", 500))
			f.backup()
			m, err := f.open().Manifest(t.Context(), f.versions()[0])
			if err != nil {
				t.Fatal(err)
			}
			bad, other := m.Entry("/bad"), m.Entry("/other")
			fetch := func(e *Entry) []byte {
				body, _, err := f.open().s.get(t.Context(), "files"+e.Object, e.ID)
				if err != nil {
					t.Fatal(err)
				}
				return body
			}
			whole, swapped := fetch(bad), fetch(other)
			endpoint := f.c.S3.Endpoint
			cases := map[string][]byte{
				"swapped": swapped,
				"empty":   {},
			}
			for _, n := range []int{1, 17, 100, 1000, len(whole) / 2} {
				cases[fmt.Sprint("cut by ", n)] = whole[:max(0, len(whole)-n)]
			}
			if mode == "encrypted" { // at the edge of a chunk, where rrbackup would not notice
				cases["cut by a chunk"] = whole[:len(whole)-1017]
			}
			for _, at := range []int{0, 3, 10, 40, len(whole) / 2, len(whole) - 1} {
				flipped := bytes.Clone(whole)
				flipped[at%len(whole)] ^= 4
				cases[fmt.Sprint("bit ", at)] = flipped
			}
			cases["longer"] = append(bytes.Clone(whole), 'x')
			for name, body := range cases {
				f.c.S3.Endpoint = endpoint
				f.between(func(next http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, bad.Object) {
							alter(next, w, r, func([]byte) []byte { return body })
							return
						}
						next.ServeHTTP(w, r)
					})
				})
				r, target := f.open(), t.TempDir()
				v, err := r.Find(t.Context(), "latest")
				if err != nil {
					t.Fatal(err)
				}
				sum, err := r.Download(t.Context(), v, target, DownloadOptions{})
				left, _ := os.ReadDir(target)
				if err == nil || len(sum.Failed) != 1 || !strings.HasPrefix(sum.Failed[0], "/bad: ") || sum.Files != 2 || len(left) != 2 {
					// What header says in the plain format beside the lengths is not needed for reading.
					t.Errorf("%s: download: %+v, %v, %d files; want /bad named, and the others", name, sum, err, len(left))
				}
				if found, err := r.Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(found.Problems) != 1 || !strings.Contains(found.Problems[0], "/bad") {
					t.Errorf("%s: verify: %+v, %v", name, found, err)
				}
			}
		})
	}
}

// A manifest that was altered, rolled back or hidden is found, and a backup changes nothing then.
func TestManifestTampering(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for i := range 3 {
		f.write("a", fmt.Sprint(i))
		f.backup()
	}
	all := f.versions()
	ctx := t.Context()
	suspect := func(what string, wipe bool) {
		t.Helper()
		if wipe {
			if err := os.Remove(f.c.cachePath()); err != nil {
				t.Fatal(err)
			}
		}
		before := len(f.versions())
		f.write("a", "new "+what)
		var tamper *TamperError
		if s, err := f.open().Backup(ctx, BackupOptions{}); !errors.As(err, &tamper) {
			t.Errorf("%s: %+v, %v; want tampering suspected", what, s, err)
		}
		if after := len(f.versions()); after != before {
			t.Errorf("%s: there are %d versions now; want %d", what, after, before)
		}
	}
	// hidden
	if err := f.owner.RemoveObject(ctx, f.bucket, "manifest_diffs", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	suspect("hidden", false)
	if keys, err := f.open().Undelete(ctx, false); err != nil || len(keys) != 1 {
		t.Errorf("undelete: %q, %v", keys, err)
	}
	f.backup()
	// an old one again
	body, _, err := f.open().s.get(ctx, "manifest_diffs", all[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	id, err := f.open().s.put(ctx, "manifest_diffs", body, false)
	if err != nil {
		t.Fatal(err)
	}
	suspect("rolled back", true)
	if v, err := f.open().Verify(ctx, VerifyOptions{}); err != nil || len(v.Problems) == 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if err := f.owner.RemoveObject(ctx, f.bucket, "manifest_diffs", minio.RemoveObjectOptions{VersionID: id}); err != nil {
		t.Fatal(err)
	}
	f.backup()
	// the last one gone
	last := f.versions()[len(f.versions())-1]
	if err := f.owner.RemoveObject(ctx, f.bucket, "manifest_diffs", minio.RemoveObjectOptions{VersionID: last.ID}); err != nil {
		t.Fatal(err)
	}
	f.write("a", "on")
	var tamper *TamperError
	if _, err := f.open().Backup(ctx, BackupOptions{}); !errors.As(err, &tamper) {
		t.Errorf("the last version is gone: %v", err)
	}
	if _, err := f.open().Backup(ctx, BackupOptions{Accept: true}); err != nil {
		t.Errorf("taken as it is: %v", err)
	}
	f.same(f.dir, f.download("latest"))
}

// policy reads a policy from the documentation and makes it that of the user.
func (f *fixture) policy(heading, user string, more ...string) {
	f.Helper()
	doc, err := os.ReadFile("../docs/file-backup.md")
	if err != nil {
		f.Fatal(err)
	}
	example := func(heading string) string {
		_, text, ok := strings.Cut(string(doc), heading+"\n")
		if !ok {
			f.Fatalf("the documentation has no %q", heading)
		}
		_, text, _ = strings.Cut(text, "```json\n")
		text, _, _ = strings.Cut(text, "```")
		return text
	}
	text := example(heading)
	for _, heading := range more { // of statements
		text = strings.Replace(text, `"Statement": [`, `"Statement": [`+example(heading)+",", 1)
	}
	text = strings.ReplaceAll(text, "YOUR-BUCKET", f.bucket)
	// That of a bucket says whose it is; that of a user goes without.
	text = strings.ReplaceAll(text, `"Effect": "Allow",`, fmt.Sprintf(`"Effect": "Allow", "Principal": {"AWS": [%q]},`, user))
	if err := f.owner.SetBucketPolicy(f.Context(), f.bucket, text); err != nil {
		f.Fatalf("%v: %s", err, text)
	}
}

var userNames sync.Mutex

// user makes one who may do nothing, and makes the configuration use it.
func (f *fixture) user() string {
	f.Helper()
	if f.program == "" {
		f.Skip("users are made on a versitygw of the test's own only")
	}
	userNames.Lock()
	defer userNames.Unlock()
	name := f.bucket
	cmd := exec.Command(f.program, "admin", "create-user", "--access", name, "--secret", "secret-"+name, "--role", "user")
	cmd.Env = append(os.Environ(), "ADMIN_ACCESS_KEY_ID="+f.access, "ADMIN_SECRET_ACCESS_KEY="+f.secret, "ADMIN_ENDPOINT_URL="+f.endpoint)
	if out, err := cmd.CombinedOutput(); err != nil {
		f.Fatalf("%v: %s", err, out)
	}
	f.c.S3.AccessKey, f.c.S3.SecretKey = name, "secret-"+name
	return name
}

// What a write-only key may and may not do, with the policy of the documentation.
func TestWriteOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("all")
	f.c.Parallel = 1
	f.write("a", "one")
	f.backup()
	first := f.download("latest")
	owner := f.c
	f.policy("## Write-only", f.user())
	f.c.WriteOnly = true
	f.write("a", "two")
	f.write("b", "bee")
	f.write("c", "sea")
	f.dieAt(4) // the log and three files
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	f.c.Fault = nil
	f.write("a", "three") // what was stored of it is garbage now
	f.write("b", "bees")
	f.write("c", "seas")
	s := f.backup()
	if s.Garbage == 0 {
		t.Errorf("backup: %+v; want garbage", s)
	}
	f.write("d", strings.Repeat("large enough for parts", 400000))
	f.backup()
	if err := os.Remove(f.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	f.backup()
	// It reads and destroys nothing, not with this program and not without.
	r := f.open()
	list, err := r.Versions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Download(t.Context(), list[0], t.TempDir(), DownloadOptions{}); !errors.Is(err, errWriteOnly) {
		t.Errorf("download: %v", err)
	}
	if _, err := r.Expire(t.Context(), Keep{Last: 1}, false); !errors.Is(err, errNoDelete) {
		t.Errorf("expire: %v", err)
	}
	if _, err := r.CleanGarbageLog(t.Context(), false); !errors.Is(err, errNoDelete) {
		t.Errorf("clean the garbage log: %v", err)
	}
	user := f.client(t, f.c.S3.AccessKey, f.c.S3.SecretKey)
	for v := range f.owner.ListObjectsIter(t.Context(), f.bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		if v.IsDeleteMarker {
			continue
		}
		if strings.HasPrefix(v.Key, "files/") {
			o, err := user.GetObject(t.Context(), f.bucket, v.Key, minio.GetObjectOptions{VersionID: v.VersionID})
			if err == nil {
				_, err = io.ReadAll(o)
			}
			if err == nil {
				t.Errorf("the key can read %s", v.Key)
			}
		}
		if err := user.RemoveObject(t.Context(), f.bucket, v.Key, minio.RemoveObjectOptions{VersionID: v.VersionID}); err == nil {
			t.Errorf("the key can remove a version of %s", v.Key)
		}
		if err := user.RemoveObject(t.Context(), f.bucket, v.Key, minio.RemoveObjectOptions{}); err == nil && v.Key != "gc_log" {
			t.Errorf("the key can hide %s", v.Key)
		}
	}
	// Who may, clears the garbage.
	f.c = owner
	f.c.LocalManifestFile = filepath.Join(t.TempDir(), "manifest")
	n, err := f.open().CleanGarbageLog(t.Context(), false)
	if err != nil || n != s.Garbage {
		t.Errorf("%d objects of garbage, %v; want %d", n, err, s.Garbage)
	}
	f.same(f.dir, f.download("latest"))
	f.same(first, f.download(list[0].ID))
	if g, err := f.open().GarbageCollect(t.Context(), false); err != nil || len(g.Objects) > 0 {
		t.Errorf("garbage: %+v, %v", g, err)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("encrypted")
	f.write("a", "one")
	f.backup()
	f.policy("## Read-only", f.user())
	f.c.ReadOnly = true
	f.same(f.dir, f.download("latest"))
	if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errReadOnly) {
		t.Errorf("backup: %v", err)
	}
	f.c.ReadOnly = false
	f.write("a", "two")
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errAccess) {
		t.Errorf("backup with the key of somebody who may only read: %v", err)
	}
}

// Within the time, not even the owner's key removes what is stored.
func TestRetain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.bucket += "-lock"
	if err := f.owner.MakeBucket(context.Background(), f.bucket, minio.MakeBucketOptions{ObjectLocking: true}); err != nil {
		t.Skip(err)
	}
	f.c.S3.Bucket, f.c.Retain = f.bucket, "1d"
	f.write("a", "one")
	f.write("large", strings.Repeat("0123456789abcdef", 7<<16))
	f.backup()
	for v := range f.owner.ListObjectsIter(t.Context(), f.bucket, minio.ListObjectsOptions{WithVersions: true, Recursive: true}) {
		if v.IsDeleteMarker || v.Key == "gc_log" {
			continue
		}
		if err := f.owner.RemoveObject(t.Context(), f.bucket, v.Key, minio.RemoveObjectOptions{VersionID: v.VersionID, GovernanceBypass: true}); err == nil {
			t.Errorf("%s could be removed", v.Key)
		}
	}
	f.write("a", "two")
	f.backup()
	x, err := f.open().Expire(t.Context(), Keep{Last: 1}, false)
	if err == nil || !strings.Contains(err.Error(), "Object Lock") {
		t.Errorf("expire: %+v, %v", x, err)
	}
	f.same(f.dir, f.download("latest"))
}

// Who can write to the bucket and has no password cannot have garbage collection remove what old versions need.
func TestForgedExpiry(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.pipelines("encrypted")
	for i := range 4 {
		f.write("a", fmt.Sprint(i))
		f.backup()
	}
	ctx := t.Context()
	if x, err := f.open().Expire(ctx, Keep{Last: 3}, false); err != nil || len(x.Dropped) != 1 {
		t.Fatalf("%+v, %v", x, err)
	}
	list := f.versions()
	f.putPlain("expired_versions", fmt.Sprintf("[%q, %q]", list[0].ID, list[1].ID))
	if g, err := f.open().GarbageCollect(ctx, false); err == nil || len(g.Objects) > 0 {
		t.Errorf("garbage: %+v, %v", g, err)
	}
	// Whoever sees to what expires finds all of them again.
	if x, err := f.open().Expire(ctx, Keep{Last: 3}, false); err != nil || len(x.Dropped) != 1 || len(x.Kept) != 3 {
		t.Fatalf("expire: %+v, %v", x, err)
	}
	if g, err := f.open().GarbageCollect(ctx, false); err != nil || len(g.Objects) > 0 {
		t.Errorf("garbage: %+v, %v", g, err)
	}
	if v, err := f.open().Verify(ctx, VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 || v.Versions != 3 {
		t.Errorf("verify: %+v, %v", v, err)
	}
}

// A server whose list of versions lags behind makes no local manifest that says more than what was read.
func TestListThatLags(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var hidden atomic.Value // the ID of a version
	hidden.Store("")
	element := regexp.MustCompile(`(?s)<Version>.*?</Version>`)
	f.between(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			id := hidden.Load().(string)
			if id == "" || !r.URL.Query().Has("versions") {
				next.ServeHTTP(w, r)
				return
			}
			alter(next, w, r, func(body []byte) []byte {
				return element.ReplaceAllFunc(body, func(e []byte) []byte {
					if bytes.Contains(e, []byte(id)) {
						return nil
					}
					return e
				})
			})
		})
	})
	f.write("a", "one")
	first := f.backup()
	here := f.c
	f.c.LocalManifestFile += "-elsewhere"
	f.write("a", "two")
	hidden.Store(f.backup().Latest.ID)
	f.c = here
	f.remove("a")
	f.write("b", "b")
	if n := len(f.versions()); n != 1 {
		t.Fatalf("%d versions are listed; want 1", n)
	}
	if s, err := f.open().Backup(t.Context(), BackupOptions{}); err == nil {
		t.Errorf("a version was made: %+v", s)
	}
	f.remove("b")
	f.write("a", "one")
	_, _ = f.open().Backup(t.Context(), BackupOptions{})
	k, err := f.open().c.loadCache()
	if err != nil || k == nil || k.ID != first.Latest.ID {
		t.Errorf("the local manifest is %+v, %v; want that of %s", k, err, first.Latest.ID)
	}
	hidden.Store("")
	f.write("b", "b")
	f.backup()
	f.same(f.dir, f.download("latest"))
}

// What a log of what is about to be stored says can take nothing from anybody.
func TestForgedLog(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "a")
	f.backup()
	other := "another bucket's file"
	if _, err := f.owner.PutObject(t.Context(), f.bucket, "files2/x", strings.NewReader(other), int64(len(other)), minio.PutObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	f.putPlain("gc_log", `[{"path": "/x", "real_path": "2/x", "began": 1}, {"path": "2/x"}]`)
	f.backup()
	if _, err := f.owner.StatObject(t.Context(), f.bucket, "files2/x", minio.StatObjectOptions{}); err != nil {
		t.Error("what is not below the folder of files: ", err)
	}
	// A run elsewhere stores something; somebody says that it has not begun yet.
	f.putPlain("gc_log", `[{"path": "/running", "run": "elsewhere", "began": 99999999999}]`)
	f.putPlain("files/running", "x")
	if g, err := f.open().GarbageCollect(t.Context(), false); err != nil || g.Left == 0 {
		t.Errorf("%+v, %v; want what is newer than the log left", g, err)
	}
}

// What a diff that somebody has put there again refers to is not all that the latest version needs.
func TestExpireAfterRepeatedDiff(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "one")
	f.backup()
	f.write("a", "two")
	f.backup()
	ctx, r := t.Context(), f.open()
	list := f.versions()
	body, _, err := r.s.get(ctx, "manifest_diffs", list[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.put(ctx, "manifest_diffs", body, false); err != nil {
		t.Fatal(err)
	}
	if x, err := f.open().Expire(ctx, Keep{Last: 1}, false); err != nil || len(x.Dropped) != 2 || len(x.Objects) != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	if g, err := f.open().GarbageCollect(ctx, false); err != nil || len(g.Objects) != 0 {
		t.Errorf("%+v, %v", g, err)
	}
	// With and without a snapshot it can be had.
	f.download("latest")
	v, err := f.open().Verify(ctx, VerifyOptions{})
	if err != nil || len(v.Problems) != 1 || !strings.Contains(v.Problems[0], "repeats") {
		t.Errorf("%+v, %v", v, err)
	}
}

// Objects of others, whose names only begin like the folder of files, do not expire.
func TestExpireOfOthers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("a", "a")
	f.backup()
	info, err := f.owner.PutObject(t.Context(), f.bucket, "files2/x", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e := Entry{Path: "/x", Hash: emptyHash, Object: "2/x", ID: info.VersionID}
	f.putPlain("manifest_diffs", string(encodeDiff(nil, []Change{{Status: statusNew, Entry: e}})))
	f.putPlain("manifest_diffs", string(encodeDiff(nil, []Change{{Status: statusDeleted, Entry: e}})))
	if x, err := f.open().Expire(t.Context(), Keep{Last: 1}, false); err != nil || len(x.Objects) != 0 {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := f.owner.StatObject(t.Context(), f.bucket, "files2/x", minio.StatObjectOptions{}); err != nil {
		t.Error(err)
	}
}

// A diff that was stored twice, because the first answer was lost, is in packs as it is in the bucket.
func TestDiffStoredTwice(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SnapshotInterval = 100
	var lose atomic.Bool
	f.between(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPut && strings.HasSuffix(r.URL.Path, "/manifest_diffs") && lose.CompareAndSwap(true, false) {
				next.ServeHTTP(&recorder{ResponseWriter: httptest.NewRecorder(), status: 200}, r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	})
	for i := range 20 {
		f.write(fmt.Sprint("f", i), fmt.Sprint("content ", i))
	}
	for i := range 7 {
		lose.Store(i%2 == 0)
		f.write("a", fmt.Sprint(i))
		f.backup()
	}
	if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 || v.Versions != 11 {
		t.Errorf("verify: %+v, %v", v, err)
	}
	if err := os.Remove(f.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	if s := f.backup(); len(s.Versions) > 0 {
		t.Errorf("%+v", s)
	}
	f.same(f.dir, f.download("latest"))
	if s := f.logged.String(); strings.Contains(s, "of no use") {
		t.Error(s)
	}
}
