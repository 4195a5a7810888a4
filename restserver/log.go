package restserver

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Recorder notes what is answered, for an access log. It lets files through to the connection.
type Recorder struct {
	http.ResponseWriter

	Host string // who asks; "": the address of the request
	User string // "": nobody is known

	code int
	n    int64
}

// Unwrap is for http.ResponseController.
func (w *Recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *Recorder) WriteHeader(code int) {
	if w.code < http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *Recorder) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// ReadFrom hands a file to the connection, which sends it by itself: sendfile(2).
func (w *Recorder) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	n, err := io.Copy(w.ResponseWriter, r)
	w.n += n
	return n, err
}

// Status is the status code that was answered: 200 when nothing was said, as net/http has it.
func (w *Recorder) Status() int { return max(w.code, http.StatusOK) }

// Begun tells whether it is too late for another answer.
func (w *Recorder) Begun() bool { return w.code >= http.StatusOK }

// Bytes is how long the answer was, without its header.
func (w *Recorder) Bytes() int64 { return w.n }

func (w *Recorder) begin() {
	if w.code < http.StatusOK {
		w.code = http.StatusOK
	}
}

// Line is a line of Apache's combined log format, with the end of the line:
//
//	10.0.0.1 - user [02/Jan/2006:15:04:05 -0700] "GET /data/ HTTP/1.1" 200 1234 "referer" "user agent"
//
// Whatever could end a field or the line is escaped with a backslash: the log is of clients' making.
func (w *Recorder) Line(r *http.Request, start time.Time) []byte {
	host := w.Host
	if host == "" {
		var err error
		if host, _, err = net.SplitHostPort(r.RemoteAddr); err != nil {
			host = r.RemoteAddr
		}
	}
	uri := r.RequestURI
	if uri == "" {
		uri = r.URL.RequestURI()
	}
	line := appendField(make([]byte, 0, 256), host)
	line = append(line, " - "...)
	line = appendField(line, w.User)
	line = start.AppendFormat(append(line, ' '), "[02/Jan/2006:15:04:05 -0700] ")
	line = appendQuoted(line, r.Method, " ", uri, " ", r.Proto)
	line = strconv.AppendInt(append(line, ' '), int64(w.Status()), 10)
	line = strconv.AppendInt(append(line, ' '), w.n, 10)
	line = appendQuoted(append(line, ' '), r.Referer())
	line = appendQuoted(append(line, ' '), r.UserAgent())
	return append(line, '\n')
}

// appendField appends what has no quotes around it, "-" when there is nothing. No space may be in it, lest the fields after it move.
func appendField(line []byte, text string) []byte {
	if text == "" {
		text = "-"
	}
	return appendEscaped(line, text, ' ')
}

func appendQuoted(line []byte, texts ...string) []byte {
	line = append(line, '"')
	for _, text := range texts {
		line = appendEscaped(line, text, '"')
	}
	return append(line, '"')
}

// appendEscaped writes what could end the field or the line, or is no ASCII, as \xhh.
func appendEscaped(line []byte, text string, end byte) []byte {
	const digits = "0123456789abcdef"
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ' || c > '~' || c == end && c == ' ':
			line = append(line, '\\', 'x', digits[c>>4], digits[c&15])
		case c == end || c == '\\':
			line = append(line, '\\', c)
		default:
			line = append(line, c)
		}
	}
	return line
}
