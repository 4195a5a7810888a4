package filebackup

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
)

func TestConfig(t *testing.T) {
	c, err := ParseConfig([]byte(`{
    "base_path":                 "/path/to/directory/to/back/up",
    "local_manifest_file":       "/path/to/local/manifest",
    "local_lock_file":           "/path/to/rrbackup_lock",
    "s3" : {"access_key": "your aws access key", "secret_key": "your aws secret key", "bucket": "aws bucket, to use}",},
    "crypto" : {"crypt_password": "crypt \"password,\"}"},
    "meta_pipeline": ["compress", "encrypt"],
    "file_pipeline": [["/bar", []], ["*", ["hash_names", "encrypt"]],],
    "read_only": false, "allow_delete_versions": true,
    "remote_manifest_diff_file": "asdfgjkll", "remote_gc_log_file": "cvbnmoytety", "remote_password_salt_file": "qwertyuio",
    "ignore_files" : ["/ignored*"], "skip_delete" : ["/skip_delete*"],
}`))
	if err != nil {
		t.Fatal(err)
	}
	if c.S3.Bucket != "aws bucket, to use}" || c.Crypto.Password != `crypt "password,"}` || c.Crypto.RemoteSaltFile != "qwertyuio" || c.RemoteManifestDiffFile != "asdfgjkll" || !c.deletes() {
		t.Errorf("%+v", c)
	}
	if words, ok := c.pipelineOf("/bar"); !ok || len(words) != 0 {
		t.Errorf("pipeline of /bar: %q, %v", words, ok)
	}
	if words, _ := c.pipelineOf("/bar/x"); len(words) != 2 {
		t.Errorf("pipeline of /bar/x: %q", words)
	}
}

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		``:                      "line 1",
		"{\n\n\"base_pth\": 1}": "base_pth",
		"{\n\"base_path\": 1}":  "line 2: base_path: want a string",
		`{}`:                    "s3.bucket",
		`{"read_only": true, "write_only": true}`:             "both true",
		`{"remote_gc_log_file": "manifest_diffs_log"}`:        "must not begin",
		`{"remote_base_path": "../x"}`:                        "no name",
		`{"remote_gc_log_file": "files/x"}`:                   "in a folder",
		`{"retain": "soon"}`:                                  "span of time",
		`{"file_pipeline": [["*"]]}`:                          "want a pattern and a list",
		`{"crypto": {"crypt_password_file": "/does/not/be"}}`: "no such file",
	} {
		_, err := ParseConfig([]byte(text))
		var all *ConfigError
		if !errors.As(err, &all) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}

// Patterns match what Python's fnmatch does.
func TestPatternsArePythons(t *testing.T) {
	patterns := []string{"*", "/a*", "/a*b", "*.swp", "/[ab]c", "/[!ab]c", "/[a-c]?", "/a[", "/[]x]", "/[!]x]", "/a**b", "", "/x/*/y", "?a", "/[a-", "[^a]*", "/[a-]", "/[-a]"}
	names := []string{"/a", "/ab", "/a/b", "/x.swp", "/ac", "/bc", "/cc", "/a[", "/]", "/x", "/y", "/x/a/b/y", "/-", "/é", "/a\nb", "/[a-"}
	var in strings.Builder
	for _, p := range patterns {
		for _, n := range names {
			in.WriteString(p + "\x00" + n + "\x01")
		}
	}
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("no Python here")
	}
	out := python(t, `import fnmatch, sys
sys.stdout.write("".join("01"[fnmatch.fnmatchcase(*reversed(x.split("\0")))] for x in sys.stdin.buffer.read().decode().split("\1")[:-1]))`, []byte(in.String()))
	i := 0
	for _, p := range patterns {
		for _, n := range names {
			if got, want := matchPattern(p, n), out[i] == '1'; got != want {
				t.Errorf("matchPattern(%q, %q) = %v; Python says %v", p, n, got, want)
			}
			i++
		}
	}
}

func TestComparePaths(t *testing.T) {
	list := []string{"/a", "/a/b", "/a/b/c", "/a/b!", "/a!", "/a-b", "/b"}
	for i, a := range list {
		for k, b := range list {
			if got := comparePaths(a, b); (got < 0) != (i < k) || (got == 0) != (i == k) {
				t.Errorf("comparePaths(%q, %q) = %d", a, b, got)
			}
		}
	}
}
