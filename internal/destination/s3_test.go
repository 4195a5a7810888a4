package destination

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sdbackup/internal/s3test"
)

// s3Server is a real S3 server with a bucket "backup", its owner "root" and a user "user" who may do what a policy says.
type s3Server struct {
	*testing.T
	address string
	bucket  string // its folder
}

const s3Owner = "owner-" + marker

func startS3(t *testing.T) *s3Server {
	t.Helper()
	program, dir := s3test.Program(t), t.TempDir()
	for _, name := range []string{"data", "metadata", "users"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &s3Server{T: t, address: free.Addr().String(), bucket: filepath.Join(dir, "data/backup")}
	free.Close()
	var log bytes.Buffer
	server := exec.Command(program, "--port", s.address, "--quiet", "--iam-dir", filepath.Join(dir, "users"),
		"posix", "--sidecar", filepath.Join(dir, "metadata"), filepath.Join(dir, "data"))
	server.Env = append(os.Environ(), "ROOT_ACCESS_KEY_ID=root", "ROOT_SECRET_ACCESS_KEY="+s3Owner)
	server.Stdout, server.Stderr = &log, &log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = server.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = server.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the S3 server's log:\n%s", log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; {
		conn, err := net.Dial("tcp", s.address)
		if err == nil {
			conn.Close()
			break
		}
		select {
		case <-ended:
			t.Fatal("the S3 server ended")
		case <-time.After(10 * time.Millisecond): // it tells nobody when it listens
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	admin := exec.Command(program, "admin", "create-user", "--access", "user", "--secret", marker, "--role", "user")
	admin.Env = append(os.Environ(), "ADMIN_ACCESS_KEY_ID=root", "ADMIN_SECRET_ACCESS_KEY="+s3Owner, "ADMIN_ENDPOINT_URL=http://"+s.address)
	if out, err := admin.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", admin.Args, err, out)
	}
	s.put("", "")
	return s
}

// allow makes the bucket's policy: the user may do this, and nothing else.
func (s *s3Server) allow(actions ...string) {
	s.Helper()
	s.put("policy=", fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["user"]},"Action":["s3:%s"],
		"Resource":["arn:aws:s3:::backup","arn:aws:s3:::backup/*"]}]}`, strings.Join(actions, `","s3:`)))
}

// put makes a request about the bucket as its owner, signed as in
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
func (s *s3Server) put(query, body string) {
	s.Helper()
	hash := func(text string) string {
		sum := sha256.Sum256([]byte(text))
		return hex.EncodeToString(sum[:])
	}
	now := time.Now().UTC().Format("20060102T150405Z")
	scope := now[:8] + "/us-east-1/s3/aws4_request"
	canonical := "PUT\n/backup\n" + query + "\nhost:" + s.address + "\nx-amz-content-sha256:" + hash(body) + "\nx-amz-date:" + now +
		"\n\nhost;x-amz-content-sha256;x-amz-date\n" + hash(body)
	key := []byte("AWS4" + s3Owner)
	for _, text := range append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+now+"\n"+scope+"\n"+hash(canonical)) {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		key = mac.Sum(nil)
	}
	req, err := http.NewRequest(http.MethodPut, "http://"+s.address+"/backup?"+query, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	req.Header.Set("X-Amz-Date", now)
	req.Header.Set("X-Amz-Content-Sha256", hash(body))
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=root/"+scope+
		",SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature="+hex.EncodeToString(key))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode >= 300 {
		s.Fatalf("PUT /backup?%s: %s", query, resp.Status)
	}
}

// request is what adds the bucket, or another one, as a destination.
func (s *s3Server) request(id, bucket string) Request {
	return Request{ID: id, Provider: "s3", Secret: marker, Parameters: map[string]string{
		"endpoint": "http://" + s.address, "bucket": bucket, "access-key-id": "user",
	}}
}

// TestS3 says of a real server what it permits.
func TestS3(t *testing.T) {
	needRclone(t)
	server := startS3(t)
	s := testStore(t)
	mustAdd(t, s, server.request("a", "backup"))
	for _, c := range []struct {
		allowed string
		want    Outcome
		detail  string
	}{
		{"ListBucket GetObject PutObject DeleteObject", OK, ""},
		{"ListBucket PutObject DeleteObject", NoRead, "what is read is not what was written"}, // rclone takes what it may not read for empty
		{"GetObject PutObject DeleteObject", NoRead, "AccessDenied"},
		{"ListBucket GetObject DeleteObject", NoWrite, "AccessDenied"},
		{"ListBucket GetObject PutObject", NoDelete, "AccessDenied"},
		{"GetBucketAcl", NotAccessible, "AccessDenied"},
	} {
		server.allow(strings.Fields(c.allowed)...)
		v := one(t, s, "a")
		if v.Outcome != c.want || !strings.Contains(v.Detail, c.detail) || strings.Contains(v.Detail, marker) {
			t.Errorf("Validate, allowed %s = %+v; want %s, %q", c.allowed, v, c.want, c.detail)
		}
		left, err := filepath.Glob(filepath.Join(server.bucket, "sdbackup-probe-*"))
		if err != nil || len(left) > 1 || (len(left) == 1) != (v.Leftover != "") || v.Leftover != "" && filepath.Base(left[0]) != v.Leftover {
			t.Errorf("left behind, allowed %s: %v, said to be %q", c.allowed, left, v.Leftover)
		}
		for _, name := range left {
			os.Remove(name)
		}
	}
	server.allow("*")
	mustAdd(t, s, server.request("missing", "missing"))
	if v := one(t, s, "missing"); v.Outcome != NotAccessible || !strings.Contains(v.Detail, "bucket is not there") {
		t.Errorf("Validate of a bucket that is not there = %+v", v)
	}
	r := server.request("b", "backup")
	r.Parameters["path"], r.Secret = "b", "wrong-"+marker
	mustAdd(t, s, r)
	if v := one(t, s, "b"); v.Outcome != NotAccessible || strings.Contains(v.Detail, marker) {
		t.Errorf("Validate with a wrong key = %+v", v)
	}

	// What was deleted comes back.
	write(t, filepath.Join(server.bucket, ".deleted/2026-01-01", wiki, "keys", blobA), "a")
	write(t, filepath.Join(server.bucket, ".deleted/2026-01-01", wiki, "config"), "old")
	write(t, filepath.Join(server.bucket, wiki, "config"), "new")
	want := "2026-01-01 " + wiki + " 1+0 config\n"
	if list, err := s.Undelete(t.Context(), Undeletion{ID: "a", All: true}); err != nil || says(list) != want {
		t.Errorf("Undelete = %s, %v; want %s", says(list), err, want)
	}
	if got := read(t, filepath.Join(server.bucket, wiki, "keys", blobA)) + read(t, filepath.Join(server.bucket, wiki, "config")); got != "anew" {
		t.Errorf("there is %q", got)
	}
}
