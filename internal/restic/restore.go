package restic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Version is the version of restic, as in 0.18.
type Version struct{ Major, Minor int }

// AtLeast tells whether it is that version or a newer one.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

var versionText = regexp.MustCompile(`\b(\d+)\.(\d+)(?:\.\d+)?\b`)

// Version asks restic which one it is.
func (r Repository) Version(ctx context.Context) (Version, error) {
	var out bytes.Buffer
	if err := r.run(ctx, call{args: []string{"version"}, output: &out}); err != nil {
		return Version{}, err
	}
	m := versionText.FindStringSubmatch(out.String())
	if m == nil {
		return Version{}, fmt.Errorf("restic says no version: %s", shorten(strings.TrimSpace(out.String())))
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	return Version{major, minor}, nil
}

// AllSnapshots lists every snapshot of the repository, the oldest first. It takes no lock.
func (r Repository) AllSnapshots(ctx context.Context) ([]Snapshot, error) {
	var out bytes.Buffer
	if err := r.run(ctx, call{args: []string{"snapshots", "--json", "--no-lock"}, output: &out}); err != nil {
		return nil, err
	}
	return parseSnapshots(out.Bytes())
}

func parseSnapshots(data []byte) ([]Snapshot, error) {
	var list []Snapshot
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("read restic's list of snapshots: %w", err)
	}
	return list, nil
}

// Size is how much a snapshot restores.
type Size struct {
	Items uint64 `json:"total_file_count"` // folders and all else count, too
	Bytes uint64 `json:"total_size"`       // hard links count once
}

// Stats reads all folders of a snapshot to tell how much room it takes. It takes no lock.
func (r Repository) Stats(ctx context.Context, id string) (Size, error) {
	var out bytes.Buffer
	if err := r.run(ctx, call{args: []string{"stats", "--json", "--no-lock", "--mode", "restore-size", "--", id}, output: &out}); err != nil {
		return Size{}, err
	}
	var found struct {
		Size
		Count *int `json:"snapshots_count"`
	}
	if err := json.Unmarshal(out.Bytes(), &found); err != nil {
		return Size{}, fmt.Errorf("read what restic says of the size: %w", err)
	}
	if found.Count != nil && *found.Count != 1 { // restic 0.14 ends well without any
		return Size{}, fmt.Errorf("there is no snapshot %s", id)
	}
	return found.Size, nil
}

// Node is a file, folder or whatever else is in a snapshot. What is not UTF-8 in names stands there as U+FFFD, one for each byte: restic
// lists it no better.
type Node struct {
	Name  string      `json:"name"`
	Path  string      `json:"path"` // in the snapshot, from its top
	Type  string      `json:"type"` // "file", "dir", "symlink", "dev", "chardev", "fifo", "socket", "irregular"
	UID   uint32      `json:"uid"`
	GID   uint32      `json:"gid"`
	Size  uint64      `json:"size"` // of files
	Mode  os.FileMode `json:"mode"`
	MTime time.Time   `json:"mtime"`
}

// Ls passes on what a snapshot holds, a folder before what is in it; with folders only what is directly in those, and they themselves.
// An error of each stops it and is returned. It takes no lock.
func (r Repository) Ls(ctx context.Context, id string, folders []string, each func(Node) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var failure error
	args := append([]string{"ls", "--json", "--no-lock", "--", id}, folders...)
	err := r.run(inner, call{args: args, raw: func(line []byte) {
		n, ok, err := parseNode(line)
		if err == nil && ok && failure == nil {
			err = each(n)
		}
		if err != nil && failure == nil {
			failure = err
			cancel(err)
		}
	}})
	if failure != nil {
		return failure
	}
	return err
}

// parseNode reads a line of ls; false for one that is not of a node.
func parseNode(line []byte) (Node, bool, error) {
	var n struct {
		Node
		Struct  string `json:"struct_type"`
		Message string `json:"message_type"`
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return Node{}, false, nil
	}
	if err := json.Unmarshal(line, &n); err != nil {
		return Node{}, false, fmt.Errorf("read restic's list of files: %w", err)
	}
	if n.Struct != "node" && n.Message != "node" {
		return Node{}, false, nil
	}
	if !strings.HasPrefix(n.Path, "/") {
		return Node{}, false, fmt.Errorf("read restic's list of files: the path %q does not begin at the top", n.Path)
	}
	return n.Node, true, nil
}

// RestoreOptions say what of a snapshot goes where.
type RestoreOptions struct {
	Snapshot string
	Target   string
	Paths    []string // in the snapshot, from its top; nil: everything
	Verify   bool     // read the files again and compare their hashes
	NoLock   bool     // for a repository in which this user's lock would be in the way of others
	Version  Version  // of this restic
	Bytes    uint64   // to be restored, for the progress of versions that report none
}

// Restored is what became of a restore.
type Restored struct {
	Errors     []string // the first MaxUnreadable things that failed
	ErrorCount int
}

