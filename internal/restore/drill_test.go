package restore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sdbackup/internal/config"
	"sdbackup/internal/lock"
	"sdbackup/internal/restic"
	"sdbackup/internal/run"
	"sdbackup/internal/status"
)

// drilling is a world whose module has drills, and the runner of one.
type drilling struct {
	*world
	*run.Runner
	drills *Drills
	module string
	probed []run.ProbeJob
	verify func(job run.ProbeJob) error // what the module's command says
}

func newDrilling(t *testing.T, sample int64, command ...string) *drilling {
	return newWorld(t, "").drilling("wiki1", "1", sample, command...)
}

func (w *world) drilling(module, backup string, sample int64, command ...string) *drilling {
	m := w.Restorer.Config.Modules[module]
	m.Drill = config.Drill{Schedule: []string{"monthly"}, Sample: sample, Command: command}
	w.Restorer.Config.Backups[backup].RetryTimeout = 0
	d := &drilling{world: w, module: module}
	d.drills = &Drills{
		Restorer: w.Restorer,
		Ready:    func() error { return nil },
		Probe: func(_ context.Context, job run.ProbeJob, _ *slog.Logger) error {
			d.probed = append(d.probed, job)
			if d.verify != nil {
				return d.verify(job)
			}
			return nil
		},
	}
	d.Runner = &run.Runner{
		Config: w.Restorer.Config, Paths: w.Restorer.Paths, Store: status.Store{Dir: w.Restorer.Paths.State}, Start: d.drills,
		Log: w.Restorer.Log, Now: time.Now, Getenv: os.Getenv,
	}
	return d
}

// run runs the drill and returns its record; nothing of it may be left.
func (d *drilling) run() *status.Module {
	d.t.Helper()
	id := "drill@" + d.module
	if _, err := d.Backup(d.t.Context(), id); err != nil {
		d.t.Fatal(err)
	}
	rec, err := d.Store.Module(id, d.module)
	d.check(err)
	if _, err := os.Lstat(filepath.Join(d.Runner.Paths.Cache, id)); !errors.Is(err, fs.ErrNotExist) {
		d.t.Errorf("what was restored is left behind: %v", err)
	}
	return rec
}

func TestDrill(t *testing.T) {
	d := newDrilling(t, 0, "sh")
	d.write("wiki1/data/page.txt", "page\n")
	d.check(os.Symlink("page.txt", filepath.Join(d.data, "data/link")))
	d.save(wikiUUID, "web1", "r1", map[string]string{"list.txt": "old\n"})
	d.write("wiki1/data/new.txt", "new\n")
	latest := d.save(wikiUUID, "web1", "r2", map[string]string{"list.txt": "list\n"})
	d.verify = func(job run.ProbeJob) error {
		for path, want := range map[string]string{
			filepath.Join(job.Folder, d.data, "data/page.txt"): "page\n", filepath.Join(job.Folder, d.data, "data/new.txt"): "new\n", filepath.Join(job.Dumps, "list.txt"): "list\n",
		} {
			if data, err := os.ReadFile(path); err != nil || string(data) != want {
				t.Errorf("the command finds %q in %s, %v; want %q", data, path, err, want)
			}
		}
		return nil
	}
	rec := d.run()
	if rec.Outcome != status.Success || rec.Files != 3 || rec.SizeBytes != 14 || !strings.HasPrefix(rec.Snapshot, latest) || !rec.Drill.Probed || rec.Drill.Backup != "1" || rec.Drill.Saved.IsZero() {
		t.Errorf("the record is %+v, drill %+v", rec.Result, rec.Drill)
	}
	if len(d.probed) != 1 {
		t.Errorf("the command ran %d times", len(d.probed))
	}

	d.verify = func(run.ProbeJob) error { return errors.New("the drill's command sh ended with exit code 1") }
	if rec = d.run(); rec.Outcome != status.Failed || rec.Error != "the drill's command sh ended with exit code 1" || rec.Drill.Probed {
		t.Errorf("with a command that says no the record is %+v", rec.Result)
	}
	none := int64(1)
	d.drills.Sample, d.verify = &none, nil
	if rec = d.run(); rec.Outcome != status.Success || rec.Files != 1 || rec.Drill.Sample != 1 {
		t.Errorf("the record of a sample is %+v; want one file", rec.Result)
	}
}

