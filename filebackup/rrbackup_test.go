package filebackup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/minio/minio-go/v7"
)

// What rrbackup does to a bucket beside this program, in the requests that it was seen to send.

// putPlain stores metadata as rrbackup does without a pipeline.
func (f *fixture) putPlain(key, text string) {
	f.Helper()
	object := "\x00\x00\x00\x09" + `{"V":"1"}` + text
	_, err := f.owner.PutObject(f.Context(), f.bucket, key, strings.NewReader(object), int64(len(object)), minio.PutObjectOptions{})
	if err != nil {
		f.Fatal(err)
	}
}

// Every start of rrbackup logs what a run that was cut off has stored, and its clean_gc_log removes that later, whatever has happened since.
func TestGarbageIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("stays", "stays")
	f.backup()
	for i := range 3 {
		f.write(fmt.Sprint("new", i), fmt.Sprint("content ", i))
	}
	f.c.Fault = func(step string) error {
		if strings.HasPrefix(step, "put manifest_diffs") {
			return errKilled
		}
		return nil
	}
	if _, err := f.open().Backup(t.Context(), BackupOptions{}); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	f.c.Fault = nil
	var log []string
	for i := range 2 { // of the three
		key := fmt.Sprint("files/new", i)
		o, err := f.owner.StatObject(t.Context(), f.bucket, key, minio.StatObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		log = append(log, fmt.Sprintf(`["%s", "%s"]`, key, o.VersionID))
	}
	f.putPlain("garbage_objects", "[["+strings.Join(log, ", ")+"]]")
	if err := f.owner.RemoveObject(t.Context(), f.bucket, "gc_log", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := f.backup(); s.New != 3 || s.Resumed != 1 || s.Uploaded != 2 {
		t.Errorf("%+v", s)
	}
	for _, pair := range log {
		q := strings.Split(pair, `"`)
		if err := f.owner.RemoveObject(t.Context(), f.bucket, q[1], minio.RemoveObjectOptions{VersionID: q[3]}); err != nil {
			t.Fatal(err)
		}
	}
	f.same(f.dir, f.download("latest"))
}

// A log that rrbackup has left must not outlive what is stored after it: rrbackup takes for garbage what is newer than its log, has a name of it
// and is not that of the latest version.
func TestLogOfDeadRrbackup(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, log string
		content   string // of what is stored
		hidden    bool
	}{
		{"stored", `[{"path": "/new", "created": 1.5, "last_mod": 1.5, "status": "new", "hash": ""}]`, "new", true},
		{"nothing stored", `[{"path": "/new", "created": 1.5, "last_mod": 1.5, "status": "new", "hash": ""}]`, "", false},
		{"not of rrbackup", `[{"path": "/new", "created": 1.5, "last_mod": 1.5, "status": "new", "hash": "", "run": "another"}]`, "new", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.write("stays", "stays")
			f.backup()
			f.putPlain("gc_log", c.log)
			if c.content != "" {
				f.write("new", c.content)
			}
			f.backup()
			_, err := f.owner.StatObject(t.Context(), f.bucket, "gc_log", minio.StatObjectOptions{})
			if hidden := minio.ToErrorResponse(err).StatusCode == 404; hidden != c.hidden || !hidden && err != nil {
				t.Error(err)
			}
			f.same(f.dir, f.download("latest"))
			if s := f.backup(); len(s.Versions) != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// rrbackup takes for garbage what begins with the name of a file that it was about to store, and in a full collection everything that it does
// not know.
func TestGarbageLogNamesWhatIsNeeded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.c.SnapshotInterval = 1
	f.write("a.txt", "needed")
	f.backup()
	var log []string
	needed := 0
	for o := range f.owner.ListObjectsIter(t.Context(), f.bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		log = append(log, fmt.Sprintf(`["%s", "%s"]`, o.Key, o.VersionID))
		needed++
	}
	if needed < 3 {
		t.Fatal(log)
	}
	garbage, err := f.owner.PutObject(t.Context(), f.bucket, "files/garbage", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f.putPlain("garbage_objects", "[["+strings.Join(log, ", ")+`], [["files/garbage", "`+garbage.VersionID+`"]]]`)
	n, err := f.open().CleanGarbageLog(t.Context(), false)
	if err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if said := f.logged.String(); !strings.Contains(said, fmt.Sprint("count=", needed)) {
		t.Error(said)
	}
	_, err = f.owner.StatObject(t.Context(), f.bucket, "files/garbage", minio.StatObjectOptions{VersionID: garbage.VersionID})
	if err == nil {
		t.Error("the garbage is there")
	}
	if n, err := f.open().CleanGarbageLog(t.Context(), false); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	f.same(f.dir, f.download("latest"))
}

// rrbackup follows symbolic links and records nothing but files, so its versions have files where links and folders were.
func TestFilesBelowLinks(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.write("dir/x", "x")
	f.write("folder/sub/y", "y")
	for link, target := range map[string]string{"link": "dir", "folder/sub/link": "y", "stays": "dir"} {
		if err := os.Symlink(target, filepath.Join(f.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	f.backup()
	first := f.download("latest")
	m, err := f.open().Manifest(t.Context(), f.versions()[0])
	if err != nil {
		t.Fatal(err)
	}
	x, y := m.Entry("/dir/x"), m.Entry("/folder/sub/y")
	file := func(path, status string, e *Entry) string {
		return fmt.Sprintf(`{"path": "%s", "created": 1.5, "last_mod": 1.5, "status": "%s", "hash": "%s", "real_path": "%s", "version_id": "%s"}`, path, status, e.Hash, e.Object, e.ID)
	}
	f.putPlain("manifest_diffs", "["+strings.Join([]string{file("/link/x", "new", x), file("/folder", "new", y), file("/folder/sub/y", "deleted", y)}, ", ")+"]")
	got := f.download("latest")
	for name, content := range map[string]string{"dir/x": "x", "link/x": "x", "folder": "y", "stays/x": "x"} {
		if b, err := os.ReadFile(filepath.Join(got, name)); err != nil || string(b) != content {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	s := f.backup()
	if len(s.Versions) != 1 {
		t.Errorf("%+v", s)
	}
	f.same(f.dir, f.download("latest"))
	f.same(first, f.download(f.versions()[0].ID))
	if err := os.Remove(f.c.cachePath()); err != nil {
		t.Fatal(err)
	}
	if s := f.backup(); len(s.Versions) != 0 {
		t.Errorf("%+v", s)
	}
}

// Python reads a name that is no UTF-8 into surrogates.
func TestPythonsNames(t *testing.T) {
	text := `[{"path": "/a\udcff\ud83d\ude42\u00fc\"b", "created": 1.5, "last_mod": 1.5, "status": "moved", "hash": "` + emptyHash.String() +
		`", "empty": true, "moved_from": "/\udc80"}]`
	_, changes, err := decodeDiff(strings.NewReader(text))
	if err != nil || len(changes) != 1 {
		t.Fatal(changes, err)
	}
	if c := changes[0]; c.Entry.Path != "/a\xff\U0001f642\u00fc\"b" || c.From != "/\x80" {
		t.Errorf("%q, %q", c.Entry.Path, c.From)
	}
	for _, bad := range []string{`"/\ud83d"`, `"/\udc41"`, `"/\udc80\udcff\udfff"`} { // no name of Python's
		if _, changes, err := decodeDiff(strings.NewReader(strings.Replace(text, `"/\udc80"`, bad, 1))); err == nil && !slices.ContainsFunc([]rune(changes[0].From), func(r rune) bool { return r == '\ufffd' }) {
			t.Errorf("%s: %q", bad, changes[0].From)
		}
	}
	all := make([]byte, 0, 256)
	for c := range 255 {
		all = append(all, byte(c+1))
	}
	for _, name := range []string{string(all), "\xed\xb2\x80", "é\xc3", "\xf0\x9f\x99\xf0\x9f\x99\x82"} {
		var s pythonString
		if err := s.UnmarshalJSON(appendString(nil, name)); err != nil || !bytes.Equal([]byte(s), []byte(name)) {
			t.Errorf("%q: %q, %v", name, s, err)
		}
	}
}

// Who may write can put another salt over the bucket's, or none, or hide it. What was stored before, and since, can be read.
func TestSaltReplaced(t *testing.T) {
	for name, text := range map[string]string{"another": "000102030405060708090a0b0c0d0e0f", "none": "x", "hidden": ""} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.pipelines("all")
			f.write("a", "before")
			f.backup()
			first := f.download("latest")
			s := f.open().s
			var err error
			if text == "" {
				err = s.remove(t.Context(), "salt_file", "")
			} else {
				_, err = s.put(t.Context(), "salt_file", []byte(text), false)
			}
			if err != nil {
				t.Fatal(err)
			}
			f.write("b", "since")
			f.backup()
			f.same(f.dir, f.download("latest"))
			f.same(first, f.download(f.versions()[0].ID))
			if v, err := f.open().Verify(t.Context(), VerifyOptions{ReadData: true}); err != nil || len(v.Problems) > 0 {
				t.Errorf("%+v, %v", v, err)
			}
			if !strings.Contains(f.logged.String(), "the salt object ") {
				t.Error(f.logged.String())
			}
		})
	}
}
