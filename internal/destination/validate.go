package destination

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sdbackup/internal/config"
)

// Outcome is what a destination allows.
type Outcome string

// The outcomes. Where several are true the first of them is told.
const (
	OK            Outcome = "ok"
	NotAccessible Outcome = "not_accessible"
	NoWrite       Outcome = "no_write_permission"
	NoDelete      Outcome = "no_delete_permission"
	NoRead        Outcome = "no_read_permission"
	NotTested     Outcome = "not_tested" // only restic knows how to reach it
)

// Verdict is what Validate found.
type Verdict struct {
	ID       string        `json:"id"`
	Outcome  Outcome       `json:"result"`
	Detail   string        `json:"detail,omitempty"`
	Leftover string        `json:"leftover,omitempty"` // the probe object that could not be deleted
	Duration time.Duration `json:"-"`
	Seconds  float64       `json:"duration_seconds"`
}

// Failed tells whether backups cannot go there.
func (v Verdict) Failed() bool { return v.Outcome != OK && v.Outcome != NotTested }

const (
	// atOnce bounds how many destinations are examined at the same time.
	atOnce = 8
	// tidyTimeout is what deleting the probe has after the time is over.
	tidyTimeout = 10 * time.Second
)

// prober does to a destination what backups do. Its methods are called in this order, each at most once but for list.
type prober interface {
	// list lists the top; errNotYet when it will be there only after something was stored.
	list(ctx context.Context) error
	create(ctx context.Context, name string, data []byte) error
	read(ctx context.Context, name string) ([]byte, error)
	remove(ctx context.Context, name string) error
	// close is for tidying up; it returns what stays all the same.
	close(ctx context.Context, name string) (leftover string)
}

var errNotYet = errors.New("is not there yet")

// errTimeout is the cause when a destination took too long.
type errTimeout time.Duration

func (e errTimeout) Error() string { return "gave no answer within " + time.Duration(e).String() }

// Validate examines destinations, all without IDs, each within the timeout: it lists, creates, reads and deletes a probe object.
// A bucket of modules of engine files is only listed.
func (s *Store) Validate(ctx context.Context, wanted []string, timeout time.Duration) ([]Verdict, error) {
	chosen, err := choose(s.load(), wanted)
	if err != nil {
		return nil, err
	}
	verdicts := make([]Verdict, len(chosen))
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for i, d := range chosen {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			verdicts[i] = s.validate(ctx, d, timeout)
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return verdicts, nil
}

func (s *Store) validate(ctx context.Context, d *config.Destination, timeout time.Duration) Verdict {
	start := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errTimeout(timeout))
	defer cancel()
	var hide masker
	v := s.examine(ctx, d, &hide)
	v.ID, v.Duration = d.ID, time.Since(start)
	v.Seconds = v.Duration.Seconds()
	v.Detail = hide.mask(v.Detail)
	return v
}

func (s *Store) examine(ctx context.Context, d *config.Destination, hide *masker) Verdict {
	if d.Bucket != nil {
		if v := examineBucket(ctx, d, hide); v.Failed() || d.OnlyBucket() {
			return v
		}
	}
	p, err := s.prober(ctx, d, hide)
	if err != nil {
		return Verdict{Outcome: NotAccessible, Detail: err.Error()}
	}
	if p == nil {
		return Verdict{Outcome: NotTested, Detail: "only restic can reach " + publicRepository(d.Repository)}
	}
	name := "sdbackup-probe-" + strings.ToLower(rand.Text())
	v := probe(ctx, p, name)
	if left := p.close(context.WithoutCancel(ctx), name); left != "" {
		v.Leftover = left
	}
	return v
}

// probe finds out what is allowed, with an object of this name.
func probe(ctx context.Context, p prober, name string) Verdict {
	data := []byte(rand.Text() + "\n")
	listErr := p.list(ctx)
	if listErr != nil && !errors.Is(listErr, errNotYet) && ctx.Err() != nil {
		return inaccessible(ctx, listErr)
	}
	createErr := p.create(ctx, name, data)
	if errors.Is(listErr, errNotYet) {
		if listErr = p.list(ctx); errors.Is(listErr, errNotYet) && createErr != nil {
			listErr = createErr
		}
	}
	var readErr error
	if createErr == nil {
		var got []byte
		if got, readErr = p.read(ctx, name); readErr == nil && !bytes.Equal(got, data) {
			readErr = errors.New("what is read is not what was written")
		}
	}
	// Also after a failure, and when the time is over: an upload may have left something.
	tidy, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidyTimeout)
	defer cancel()
	removeErr := p.remove(tidy, name)
	switch {
	case ctx.Err() != nil:
		v := inaccessible(ctx, ctx.Err())
		if createErr == nil && removeErr != nil {
			v.Leftover = name
		}
		return v
	case createErr != nil && listErr != nil:
		return inaccessible(ctx, createErr)
	case createErr != nil:
		return Verdict{Outcome: NoWrite, Detail: createErr.Error()}
	case removeErr != nil:
		return Verdict{Outcome: NoDelete, Detail: removeErr.Error(), Leftover: name}
	case listErr != nil:
		return Verdict{Outcome: NoRead, Detail: listErr.Error()}
	case readErr != nil:
		return Verdict{Outcome: NoRead, Detail: readErr.Error()}
	}
	return Verdict{Outcome: OK}
}

