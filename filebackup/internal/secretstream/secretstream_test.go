package secretstream

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/crypto/argon2"
)

// The vector was made with libsodium 1.0.18: the key of the password "pw", two messages of a stream.
func TestVector(t *testing.T) {
	var salt [16]byte
	var header [HeaderSize]byte
	for i := range salt {
		salt[i] = byte(i)
	}
	for i := range header {
		header[i] = byte(0x10 + i)
	}
	key := [KeySize]byte(argon2.Key([]byte("pw"), salt[:], 4, 32768, 1, KeySize))
	if got, want := hex.EncodeToString(key[:]), "b94b49c08733a2a7bc38c33ae29fca8e643b0c8871975bf72bc1c801ddc0fd13"; got != want {
		t.Fatalf("key = %s; want %s", got, want)
	}
	ad := []byte(`{"V":"1","S":"5242880","E":{"A":"ARGON2I13","O":4,"M":33554432,"S":"AAECAwQFBgcICQoLDA0ODw=="}}`)
	w, r := NewWriterWithHeader(&key, &header), NewReader(&key, &header)
	for _, c := range []struct{ text, want string }{
		{"hello", "5c1bbd11be28d4262a98fee4b31bc52c577e858f0149"},
		{"world", "8df2199a85c1986bf86597cba07eceb26dce08b56977"},
	} {
		message := w.Seal(nil, []byte(c.text), ad, TagMessage)
		if got := hex.EncodeToString(message); got != c.want {
			t.Errorf("Seal(%q) = %s; want %s", c.text, got, c.want)
		}
		text, tag, err := r.Open(message, ad)
		if err != nil || string(text) != c.text || tag != TagMessage {
			t.Errorf("Open = %q, %d, %v; want %q", text, tag, err, c.text)
		}
	}
}

// What libsodium itself makes of the same messages. It is loaded with Python, so that this package needs no C.
const libsodium = `
import base64, ctypes, ctypes.util, json, sys
name = ctypes.util.find_library("sodium")
if not name: sys.exit(77)
s = ctypes.CDLL(name)
if s.sodium_init() < 0: sys.exit(77)
b = lambda t: base64.b64decode(t)
e = lambda t: base64.b64encode(t).decode()
job = json.load(sys.stdin)
key, ad = b(job["Key"]), b(job["AD"])
push = ctypes.create_string_buffer(256); header = ctypes.create_string_buffer(24)
s.crypto_secretstream_xchacha20poly1305_init_push(push, header, key)
ULL = ctypes.c_ulonglong
made = []
for m in job["Messages"]:
    text = b(m["Text"]); out = ctypes.create_string_buffer(len(text)+17); n = ULL()
    s.crypto_secretstream_xchacha20poly1305_push(push, out, ctypes.byref(n), text, ULL(len(text)), ad, ULL(len(ad)), ctypes.c_ubyte(m["Tag"]))
    made.append(e(out.raw))
pull = ctypes.create_string_buffer(256)
s.crypto_secretstream_xchacha20poly1305_init_pull(pull, b(job["Header"]), key)
read = []
for m in job["Messages"]:
    c = b(m["Sealed"]); out = ctypes.create_string_buffer(max(1, len(c)-17)); n = ULL(); tag = ctypes.c_ubyte()
    rc = s.crypto_secretstream_xchacha20poly1305_pull(pull, out, ctypes.byref(n), ctypes.byref(tag), c, ULL(len(c)), ad, ULL(len(ad)))
    read.append({"Code": rc, "Text": e(out.raw[:n.value]), "Tag": tag.value})
kdf = []
for alg, ops, mem in ((1, 4, 33554432), (2, 3, 67108864)):
    out = ctypes.create_string_buffer(32)
    rc = s.crypto_pwhash(out, ULL(32), b"pw", ULL(2), bytes(range(16)), ULL(ops), ctypes.c_size_t(mem), alg)
    kdf.append(e(out.raw))
json.dump({"Header": e(header.raw), "Made": made, "Read": read, "KDF": kdf}, sys.stdout)
`

