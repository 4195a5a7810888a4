package filebackup

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"

	stdbzip2 "compress/bzip2"

	"github.com/dsnet/compress/bzip2"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/blake2b"

	"sdbackup/filebackup/internal/secretstream"
)

// The format of objects, which is rrbackup's:
//
//	frame    4 bytes, big-endian: the length of the header
//	header   JSON; its bytes are also the additional data of every encrypted message
//	payload  the rest
//
// The header's keys are
//
//	V  "1"
//	S  the size of chunks, a decimal string; in objects of files only
//	E  encrypted: how the key is derived. In metadata its E names the cipher. Its F says that the stream ends with the final tag.
//	C  compressed, as {"A":"bz2"}. In files rrbackup writes "" and does not compress.
//	H  rrbackup's hash_names, which does nothing
//	Z  the content of the file is compressed: {"A":"zstd"} or {"A":"bz2"}
//	N  the object's name is a hash: {"A":"blake2b"}
//
// rrbackup does not know Z and N and refuses such objects.

// CorruptError says that an object is not what was stored: it is cut, altered, or another one in its place.
type CorruptError struct {
	Object  string // key
	Version string // version ID
	Err     error
}

func (e *CorruptError) Error() string {
	if e.Version == "" {
		return fmt.Sprintf("object %q is damaged: %v", e.Object, e.Err)
	}
	return fmt.Sprintf("object %q, version %s, is damaged: %v", e.Object, e.Version, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

var (
	errTruncated = errors.New("it is cut off")
	errNoKey     = errors.New("it is encrypted, and no password is configured (crypt_password)")
)

// ErrDecrypt says that something cannot be decrypted. Nobody can tell a wrong password from damage.
var ErrDecrypt = secretstream.ErrCorrupt

const (
	frameSize     = 4
	maxHeaderSize = 64 << 10
	maxChunkSize  = 1 << 30
)

// How keys are derived.
const (
	argon2i  = "ARGON2I13"
	argon2id = "ARGON2ID13"
)

// derivation is how the key of a bucket comes from the password, with libsodium's parameters.
type derivation struct {
	Algorithm string `json:"A"`
	Ops       uint32 `json:"O"`
	Memory    uint64 `json:"M"` // bytes
	Salt      []byte `json:"S"`
}

func (d derivation) validate() error {
	switch {
	case d.Algorithm != argon2i && d.Algorithm != argon2id:
		return fmt.Errorf("key derivation %q is not known", d.Algorithm)
	case len(d.Salt) != 16:
		return fmt.Errorf("the salt has %d bytes; want 16", len(d.Salt))
	case d.Ops < 1 || d.Ops > 64 || d.Memory < 8<<20 || d.Memory > 1<<30:
		return fmt.Errorf("key derivation with %d operations and %d bytes is refused", d.Ops, d.Memory)
	}
	return nil
}

func (d derivation) equal(o derivation) bool {
	return d.Algorithm == o.Algorithm && d.Ops == o.Ops && d.Memory == o.Memory && bytes.Equal(d.Salt, o.Salt)
}

func (d derivation) derive(password string) *[secretstream.KeySize]byte {
	f := argon2.IDKey
	if d.Algorithm == argon2i {
		f = argon2.Key
	}
	return (*[secretstream.KeySize]byte)(f([]byte(password), d.Salt, d.Ops, uint32(d.Memory>>10), 1, secretstream.KeySize))
}

// rrbackupDerivation is what rrbackup does with a salt.
func rrbackupDerivation(salt []byte) derivation {
	return derivation{Algorithm: argon2i, Ops: 4, Memory: 32 << 20, Salt: salt}
}

// newDerivation is that of new buckets.
func newDerivation(salt []byte) derivation {
	return derivation{Algorithm: argon2id, Ops: 3, Memory: 64 << 20, Salt: salt}
}

// parseSalt reads the salt object: rrbackup's 32 hexadecimal digits, or what formatSalt writes.
func parseSalt(data []byte) (derivation, error) {
	var d derivation
	if text, err := hex.DecodeString(string(data)); err == nil {
		if len(text) == 16 {
			return rrbackupDerivation(text), nil
		}
		data = text
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, fmt.Errorf("no salt is in it: %w", err)
	}
	return d, d.validate()
}

// formatSalt is the content of the salt object. Where the key is not derived as rrbackup does, it is a salt of a wrong length to rrbackup, with
// which it stops. What is not in hexadecimal it replaces with a salt of its own, whatever it was asked to do.
func formatSalt(d derivation) []byte {
	if d.equal(rrbackupDerivation(d.Salt)) {
		return []byte(hex.EncodeToString(d.Salt))
	}
	return hex.AppendEncode(nil, []byte(d.json("")))
}

func (d derivation) json(more string) string {
	return fmt.Sprintf(`{"A":"%s","O":%d,"M":%d,"S":"%s"%s}`, d.Algorithm, d.Ops, d.Memory, base64.StdEncoding.EncodeToString(d.Salt), more)
}

// keys are the keys of a bucket, derived when they are first needed: that takes a tenth of a second and much memory.
type keys struct {
	password   string
	derivation derivation

	once sync.Once
	key  *[secretstream.KeySize]byte
}

func (k *keys) stream() *[secretstream.KeySize]byte {
	k.once.Do(func() {
		k.key = k.derivation.derive(k.password)
		debug.FreeOSMemory() // it took most of what this process will ever need
	})
	return k.key
}

// check tells the key apart from those of other passwords, and nothing about it.
func (k *keys) check() string {
	sum := blake2b.Sum256(append([]byte("file-backup check\x00"), k.stream()[:]...))
	return hex.EncodeToString(sum[:16])
}

// hashName is the name of the object of a file whose name must not be seen.
func (k *keys) hashName(path string) string {
	key := blake2b.Sum256(append([]byte("file-backup hash_names\x00"), k.stream()[:]...))
	h, err := blake2b.New256(key[:])
	if err != nil {
		panic(err) // the key is not too long
	}
	_, _ = io.WriteString(h, path) // never fails
	return hex.EncodeToString(h.Sum(nil))
}

// Words of pipelines.
const (
	pipeHash     = "hash_names"
	pipeCompress = "compress"
	pipeEncrypt  = "encrypt"
)

// header is that of an object.
type header struct {
	raw        []byte // what stands in the object
	chunk      int    // 0 in metadata
	encryption *derivation
	final      bool   // the stream ends with the final tag
	compressed string // "", "bz2" or "zstd"
	hashed     bool
}

// fileHeader is the header of a file's object.
func fileHeader(chunk int, pipeline []string, k *keys) header {
	h := header{chunk: chunk}
	var b strings.Builder
	fmt.Fprintf(&b, `{"V":"1","S":"%d"`, chunk)
	if slices.Contains(pipeline, pipeHash) {
		h.hashed = true
		b.WriteString(`,"N":{"A":"blake2b"}`)
	}
	if slices.Contains(pipeline, pipeCompress) {
		h.compressed = "zstd"
		b.WriteString(`,"Z":{"A":"zstd"}`)
	}
	if slices.Contains(pipeline, pipeEncrypt) {
		h.encryption, h.final = &k.derivation, true
		b.WriteString(`,"E":` + k.derivation.json(`,"F":1`))
	}
	b.WriteByte('}')
	h.raw = []byte(b.String())
	return h
}

// metaHeader is the header of metadata; it is the same as rrbackup's to the byte.
func metaHeader(pipeline []string, k *keys) header {
	var h header
	var b strings.Builder
	b.WriteString(`{"V":"1"`)
	for _, word := range pipeline {
		switch {
		case word == pipeCompress && h.compressed == "":
			h.compressed = "bz2"
			b.WriteString(`,"C":{"A":"bz2"}`)
		case word == pipeEncrypt && h.encryption == nil:
			h.encryption = &k.derivation
			b.WriteString(`,"E":` + k.derivation.json(`,"E":"sodssxcc20"`))
		}
	}
	b.WriteByte('}')
	h.raw = []byte(b.String())
	return h
}

// parseHeader reads a header.
func parseHeader(raw []byte) (header, error) {
	h := header{raw: raw}
	fields, err := uniqueFields(raw)
	if err != nil {
		return h, fmt.Errorf("its header: %w", err)
	}
	text := func(name string) (string, bool) {
		var s string
		err := json.Unmarshal(fields[name], &s)
		return s, err == nil
	}
	option := func(name string) (*struct {
		derivation
		Cipher string `json:"E"`
		Final  int    `json:"F"`
	}, error,
	) {
		if s, ok := text(name); ok && s == "" {
			return nil, nil
		}
		o := new(struct {
			derivation
			Cipher string `json:"E"`
			Final  int    `json:"F"`
		})
		if _, err := uniqueFields(fields[name]); err != nil {
			return nil, fmt.Errorf("its header: %s: %w", name, err)
		}
		if err := json.Unmarshal(fields[name], o); err != nil {
			return nil, fmt.Errorf("its header: %s: %w", name, err)
		}
		return o, nil
	}
	if v, _ := text("V"); v != "1" {
		return h, fmt.Errorf("its header has version %s; only 1 is known", fields["V"])
	}
	if _, ok := fields["S"]; ok {
		s, _ := text("S")
		if h.chunk, err = strconv.Atoi(s); err != nil || h.chunk < 1 || h.chunk > maxChunkSize {
			return h, fmt.Errorf("its header has the chunk size %s", fields["S"])
		}
	}
	for _, name := range slices.Sorted(mapKeys(fields)) {
		switch name {
		case "V", "S":
			continue
		case "E", "C", "H", "N", "Z":
		default:
			return h, fmt.Errorf("its header has %q, which is not known: a newer program may have written it", name)
		}
		o, err := option(name)
		if err != nil {
			return h, err
		}
		switch {
		case name == "E":
			if o == nil {
				return h, errors.New("its header does not say how the key is derived")
			}
			if err := o.validate(); err != nil {
				return h, fmt.Errorf("its header: %w", err)
			}
			if o.Cipher != "" && o.Cipher != "sodssxcc20" {
				return h, fmt.Errorf("its cipher %q is not known", o.Cipher)
			}
			h.encryption, h.final = &o.derivation, o.Final == 1
		case name == "H", name == "C" && o == nil: // says nothing: rrbackup did not do it
		case name == "N":
			if o == nil || o.Algorithm != "blake2b" {
				return h, errors.New("its way of hashing names is not known")
			}
			h.hashed = true
		case o == nil || h.compressed != "" || o.Algorithm != "bz2" && (name == "C" || o.Algorithm != "zstd"):
			return h, errors.New("its compression is not known")
		default:
			h.compressed = o.Algorithm
		}
	}
	return h, nil
}

// uniqueFields reads a JSON object in which no key may occur twice: two readers could take different ones.
func uniqueFields(raw []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("is no JSON object")
	}
	fields := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name := t.(string) // of an object
		if _, twice := fields[name]; twice {
			return nil, fmt.Errorf("has %q twice", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		fields[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(raw[d.InputOffset():])) > 0 {
		return nil, errors.New("something follows it")
	}
	return fields, nil
}

func mapKeys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// appendFrame appends the frame and the header to dst.
func appendFrame(dst []byte, h header) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(h.raw)))
	return append(dst, h.raw...)
}

