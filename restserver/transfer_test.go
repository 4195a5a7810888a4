package restserver

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// stored makes a store with one object, and returns its path.
func stored(tb testing.TB, content []byte) (*Store, Object) {
	tb.Helper()
	sum := sha256.Sum256(content)
	o := Object{"data", hex.EncodeToString(sum[:])}
	s := &Store{Dir: tb.TempDir()}
	path := filepath.Join(s.Dir, o.path())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o600); err != nil {
		tb.Fatal(err)
	}
	return s, o
}

func FuzzRange(f *testing.F) {
	for _, header := range []string{"", "bytes=0-", "bytes=0-0", "bytes=1-2,4-5", "bytes=-3", "bytes=100-", "bytes=5-2", "bytes=", "x", "bytes=0-99999999999999999999"} {
		f.Add(header)
	}
	content := []byte("0123456789abcdefghij")
	s, o := stored(f, content)
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Range", header)
		want, got := httptest.NewRecorder(), httptest.NewRecorder()
		want.Header().Set("Content-Type", objectMime)
		http.ServeContent(want, r, "", time.Time{}, bytes.NewReader(content))
		if err := s.Serve(got, r, o); err != nil {
			t.Fatalf("Range %q: %v", header, err)
		}
		if got.Code != 200 && got.Code != 206 && got.Code != 416 || got.Code != want.Code {
			t.Errorf("Range %q: %d; want %d", header, got.Code, want.Code)
		}
		multipart := strings.HasPrefix(want.Header().Get("Content-Type"), "multipart/") // with a random boundary
		if a, b := got.Body.String(), want.Body.String(); a != b && !(multipart && len(a) == len(b)) {
			t.Errorf("Range %q: %q; want %q", header, a, b)
		}
		if a, b := got.Header().Get("Content-Range"), want.Header().Get("Content-Range"); a != b {
			t.Errorf("Range %q: Content-Range %q; want %q", header, a, b)
		}
	})
}

func TestDownload(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 3*pieceBytes/16+1)
	s, o := stored(t, content)
	var events []Event
	s.Count = func(e Event) { events = append(events, e) }
	server := serveStore(t, s)
	path := "/data/" + o.Name
	if got := do(t, server, "HEAD", path, nil); got.header.Get("Content-Length") != fmt.Sprint(len(content)) || got.body != "" {
		t.Errorf("HEAD: %v", got.header)
	}
	for header, want := range map[string]string{
		"":                                    string(content),
		"bytes=5-9":                           string(content[5:10]),
		"bytes=-7":                            string(content[len(content)-7:]),
		"bytes=300000-":                       string(content[300000:]),
		"bytes=16-" + strings.Repeat("9", 12): string(content[16:]),
	} {
		events = nil
		got := do(t, server, "GET", path, nil, "Range: "+header)
		if got.body != want || got.header.Get("Content-Type") != objectMime {
			t.Errorf("Range %q: %d, %d bytes of %s; want %d", header, got.code, len(got.body), got.header.Get("Content-Type"), len(want))
		}
		server.Config.Handler.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("HEAD", path, nil)) // an event may be late
	}
	server.Close()
	if want := (Event{Read, "data", int64(len(content) - 16)}); len(events) > 1 {
		t.Errorf("events %v; want one, like %v", events, want)
	}
}

// sendfileWriter notes how an answer reached the connection.
type sendfileWriter struct {
	http.ResponseWriter
	files *atomic.Int64
}

func (w sendfileWriter) ReadFrom(r io.Reader) (int64, error) {
	if l, ok := r.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			w.files.Add(l.N)
		}
	}
	return io.Copy(w.ResponseWriter, r)
}

func (w sendfileWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestDownloadsAreSentByTheConnection(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 3*pieceBytes)
	s, o := stored(t, content)
	var n atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.Serve(sendfileWriter{w, &n}, r, o); err != nil {
			Answer(w, err)
		}
	}))
	defer server.Close()
	if got := do(t, server, "GET", "/", nil); got.body != string(content) || n.Load() != int64(len(content)) {
		t.Errorf("%d bytes, %d of them as a file; want %d", len(got.body), n.Load(), len(content))
	}
}

