package filebackup

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"sdbackup/filebackup/internal/secretstream"
)

func testKeys() *keys {
	salt := make([]byte, 16)
	for i := range salt {
		salt[i] = byte(i)
	}
	return &keys{password: "pw", derivation: rrbackupDerivation(salt)}
}

// What rrbackup 1.0 writes at the beginning of objects.
func TestHeaders(t *testing.T) {
	k := testKeys()
	for _, c := range []struct {
		pipeline []string
		want     string
	}{
		{nil, `{"V":"1"}`},
		{[]string{"compress"}, `{"V":"1","C":{"A":"bz2"}}`},
		{[]string{"encrypt"}, `{"V":"1","E":{"A":"ARGON2I13","O":4,"M":33554432,"S":"AAECAwQFBgcICQoLDA0ODw==","E":"sodssxcc20"}}`},
		{[]string{"encrypt", "compress"}, `{"V":"1","E":{"A":"ARGON2I13","O":4,"M":33554432,"S":"AAECAwQFBgcICQoLDA0ODw==","E":"sodssxcc20"},"C":{"A":"bz2"}}`},
	} {
		h := metaHeader(c.pipeline, k)
		if string(h.raw) != c.want {
			t.Errorf("metaHeader(%q) = %s; want %s", c.pipeline, h.raw, c.want)
		}
	}
	if n := len(metaHeader([]string{"encrypt", "compress"}, k).raw); n != 114 {
		t.Errorf("the header of compressed and encrypted metadata has %d bytes; want 114", n)
	}
	if h := fileHeader(5242880, nil, k); string(h.raw) != `{"V":"1","S":"5242880"}` {
		t.Errorf("fileHeader = %s", h.raw)
	}
	// What we add is unknown to rrbackup and stops it, or is where it does not look.
	if h := fileHeader(5, []string{"encrypt", "compress", "hash_names"}, k); string(h.raw) !=
		`{"V":"1","S":"5","N":{"A":"blake2b"},"Z":{"A":"zstd"},"E":{"A":"ARGON2I13","O":4,"M":33554432,"S":"AAECAwQFBgcICQoLDA0ODw==","F":1}}` {
		t.Errorf("fileHeader = %s", h.raw)
	}
	old := `{"V":"1","S":"5","H":"","C":"","E":{"A":"ARGON2I13","O":4,"M":33554432,"S":"AAECAwQFBgcICQoLDA0ODw=="}}`
	h, err := parseHeader([]byte(old))
	if err != nil || len(old) != 103 || h.chunk != 5 || h.compressed != "" || h.hashed || h.final || h.encryption == nil {
		t.Errorf("parseHeader(%s) = %+v, %v; want rrbackup's words without effect", old, h, err)
	}
}

func TestHeaderMistakes(t *testing.T) {
	for raw, want := range map[string]string{
		``:                            "no JSON object",
		`[]`:                          "no JSON object",
		`{}`:                          "version",
		`{"V":1}`:                     "version",
		`{"V":"2"}`:                   "only 1",
		`{"V":"1","V":"1"}`:           "twice",
		`{"V":"1"} x`:                 "follows",
		`{"V":"1","X":""}`:            "newer program",
		`{"V":"1","C":7}`:             "C",
		`{"V":"1","C":{"A":"rar"}}`:   "compression",
		`{"V":"1","Z":""}`:            "compression",
		`{"V":"1","E":""}`:            "derived",
		`{"V":"1","E":{"A":"md5"}}`:   "not known",
		`{"V":"1","S":"0"}`:           "chunk size",
		`{"V":"1","S":"-5"}`:          "chunk size",
		`{"V":"1","S":"99999999999"}`: "chunk size",
		`{"V":"1","E":{"A":"ARGON2ID13","O":99,"M":33554432,"S":"AAECAwQFBgcICQoLDA0ODw=="}}`:   "refused",
		`{"V":"1","E":{"A":"ARGON2ID13","O":9,"M":99999999999,"S":"AAECAwQFBgcICQoLDA0ODw=="}}`: "refused",
	} {
		if _, err := parseHeader([]byte(raw)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseHeader(%s): %v; want %q", raw, err, want)
		}
	}
}

// encodeDiff is the text of a diff.
func encodeDiff(c *commit, changes []Change) []byte {
	var b bytes.Buffer
	d := newDiffWriter(&b, c)
	for i := range changes {
		d.add(changes[i].Status, &changes[i].Entry)
	}
	_ = d.close() // a buffer takes all
	return b.Bytes()
}

