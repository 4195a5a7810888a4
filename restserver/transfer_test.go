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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stored makes a store with one object, and returns its path.
func stored(tb testing.TB, content []byte) (*Store, Object) {
	tb.Helper()
	sum := sha256.Sum256(content)
	o := Object{"data", hex.EncodeToString(sum[:])}
	s := &Store{Dir: tb.TempDir()}
	path := filepath.Join(s.Dir, o.Path())
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
		// What is said to be a range of it, is.
		if said := got.Header().Get("Content-Range"); got.Code == 206 && !multipart {
			var from, to, of int
			if _, err := fmt.Sscanf(said, "bytes %d-%d/%d", &from, &to, &of); err != nil || of != len(content) || from < 0 || from > to+1 || to >= of {
				t.Fatalf("Range %q: Content-Range %q", header, said)
			}
			if body := got.Body.String(); body != string(content[from:to+1]) {
				t.Errorf("Range %q: Content-Range %q, and %q", header, said, body)
			}
		} else if got.Code == 200 && got.Body.String() != string(content) {
			t.Errorf("Range %q: 200, and %q", header, got.Body)
		}
	})
}

func TestDownload(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 3*pieceBytes/16+1)
	s, o := stored(t, content)
	events := make(chan Event, 100)
	s.Count = func(e Event) { events <- e }
	server := serveStore(t, s)
	path := "/data/" + o.Name
	if got := do(t, server, "HEAD", path, nil); got.header.Get("Content-Length") != fmt.Sprint(len(content)) || got.body != "" {
		t.Errorf("HEAD: %v", got.header)
	}
	for _, c := range []struct {
		header string
		code   int
		want   string
	}{
		{"", 200, string(content)},
		{"bytes=0-", 206, string(content)},
		{"bytes=5-9", 206, string(content[5:10])},
		{"bytes=0-0", 206, "0"},
		{"bytes=-7", 206, string(content[len(content)-7:])},
		{"bytes=-" + strings.Repeat("9", 12), 206, string(content)},
		{"bytes=300000-", 206, string(content[300000:])},
		{"bytes=16-" + strings.Repeat("9", 12), 206, string(content[16:])},
		{fmt.Sprintf("bytes=%d-", len(content)), 416, "invalid range: failed to overlap\n"},
		{"bytes=9-5", 416, "invalid range\n"},
		{"bytes=--5", 416, "invalid range\n"},
		{"bytes=-5-9", 416, "invalid range\n"},
		{"bytes=0-" + strings.Repeat("9", 30), 416, "invalid range\n"},
		{"bytes=x", 416, "invalid range\n"},
		{"lines=1-2", 416, "invalid range\n"},
	} {
		got := do(t, server, "GET", path, nil, "Range: "+c.header)
		if got.code != c.code || got.body != c.want {
			t.Errorf("Range %q: %d, %d bytes; want %d, %d bytes", c.header, got.code, len(got.body), c.code, len(c.want))
		}
		if c.code < 400 && got.header.Get("Content-Type") != objectMime {
			t.Errorf("Range %q: of type %s", c.header, got.header.Get("Content-Type"))
		}
		if e := <-events; e != (Event{Read, "data", int64(len(c.want))}) {
			t.Errorf("Range %q: event %v; want %d bytes", c.header, e, len(c.want))
		}
	}
}

// sendfileListener has connections that note how much of files they are given to send by themselves.
type sendfileListener struct {
	net.Listener
	files *atomic.Int64
}

func (l sendfileListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return sendfileConn{c.(*net.TCPConn), l.files}, nil
}

type sendfileConn struct {
	*net.TCPConn
	files *atomic.Int64
}

// ReadFrom is what net/http calls for sendfile(2).
func (c sendfileConn) ReadFrom(r io.Reader) (int64, error) {
	n, err := c.TCPConn.ReadFrom(r)
	if l, ok := r.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok {
			c.files.Add(n)
		}
	}
	return n, err
}

func TestDownloadsAreSentByTheConnection(t *testing.T) {
	content := bytes.Repeat([]byte("x"), 3*pieceBytes+1)
	s, o := stored(t, content)
	handler, err := NewHandler(&Server{Path: s.Dir, NoAuth: true, Prometheus: true, Log: filepath.Join(t.TempDir(), "log")})
	if err != nil {
		t.Fatal(err)
	}
	var n atomic.Int64
	server := httptest.NewUnstartedServer(handler)
	server.Listener = sendfileListener{server.Listener, &n}
	server.Start()
	defer server.Close()
	const sniffed = 512 // net/http reads so much itself, before the header
	if got := do(t, server, "GET", "/data/"+o.Name, nil); got.body != string(content) || n.Load() != int64(len(content)-sniffed) {
		t.Errorf("%d bytes, %d of them as a file; want %d, and all but %d", len(got.body), n.Load(), len(content), sniffed)
	}
}

// pipes is a listener without a network, so that synctest knows who waits for whom.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial() net.Conn {
	client, server := net.Pipe()
	p.conns <- server
	return client
}