// Whatever keeps a drill from proving something is one sentence, and a failure on record.
func TestDrillFails(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(d *drilling)
		want   string
	}{
		"no repository":  {func(d *drilling) { d.check(os.RemoveAll(filepath.Join(d.prefix, "dokuwiki"))) }, "has no repository dokuwiki/" + wikiUUID},
		"no destination": {func(d *drilling) { d.check(os.RemoveAll(d.prefix)) }, "is its disk mounted?"},
		"no snapshot": {func(d *drilling) {
			d.check(os.RemoveAll(filepath.Join(d.prefix, "dokuwiki", wikiUUID)))
			d.check(os.CopyFS(filepath.Join(d.prefix, "dokuwiki", wikiUUID), os.DirFS(emptyRepository(d.t))))
		}, "there is no snapshot of backup 1"},
		"a wrong password": {func(d *drilling) { d.write("password", "another\n") }, "the destination's password does not open"},
		"no password":      {func(d *drilling) { d.check(os.Remove(filepath.Join(d.dir, "password"))) }, "password"},
		"no command": {func(d *drilling) {
			d.Runner.Config.Modules["wiki1"].Drill.Command = []string{"/nonexistent/probe"}
		}, "the drill's command /nonexistent/probe is not there"},
		"no manager": {func(d *drilling) {
			d.drills.Ready = func() error { return errors.New("no service manager runs") }
		}, "no service manager runs"},
		"a backup under way": {func(d *drilling) {
			d.check(os.MkdirAll(d.Runner.Paths.Lock, 0o755))
			held, err := lock.TryExclusive(lock.ModulePath(d.Runner.Paths.Lock, "wiki1"), "1")
			d.check(err)
			d.t.Cleanup(func() { held.Release() })
		}, "module wiki1 is in use"},
		"no user":          {func(d *drilling) { d.Runner.Config.Modules["wiki1"].User = "no-such-user" }, "there is no user no-such-user"},
		"the time is over": {func(d *drilling) { d.Runner.Config.Backups["1"].Timeout = time.Millisecond }, "the drill took longer than 1ms"},
		"a damaged pack":   {func(d *drilling) { flipByte(d.t, filepath.Join(d.prefix, "dokuwiki", wikiUUID, "data")) }, "ciphertext verification failed"},
		"a damaged pack of content": {func(d *drilling) {
			random := make([]byte, 100000)
			rand.Read(random)
			d.write("wiki1/data/random.bin", string(random))
			d.save(wikiUUID, "web1", "r2", nil)
			flipByte(d.t, filepath.Join(d.prefix, "dokuwiki", wikiUUID, "data"))
		}, "restore wiki1: "},
		"only folders": {func(d *drilling) {
			d.check(os.RemoveAll(filepath.Join(d.data, "data")))
			d.check(os.MkdirAll(filepath.Join(d.data, "data/empty"), 0o755))
			d.save(wikiUUID, "web1", "r2", nil)
		}, "holds no file"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDrilling(t, 0, "sh")
			d.write("wiki1/data/page.txt", strings.Repeat("page\n", 100000))
			d.save(wikiUUID, "web1", "r1", nil)
			c.break_(d)
			rec := d.run()
			if rec.Outcome != status.Failed || !strings.Contains(rec.Error, c.want) || strings.Contains(rec.Error, "\n") || rec.Drill == nil || rec.Drills["1"].Outcome != status.Failed {
				t.Errorf("the record is %+v, drill %+v; want a failure with %q", rec.Result, rec.Drill, c.want)
			}
			if strings.Contains(rec.Error+rec.Hint, "--target") || strings.Contains(rec.Error+rec.Hint, password) {
				t.Errorf("it says %q, hint %q", rec.Error, rec.Hint)
			}
			if len(d.probed) > 0 {
				t.Error("the command was run all the same")
			}
			t.Logf("%s; hint: %s", rec.Error, rec.Hint)
		})
	}
}