func TestMeta(t *testing.T) {
	k := testKeys()
	text := []byte(`[{"path": "/a"}]` + strings.Repeat(" ", 1000))
	for _, pipeline := range [][]string{nil, {"compress"}, {"encrypt"}, {"encrypt", "compress"}, {"compress", "encrypt"}} {
		object, err := sealMeta(metaHeader(pipeline, k), k, literal(text))
		if err != nil {
			t.Fatal(err)
		}
		got, encrypted, err := openMeta(object, k)
		if err != nil || !bytes.Equal(got, text) || encrypted != strings.Contains(strings.Join(pipeline, ""), "encrypt") {
			t.Errorf("%q: %d bytes, encrypted %v, %v", pipeline, len(got), encrypted, err)
		}
		if encrypted {
			if _, _, err := openMeta(object, &keys{password: "no", derivation: k.derivation}); !errors.Is(err, secretstream.ErrCorrupt) {
				t.Errorf("%q with a wrong password: %v", pipeline, err)
			}
			if _, _, err := openMeta(object, nil); !errors.Is(err, errNoKey) {
				t.Errorf("%q without a password: %v", pipeline, err)
			}
		}
		for _, n := range []int{0, 3, 8, len(object) - 1} {
			if _, _, err := openMeta(object[:n], k); err == nil && len(pipeline) > 0 {
				t.Errorf("%q, cut to %d of %d bytes: no error", pipeline, n, len(object))
			}
		}
	}
}

func TestSalt(t *testing.T) {
	salt := []byte("0123456789abcdef")
	if got := string(formatSalt(rrbackupDerivation(salt))); got != "30313233343536373839616263646566" {
		t.Errorf("rrbackup's salt = %s", got)
	}
	for _, d := range []derivation{rrbackupDerivation(salt), newDerivation(salt)} {
		if got, err := parseSalt(formatSalt(d)); err != nil || !got.equal(d) {
			t.Errorf("parseSalt(%s) = %+v, %v", formatSalt(d), got, err)
		}
	}
	// rrbackup puts a salt of its own over what it cannot decode; what it can, and is not 16 bytes, it refuses.
	if b, err := hex.DecodeString(string(formatSalt(newDerivation(salt)))); err != nil || len(b) == 16 {
		t.Errorf("%q, %v", b, err)
	}
	if got, err := parseSalt([]byte(newDerivation(salt).json(""))); err != nil || !got.equal(newDerivation(salt)) { // of a development version
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "3031", "x", "{}", "null", `{"A":"ARGON2ID13","O":1,"M":1,"S":"MDEyMzQ1Njc4OWFiY2RlZg=="}`} {
		if d, err := parseSalt([]byte(bad)); err == nil {
			t.Errorf("parseSalt(%q) = %+v; want an error", bad, d)
		}
	}
}

// python runs a script that gets text and prints some.
func python(t *testing.T, script string, in []byte) []byte {
	t.Helper()
	cmd := exec.Command("python3", "-c", script)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("no Python here")
	}
	if err != nil {
		t.Fatalf("python: %v: %s", err, out)
	}
	return out
}

func testChanges() []Change {
	hash := Hash{1, 2, 0xff}
	return []Change{
		{Status: "new", Entry: Entry{Path: "/a \"q\" \\ \n\t\x01\x7f é ☃ 🎉", Hash: hash, Object: "/a", ID: "v1", lastMod: 1732200000.25, created: 1732200000}},
		{Status: "new", Entry: Entry{Path: "/bad\xff", Hash: hash, Object: "/x", ID: "v2", lastMod: 1e-7, created: 1.5e17}},
		{Status: "changed", Entry: Entry{Path: "/empty", Hash: emptyHash, Size: 0, has: hasSize | hasMTime, MTime: 1732200000123456789}},
		{Status: "changed", Entry: Entry{
			Path: "/all", Hash: hash, Object: "/all", ID: "v3", Size: 7, MTime: -1, Mode: 0o4755, UID: 1, GID: 2,
			Xattrs: map[string][]byte{"user.b": {0, 1}, "user.a": []byte("x")}, has: hasSize | hasMTime | hasMode,
		}},
		{Status: "deleted", Entry: Entry{Path: "/gone", Hash: hash, Object: "/gone", ID: "v4", lastMod: 1, created: 2}},
		{Status: "recorded", Entry: Entry{Path: "/dir", Kind: Folder, Mode: 0o755, has: hasMode}},
		{Status: "recorded", Entry: Entry{Path: "/link", Kind: Symlink, Target: "../\xff", has: hasMode}},
		{Status: "dropped", Entry: Entry{Path: "/olddir", Kind: Folder}},
	}
}

// A diff is what Python's json.dumps makes of the same values.
func TestDiffIsPythons(t *testing.T) {
	text := encodeDiff(&commit{ID: "id", Parent: "é", Host: "h", Time: 5}, testChanges())
	again := python(t, "import json, sys; sys.stdout.write(json.dumps(json.load(sys.stdin)))", text)
	if !bytes.Equal(again, text) {
		t.Errorf("our diff is\n%s\nPython's is\n%s", text, again)
	}
	// As in rrbackup, a name of any bytes is what os.fsencode makes of the string.
	name := python(t, `import json, os, sys; sys.stdout.buffer.write(os.fsencode(json.load(sys.stdin)[2]["path"]))`, text)
	if string(name) != "/bad\xff" {
		t.Errorf("Python reads the name %q", name)
	}
}

