package filebackup

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
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
