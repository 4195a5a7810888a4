package filebackup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxKeySize = 1000 // S3 allows 1024 bytes

// plainKey tells whether a name can be that of an object on every server.
func plainKey(key string) bool {
	if len(key) > maxKeySize || !utf8.ValidString(key) {
		return false
	}
	for _, c := range key {
		if unicode.IsControl(c) || c == utf8.RuneError || c == '\\' {
			return false
		}
	}
	return true
}

func hashText(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func decodeIDs(text []byte) (ids []string, err error) {
	err = json.Unmarshal(text, &ids)
	return ids, err
}

func parseHash(s string) (h Hash, err error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(h) {
		return h, errDamaged
	}
	return Hash(b), nil
}

// pythonString is a name as Python writes it: a byte that is no UTF-8 is a surrogate of its own.
type pythonString string

// UnmarshalJSON implements json.Unmarshaler.
func (s *pythonString) UnmarshalJSON(text []byte) error {
	if err := json.Unmarshal(text, (*string)(s)); err != nil || !strings.ContainsRune(string(*s), utf8.RuneError) {
		return err
	}
	var b []byte
	begin := 1
	upTo := func(end int) error {
		var part string
		err := json.Unmarshal(slices.Concat([]byte{'"'}, text[begin:end], []byte{'"'}), &part)
		b = append(b, part...)
		return err
	}
	for i := 1; i < len(text)-1; i++ {
		if text[i] != '\\' {
			continue
		}
		i++ // at what is escaped
		if text[i] != 'u' {
			continue
		}
		u := unit(text[i+1:])
		if next := i + 5; u&^0x3ff == 0xd800 && text[next] == '\\' && text[next+1] == 'u' && unit(text[next+2:])&^0x3ff == 0xdc00 {
			i = next + 1 // the other half
		} else if u >= 0xdc80 && u <= 0xdcff {
			if err := upTo(i - 1); err != nil {
				return err
			}
			b = append(b, byte(u))
			begin = next
		}
		i += 4
	}
	err := upTo(len(text) - 1)
	*s = pythonString(b)
	return err
}

// unit is what four hexadecimal digits are.
func unit(text []byte) uint64 {
	n, _ := strconv.ParseUint(string(text[:4]), 16, 16) // of JSON that has been read before
	return n
}