func TestMetaIsPythons(t *testing.T) {
	object, err := sealMeta(metaHeader([]string{"compress"}, nil), nil, literal(bytes.Repeat([]byte("text "), 100000)))
	if err != nil {
		t.Fatal(err)
	}
	out := python(t, "import bz2, sys; sys.stdout.buffer.write(bz2.decompress(sys.stdin.buffer.read()))", object[frameSize+len(`{"V":"1","C":{"A":"bz2"}}`):])
	if !bytes.Equal(out, bytes.Repeat([]byte("text "), 100000)) {
		t.Errorf("Python decompresses %d bytes", len(out))
	}
}

func TestDiff(t *testing.T) {
	want := testChanges()
	c, got, err := decodeDiff(bytes.NewReader(encodeDiff(&commit{"id", "parent", "host", 5}, want)))
	if err != nil || *c != (commit{"id", "parent", "host", 5}) || len(got) != len(want) {
		t.Fatalf("decodeDiff: %+v, %d changes, %v", c, len(got), err)
	}
	for i := range want {
		a, b := encodeDiff(nil, want[i:i+1]), encodeDiff(nil, got[i:i+1])
		if !bytes.Equal(a, b) {
			t.Errorf("change %d: %s; want %s", i, b, a)
		}
	}
	m := newManifest()
	m.apply([]Change{{Status: "new", Entry: Entry{Path: "/gone"}}, {Status: "recorded", Entry: Entry{Path: "/olddir", Kind: Folder}}, {Status: "new", Entry: Entry{Path: "/stays"}}})
	m.apply(got)
	var paths []string
	for _, e := range m.Sorted() {
		paths = append(paths, e.Path[:min(6, len(e.Path))])
	}
	if got := strings.Join(paths, " "); got != `/a "q" /all /bad`+"\xff"+` /dir /empty /link /stays` {
		t.Errorf("paths = %q", got)
	}
}

// What rrbackup 1.0 wrote, with a move.
func TestOldDiff(t *testing.T) {
	text := `[{"path": "/dir/b", "created": 1700000000.5, "last_mod": 1700000000.25, "hash": "` + emptyHash.String() + `", "real_path": "/a", "version_id": "v1", "status": "moved", "moved_from": "/a"}, ` +
		`{"path": "/e", "created": 1.0, "last_mod": 1.0, "status": "new", "hash": "` + emptyHash.String() + `", "empty": true}]`
	c, changes, err := decodeDiff(strings.NewReader(text))
	if err != nil || c != nil {
		t.Fatal(c, err)
	}
	m := newManifest()
	m.apply([]Change{{Status: "new", Entry: Entry{Path: "/a", Object: "/a", ID: "v1"}}})
	m.apply(changes)
	if m.Len() != 2 || m.Entry("/a") != nil || m.Entry("/dir/b").Object != "/a" || m.Entry("/e").Object != "" {
		t.Errorf("entries = %+v", m.entries)
	}
}

func TestPathsThatLeadElsewhere(t *testing.T) {
	for _, path := range []string{"", "/", "a", "/..", "/a/../b", "/a//b", "/a/", "/./a", "/a/..", "/a\x00b"} {
		text, _ := json.Marshal([]map[string]any{{"path": path, "status": "new", "hash": emptyHash.String(), "empty": true}})
		if _, _, err := decodeDiff(bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("the path %q: %v; want it refused", path, err)
		}
	}
}

func FuzzFrame(f *testing.F) {
	k := testKeys()
	for _, p := range [][]string{nil, {"encrypt"}, {"compress", "encrypt"}} {
		object, _ := sealMeta(metaHeader(p, k), k, literal([]byte("[]")))
		f.Add(object)
		f.Add(appendFrame(nil, fileHeader(5, p, k)))
	}
	f.Fuzz(func(t *testing.T, object []byte) {
		h, err := readFrame(bytes.NewReader(object))
		if err != nil {
			return
		}
		if again := appendFrame(nil, h); !bytes.HasPrefix(object, again) {
			t.Errorf("%q is written again as %q", object, again)
		}
		if h.encryption == nil || h.encryption.equal(k.derivation) {
			_, _, _ = openMeta(object, k)
		}
	})
}

func FuzzDiff(f *testing.F) {
	f.Add(encodeDiff(&commit{"id", "parent", "host", 5}, testChanges()))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, changes, err := decodeDiff(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, change := range changes {
			if change.Status != "new" {
				continue
			}
			if p := change.Entry.Path; !strings.HasPrefix(p, "/") || strings.Contains(p+"/", "/../") {
				t.Errorf("the path %q is accepted", p)
			}
		}
		newManifest().apply(changes)
		once := encodeDiff(c, changes)
		c, changes, err = decodeDiff(bytes.NewReader(once))
		if err != nil {
			// Statuses that are not known here are not kept whole.
			return
		}
		if again := encodeDiff(c, changes); !bytes.Equal(once, again) {
			t.Errorf("%s is written again as %s", once, again)
		}
	})
}
