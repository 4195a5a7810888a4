package restserver

import (
	"io"
	"net/http"
	"time"
)

// DefaultStallTimeout is how long a client may be silent in the midst of a transfer.
const DefaultStallTimeout = 5 * time.Minute

const (
	// pieceBytes is what must move within the timeout for a download to go on: less than 1 KiB a second by default. The connection
	// sends a file by itself, and cannot be asked how far it is.
	pieceBytes = 256 << 10
	// maxRenewals is how often within the timeout a deadline is set anew. Doing so with every read would cost as much as the read.
	maxRenewals = 64
)

// deadline is one of the two deadlines of a connection, put off while bytes move.
type deadline struct {
	set     func(time.Time) error // fails where the connection has no deadlines; then nothing is bounded
	timeout time.Duration         // 0: none
	last    time.Time
}

// putOff gives the client the timeout again.
func (d *deadline) putOff() {
	if d.timeout == 0 {
		return
	}
	if now := time.Now(); now.Sub(d.last) >= d.timeout/maxRenewals {
		d.last = now
		_ = d.set(now.Add(d.timeout))
	}
}

func (d *deadline) lift() {
	if !d.last.IsZero() {
		d.last = time.Time{}
		_ = d.set(time.Time{})
	}
}

// body is a request's body from a client that must not be silent.
type body struct {
	io.Reader
	deadline deadline
}

// newBody also bounds what net/http reads of a body after its handler has left it.
func newBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) *body {
	b := &body{r.Body, deadline{set: http.NewResponseController(w).SetReadDeadline, timeout: timeout}}
	if r.Body == nil || r.Body == http.NoBody {
		b.Reader, b.deadline.timeout = http.NoBody, 0
	}
	b.deadline.putOff()
	return b
}

// Read lifts the deadline at the end of the body: the time after is the server's own.
func (b *body) Read(p []byte) (int, error) {
	b.deadline.putOff()
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		b.deadline.lift()
	}
	return n, err
}

// download is an answer to a client that must not be silent. It counts.
type download struct {
	http.ResponseWriter
	deadline deadline
	n        int64 // bytes of the body
}

func newDownload(w http.ResponseWriter, timeout time.Duration) *download {
	return &download{w, deadline{set: http.NewResponseController(w).SetWriteDeadline, timeout: timeout}, 0}
}

// Unwrap is for http.ResponseController.
func (d *download) Unwrap() http.ResponseWriter { return d.ResponseWriter }

func (d *download) Write(p []byte) (int, error) {
	d.deadline.putOff()
	n, err := d.ResponseWriter.Write(p)
	d.n += int64(n)
	return n, err
}

// ReadFrom hands a file to the connection, which sends it by itself: sendfile(2).
func (d *download) ReadFrom(r io.Reader) (total int64, err error) {
	left := int64(1<<63 - 1)
	limited, ok := r.(*io.LimitedReader) // the connection looks through one of them, not two
	if ok {
		r, left = limited.R, limited.N
	}
	for left > 0 {
		d.deadline.putOff()
		want := min(left, pieceBytes)
		var n int64
		n, err = io.Copy(d.ResponseWriter, &io.LimitedReader{R: r, N: want})
		total += n
		left -= n
		if err != nil || n < want {
			break
		}
	}
	if ok {
		limited.N -= total
	}
	d.n += total
	return total, err
}

// done sends what net/http still holds back, within the deadline, and leaves the connection to others without one.
func (d *download) done() {
	if !d.deadline.last.IsZero() {
		_ = http.NewResponseController(d.ResponseWriter).Flush()
		d.deadline.lift()
	}
}
