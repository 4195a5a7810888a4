package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli/clitest"
	"sdbackup/internal/s3test"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"file-backup": main})
}

// TestScripts runs testdata/script against a real S3 server.
func TestScripts(t *testing.T) {
	address, secret := s3test.Start(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			text := `{"base_path": "` + env.WorkDir + `/data", "local_manifest_file": "` + env.WorkDir + `/state/manifest", "local_lock_file": "` + env.WorkDir + `/state/lock",
"s3": {"endpoint": "http://` + address + `", "access_key": "owner", "secret_key": "` + secret + `", "bucket": "files"},
"crypto": {"crypt_password": "correct horse"}, "meta_pipeline": ["compress", "encrypt"], "file_pipeline": [["*", ["compress", "encrypt"]]]}`
			return os.WriteFile(filepath.Join(env.WorkDir, "configuration.json"), []byte(text), 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits},
	})
}
