package filebackup

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

// Whatever is done to a folder, and in however many parts it is saved: the local manifest is that of the bucket, and nothing is left to do.
func TestLocalManifestIsTheBuckets(t *testing.T) {
	for _, split := range []int{0, 1, 3} {
		t.Run(fmt.Sprint(split), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.c.SplitChunkSize, f.c.SnapshotInterval = split, 4
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			name := func() string {
				n := string(rune('a' + r.IntN(4)))
				for range r.IntN(3) {
					n += "/" + string(rune('a'+r.IntN(4)))
				}
				return filepath.Join(f.dir, n)
			}
			for round := range 6 {
				for range 1 + r.IntN(12) {
					path := name()
					switch r.IntN(6) {
					case 0:
						_ = os.RemoveAll(path)
					case 1: // a folder instead
						_ = os.Remove(path)
						_ = os.MkdirAll(path, 0o755)
					case 2:
						_ = os.Symlink("elsewhere", path)
					case 3:
						_ = os.Chmod(path, 0o700)
					default:
						_ = os.MkdirAll(filepath.Dir(path), 0o755)
						_ = os.WriteFile(path, fmt.Append(nil, r.IntN(30)), 0o644)
					}
				}
				content := fmt.Sprint("dump ", r.IntN(2))
				streams := []Stream{{"/b/stream", func(_ context.Context, w io.Writer) error {
					_, err := io.WriteString(w, content)
					return err
				}}, {"/a.stream", func(_ context.Context, w io.Writer) error {
					_, err := io.WriteString(w, content)
					return err
				}}}
				if r.IntN(4) == 0 {
					streams = streams[1:]
				}
				if _, err := f.open().Backup(t.Context(), BackupOptions{Streams: streams}); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				k, err := f.open().c.loadCache()
				if err != nil || k == nil {
					t.Fatalf("round %d: %v, %v", round, k, err)
				}
				m, err := f.open().Manifest(t.Context(), Version{ID: k.ID})
				if err != nil {
					t.Fatal(err)
				}
				last, n := "", 0
				k.each(func(e *Entry) {
					n++
					if last != "" && comparePaths(last, e.Path) >= 0 {
						t.Errorf("round %d: %q comes after %q", round, e.Path, last)
					}
					last = e.Path
					if want := m.Entry(e.Path); want == nil || want.Kind != e.Kind || want.Object != e.Object || want.ID != e.ID || want.Target != e.Target || !equalMeta(e, want) && e.Kind == File {
						t.Errorf("round %d: the local manifest has %+v, the bucket %+v", round, e, want)
					}
				})
				if n != m.Len() {
					t.Errorf("round %d: the local manifest has %d entries, the bucket %d", round, n, m.Len())
				}
				if s, err := f.open().Backup(t.Context(), BackupOptions{Streams: streams}); err != nil || len(s.Versions) > 0 || s.Uploaded > 0 {
					t.Fatalf("round %d, again: %+v, %v", round, s, err)
				}
			}
		})
	}
}
