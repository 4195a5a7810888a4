//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	filesCount = 2000
	filesBytes = 200 << 20
	filesTurns = 3
	manyFiles  = 200_000
)

// filesBench measures file-backup beside what a client that does nothing but send and fetch takes, and beside restic, in turns.
type filesBench struct {
	dir    string
	source string
	client *minio.Client
	turn   int
}

func files() error {
	program, err := exec.LookPath("versitygw")
	if err != nil {
		row("file-backup", "no versitygw", "")
		return nil //nolint:nilerr // it is measured where it is
	}
	dir, err := os.MkdirTemp("", "speed")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	f := &filesBench{dir: dir, source: filepath.Join(dir, "source")}
	for _, name := range []string{"root", "versions", "source"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	b := &bench{dir: dir}
	defer b.stop()
	if _, err := b.run("versitygw", "", program, "--access", "speed", "--secret", "speedspeed", "--port", s3Address,
		"posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "root")); err != nil {
		return err
	}
	if f.client, err = s3Client(); err != nil {
		return err
	}
	if err := f.makeFiles(); err != nil {
		return err
	}
	took := map[string][]time.Duration{}
	peak := map[string]int64{}
	note := func(what string, d time.Duration, kib int64) {
		took[what] = append(took[what], d)
		peak[what] = max(peak[what], kib)
	}
	for range filesTurns {
		if err := f.oneTurn(note); err != nil {
			return err
		}
	}
	row(fmt.Sprintf("%d files, %d MiB, to an S3 server", filesCount, filesBytes>>20), "", "")
	bare := median(took["put"])
	for _, c := range []struct{ what, title, meant string }{
		{"put", "  bare PUTs, 8 connections", ""},
		{"restic", "  restic backup", ""},
		{"plain", "  file-backup", "1.15 of bare PUTs or less"},
		{"encrypted", "  file-backup, encrypted and compressed", "1.15 of bare PUTs or less"},
	} {
		row(c.title, fmt.Sprintf("%s (%.2f)", seconds(median(took[c.what])), median(took[c.what]).Seconds()/bare.Seconds()), c.meant)
	}
	bare = median(took["get"])
	for _, c := range []struct{ what, title, meant string }{
		{"get", "  bare GETs, 8 connections", ""},
		{"restic restore", "  restic restore", ""},
		{"plain download", "  file-backup download", "1.1 of bare GETs or less"},
		{"encrypted download", "  the same, encrypted and compressed", ""},
	} {
		row(c.title, fmt.Sprintf("%s (%.2f)", seconds(median(took[c.what])), median(took[c.what]).Seconds()/bare.Seconds()), c.meant)
	}
	row("  nothing changed, restic", seconds(median(took["restic again"])), "")
	row("  nothing changed, file-backup", seconds(median(took["encrypted again"])), "0.5 s or less")
	row("  peak memory of all of these", fmt.Sprintf("%d MiB", max(peak["plain"], peak["encrypted"], peak["plain download"], peak["encrypted download"])>>10), "128 MiB or less")
	return f.many()
}

func s3Client() (*minio.Client, error) {
	return minio.New(s3Address, &minio.Options{Creds: credentials.NewStaticV4("speed", "speedspeed", ""), Region: "us-east-1"})
}

// bareClientArg makes this program what does nothing but store the files of a folder, or fetch what a bucket has into one. It is a process of its
// own, as all that it is compared with.
const bareClientArg = "--bare-client"

func bareClient(what, bucket, dir string) error {
	ctx := context.Background()
	client, err := s3Client()
	if err != nil {
		return err
	}
	var paths []string
	if what == "put" {
		err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		_, err = parallel(len(paths), clients, func(i int) error {
			_, err := client.FPutObject(ctx, bucket, paths[i][1:], paths[i], minio.PutObjectOptions{})
			return err
		})
		return err
	}
	for o := range client.ListObjects(ctx, bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			return o.Err
		}
		paths = append(paths, o.Key)
	}
	_, err = parallel(len(paths), clients, func(i int) error {
		o, err := client.GetObject(ctx, bucket, paths[i], minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer o.Close()
		path := filepath.Join(dir, paths[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		file, err := os.Create(path)
		if err != nil {
			return err
		}
		_, err = io.Copy(file, o)
		return errors.Join(err, file.Close())
	})
	return err
}

// makeFiles makes files of random content and of sizes as they come.
func (f *filesBench) makeFiles() error {
	random := rand.New(rand.NewPCG(1, 2))
	sizes, sum := make([]float64, filesCount), 0.0
	for i := range sizes {
		sizes[i] = random.ExpFloat64()
		sum += sizes[i]
	}
	source := rand.NewChaCha8([32]byte{1})
	for i, size := range sizes {
		path := filepath.Join(f.source, fmt.Sprintf("d%d/f%d", i%50, i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		content := make([]byte, int(size/sum*filesBytes))
		_, _ = source.Read(content) // never fails
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// configure writes a configuration for a new bucket and returns its path.
func (f *filesBench) configure(name, source string, words []string) (string, error) {
	f.turn++
	bucket := fmt.Sprintf("speed-%d-%s", f.turn, name)
	if err := f.client.MakeBucket(context.Background(), bucket, minio.MakeBucketOptions{}); err != nil {
		return "", err
	}
	state := filepath.Join(f.dir, "state", bucket)
	config := map[string]any{
		"base_path": source, "local_manifest_file": state + "/manifest", "local_lock_file": state + "/lock",
		"s3":     map[string]string{"endpoint": "http://" + s3Address, "access_key": "speed", "secret_key": "speedspeed", "bucket": bucket},
		"crypto": map[string]string{"crypt_password": "a password"}, "meta_pipeline": words, "file_pipeline": []any{[]any{"*", words}},
	}
	text, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	path := filepath.Join(f.dir, bucket+".json")
	return path, os.WriteFile(path, text, 0o600)
}

// program runs a program, and tells how long it took and how much memory it had.
func program(env []string, argv ...string) (time.Duration, int64, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if err != nil {
		return 0, 0, fmt.Errorf("%q: %w: %s", argv, err, out)
	}
	return took, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss, nil
}

func (f *filesBench) oneTurn(note func(string, time.Duration, int64)) error {
	ctx := context.Background()
	f.turn++
	bucket := fmt.Sprintf("bare-%d", f.turn)
	if err := errors.Join(f.client.MakeBucket(ctx, bucket, minio.MakeBucketOptions{}), f.client.EnableVersioning(ctx, bucket)); err != nil {
		return err
	}
	bare := filepath.Join(f.dir, "bare")
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for _, c := range []struct{ what, dir string }{{"put", f.source}, {"get", bare}} {
		d, kib, err := program(nil, self, bareClientArg, c.what, bucket, c.dir)
		if err != nil {
			return err
		}
		note(c.what, d, kib)
	}
	ours := filepath.Join(os.Getenv("SDBACKUP_BIN"), "file-backup")
	target := filepath.Join(f.dir, "target")
	env := []string{
		"AWS_ACCESS_KEY_ID=speed", "AWS_SECRET_ACCESS_KEY=speedspeed", "RESTIC_PASSWORD=a password", "RESTIC_CACHE_DIR=" + filepath.Join(f.dir, "cache"),
		fmt.Sprintf("RESTIC_REPOSITORY=s3:http://%s/restic-%d", s3Address, f.turn), "GOMAXPROCS=",
	}
	if _, _, err := program(env, "restic", "init"); err != nil {
		return err
	}
	steps := []struct {
		what string
		argv []string
	}{
		{"restic", []string{"restic", "-o", "s3.connections=8", "backup", f.source}},
		{"restic again", []string{"restic", "backup", f.source}},
		{"restic restore", []string{"restic", "-o", "s3.connections=8", "restore", "latest", "--target", target + "-restic"}},
	}
	for name, words := range map[string][]string{"plain": {}, "encrypted": {"compress", "encrypt"}} {
		config, err := f.configure(name, f.source, words)
		if err != nil {
			return err
		}
		for _, s := range []struct {
			what string
			args []string
		}{{name, nil}, {name + " again", nil}, {name + " download", []string{"download", "latest", target + "-" + name}}} {
			steps = append(steps, struct {
				what string
				argv []string
			}{s.what, append([]string{ours, "--config", config}, s.args...)})
		}
	}
	for _, s := range steps {
		d, kib, err := program(env, s.argv...)
		if err != nil {
			return err
		}
		note(s.what, d, kib)
	}
	for _, dir := range []string{bare, target + "-restic", target + "-plain", target + "-encrypted", filepath.Join(f.dir, "cache")} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	// what is stored would fill the disk
	return filepath.WalkDir(filepath.Join(f.dir, "root"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && filepath.Dir(path) == filepath.Join(f.dir, "root") {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			return fs.SkipDir
		}
		return err
	})
}

// many measures a folder of very many files in which nothing has changed.
func (f *filesBench) many() error {
	source := filepath.Join(f.dir, "many")
	for i := range manyFiles {
		path := filepath.Join(source, fmt.Sprintf("directory-%03d/file-with-a-name-%04d", i/1000, i%1000))
		if i%1000 == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			return err
		}
	}
	config, err := f.configure("many", source, []string{})
	if err != nil {
		return err
	}
	ours := filepath.Join(os.Getenv("SDBACKUP_BIN"), "file-backup")
	for _, what := range []string{"the first time", "nothing changed"} {
		d, kib, err := program(nil, ours, "--config", config)
		if err != nil {
			return err
		}
		meant := ""
		if what == "nothing changed" {
			meant = "1.5 s or less"
		}
		row(fmt.Sprintf("  %d files, %s", manyFiles, what), fmt.Sprintf("%s, %d MiB", seconds(d), kib>>10), meant)
	}
	return nil
}
