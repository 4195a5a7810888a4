// Package s3test starts an S3 server that keeps versions, for tests.
package s3test

import (
	"crypto/rand"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Program returns the path of the server, versitygw, that `test/deps gateway` builds. Where there is none the test is skipped, and where CI=true
// that is a failure.
func Program(t testing.TB) string {
	t.Helper()
	program, err := exec.LookPath("versitygw")
	if err == nil {
		return program
	}
	if cache, err := os.UserCacheDir(); err == nil {
		program = filepath.Join(cache, "sdbackup/bin/versitygw")
		if _, err := os.Stat(program); err == nil {
			return program
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal(err)
	}
	t.Skipf("test/deps gateway builds an S3 server: %v", err)
	return ""
}

// Start starts a server with the buckets "files" and "modules", which the key "owner" with the returned secret may do everything with. It ends with the test.
func Start(t testing.TB) (address, secret string) {
	t.Helper()
	program := Program(t)
	dir := t.TempDir()
	for _, name := range []string{"root/files", "root/modules", "versions"} { // a folder is a bucket
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, secret = free.Addr().String(), rand.Text()
	free.Close()
	cmd := exec.Command(program, "--port", address, "--quiet", "posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "root"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Env = []string{"ROOT_ACCESS_KEY_ID=owner", "ROOT_SECRET_ACCESS_KEY=" + secret}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) { // it tells nobody when it listens
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
			return address, secret
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
