// Package secretstream is libsodium's crypto_secretstream_xchacha20poly1305: a sequence of messages that can neither be
// altered, reordered nor dropped without notice, and whose end is marked by TagFinal.
//
// It does the same as libsodium to the byte; https://doc.libsodium.org/secret-key_cryptography/secretstream describes the
// construction. The keystream of messages is made by chacha20poly1305, which is several times as fast on amd64 as the chacha20
// package: its keystream begins at block 1, as that of a message here does.
package secretstream

import (
	"crypto/cipher"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/poly1305" //nolint:staticcheck // this construction computes the MAC over something that no AEAD package does
)

// Sizes in bytes.
const (
	KeySize    = 32
	HeaderSize = 24
	Overhead   = 17 // of a message: the encrypted tag and the MAC
	Headroom   = 64 // that must be before a message which is worked on in place
)

// Tags of messages.
const (
	TagMessage byte = 0
	TagPush    byte = 1
	TagRekey   byte = 2
	TagFinal   byte = TagPush | TagRekey
)

// ErrCorrupt says that a message is not the one that was written here: another key, altered, or out of order.
var ErrCorrupt = errors.New("cannot be decrypted: wrong password, or it was altered")

const (
	blockSize   = 64
	macSize     = 16
	counterSize = 4
)

// stream is the state that both ends share.
type stream struct {
	key   [KeySize]byte
	nonce [chacha20.NonceSize]byte // a counter, then what is different for every stream and message
	aead  cipher.AEAD              // of the key
}

func newStream(key *[KeySize]byte, header *[HeaderSize]byte) stream {
	var s stream
	subkey, err := chacha20.HChaCha20(key[:], header[:16])
	if err != nil {
		panic(err) // both have the right size
	}
	copy(s.key[:], subkey)
	copy(s.nonce[counterSize:], header[16:])
	s.setKey()
	return s
}

// setKey takes a new key into use.
func (s *stream) setKey() {
	var err error
	if s.aead, err = chacha20poly1305.New(s.key[:]); err != nil {
		panic(err) // the key has the right size
	}
	binary.LittleEndian.PutUint32(s.nonce[:], 1)
}

// first returns the keystream's first two blocks: the MAC's key, and what the tag's block is encrypted with.
func (s *stream) first() (blocks [2 * blockSize]byte) {
	c, err := chacha20.NewUnauthenticatedCipher(s.key[:], s.nonce[:])
	if err != nil {
		panic(err) // both have the right size
	}
	c.XORKeyStream(blocks[:], blocks[:])
	return blocks
}

// crypt en- or decrypts text in place. The 64 bytes before it, which tag's block takes in the keystream, are left as they were.
func (s *stream) crypt(buf []byte, at, n int) {
	if n == 0 {
		return
	}
	var saved [blockSize + macSize]byte
	before := buf[at-blockSize : at]
	copy(saved[:blockSize], before)
	after := buf[at+n : at+n+macSize]
	copy(saved[blockSize:], after)
	s.aead.Seal(before[:0:blockSize+n+macSize], s.nonce[:], buf[at-blockSize:at+n], nil)
	copy(before, saved[:blockSize])
	copy(after, saved[blockSize:])
}

// mac is that of libsodium, its padding included: not up to 16 bytes, but as many zeros as the text's length leaves.
func mac(blocks *[2 * blockSize]byte, ad, tagBlock, text []byte) (out [macSize]byte) {
	var zeros [16]byte
	m := poly1305.New((*[32]byte)(blocks[:32]))
	write := func(p []byte) { _, _ = m.Write(p) } // never fails
	write(ad)
	write(zeros[:(16-len(ad)%16)%16])
	write(tagBlock)
	write(text)
	write(zeros[:len(text)%16])
	var lengths [16]byte
	binary.LittleEndian.PutUint64(lengths[:8], uint64(len(ad)))
	binary.LittleEndian.PutUint64(lengths[8:], uint64(blockSize+len(text)))
	write(lengths[:])
	m.Sum(out[:0])
	return out
}

