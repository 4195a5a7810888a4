package restserver

import (
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// recorder notes what is answered, for the log. It lets files through to the connection.
type recorder struct {
	http.ResponseWriter
	user string
	code int
	n    int64
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(code int) {
	if w.code < http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.begin()
	n, err := w.ResponseWriter.Write(p)
	w.n += int64(n)
	return n, err
}

// ReadFrom hands a file to the connection, which sends it by itself: sendfile(2).
func (w *recorder) ReadFrom(r io.Reader) (int64, error) {
	w.begin()
	n, err := io.Copy(w.ResponseWriter, r)
	w.n += n
	return n, err
}

func (w *recorder) begin() {
	if w.code < http.StatusOK {
		w.code = http.StatusOK
	}
}

// combined is a line of Apache's combined log format:
//
//	10.0.0.1 - user [02/Jan/2006:15:04:05 -0700] "GET /data/ HTTP/1.1" 200 1234 "referer" "user agent"
func combined(r *http.Request, w *recorder, start time.Time) []byte {
	w.begin() // a handler that says nothing says 200
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	uri := r.RequestURI
	if uri == "" {
		uri = r.URL.RequestURI()
	}
	line := appendField(make([]byte, 0, 256), host)
	line = append(line, " - "...)
	line = appendField(line, w.user)
	line = start.AppendFormat(append(line, ' '), "[02/Jan/2006:15:04:05 -0700] ")
	line = appendQuoted(line, r.Method, " ", uri, " ", r.Proto)
	line = strconv.AppendInt(append(line, ' '), int64(w.code), 10)
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

// appendEscaped writes what could end the field or the line, or is no ASCII, as \xhh: the log is of clients' making.
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