// readFrame reads the frame and the header.
func readFrame(r io.Reader) (header, error) {
	var frame [frameSize]byte
	if _, err := io.ReadFull(r, frame[:]); err != nil {
		return header{}, cutOff(err)
	}
	n := binary.BigEndian.Uint32(frame[:])
	if n > maxHeaderSize {
		return header{}, fmt.Errorf("its header is said to have %d bytes: it is none of ours", n)
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(r, raw); err != nil {
		return header{}, cutOff(err)
	}
	return parseHeader(raw)
}

// cutOff makes of the end of an object the error that it is.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	}
	return err
}

// keyFor returns the key that an object is encrypted with.
func (k *keys) keyFor(h header) (*[secretstream.KeySize]byte, error) {
	if k == nil || k.password == "" {
		return nil, errNoKey
	}
	if !h.encryption.equal(k.derivation) {
		// Whoever could alter the header could make every object cost a gigabyte.
		return nil, errors.New("its key is derived in another way than the salt object says")
	}
	return k.stream(), nil
}

// sealMeta makes the object of metadata whose text write writes. Where it is not compressed, write is called twice and has to write the same.
func sealMeta(h header, k *keys, write func(io.Writer) error) ([]byte, error) {
	// One buffer, for the text of many files is large: what is before the text has its place in it from the beginning.
	head := appendFrame(make([]byte, secretstream.Headroom), h)
	var stream *secretstream.Writer
	if h.encryption != nil {
		var start [secretstream.HeaderSize]byte
		stream, start = secretstream.NewWriter(k.stream())
		head = append(append(head, start[:]...), 0) // and the tag
	}
	var b bytes.Buffer
	var w io.WriteCloser
	var err error
	switch h.compressed {
	case "bz2":
		w, err = bzip2.NewWriter(&b, &bzip2.WriterConfig{Level: bzip2.BestCompression})
	case "zstd":
		w, err = zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
	default:
		var size byteCount
		if err = write(&size); err == nil {
			b.Grow(len(head) + int(size) + secretstream.Overhead)
		}
	}
	if err != nil {
		return nil, err
	}
	b.Write(head)
	if w == nil {
		err = write(&b)
	} else if err = write(w); err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, err
	}
	n := b.Len() - len(head)
	if stream != nil {
		b.Write(make([]byte, secretstream.Overhead-1))
		stream.SealInPlace(b.Bytes(), len(head), n, h.raw, secretstream.TagFinal)
	}
	return b.Bytes()[secretstream.Headroom:], nil
}

