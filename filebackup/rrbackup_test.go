package filebackup

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// What rrbackup does to a bucket beside this program, in the requests that it was seen to send.

// Python reads a name that is no UTF-8 into surrogates.
func TestPythonsNames(t *testing.T) {
	text := `[{"path": "/a\udcff\ud83d\ude42\u00fc\"b", "created": 1.5, "last_mod": 1.5, "status": "moved", "hash": "` + emptyHash.String() +
		`", "empty": true, "moved_from": "/\udc80"}]`
	_, changes, err := decodeDiff(strings.NewReader(text))
	if err != nil || len(changes) != 1 {
		t.Fatal(changes, err)
	}
	if c := changes[0]; c.Entry.Path != "/a\xff\U0001f642\u00fc\"b" || c.From != "/\x80" {
		t.Errorf("%q, %q", c.Entry.Path, c.From)
	}
	for _, bad := range []string{`"/\ud83d"`, `"/\udc41"`, `"/\udc80\udcff\udfff"`} { // no name of Python's
		if _, changes, err := decodeDiff(strings.NewReader(strings.Replace(text, `"/\udc80"`, bad, 1))); err == nil && !slices.ContainsFunc([]rune(changes[0].From), func(r rune) bool { return r == '\ufffd' }) {
			t.Errorf("%s: %q", bad, changes[0].From)
		}
	}
	all := make([]byte, 0, 256)
	for c := range 255 {
		all = append(all, byte(c+1))
	}
	for _, name := range []string{string(all), "\xed\xb2\x80", "é\xc3", "\xf0\x9f\x99\xf0\x9f\x99\x82"} {
		var s pythonString
		if err := s.UnmarshalJSON(appendString(nil, name)); err != nil || !bytes.Equal([]byte(s), []byte(name)) {
			t.Errorf("%q: %q, %v", name, s, err)
		}
	}
}
