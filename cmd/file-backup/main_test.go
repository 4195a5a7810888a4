package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sdbackup/internal/cli/clitest"
	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/module"
	"sdbackup/internal/s3test"
	"sdbackup/internal/status"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"file-backup": main})
}

// plan is what saves the module photos of modules.toml.
func plan(ts *testscript.TestScript) module.Plan {
	paths := config.UserPaths(ts.Getenv)
	cfg := config.Load([]string{ts.MkAbs("modules.toml")}, nil)
	p := module.NewPlan(cfg, paths, cfg.Backups["1"], cfg.Modules["photos"], "run", nil)
	p.PasswordFile, p.EnvironmentFile = ts.MkAbs("password"), ts.MkAbs("keys")
	ts.Check(os.MkdirAll(paths.Lock, 0o755))
	return p
}

// save backs the module up.
func save(ts *testscript.TestScript, _ bool, _ []string) {
	if r := module.Run(context.Background(), plan(ts), nil, slog.New(slog.DiscardHandler)); r.Outcome != status.Success {
		ts.Fatalf("%s", r.Error)
	}
}

// busy locks the module until the script ends.
func busy(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := lock.TryExclusive(plan(ts).LockFile, "test")
	ts.Check(err)
	ts.Defer(func() { l.Release() })
}

// ids writes what is to be completed after a list of versions was printed into the file completed.
func ids(ts *testscript.TestScript, _ bool, args []string) {
	lines := strings.Split(strings.TrimSpace(ts.ReadFile(args[0])), "\n")
	slices.Reverse(lines)
	text := "latest\n"
	for _, l := range lines {
		text += l[strings.LastIndexByte(l, ' ')+1:] + "\n"
	}
	ts.Check(os.WriteFile(ts.MkAbs("completed"), []byte(text), 0o600))
}

// silent makes a configuration of another one, for a server that never answers.
func silent(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	text := regexp.MustCompile(`http://[0-9.:]+`).ReplaceAllString(ts.ReadFile(args[0]), "http://"+l.Addr().String())
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(text), 0o600))
}

// within runs a program that must have ended in that time.
func within(ts *testscript.TestScript, _ bool, args []string) {
	limit, err := time.ParseDuration(args[0])
	ts.Check(err)
	start := time.Now()
	ts.Check(ts.Exec(args[1], args[2:]...))
	if d := time.Since(start); d > limit {
		ts.Fatalf("it took %v", d)
	}
}

// TestScripts runs testdata/script against a real S3 server.
func TestScripts(t *testing.T) {
	scripts(t, "testdata/script", `"crypto": {"crypt_password": "correct horse"}, "meta_pipeline": ["compress", "encrypt"], "file_pipeline": [["*", ["compress", "encrypt"]]]`)
}

// TestCompletion asks for completions, without a password, whose key would take longer than a shell waits on a machine with too much to do.
func TestCompletion(t *testing.T) {
	scripts(t, "testdata/completion", `"meta_pipeline": ["compress"]`)
}

func scripts(t *testing.T, dir, pipelines string) {
	address, secret := s3test.Start(t)
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			text := `{"base_path": "` + env.WorkDir + `/data", "local_manifest_file": "` + env.WorkDir + `/state/manifest", "local_lock_file": "` + env.WorkDir + `/state/lock",
"s3": {"endpoint": "http://` + address + `", "access_key": "owner", "secret_key": "` + secret + `", "bucket": "files"},
` + pipelines + "}"
			for name, text := range map[string]string{
				"password": "correct horse", "keys": "AWS_ACCESS_KEY_ID=owner\nAWS_SECRET_ACCESS_KEY=" + secret + "\n",
				"modules.toml": `
[destination.bucket]
bucket = "modules"
endpoint = "http://` + address + `"
password-file = "password"
environment-file = "keys"
[destination.disk]
repository = "` + env.WorkDir + `/repository"
password-file = "password"
[module.photos]
engine = "files"
type = "photos"
uuid = "6792c7db-9450-4bd3-84a3-034cd0087839"
include = ["` + env.WorkDir + `/data"]
[module.wiki]
type = "wiki"
uuid = "7792c7db-9450-4bd3-84a3-034cd0087839"
include = ["` + env.WorkDir + `/data"]
[backup.1]
schedule = "daily"
destination = "bucket"
modules = ["photos"]
[backup.2]
schedule = "daily"
destination = "disk"
modules = ["wiki"]
`,
			} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
					return err
				}
			}
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_RUNTIME_DIR", env.WorkDir)
			retain := strings.Replace(text, "{", `{"retain": "30d", `, 1)
			return errors.Join(os.WriteFile(filepath.Join(env.WorkDir, "configuration.json"), []byte(text), 0o600),
				os.WriteFile(filepath.Join(env.WorkDir, "retain.json"), []byte(retain), 0o600))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": clitest.Exits, "save": save, "busy": busy, "ids": ids, "silent": silent, "within": within},
	})
}