// advance makes the state that of the next message.
func (s *stream) advance(mac [macSize]byte, tag byte) {
	for i := range 8 {
		s.nonce[counterSize+i] ^= mac[i]
	}
	counter := binary.LittleEndian.Uint32(s.nonce[:]) + 1
	binary.LittleEndian.PutUint32(s.nonce[:], counter)
	if tag&TagRekey != 0 || counter == 0 {
		s.rekey()
	}
}

func (s *stream) rekey() {
	var next [KeySize + 8]byte
	copy(next[:], s.key[:])
	copy(next[KeySize:], s.nonce[counterSize:])
	c, err := chacha20.NewUnauthenticatedCipher(s.key[:], s.nonce[:])
	if err != nil {
		panic(err) // both have the right size
	}
	c.XORKeyStream(next[:], next[:])
	copy(s.key[:], next[:])
	copy(s.nonce[counterSize:], next[KeySize:])
	s.setKey()
}

// Writer encrypts the messages of a stream.
type Writer struct{ s stream }

// NewWriter begins a stream; the header must be the first that a reader gets.
func NewWriter(key *[KeySize]byte) (*Writer, [HeaderSize]byte) {
	var header [HeaderSize]byte
	_, _ = rand.Read(header[:]) // never fails
	return NewWriterWithHeader(key, &header), header
}

// NewWriterWithHeader begins a stream with a header that has been chosen; no two streams of a key may have the same.
func NewWriterWithHeader(key *[KeySize]byte, header *[HeaderSize]byte) *Writer {
	return &Writer{newStream(key, header)}
}

// SealInPlace encrypts the n bytes of buf from at on. The message then begins a byte before at and ends 16 after the n bytes;
// what is before it stays. Before at there must be Headroom bytes, and 16 after the n.
func (w *Writer) SealInPlace(buf []byte, at, n int, ad []byte, tag byte) {
	blocks := w.s.first()
	tagBlock := blocks[blockSize:]
	tagBlock[0] ^= tag
	w.s.crypt(buf, at, n)
	sum := mac(&blocks, ad, tagBlock, buf[at:at+n])
	buf[at-1] = tagBlock[0]
	copy(buf[at+n:], sum[:])
	w.s.advance(sum, tag)
}

// Seal appends a message with the text to dst.
func (w *Writer) Seal(dst, text, ad []byte, tag byte) []byte {
	buf := make([]byte, Headroom+len(text)+macSize)
	copy(buf[Headroom:], text)
	w.SealInPlace(buf, Headroom, len(text), ad, tag)
	return append(dst, buf[Headroom-1:]...)
}

// Reader decrypts the messages of a stream.
type Reader struct{ s stream }

// NewReader reads a stream of that header.
func NewReader(key *[KeySize]byte, header *[HeaderSize]byte) *Reader {
	return &Reader{newStream(key, header)}
}

// OpenInPlace decrypts the message that takes the n bytes of buf from at on, and returns its text, which is a part of buf, and
// its tag. There must be Headroom bytes before at. The error is ErrCorrupt; then nothing of buf is changed.
func (r *Reader) OpenInPlace(buf []byte, at, n int, ad []byte) (text []byte, tag byte, err error) {
	if n < Overhead {
		return nil, 0, ErrCorrupt
	}
	blocks := r.s.first()
	tagBlock := blocks[blockSize:]
	tag = tagBlock[0] ^ buf[at]
	tagBlock[0] = buf[at]
	text = buf[at+1 : at+n-macSize]
	sum := mac(&blocks, ad, tagBlock, text)
	if subtle.ConstantTimeCompare(sum[:], buf[at+n-macSize:at+n]) != 1 {
		return nil, 0, ErrCorrupt
	}
	r.s.crypt(buf, at+1, len(text))
	r.s.advance(sum, tag)
	return text, tag, nil
}

// Open returns the text and the tag of a message, which stays as it is.
func (r *Reader) Open(message, ad []byte) (text []byte, tag byte, err error) {
	buf := make([]byte, Headroom+len(message))
	copy(buf[Headroom:], message)
	return r.OpenInPlace(buf, Headroom, len(message), ad)
}
