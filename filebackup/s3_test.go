package filebackup

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// The tests run against a versitygw of their own, or against any server that the environment names:
//
//	FILEBACKUP_TEST_ENDPOINT    URL
//	FILEBACKUP_TEST_REGION
//	FILEBACKUP_TEST_ACCESS_KEY  of somebody who may make buckets
//	FILEBACKUP_TEST_SECRET_KEY
type server struct {
	endpoint, region, access, secret string

	program string // "" where the server is not ours
}

var theServer struct {
	once sync.Once
	server
	err  error
	stop func()
}

func TestMain(m *testing.M) {
	if runHelper() {
		return
	}
	code := m.Run()
	if theServer.stop != nil {
		theServer.stop()
	}
	os.Exit(code)
}

// s3Server returns the server that all tests share.
func s3Server(t testing.TB) server {
	t.Helper()
	theServer.once.Do(func() {
		if e := os.Getenv("FILEBACKUP_TEST_ENDPOINT"); e != "" {
			theServer.server = server{e, os.Getenv("FILEBACKUP_TEST_REGION"), os.Getenv("FILEBACKUP_TEST_ACCESS_KEY"), os.Getenv("FILEBACKUP_TEST_SECRET_KEY"), ""}
			return
		}
		theServer.server, theServer.stop, theServer.err = startServer()
	})
	if theServer.err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(theServer.err)
		}
		t.Skipf("no S3 server; test/deps gateway builds one: %v", theServer.err)
	}
	return theServer.server
}

func startServer() (s server, stop func(), err error) {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		cache, err2 := os.UserCacheDir()
		if err2 != nil {
			return s, nil, err
		}
		program = filepath.Join(cache, "sdbackup/bin/versitygw")
		if _, err := os.Stat(program); err != nil {
			return s, nil, err
		}
	}
	dir, err := os.MkdirTemp("", "s3")
	if err != nil {
		return s, nil, err
	}
	for _, name := range []string{"root", "meta", "versions", "users"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return s, nil, err
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return s, nil, err
	}
	address := free.Addr().String()
	free.Close()
	s = server{"http://" + address, "us-east-1", "owner", rand.Text(), program}
	var said bytes.Buffer
	cmd := exec.Command(program, "--port", address, "--quiet", "--iam-dir", filepath.Join(dir, "users"), "--iam-cache-disable",
		"posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "root"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = []string{"ROOT_ACCESS_KEY_ID=" + s.access, "ROOT_SECRET_ACCESS_KEY=" + s.secret}
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return s, nil, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	stop = func() {
		_ = cmd.Process.Kill()
		<-ended
		os.RemoveAll(dir)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return s, stop, nil
		}
		select {
		case <-ended:
			return s, nil, fmt.Errorf("the S3 server ended: %s", said.String())
		case <-time.After(10 * time.Millisecond): // it tells nobody when it listens
		}
		if time.Now().After(end) {
			return s, nil, err
		}
	}
}

func (s server) client(t testing.TB, access, secret string) *minio.Client {
	t.Helper()
	scheme, host, _ := strings.Cut(s.endpoint, "://")
	c, err := minio.New(host, &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), Secure: scheme == "https", Region: s.region})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// fixture is a bucket and a folder to back up.
type fixture struct {
	testing.TB
	server
	owner  *minio.Client
	bucket string
	dir    string // of the files
	c      Config
	logged bytes.Buffer
	mu     sync.Mutex
}

func (f *fixture) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logged.Write(p)
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{TB: t, server: s3Server(t), bucket: "test-" + strings.ToLower(rand.Text())[:20]}
	f.owner = f.client(t, f.access, f.secret)
	if err := f.owner.MakeBucket(context.Background(), f.bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	top := t.TempDir()
	f.dir = filepath.Join(top, "files")
	if err := os.Mkdir(f.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	f.c = Config{
		BasePath: f.dir, LocalManifestFile: filepath.Join(top, "state/manifest"), LocalLockFile: filepath.Join(top, "state/lock"),
		S3:  S3{Endpoint: f.endpoint, Region: f.region, Bucket: f.bucket, AccessKey: f.access, SecretKey: f.secret},
		Log: slog.New(slog.NewTextHandler(f, nil)),
	}
	return f
}

func (f *fixture) write(name, content string) {
	f.Helper()
	full := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) remove(name string) {
	f.Helper()
	if err := os.RemoveAll(filepath.Join(f.dir, name)); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) open() *Repository {
	f.Helper()
	r, err := Open(&f.c)
	if err != nil {
		f.Fatal(err)
	}
	r.s.backoff = time.Millisecond
	return r
}

func (f *fixture) backup() *Summary {
	f.Helper()
	s, err := f.open().Backup(f.Context(), BackupOptions{})
	if err != nil {
		f.Fatalf("backup: %v\n%s", err, f.logged.String())
	}
	return s
}

func (f *fixture) versions() []Version {
	f.Helper()
	list, err := f.open().Versions(f.Context())
	if err != nil {
		f.Fatal(err)
	}
	return list
}

// download restores a version into a new folder.
func (f *fixture) download(name string) string {
	f.Helper()
	target := filepath.Join(f.TempDir(), "restored")
	r := f.open()
	v, err := r.Find(f.Context(), name)
	if err != nil {
		f.Fatal(err)
	}
	if s, err := r.Download(f.Context(), v, target, DownloadOptions{}); err != nil || len(s.Warnings) > 0 {
		f.Fatalf("download %s: %+v, %v", name, s, err)
	}
	return target
}

// same fails unless two folders hold the same.
func (f *fixture) same(a, b string) {
	f.Helper()
	if x, y := tree(f, a), tree(f, b); x != y {
		f.Errorf("%s holds\n%s\n%s holds\n%s", a, x, b, y)
	}
}

// tree describes all that is in a folder.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || path == dir {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%q %v %d:%d", path[len(dir):], info.Mode(), st.Uid, st.Gid)
		switch {
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			h := hashText(string(content))
			fmt.Fprintf(&b, " %d %s %d", len(content), h[:16], info.ModTime().UnixNano())
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			attrs, err := readXattrs(f)
			f.Close()
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", attrs)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %q", target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
