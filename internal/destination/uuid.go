package destination

import (
	"bytes"
	"crypto/sha1"
	"encoding/json"

	"sdbackup/internal/config"
)

// urlNamespace is the namespace of URLs, RFC 9562, appendix C.
var urlNamespace = [16]byte{0x6b, 0xa7, 0xb8, 0x11, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4, 0x30, 0xc8}

// identity is what makes two destinations the same place: everything but secrets, names and the settings of this node.
type identity struct {
	Parameters map[string]string `json:"parameters"` // encoded in the order of their names
	Provider   string            `json:"provider"`
	URL        string            `json:"url"`
}

// uuid is version 5 over the canonical JSON: keys in order, no blanks, nothing escaped that need not be.
func (i identity) uuid() string {
	if i.Parameters == nil {
		i.Parameters = map[string]string{}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(i); err != nil {
		panic(err) // strings always encode
	}
	sum := sha1.Sum(append(urlNamespace[:], bytes.TrimSuffix(b.Bytes(), []byte("\n"))...))
	return config.FormatUUID([16]byte(sum[:16]), 5)
}
