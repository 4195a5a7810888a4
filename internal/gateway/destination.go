package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"sdbackup/internal/config"
	"sdbackup/restserver"
)

// destination is one [destination.ID] that is served: a folder, in process; or through rclone; or another gateway.
type destination struct {
	*config.Destination
	key   string // what it was made from: another key is another destination
	err   error  // why it cannot be served at all
	log   *slog.Logger
	usage usage

	folder string    // of a local one, else ""
	rclone *rclone   // or this
	remote *upstream // or this

	stores sync.Map       // repository: *restserver.Store, of a local one
	users  sync.WaitGroup // requests under way

	uploads keyed // through rclone

	mu      sync.Mutex
	lastErr error // of the last use: it is down
}

// secrets are the files of a destination as the gateway can read them.
type secrets struct {
	rcloneConfig string
	environment  []string
}

// newDestination prepares a destination. One that cannot be served is returned, too, with its reason.
func newDestination(d *config.Destination, s secrets, key, dir string, problems []config.Problem, log *slog.Logger) *destination {
	out := &destination{Destination: d, key: key, log: log.With("destination", d.ID)}
	out.err = out.open(s, dir, problems)
	if out.err != nil {
		out.log.Error("cannot serve destination " + d.ID + ": " + out.err.Error())
	}
	return out
}

func (d *destination) open(s secrets, dir string, problems []config.Problem) (err error) {
	if len(problems) > 0 {
		return errors.New(problems[0].String())
	}
	if folder, ok := d.Local(); ok {
		d.folder = folder
		return nil
	}
	if remote, ok := strings.CutPrefix(d.Repository, "rclone:"); ok {
		d.rclone, err = newRclone(d.ID, remote, s.rcloneConfig, s.environment, dir, d.log)
		return err
	}
	base, err := url.Parse(strings.TrimPrefix(d.Repository, "rest:"))
	if err != nil {
		return errors.New("its repository is no URL")
	}
	base.Path = strings.TrimRight(base.Path, "/") + "/"
	d.remote = &upstream{base: base, uploads: new(keyed), transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 15 * time.Second,
	}}
	for _, line := range s.environment {
		switch name, value, _ := strings.Cut(line, "="); name {
		case "RESTIC_REST_USERNAME":
			d.remote.user = value
		case "RESTIC_REST_PASSWORD":
			d.remote.password = value
		}
	}
	return nil
}

// close waits for the requests under way and ends what was started for it.
func (d *destination) close() {
	d.users.Wait()
	if d.rclone != nil {
		d.rclone.close()
	}
}

// check returns why the destination cannot be used now, as far as can be told without using it.
func (d *destination) check() error {
	if d.err != nil {
		return d.err
	}
	if d.folder != "" {
		if info, err := os.Stat(d.folder); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
			return fmt.Errorf("the destination's folder %s does not exist: is its disk mounted?", d.folder)
		} else if err != nil {
			return fmt.Errorf("open the destination's folder: %w", err)
		}
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.lastErr
}

// note remembers whether the destination answered.
func (d *destination) note(err error) {
	var away *unavailableError
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.As(err, &away) {
		d.lastErr = err
	} else {
		d.lastErr = nil
	}
}

// upstream returns the server to speak to, of a destination that is not local; the caller calls release when it is done.
func (d *destination) upstream() (u *upstream, release func(), err error) {
	if d.remote != nil {
		return d.remote, func() {}, nil
	}
	p, release, err := d.rclone.rest.use(time.Now())
	if err != nil {
		return nil, nil, err
	}
	return &upstream{transport: p.transport, base: p.base, uploads: &d.uploads, look: d.rclone.look}, release, nil
}

// store returns the repository's store, of a local destination.
func (d *destination) store(s *Server, repository string) *restserver.Store {
	if found, ok := d.stores.Load(repository); ok {
		return found.(*restserver.Store)
	}
	made, known := d.stores.LoadOrStore(repository, &restserver.Store{
		Dir: d.folder, Sub: repository, Identical: true, StallTimeout: s.StallTimeout, Log: d.log, Quota: quota{s, d, repository},
	})
	store := made.(*restserver.Store)
	if !known {
		go func() {
			if n, err := store.Clean(litterAge); err != nil {
				d.log.Warn("remove what was left of uploads: " + err.Error())
			} else if n > 0 {
				d.log.Info(fmt.Sprintf("removed %d files that were left of uploads to %s", n, repository))
			}
		}()
	}
	return store
}

// litterAge is how old what was left of an upload must be to be removed.
const litterAge = 24 * time.Hour

