package destination

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Secret is text that does not get printed by accident: whoever wants it must convert it.
type Secret string

const masked = "***"

func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return masked
}

// GoString is String for %#v.
func (s Secret) GoString() string { return s.String() }

// MarshalJSON is String for JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// ParseSecret takes a secret from what a file or standard input holds: one line.
func ParseSecret(data []byte) (Secret, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if text == "" {
		return "", usage("", "the secret is empty; want it on one line")
	}
	if err := checkLine(text); err != nil {
		return "", usage("", "the secret %v; want it on one line", err)
	}
	return Secret(text), nil
}

// checkLine refuses what cannot stand on one line of a file.
func checkLine(text string) error {
	switch {
	case !utf8.ValidString(text), strings.ContainsRune(text, utf8.RuneError): // which reading an argument makes of what is none
		return fmt.Errorf("is not UTF-8")
	case strings.ContainsFunc(text, unicode.IsControl), strings.ContainsAny(text, "\u2028\u2029"):
		return fmt.Errorf("holds a line break or another control character")
	}
	return nil
}

// passwordBytes are the random bytes of a generated password; in hexadecimal they are twice as many digits.
const passwordBytes = 32

func newPassword() Secret {
	b := make([]byte, passwordBytes)
	_, _ = rand.Read(b) // never fails
	return Secret(hex.EncodeToString(b))
}

// Names of rclone's options that say what a secret is, and those that sound so and are none.
var (
	secretWords  = []string{"pass", "secret", "token", "key", "credential", "sas_url", "cookie", "grant", "pem", "2fa", "otp", "headers", "connection_string"}
	publicNames  = []string{"access_key_id", "key_use_agent", "sse_kms_key_id", "ask_password", "application_credential_id", "application_credential_name"}
	userPassword = regexp.MustCompile(`://[^/@\s]*:[^/@\s]*@`)
	inlineSecret = regexp.MustCompile(`(?i)[,:?&][a-z0-9_]*(pass|secret|token|key|sas)[a-z0-9_]*=`)
)

// isSecret tells whether an option of rclone holds a secret: by its name, or because its value has one in it. In doubt it does.
func isSecret(o Option) bool {
	name := strings.ToLower(o.Key)
	if userPassword.MatchString(o.Value) || inlineSecret.MatchString(o.Value) {
		return true
	}
	if slices.Contains(publicNames, name) || strings.HasSuffix(name, "_file") {
		return false
	}
	return slices.ContainsFunc(secretWords, func(word string) bool { return strings.Contains(name, word) })
}

// masker takes secrets out of texts, in each form that a program may print them in.
type masker []string

// minMasked is the length below which a secret is no harm and masking it would garble everything.
const minMasked = 3

func (m *masker) add(secrets ...Secret) {
	for _, s := range secrets {
		if len(s) < minMasked {
			continue
		}
		for _, form := range []string{string(s), url.QueryEscape(string(s)), url.PathEscape(string(s)), strings.Trim(fmt.Sprintf("%q", string(s)), `"`)} {
			if !slices.Contains(*m, form) {
				*m = append(*m, form)
			}
		}
	}
	slices.SortFunc(*m, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // one secret may be a part of another
}

func (m masker) mask(text string) string {
	for _, s := range m {
		text = strings.ReplaceAll(text, s, masked)
	}
	return text
}