// TestSilentClients are cut off, and those that are slow are not. Its hours are synctest's.
func TestSilentClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		content := bytes.Repeat([]byte("x"), 4*pieceBytes)
		s, o := stored(t, content)
		ended := make(chan error, 1)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, o, _ := ParsePath(r.URL.Path)
			err := s.Serve(w, r, o)
			ended <- err
			if err != nil {
				Answer(w, err)
			}
		})}
		p := &pipes{make(chan net.Conn), make(chan struct{})}
		go func() { _ = server.Serve(p) }()
		defer server.Close()
		// cut waits for the end of a request, which is to be after the timeout, and no later.
		cut := func(what string, since time.Time) error {
			t.Helper()
			err := <-ended
			if d := time.Since(since); d > DefaultStallTimeout || d < DefaultStallTimeout-DefaultStallTimeout/maxRenewals {
				t.Errorf("%s: cut after %v; want %v", what, d, DefaultStallTimeout)
			}
			return err
		}
		name, small := blob("slow but steady")

		start := time.Now()
		c := p.dial()
		fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", name)
		if err := cut("upload", start); !errors.Is(err, ErrBody) || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an upload that stalls: %v; want ErrBody, for the deadline", err)
		}
		if resp, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || resp.StatusCode != 400 {
			t.Errorf("an upload that stalls: %v, %v; want 400", resp, err)
		}
		c.Close()

		start = time.Now()
		c = p.dial()
		fmt.Fprintf(c, "GET /data/%s HTTP/1.1\r\nHost: x\r\n\r\n", o.Name)
		if err := cut("download", start); err != nil {
			t.Errorf("a download that nobody reads: %v; want that what was sent is counted", err)
		}
		c.Close()

		// A refused upload, of which nobody reads the body, holds its connection no longer than others.
		start = time.Now()
		c = p.dial()
		fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc", o.Name)
		if err := <-ended; !errors.Is(err, ErrExists) {
			t.Errorf("refused upload: %v", err)
		}
		if _, err := io.ReadAll(c); err != nil || time.Since(start) > DefaultStallTimeout+time.Second { // net/http lingers
			t.Errorf("the connection of a refused upload is open for %v, %v", time.Since(start), err)
		}

		// An hour of upload, a byte now and then.
		c = p.dial()
		answers := bufio.NewReader(c)
		fmt.Fprintf(c, "POST /data/%s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", name, len(small))
		for i := range small {
			time.Sleep(DefaultStallTimeout - 10*time.Second)
			_, _ = c.Write(small[i : i+1])
		}
		// The connection has no deadline left of any request.
		for _, path := range []string{name, o.Name} {
			resp, err := http.ReadResponse(answers, nil)
			if err != nil || resp.StatusCode != 200 {
				t.Fatalf("on the same connection: %v, %v", resp, err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			if err := <-ended; err != nil {
				t.Errorf("an upload of a byte now and then, or the download of it: %v", err)
			}
			time.Sleep(3 * DefaultStallTimeout)
			fmt.Fprintf(c, "GET /data/%s HTTP/1.1\r\nHost: x\r\n\r\n", path)
		}
		// And a slow download.
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, pieceBytes/4)
		n := 0
		for err == nil {
			var m int
			m, err = io.ReadFull(resp.Body, buf)
			n += m
			time.Sleep(time.Minute)
		}
		if err := <-ended; err != nil || n != len(content) {
			t.Errorf("a slow download: %d bytes, %v; want %d", n, err, len(content))
		}
		c.Close()
	})
}

// TestUploadsAreNotBuffered counts what is allocated for large bodies, which do not match, so that nothing of them stays.
func TestUploadsAreNotBuffered(t *testing.T) {
	const (
		uploads  = 8
		size     = 16 << 20
		maxBytes = 2 << 20 // for each; the race detector throws away some of what is pooled
	)
	s := &Store{Dir: t.TempDir()}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range uploads {
		r := httptest.NewRequest("POST", "/", io.LimitReader(zeros{}, size))
		r.ContentLength = size
		if err := s.Serve(httptest.NewRecorder(), r, Object{"data", someID}); !errors.Is(err, ErrMismatch) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) / uploads; n > maxBytes {
		t.Errorf("%d KiB were allocated for each upload; want at most %d", n>>10, maxBytes>>10)
	}
}

func TestSyncsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s syncs
		var began atomic.Int32
		gate := make(chan struct{})
		fsync := func(*os.File) error {
			began.Add(1)
			<-gate
			return nil
		}
		var wg sync.WaitGroup
		wg.Go(func() { _ = s.sync(folderID{1, 2}, nil, fsync) })
		synctest.Wait()
		const more = 20
		for range more {
			wg.Go(func() { _ = s.sync(folderID{1, 2}, nil, fsync) })
		}
		synctest.Wait()
		// One runs, which began too early for the others: they all wait for the next.
		if began.Load() != 1 {
			t.Errorf("%d syncs began; want one at a time", began.Load())
		}
		_ = s.sync(folderID{3, 4}, nil, func(*os.File) error { return nil }) // of another folder: at once
		close(gate)
		wg.Wait()
		if n := began.Load(); n != 2 {
			t.Errorf("%d syncs for %d who wait; want 2", n, more+1)
		}
		synctest.Wait()
		if len(s.folders) > 0 {
			t.Errorf("%d folders are remembered", len(s.folders))
		}
	})
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