// initialised tells whether a repository has a config.
func (d *destination) initialised(r *http.Request, repository string) (bool, error) {
	if d.folder != "" {
		_, err := os.Lstat(filepath.Join(d.folder, filepath.FromSlash(repository), "config"))
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return true, err
	}
	u, release, err := d.upstream()
	if err != nil {
		return false, err
	}
	defer release()
	_, exists, err := u.stat(r, repository, restserver.Object{Type: "config"})
	return exists, err
}

// makeFolder makes the folder of a local repository. The destination's own is never made: where it is missing, its disk is not mounted.
func (d *destination) makeFolder(repository string) error {
	root, err := os.OpenRoot(d.folder)
	if err != nil {
		return fmt.Errorf("open the destination's folder: %w", err)
	}
	defer root.Close()
	if above := path.Dir(repository); above != "." {
		if err := root.MkdirAll(above, 0o755); err != nil {
			return fmt.Errorf("make the repository's folder: %w", err)
		}
	}
	if err := root.Mkdir(repository, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make the repository's folder: %w", err)
	}
	return nil
}

// held is where goes what is deleted now; its path is below the destination.
func held(now time.Time, name string) string {
	return path.Join(config.HoldingArea, now.UTC().Format(time.DateOnly), name)
}

// hold moves a file, or a folder with all that is in it, into the holding area instead of deleting it. What is not there is as good as held.
// What was held first on a day stays: nobody gets rid of it by deleting something else under its name.
func (d *destination) hold(ctx context.Context, now time.Time, name string, isFolder bool) error {
	if d.rclone != nil {
		return d.rclone.hold(ctx, name, held(now, name), isFolder)
	}
	root, err := os.OpenRoot(d.folder)
	if err != nil {
		return fmt.Errorf("open the destination's folder: %w", err)
	}
	defer root.Close()
	if err := holdLocal(root, name, held(now, name)); err != nil {
		return fmt.Errorf("keep what is deleted: %w", err)
	}
	return nil
}

// holdLocal moves a file or folder to where nothing has its name, and into a folder of its name that is there.
func holdLocal(root *os.Root, from, to string) error {
	if err := root.MkdirAll(path.Dir(to), 0o700); err != nil {
		return err
	}
	there, err := root.Lstat(to)
	if errors.Is(err, fs.ErrNotExist) {
		if err = root.Rename(from, to); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	source, err := root.Lstat(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !source.IsDir() || !there.IsDir() {
		return root.RemoveAll(from)
	}
	folder, err := root.Open(from)
	if err != nil {
		return err
	}
	names, err := folder.Readdirnames(-1)
	folder.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := holdLocal(root, path.Join(from, name), path.Join(to, name)); err != nil {
			return err
		}
	}
	return root.Remove(from)
}

// replaces tells whether a WebDAV request would put something in the place of a file that is there; not the metadata beside a repository,
// which every run writes anew.
func (d *destination) replaces(ctx context.Context, req Request) (bool, error) {
	name := req.To
	if req.Method == http.MethodPut {
		name = req.File
	}
	if name == "" || strings.Count(name, "/") == 1 && strings.HasSuffix(name, ".json") {
		return false, nil
	}
	if d.rclone != nil {
		found, err := d.rclone.stat(ctx, name, nil)
		return found != nil, err
	}
	root, err := os.OpenRoot(d.folder)
	if err != nil {
		return false, fmt.Errorf("open the destination's folder: %w", err)
	}
	defer root.Close()
	_, err = root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return true, err
}

// purge removes the days of the holding area that are older than what is to be kept.
func (d *destination) purge(ctx context.Context, now time.Time) error {
	if d.err != nil || d.KeepDeleted == 0 {
		return nil
	}
	days, err := d.heldDays(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range days {
		day, err := time.Parse(time.DateOnly, name)
		if err != nil || now.Before(config.KeptUntil(day, d.KeepDeleted)) {
			continue
		}
		folder := path.Join(config.HoldingArea, name)
		if d.rclone != nil {
			err = d.rclone.purge(ctx, folder)
		} else {
			err = os.RemoveAll(filepath.Join(d.folder, folder))
		}
		if err == nil {
			d.log.Info("removed for good what was deleted on " + name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (d *destination) heldDays(ctx context.Context) ([]string, error) {
	if d.rclone != nil {
		return d.rclone.folders(ctx, config.HoldingArea)
	}
	entries, err := os.ReadDir(filepath.Join(d.folder, config.HoldingArea))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