func TestLibsodium(t *testing.T) {
	var key [KeySize]byte
	for i := range key {
		key[i] = byte(i * 7)
	}
	type message struct {
		Text, Sealed []byte
		Tag          byte
	}
	ad := []byte("additional data")
	job := struct {
		Key, AD, Header []byte
		Messages        []message
	}{Key: key[:], AD: ad}
	w, header := NewWriter(&key)
	job.Header = header[:]
	for i, n := range []int{0, 1, 5, 8, 15, 16, 17, 63, 64, 65, 1000, 5, 70001, 3, 0} {
		tag := []byte{TagMessage, TagPush, TagMessage, TagRekey}[i%4]
		if i == 14 {
			tag = TagFinal
		}
		text := bytes.Repeat([]byte{byte(i + 1)}, n)
		job.Messages = append(job.Messages, message{text, w.Seal(nil, text, ad, tag), tag})
	}
	in, err := json.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/usr/bin/python3", "-c", libsodium)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this test needs libsodium and Python, as test/deps files installs them: %v", err)
		}
		t.Skipf("no libsodium: %v; test/deps files installs it", err)
	}
	var got struct {
		Header []byte
		Made   [][]byte
		Read   []struct {
			Code int
			Text []byte
			Tag  byte
		}
		KDF []string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	r := NewReader(&key, (*[HeaderSize]byte)(got.Header))
	for i, m := range job.Messages {
		if l := got.Read[i]; l.Code != 0 || !bytes.Equal(l.Text, m.Text) || l.Tag != m.Tag {
			t.Errorf("libsodium reads our message %d of %d bytes as %d bytes, tag %d, code %d", i, len(m.Text), len(l.Text), l.Tag, l.Code)
		}
		text, tag, err := r.Open(got.Made[i], ad)
		if err != nil || !bytes.Equal(text, m.Text) || tag != m.Tag {
			t.Errorf("libsodium's message %d of %d bytes: %d bytes, tag %d, %v", i, len(m.Text), len(text), tag, err)
		}
	}
	salt := []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	for i, want := range [][]byte{argon2.Key([]byte("pw"), salt, 4, 32768, 1, 32), argon2.IDKey([]byte("pw"), salt, 3, 65536, 1, 32)} {
		if want := base64.StdEncoding.EncodeToString(want); got.KDF[i] != want {
			t.Errorf("libsodium derives the key %s; want %s", got.KDF[i], want)
		}
	}
}

// The counter of a stream wraps after 2^32 messages, and then the key changes.
func TestWrap(t *testing.T) {
	var key [KeySize]byte
	w, header := NewWriter(&key)
	r := NewReader(&key, &header)
	for _, s := range []*stream{&w.s, &r.s} {
		copy(s.nonce[:], "\xff\xff\xff\xff")
	}
	for i := range 3 {
		text, _, err := r.Open(w.Seal(nil, []byte("text"), nil, TagMessage), nil)
		if err != nil || string(text) != "text" {
			t.Errorf("message %d: %q, %v", i, text, err)
		}
	}
	if w.s.key == newStream(&key, &header).key {
		t.Error("the key is the same after the counter has wrapped")
	}
}

func TestInPlaceKeepsWhatIsBefore(t *testing.T) {
	var key [KeySize]byte
	w, header := NewWriter(&key)
	buf := append(bytes.Repeat([]byte{'x'}, Headroom), "text"...)
	buf = append(buf, make([]byte, macSize)...)
	w.SealInPlace(buf, Headroom, 4, nil, TagFinal)
	if !bytes.Equal(buf[:Headroom-1], bytes.Repeat([]byte{'x'}, Headroom-1)) {
		t.Errorf("before the message: %q", buf[:Headroom-1])
	}
	text, tag, err := NewReader(&key, &header).Open(buf[Headroom-1:], nil)
	if err != nil || string(text) != "text" || tag != TagFinal {
		t.Errorf("Open = %q, %d, %v", text, tag, err)
	}
}

// Whatever is changed in a message, it is refused and leaves the stream where it was.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("text"), []byte("ad"), 3, byte(1))
	f.Add([]byte(""), []byte(""), 0, byte(128))
	f.Fuzz(func(t *testing.T, text, ad []byte, at int, flip byte) {
		key := [KeySize]byte{1}
		w, header := NewWriter(&key)
		r := NewReader(&key, &header)
		message := w.Seal(nil, text, ad, TagFinal)
		if flip != 0 && at >= 0 {
			bad := bytes.Clone(message)
			bad[at%len(bad)] ^= flip
			if _, _, err := r.Open(bad, ad); !errors.Is(err, ErrCorrupt) {
				t.Errorf("an altered message: %v", err)
			}
			if _, _, err := r.Open(message[:at%len(message)], ad); !errors.Is(err, ErrCorrupt) {
				t.Errorf("a cut message: %v", err)
			}
		}
		if _, _, err := r.Open(message, append(bytes.Clone(ad), 0)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("other additional data: %v", err)
		}
		if _, _, err := r.Open(text, ad); err == nil {
			t.Error("a text that was never encrypted is accepted")
		}
		got, tag, err := r.Open(message, ad)
		if err != nil || !bytes.Equal(got, text) || tag != TagFinal {
			t.Errorf("Open = %q, %d, %v; want %q", got, tag, err, text)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	var key [KeySize]byte
	w, _ := NewWriter(&key)
	buf := make([]byte, Headroom+5<<20+macSize)
	b.SetBytes(5 << 20)
	for b.Loop() {
		w.SealInPlace(buf, Headroom, 5<<20, nil, TagMessage)
	}
}