// RestoreProgress is how far a restore is.
type RestoreProgress struct {
	Percent               float64 // 0 to 100
	FilesDone             uint64  // 0 where restic does not tell
	BytesDone, BytesTotal uint64
	Estimated             bool // from what the process has written: restic before 0.16 does not tell
}

const (
	// countInterval is how often it is looked at what restic has written.
	countInterval = time.Second
	// sparseVersion, the minor one of 0.x, is the first with --sparse; and so on.
	sparseVersion       = 15
	progressVersion     = 16
	excludeXattrVersion = 18
)

// KeepsSparse tells whether Restore leaves holes where there are only zeros.
func (v Version) KeepsSparse() bool { return v.AtLeast(0, sparseVersion) }

// SkipsSecurity tells whether Restore leaves out the extended attributes security.*, which are about another system.
func (v Version) SkipsSecurity() bool { return v.AtLeast(0, excludeXattrVersion) }

var (
	ignoredText = regexp.MustCompile(`(?i)^ignoring error for (.*)$`)
	countText   = regexp.MustCompile(`There were (\d+) errors`)
)

// Restore writes a snapshot, or some paths of it, into a folder. With an error it also says what it could not restore.
func (r Repository) Restore(ctx context.Context, o RestoreOptions, progress func(RestoreProgress)) (Restored, error) {
	args := []string{"restore", "--json", "--target", o.Target}
	for _, path := range o.Paths {
		args = append(args, "--include", literal(path))
	}
	for _, flag := range []struct {
		name   string
		wanted bool
	}{{"--verify", o.Verify}, {"--no-lock", o.NoLock}, {"--sparse", o.Version.KeepsSparse()}, {"--exclude-xattr=security.*", o.Version.SkipsSecurity()}} {
		if flag.wanted {
			args = append(args, flag.name)
		}
	}
	var done Restored
	fail := func(text string) {
		done.ErrorCount++
		if len(done.Errors) < MaxUnreadable {
			done.Errors = append(done.Errors, text)
		}
	}
	if progress == nil {
		progress = func(RestoreProgress) {}
	}
	counted := func() {}
	defer func() { counted() }()
	err := r.run(ctx, call{
		args: append(args, "--", o.Snapshot),
		line: func(m *message) {
			switch m.Type {
			case "status":
				progress(RestoreProgress{100 * m.PercentDone, m.FilesRestored, m.BytesRestored, m.TotalBytes, false})
			case "error":
				fail(r.mask(m.text()))
			}
		},
		told: func(text string) {
			if m := ignoredText.FindStringSubmatch(text); m != nil {
				fail(r.mask(m[1]))
			}
			if m := countText.FindStringSubmatch(text); m != nil {
				n, _ := strconv.Atoi(m[1])
				done.ErrorCount = max(done.ErrorCount, n)
			}
		},
		began: func(pid int) {
			if !o.Version.AtLeast(0, progressVersion) && o.Bytes > 0 {
				counted = count(pid, o.Bytes, progress)
			}
		},
	})
	return done, err
}

// count reports what a process has written, until the function that it returns is called.
func count(pid int, total uint64, progress func(RestoreProgress)) (stop func()) {
	end := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		tick := time.NewTicker(countInterval)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
			if err != nil {
				continue // gone, or not ours to look at
			}
			written := min(writtenBytes(string(data)), total)
			// What is written to the cache counts, too, so it is not done before restic has ended.
			progress(RestoreProgress{Percent: min(99, 100*float64(written)/float64(total)), BytesDone: written, BytesTotal: total, Estimated: true})
		}
	})
	return func() { close(end); wait.Wait() }
}

// writtenBytes reads wchar of proc_pid_io(5).
func writtenBytes(text string) uint64 {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, "wchar: "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}

// literal is a pattern that matches nothing but the path.
func literal(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// Dump writes a file of a snapshot, or a folder as a tar archive. It takes no lock.
func (r Repository) Dump(ctx context.Context, id, path string, w io.Writer) error {
	out := &failingWriter{w: w}
	err := r.run(ctx, call{args: []string{"dump", "--no-lock", "--", id, path}, output: out})
	if out.err != nil {
		return fmt.Errorf("write %s: %w", path, out.err)
	}
	return err
}

// failingWriter remembers why writing failed: to os/exec it is one of many failures.
type failingWriter struct {
	w   io.Writer
	err error
}

func (f *failingWriter) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err != nil {
		f.err = err
	}
	return n, err
}

// Mount shows the snapshots with all of the tags in a folder, by FUSE, until ctx is done; that is no error.
func (r Repository) Mount(ctx context.Context, dir string, tags []string) error {
	args := []string{"mount", "--no-lock"}
	if len(tags) > 0 {
		args = append(args, "--tag", strings.Join(tags, ","))
	}
	err := r.run(ctx, call{args: append(args, "--", dir), output: io.Discard})
	if errors.Is(err, ErrInterrupted) && ctx.Err() != nil {
		return nil
	}
	return err
}
