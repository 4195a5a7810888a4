package config

import (
	"crypto/rand"
	"fmt"
)

// NewUUID returns a random UUID, RFC 9562, version 4.
func NewUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return FormatUUID(b, 4)
}

// FormatUUID makes a UUID of that version of bytes.
func FormatUUID(b [16]byte, version byte) string {
	b[6] = b[6]&0x0f | version<<4
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
