package restserver

import (
	"errors"
	"io/fs"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Error is why a request failed, with the code to answer it with.
type Error struct {
	Code int   // a status of HTTP, 400 or more
	Err  error // why
	Late bool  // the answer has begun, and cannot be ended: the connection must be cut
}

func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// ErrQuota is what a Quota returns, or wraps, when there is no room.
var ErrQuota = errors.New("the quota is used up")

// Why requests fail, besides what the system says; errors.Is finds them in what Serve returns.
var (
	ErrExists     = errors.New("an object of this name is there")                // 403
	ErrAppendOnly = errors.New("the repository is append-only")                  // 403
	ErrMismatch   = errors.New("the content does not match the name")            // 400
	ErrBody       = errors.New("the upload was cut off or is malformed")         // 400
	ErrNoLength   = errors.New("the upload does not say how long it is")         // 411
	errNotCreate  = errors.New("want ?create=true")                              // 400
	errMethod     = errors.New("this method is not for that")                    // 405
	errNoSpace    = errors.New("there is no space left on the server's storage") // 507
)

// errorOf finds the code for an error. The text of one that is the server's own affair is not for clients.
func errorOf(err error) *Error {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e
	}
	code := http.StatusInternalServerError
	switch {
	case errors.Is(err, ErrExists), errors.Is(err, ErrAppendOnly):
		code = http.StatusForbidden
	case errors.Is(err, ErrMismatch), errors.Is(err, ErrBody), errors.Is(err, errNotCreate):
		code = http.StatusBadRequest
	case errors.Is(err, ErrNoLength):
		code = http.StatusLengthRequired
	case errors.Is(err, errMethod):
		code = http.StatusMethodNotAllowed
	case errors.Is(err, ErrQuota), errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		code = http.StatusInsufficientStorage
	case missing(err):
		code = http.StatusNotFound
	}
	return &Error{Code: code, Err: err}
}

// missing tells that there is no such file. A folder that is a file has none, and neither has a name too long to be one.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENAMETOOLONG)
}

// Answer answers a request with an error that Serve returned. One that is late cuts the connection: it panics with
// http.ErrAbortHandler, as net/http has it.
func Answer(w http.ResponseWriter, err error) {
	e := errorOf(err)
	if e.Late {
		panic(http.ErrAbortHandler)
	}
	text := http.StatusText(e.Code)
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		text += ": " + errNoSpace.Error()
	case e.Code < 500 && e.Code != http.StatusNotFound, errors.Is(err, ErrQuota):
		text += ": " + e.Err.Error()
	}
	answer(w, e.Code, text)
}

// answer is http.Error with a length.
func answer(w http.ResponseWriter, code int, text string) {
	text = strings.ToValidUTF8(text, "?") + "\n"
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text)) // who does not read it, does not get it
}