func inaccessible(ctx context.Context, err error) Verdict {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return Verdict{Outcome: NotAccessible, Detail: err.Error()}
}

// prober returns what examines a destination, nil when nothing but restic can. Its secrets are added to those that are hidden.
func (s *Store) prober(ctx context.Context, d *config.Destination, hide *masker) (prober, error) {
	if dir, ok := d.Local(); ok {
		return localProber{dir}, nil
	}
	rest, isREST := strings.CutPrefix(d.Repository, "rest:")
	isRclone := strings.HasPrefix(d.Repository, "rclone:")
	if !isREST && !isRclone || strings.HasPrefix(rest, "http+unix:") {
		return nil, nil
	}
	st, err := s.read(ctx, d)
	if err != nil {
		return nil, err
	}
	hide.add(st.secrets()...)
	if isREST {
		return newRESTProber(rest, st.environment)
	}
	remote, err := s.openRemote(d, st)
	if err != nil {
		return nil, err
	}
	return &rcloneProber{remote, buckets[st.remote.Get("type")]}, nil
}

// localProber examines a folder.
type localProber struct{ dir string }

func (p localProber) list(context.Context) error {
	_, err := os.ReadDir(p.dir)
	return err
}

func (p localProber) create(_ context.Context, name string, data []byte) error {
	f, err := os.OpenFile(filepath.Join(p.dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, secretMode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func (p localProber) read(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(filepath.Join(p.dir, name))
}

func (p localProber) remove(_ context.Context, name string) error {
	if err := os.Remove(filepath.Join(p.dir, name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p localProber) close(context.Context, string) string { return "" }

// rcloneProber examines a remote with rclone.
type rcloneProber struct {
	*rcloneRemote
	bucket bool // a first folder that is missing is not made by storing something in it
}

// buckets are the types of rclone whose first folder is a bucket: one that is missing is a mistake, and must not be made by the probe.
var buckets = map[string]bool{
	"s3": true, "b2": true, "azureblob": true, "google cloud storage": true, "gcs": true, "swift": true, "qingstor": true,
	"oracleobjectstorage": true, "storj": true,
}

func (p *rcloneProber) list(ctx context.Context) error {
	_, err := p.run(ctx, nil, "lsf", "--max-depth", "1", p.folder)
	if e := (*rcloneError)(nil); errors.As(err, &e) && e.code == rcloneNoFolder && !p.bucket {
		return errNotYet
	}
	return err
}

func (p *rcloneProber) create(ctx context.Context, name string, data []byte) error {
	if p.bucket {
		if err := p.list(ctx); err != nil {
			if e := (*rcloneError)(nil); errors.As(err, &e) && e.code == rcloneNoFolder {
				return fmt.Errorf("the bucket is not there, or not to be seen: %w", err)
			}
		}
	}
	_, err := p.run(ctx, data, "--s3-no-head", "rcat", p.at(name)) // else it would read, too
	return err
}

func (p *rcloneProber) read(ctx context.Context, name string) ([]byte, error) {
	return p.run(ctx, nil, "cat", p.at(name))
}

func (p *rcloneProber) remove(ctx context.Context, name string) error {
	_, err := p.run(ctx, nil, "--b2-hard-delete", "deletefile", p.at(name))
	if e := (*rcloneError)(nil); errors.As(err, &e) && (e.code == rcloneNoFile || e.code == rcloneNoFolder) {
		return nil
	}
	if err != nil && p.bucket { // it reads first, which need not be allowed; this one lists
		if _, e := p.run(ctx, nil, "--b2-hard-delete", "delete", "--max-depth", "1", "--include", "/"+name, p.folder); e == nil {
			return nil
		}
	}
	return err
}

func (p *rcloneProber) close(context.Context, string) string {
	p.rcloneRemote.close()
	return ""
}
