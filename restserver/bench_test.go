package restserver

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// Benchmarks stand beside a reference of the same run: what the least that does the same job takes on this machine.

// serveStore is a server of one store.
func serveStore(tb testing.TB, s *Store) *httptest.Server {
	tb.Helper()
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		folders, o, ok := ParsePath(r.URL.Path)
		if !ok || len(folders) > 0 {
			http.NotFound(w, r)
			return
		}
		if err := s.Serve(w, r, o); err != nil {
			Answer(w, err)
		}
	})
	server := httptest.NewServer(h)
	server.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	tb.Cleanup(server.Close)
	return server
}

// receiveOnly receives, and hashes or not.
func receiveOnly(tb testing.TB, hash bool) *httptest.Server {
	tb.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		to := io.Discard
		if hash {
			to = sha256.New()
		}
		b := buffers.Get().(*buffer)
		defer buffers.Put(b)
		_, _ = io.CopyBuffer(struct{ io.Writer }{to}, r.Body, b.data)
	}))
	server.Client().Transport.(*http.Transport).MaxIdleConnsPerHost = 64
	tb.Cleanup(server.Close)
	return server
}

// bodies makes bodies of which no two are the same, without memory for each: only their beginning differs.
type bodies struct {
	tail  []byte
	count atomic.Uint64
}

func newBodies(size int) *bodies {
	tail := make([]byte, size-8)
	_, _ = rand.Read(tail)
	return &bodies{tail: tail}
}

func (b *bodies) next() (name string, body func() io.Reader) {
	head := binary.BigEndian.AppendUint64(nil, b.count.Add(1))
	h := sha256.New()
	h.Write(head)
	h.Write(b.tail)
	return hex.EncodeToString(h.Sum(nil)), func() io.Reader { return io.MultiReader(bytes.NewReader(head), bytes.NewReader(b.tail)) }
}

// uploads sends b.N bodies with so many clients. What is stored in dir is removed at once, or the benchmark would measure how the
// machine gets at new memory.
func uploads(b *testing.B, server *httptest.Server, dir string, size, clients int) {
	content := newBodies(size)
	type job struct {
		name string
		body func() io.Reader
	}
	jobs := make([]job, b.N)
	for i := range jobs {
		jobs[i].name, jobs[i].body = content.next() // the client's hashing is not measured
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	b.SetBytes(int64(size))
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(jobs) {
					return
				}
				req, _ := http.NewRequest(http.MethodPost, server.URL+"/data/"+jobs[i].name, jobs[i].body())
				req.ContentLength = int64(size)
				resp, err := server.Client().Do(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if resp.StatusCode != http.StatusOK {
					b.Errorf("upload: %s", resp.Status)
				}
				if dir != "" {
					_ = os.Remove(filepath.Join(dir, Object{dataType, jobs[i].name}.Path()))
				}
			}
		})
	}
	wg.Wait()
}

// benchDir makes a folder to store in: on a disk, or, for what the code costs without one, on a tmpfs.
func benchDir(b *testing.B, where string) string {
	if where == "disk" {
		return b.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "restserver")
	if err != nil {
		b.Skip(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func BenchmarkUpload(b *testing.B) {
	for _, c := range []struct {
		name          string
		size, clients int
		noVerify      bool
	}{
		{"16MiB/8clients", 16 << 20, 8, false},
		{"16MiB/1client", 16 << 20, 1, false},
		{"16MiB/8clients/unverified", 16 << 20, 8, true},
		{"16MiB/1client/unverified", 16 << 20, 1, true},
		{"4KiB/8clients", 4 << 10, 8, false},
		{"4KiB/1client", 4 << 10, 1, false},
	} {
		b.Run(c.name+"/reference", func(b *testing.B) { uploads(b, receiveOnly(b, !c.noVerify), "", c.size, c.clients) })
		for _, where := range []string{"disk", "tmpfs"} {
			b.Run(c.name+"/"+where, func(b *testing.B) {
				dir := benchDir(b, where)
				server := serveStore(b, &Store{Dir: dir, NoVerify: c.noVerify})
				post(b, server, "/?create=true")
				uploads(b, server, dir, c.size, c.clients)
			})
		}
	}
}

func post(tb testing.TB, server *httptest.Server, path string) {
	tb.Helper()
	resp, err := server.Client().Post(server.URL+path, "", nil)
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		tb.Fatalf("POST %s: %s", path, resp.Status)
	}
}

// naiveList is what comes to mind first.
func naiveList(dir string, sizes bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		type blob struct {
			Name string `json:"name"`
			Size int64  `json:"size"`
		}
		names, blobs := []string{}, []blob{}
		folders, err := os.ReadDir(dir)
		if err != nil {
			panic(err)
		}
		for _, folder := range folders {
			entries, err := os.ReadDir(filepath.Join(dir, folder.Name()))
			if err != nil {
				panic(err)
			}
			for _, e := range entries {
				info, err := e.Info()
				if err != nil {
					panic(err)
				}
				names = append(names, e.Name())
				blobs = append(blobs, blob{e.Name(), info.Size()})
			}
		}
		if sizes {
			_ = json.NewEncoder(w).Encode(blobs)
		} else {
			_ = json.NewEncoder(w).Encode(names)
		}
	})
}

func BenchmarkList(b *testing.B) {
	dir := b.TempDir()
	server := serveStore(b, &Store{Dir: dir})
	post(b, server, "/?create=true")
	for i := range 20000 {
		sum := sha256.Sum256([]byte(strconv.Itoa(i)))
		name := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(dir, "data", name[:2], name), []byte("x"), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	for _, version := range []int{1, 2} {
		naive := httptest.NewServer(naiveList(filepath.Join(dir, "data"), version == 2))
		defer naive.Close()
		for name, url := range map[string]string{"reference": naive.URL, "store": server.URL + "/data/"} {
			b.Run(fmt.Sprintf("v%d/%s", version, name), func(b *testing.B) {
				for b.Loop() {
					req, _ := http.NewRequest(http.MethodGet, url, nil)
					req.Header.Set("Accept", fmt.Sprintf("application/vnd.x.restic.rest.v%d", version))
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	dir := b.TempDir()
	server := serveStore(b, &Store{Dir: dir})
	for _, size := range []int{16 << 20, 4 << 10} {
		name, body := newBodies(size).next()
		data, _ := io.ReadAll(body())
		resp, err := server.Client().Post(server.URL+"/data/"+name, "", bytes.NewReader(data))
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Fatal(err, resp)
		}
		resp.Body.Close()
		file := filepath.Join(dir, "data", name[:2], name)
		plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }))
		defer plain.Close()
		for what, url := range map[string]string{"reference": plain.URL, "store": server.URL + "/data/" + name} {
			b.Run(fmt.Sprintf("%dKiB/%s", size>>10, what), func(b *testing.B) {
				b.SetBytes(int64(size))
				buf := make([]byte, 256<<10)
				for b.Loop() {
					resp, err := http.Get(url)
					if err != nil {
						b.Fatal(err)
					}
					_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
					resp.Body.Close()
				}
			})
		}
	}
}