// flipByte flips a byte of the largest file below a folder: that with the content.
func flipByte(t *testing.T, dir string) {
	t.Helper()
	largest, size := "", int64(0)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(largest)
	if err != nil {
		t.Fatal(err)
	}
	data[size/10] ^= 1
	if err := errors.Join(os.Chmod(largest, 0o600), os.WriteFile(largest, data, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// Of many files those are restored that were picked, with what is needed to get at them, and no others; dumps have their chance.
func TestSample(t *testing.T) {
	d := newDrilling(t, 1000, "sh")
	for i := range 50 {
		d.check(os.MkdirAll(filepath.Join(d.data, "data", fmt.Sprint(i%7)), 0o755))
		d.write(fmt.Sprintf("wiki1/data/%d/%d.txt", i%7, i), strings.Repeat("x", 100+i))
	}
	d.write("wiki1/data/odd*[name]?\\.txt", strings.Repeat("y", 100))
	d.write("wiki1/data/not\xffutf8", strings.Repeat("y", 100))
	d.write("wiki1/data/large", strings.Repeat("z", 10000))
	d.save(wikiUUID, "web1", "r1", map[string]string{"list.txt": strings.Repeat("l", 100)})
	seen := map[string]bool{}
	for range 6 {
		rec := d.run()
		if rec.Outcome != status.Success || rec.SizeBytes < 1000 || rec.SizeBytes >= 1150 {
			t.Fatalf("the record is %+v; want about 1000 bytes", rec.Result)
		}
		seen[fmt.Sprint(rec.SizeBytes)] = true
	}
	if len(seen) < 2 {
		t.Error("it is always the same sample")
	}
	d.verify = func(job run.ProbeJob) error {
		count := 0
		err := filepath.WalkDir(job.Folder, func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.Type().IsRegular() {
				count++
			}
			if info, err := e.Info(); err == nil && e.IsDir() && path != job.Folder && path != job.Dumps && info.Mode()&0o555 != 0o555 {
				t.Errorf("%s is %s: the module cannot pass through", path, info.Mode())
			}
			return err
		})
		if err != nil || count != 52 {
			t.Errorf("%d files, %v; want all but the large one and that whose name cannot be said", count, err)
		}
		return nil
	}
	all := int64(9000)
	d.drills.Sample = &all
	if rec := d.run(); rec.Outcome != status.Success || rec.Files != 52 {
		t.Errorf("the record is %+v; want 52 files", rec.Result)
	}
}

// What is drawn is the beginning of a random order of all files that has enough bytes: as long as it has not, everything.
func TestLots(t *testing.T) {
	for wanted := range uint64(400) {
		var l lots
		total := uint64(0)
		for i := range 40 {
			size := uint64(i % 13)
			total += size
			l.draw(lot{uint64(i*7919) % 41, restic.Node{Size: size}, 0}, wanted)
			sum := uint64(0)
			for _, one := range l.list {
				sum += one.node.Size
			}
			last := l.list[0]
			switch {
			case sum != l.bytes:
				t.Fatalf("%d bytes are drawn; want %d", l.bytes, sum)
			case sum < wanted && len(l.list) != i+1:
				t.Fatalf("of %d files %d are drawn with %d bytes; want %d", i+1, len(l.list), sum, min(wanted, total))
			case len(l.list) > 1 && sum-last.node.Size >= wanted:
				t.Fatalf("%d bytes are drawn; the last file is not needed for %d", sum, wanted)
			}
			for _, one := range l.list {
				if one.number > last.number {
					t.Fatal("the last one is not on top")
				}
			}
		}
	}
	var many lots
	for i := range 5 * maxSampled {
		many.draw(lot{uint64(i), restic.Node{}, 0}, 1)
	}
	if len(many.list) != maxSampled || many.list[0].number != maxSampled-1 {
		t.Errorf("%d files are drawn, up to %d", len(many.list), many.list[0].number)
	}
}

// A drill of engine files is as one of restic, and what is wrong with the bucket fails it.
func TestDrillVersions(t *testing.T) {
	t.Parallel()
	w := newBucketWorld(t)
	b := w.between()
	d := w.drilling("photos", "photos", 0, "sh")
	d.saveVersion()
	d.verify = func(job run.ProbeJob) error {
		for path, want := range map[string]string{filepath.Join(job.Folder, d.data, "data/a"): "one", filepath.Join(job.Dumps, "db.sql"): "a dump\n"} {
			if data, err := os.ReadFile(path); err != nil || string(data) != want {
				t.Errorf("the command finds %q in %s, %v; want %q", data, path, err, want)
			}
		}
		return nil
	}
	rec := d.run()
	if rec.Outcome != status.Success || rec.Files != 3 || rec.SizeBytes != 13 || !rec.Drill.Probed || rec.Drill.Backup != "photos" || rec.Drill.Saved.IsZero() {
		t.Errorf("the record is %+v, drill %+v", rec.Result, rec.Drill)
	}
	d.verify = nil
	one := int64(1)
	d.drills.Sample = &one
	if rec = d.run(); rec.Outcome != status.Success || rec.Files != 1 || rec.Drill.Sample != 1 {
		t.Errorf("the record of a sample is %+v; want one file", rec.Result)
	}
	d.drills.Sample = nil
	held, err := lock.TryExclusive(lock.ModulePath(d.Runner.Paths.Lock, "photos"), "photos")
	d.check(err)
	if rec = d.run(); rec.Outcome != status.Failed || !strings.Contains(rec.Error, "module photos is in use") {
		t.Errorf("while a backup runs the record is %+v", rec.Result)
	}
	d.check(held.Release())
	b.set(nil, func(_ int, body []byte) { body[len(body)-1] ^= 1 })
	if rec = d.run(); rec.Outcome != status.Failed || !strings.Contains(rec.Error, "could not be restored") || !strings.Contains(rec.Hint, "file-backup --module photos verify") {
		t.Errorf("of damage the record is %+v", rec.Result)
	}
	b.set(nil, nil)
	d.write("password", "another\n")
	if rec = d.run(); rec.Outcome != status.Failed || !strings.Contains(rec.Error, "password does not open") || strings.Contains(rec.Error, "\n") {
		t.Errorf("with a wrong password the record is %+v", rec.Result)
	}
}