// TestSilentClients are cut off, and those that are slow are not.
func TestSilentClients(t *testing.T) {
	const timeout = 200 * time.Millisecond
	content := bytes.Repeat([]byte("x"), 32<<20) // more than all that lies between
	s, o := stored(t, content)
	s.StallTimeout = timeout
	ended := make(chan error, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, o, _ := ParsePath(r.URL.Path)
		err := s.Serve(w, r, o)
		ended <- err
		if err != nil {
			Answer(w, err)
		}
	}))
	defer server.Close()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	within := func(what string) error {
		t.Helper()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			t.Fatalf("%s: the request hangs", what)
			return nil
		}
	}
	name, small := blob("slow but steady")

	fmt.Fprintf(dial(), "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", name)
	if err := within("upload"); !errors.Is(err, ErrBody) || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an upload that stalls: %v; want ErrBody, for the deadline", err)
	}
	fmt.Fprintf(dial(), "GET /data/%s HTTP/1.1\r\nHost: x\r\n\r\n", o.Name)
	_ = within("download") // cut: what was sent has been counted

	// Body that nobody reads.
	c := dial()
	fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", o.Name)
	if err := within("refused upload"); !errors.Is(err, ErrExists) {
		t.Errorf("refused upload: %v", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection of a refused upload stays open: %v", err)
	}

	c = dial()
	fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", name, len(small))
	for i := range small {
		time.Sleep(timeout / 4) // the slowness is what is tested
		_, _ = c.Write(small[i : i+1])
	}
	if err := within("slow upload"); err != nil {
		t.Errorf("an upload of a byte now and then: %v", err)
	}
	// The connection has no deadline left of it.
	time.Sleep(2 * timeout)
	fmt.Fprintf(c, "GET /data/%s HTTP/1.1\r\nHost: x\r\n\r\n", name)
	answers := bufio.NewReader(c)
	for range 2 {
		resp, err := http.ReadResponse(answers, nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("on the same connection: %v, %v", resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
	}
	_ = within("small download")
	time.Sleep(2 * timeout)
	fmt.Fprintf(c, "HEAD /data/%s HTTP/1.1\r\nHost: x\r\n\r\n", name)
	if resp, err := http.ReadResponse(answers, &http.Request{Method: "HEAD"}); err != nil || resp.StatusCode != 200 {
		t.Fatalf("on the same connection: %v, %v", resp, err)
	}
}

// TestMemory has many clients send large bodies at once.
func TestMemory(t *testing.T) {
	const (
		clients  = 64
		size     = 16 << 20
		maxInUse = 64 << 20
	)
	server := serveStore(t, &Store{Dir: t.TempDir()})
	bodies := newBodies(size)
	debug.FreeOSMemory()
	var gone, together sync.WaitGroup
	together.Add(clients)
	for range clients {
		gone.Go(func() {
			name, body := bodies.next()
			// All have begun before one ends.
			waiting := &onEOF{body(), func() { together.Done(); together.Wait() }}
			req, _ := http.NewRequest("POST", server.URL+"/data/"+name, waiting)
			req.ContentLength = size
			resp, err := server.Client().Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			resp.Body.Close()
			if resp.StatusCode != 200 {
				t.Error(resp.Status)
			}
		})
	}
	done := make(chan struct{})
	go func() { gone.Wait(); close(done) }()
	var most uint64
	for running := true; running; {
		select {
		case <-done:
			running = false
		case <-time.After(20 * time.Millisecond):
		}
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
	}
	t.Logf("at most %d MiB in use, %d of them the body that is sent", most>>20, size>>20)
	if most > maxInUse {
		t.Errorf("%d MiB in use; want at most %d", most>>20, maxInUse>>20)
	}
}

// onEOF calls a function at the end of a body.
type onEOF struct {
	io.Reader
	f func()
}

func (r *onEOF) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err == io.EOF && r.f != nil {
		r.f()
		r.f = nil
	}
	return n, err
}

func TestSyncsAreShared(t *testing.T) {
	var s syncs
	var began atomic.Int32
	gate := make(chan struct{})
	fsync := func(*os.File) error {
		began.Add(1)
		<-gate
		return nil
	}
	var wg sync.WaitGroup
	id := folderID{1, 2}
	wg.Go(func() { _ = s.sync(id, nil, fsync) })
	for began.Load() == 0 {
		runtime.Gosched()
	}
	const more = 20
	for range more {
		wg.Go(func() { _ = s.sync(id, nil, fsync) })
	}
	// One runs, which began too early for the others: they all wait for the next.
	for s.waiting(id) == nil {
		runtime.Gosched()
	}
	next := s.waiting(id)
	time.Sleep(20 * time.Millisecond) // all others join it
	if began.Load() != 1 || s.waiting(id) != next {
		t.Errorf("%d syncs began; want one at a time", began.Load())
	}
	wg.Go(func() { _ = s.sync(folderID{3, 4}, nil, func(*os.File) error { return nil }) }) // of another folder: at once
	close(gate)
	wg.Wait()
	if n := began.Load(); n != 2 {
		t.Errorf("%d syncs for %d who wait; want 2", n, more+1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.folders) > 1 { // the last goroutine may still be at it
		t.Errorf("%d folders are remembered", len(s.folders))
	}
}

func (s *syncs) waiting(id folderID) *folderSync {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.folders[id] == nil {
		return nil
	}
	return s.folders[id].next
}

func TestSyncErrorsReachAllWhoWait(t *testing.T) {
	var s syncs
	broken := errors.New("broken disk")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := s.sync(folderID{}, nil, func(*os.File) error { return broken }); !errors.Is(err, broken) {
				t.Errorf("sync = %v", err)
			}
		})
	}
	wg.Wait()
}