// byteCount counts what is written to it.
type byteCount int64

func (n *byteCount) Write(p []byte) (int, error) {
	*n += byteCount(len(p))
	return len(p), nil
}

// maxMetaSize bounds what metadata may become when it is decompressed.
const maxMetaSize = 4 << 30

// openMeta returns the text of metadata. Encrypted tells whether it is known to be written by somebody who has the password.
func openMeta(object []byte, k *keys) (text []byte, encrypted bool, err error) {
	r := bytes.NewReader(object)
	h, err := readFrame(r)
	if err != nil {
		return nil, false, err
	}
	if h.chunk != 0 || h.hashed {
		return nil, false, errors.New("it is the object of a file")
	}
	text = object[len(object)-r.Len():]
	if h.encryption != nil {
		key, err := k.keyFor(h)
		if err != nil {
			return nil, false, err
		}
		if len(text) < secretstream.HeaderSize+secretstream.Overhead {
			return nil, false, errTruncated
		}
		stream := secretstream.NewReader(key, (*[secretstream.HeaderSize]byte)(text))
		if text, _, err = stream.Open(text[secretstream.HeaderSize:], h.raw); err != nil {
			return nil, false, err
		}
	}
	switch h.compressed {
	case "":
	case "bz2":
		if text, err = io.ReadAll(io.LimitReader(stdbzip2.NewReader(bytes.NewReader(text)), maxMetaSize)); err != nil {
			return nil, false, cutOff(err)
		}
	case "zstd": // snapshots, which rrbackup does not read
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(maxMetaSize))
		if err != nil {
			return nil, false, err
		}
		defer d.Close()
		if text, err = d.DecodeAll(text, nil); err != nil {
			return nil, false, cutOff(err)
		}
	default:
		return nil, false, errors.New("its compression is not known")
	}
	return text, h.encryption != nil, nil
}
