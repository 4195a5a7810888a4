package nodecopy

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/aes"
	"errors"
	"io"

	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ProtonMail/go-crypto/openpgp/s2k"
)

// maxFileBytes bounds an encrypted file: gzip and OpenPGP make what cannot be compressed longer by far less than the difference.
const maxFileBytes = maxPlainBytes + 1<<20

// s2kCount is how many bytes are hashed to make a key of the passphrase: the most that there is, RFC 4880, section 3.7.1.3. It
// takes some tenths of a second, and who tries passphrases pays it for each. Argon2 would cost them more, but gpg does not know it.
const s2kCount = 65011712

// maxKeys is how many passphrases' keys of one message are tried: each may cost as much as s2kCount.
const maxKeys = 4

// Packets of OpenPGP, RFC 4880, section 4.3.
const (
	tagPublicKeyEncrypted = 1
	tagPassphrase         = 3
	tagMarker             = 10
	tagIntegrityProtected = 18
)

// Encrypt writes the copy to w. It is a binary OpenPGP message for a passphrase: AES-256, a key from iterated and salted SHA-256, and
// the integrity protection that every gpg knows (version 1, with a modification detection code). Two calls never write the same
// bytes, for salt and session key are random; Digest tells whether the copies are the same. Passphrases that gpg cannot be given are
// refused. After an error, w has a part that is of no use.
func (c Copy) Encrypt(w io.Writer, passphrase []byte) error {
	return c.encrypt(w, passphrase, s2kCount)
}

func (c Copy) encrypt(w io.Writer, passphrase []byte, count int) error {
	if err := checkPassphrase(passphrase); err != nil {
		return err
	}
	cfg := &packet.Config{
		DefaultCipher:          packet.CipherAES256,
		DefaultCompressionAlgo: packet.CompressionNone, // it is compressed already
		S2KConfig:              &s2k.Config{S2KMode: s2k.IteratedSaltedS2K, Hash: crypto.SHA256, S2KCount: count},
	}
	key, err := packet.SerializeSymmetricKeyEncrypted(w, passphrase, cfg)
	if err != nil {
		return err
	}
	encrypted, err := packet.SerializeSymmetricallyEncrypted(w, cfg.Cipher(), false, packet.CipherSuite{}, key, cfg)
	if err != nil {
		return err
	}
	literal, err := packet.SerializeLiteral(encrypted, true, "", 0) // neither a name nor a time
	if err != nil {
		return err
	}
	if err := c.compress(literal); err != nil {
		return err
	}
	return literal.Close()
}

// Decrypt reads a copy: what Encrypt wrote, or what gpg --symmetric made of the same archive. What is wrong with it is one of
// ErrPassphrase, ErrTruncated, ErrDamaged, ErrForeign, ErrNewer and ErrTooLarge, or an error of r.
func Decrypt(r io.Reader, passphrase []byte) (Copy, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileBytes+1))
	if err != nil {
		return Copy{}, err
	}
	if len(data) > maxFileBytes {
		return Copy{}, ErrTooLarge
	}
	keys, sealed, err := split(data)
	if err != nil {
		return Copy{}, err
	}
	plain, err := open(keys, sealed, passphrase)
	if err != nil {
		return Copy{}, err
	}
	literal, err := literalData(plain)
	if err != nil {
		return Copy{}, err
	}
	return decompress(literal)
}

// Sniff tells whether what a reader has next looks like an OpenPGP message, binary or as text: neither JSON nor TOML begins so.
func Sniff(r *bufio.Reader) bool {
	start, _ := r.Peek(len(armour))
	return len(start) > 0 && tagOf(start[0]) != 0 || string(start) == armour
}

// armour begins a message that is text, RFC 4880, section 6.2.
const armour = "-----BEGIN PGP "

// split takes a message apart and judges its frame, which needs no passphrase: so a file that is cut is told from a wrong passphrase,
// and no hostile file makes us derive a key at any cost.
func split(data []byte) (keys []*packet.SymmetricKeyEncrypted, sealed *packet.OpaquePacket, err error) {
	if len(data) == 0 {
		return nil, nil, ErrTruncated
	}
	if bytes.HasPrefix(data, []byte(armour)) {
		return nil, nil, foreign("it is text; make it binary with gpg --dearmor")
	}
	switch tagOf(data[0]) {
	case tagPassphrase, tagPublicKeyEncrypted, tagMarker:
	default:
		return nil, nil, foreign("it is not encrypted by OpenPGP")
	}
	packets := packet.NewOpaqueReader(bytes.NewReader(data))
	for sealed == nil {
		p, err := packets.Next()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, nil, ErrTruncated
		case err != nil:
			return nil, nil, ErrDamaged
		}
		switch p.Tag {
		case tagMarker, tagPublicKeyEncrypted: // of those who use keys, beside a passphrase
		case tagPassphrase:
			key, err := passphraseKey(p)
			if err != nil {
				return nil, nil, err
			}
			if keys = append(keys, key); len(keys) > maxKeys {
				return nil, nil, foreign("it is for more than %d passphrases", maxKeys)
			}
		case tagIntegrityProtected:
			if len(p.Contents) == 0 || p.Contents[0] != 1 {
				return nil, nil, errOtherEncryption()
			}
			sealed = p
		default:
			return nil, nil, errOtherEncryption()
		}
	}
	if len(keys) == 0 {
		return nil, nil, foreign("it is encrypted for keys, not with a passphrase")
	}
	if _, err := packets.Next(); !errors.Is(err, io.EOF) {
		return nil, nil, ErrDamaged // something follows
	}
	return keys, sealed, nil
}

func errOtherEncryption() error {
	return foreign("it is encrypted in a way that is not read here; gpg -d may open it")
}

// tagOf returns the kind of the packet that begins with this byte, 0 when none does; RFC 4880, section 4.2.
func tagOf(b byte) int {
	switch {
	case b&0x80 == 0:
		return 0
	case b&0x40 != 0:
		return int(b & 0x3f)
	}
	return int(b&0x3c) >> 2
}

// passphraseKey parses a session key for a passphrase, RFC 4880, section 5.3, where a key can be derived at a known cost: Argon2, RFC 9580,
// section 3.7.1.4, may ask for 2 TiB of memory.
func passphraseKey(p *packet.OpaquePacket) (*packet.SymmetricKeyEncrypted, error) {
	const versionAt, s2kAt = 0, 2
	if len(p.Contents) <= s2kAt {
		return nil, ErrDamaged
	}
	switch s2k.Mode(p.Contents[s2kAt]) {
	case s2k.SimpleS2K, s2k.SaltedS2K, s2k.IteratedSaltedS2K:
	default:
		return nil, errOtherEncryption()
	}
	if p.Contents[versionAt] != 4 {
		return nil, errOtherEncryption()
	}
	parsed, err := p.Parse()
	if err != nil {
		return nil, errOtherEncryption()
	}
	key, ok := parsed.(*packet.SymmetricKeyEncrypted)
	if !ok {
		return nil, errOtherEncryption()
	}
	return key, nil
}

// open decrypts and checks the whole before it returns anything.
func open(keys []*packet.SymmetricKeyEncrypted, sealed *packet.OpaquePacket, passphrase []byte) ([]byte, error) {
	for _, k := range keys {
		key, cipher, err := k.Decrypt(passphrase)
		if err != nil || !fits(cipher, key, sealed.Contents[1:]) {
			continue
		}
		parsed, err := sealed.Parse()
		if err != nil {
			return nil, ErrDamaged
		}
		message, ok := parsed.(*packet.SymmetricallyEncrypted)
		if !ok {
			return nil, ErrDamaged
		}
		r, err := message.Decrypt(cipher, key)
		if err != nil {
			return nil, ErrDamaged
		}
		plain, err := io.ReadAll(r)
		if err != nil {
			return nil, ErrDamaged
		}
		if err := r.Close(); err != nil { // the modification detection code
			return nil, ErrDamaged
		}
		return plain, nil
	}
	return nil, ErrPassphrase
}

// fits is the quick check of RFC 4880, section 5.13: the first block is random, and its last two bytes follow again. It tells a
// wrong passphrase, which may well give some key, from a damaged file. The check lets those who send us files and see our answers find
// out about bytes of a message (Mister and Zuccherato, 2005), but only with thousands of tries for which somebody gives the right
// passphrase.
func fits(cipher packet.CipherFunction, key, data []byte) bool {
	switch cipher {
	case packet.CipherAES128, packet.CipherAES192, packet.CipherAES256:
	default:
		return false // gpg has made none of the older ones for twenty years, unless told to
	}
	block, err := aes.NewCipher(key)
	if err != nil || len(key) != cipher.KeySize() || len(data) < aes.BlockSize+2 {
		return false
	}
	prefix := bytes.Clone(data[:aes.BlockSize+2])
	packet.NewOCFBDecrypter(block, prefix, packet.OCFBNoResync)
	return prefix[aes.BlockSize-2] == prefix[aes.BlockSize] && prefix[aes.BlockSize-1] == prefix[aes.BlockSize+1]
}

// literalData returns what a decrypted message is about. gpg may have compressed it.
func literalData(plain []byte) (io.Reader, error) {
	p, err := packet.Read(bytes.NewReader(plain))
	if compressed, ok := p.(*packet.Compressed); ok && err == nil {
		p, err = packet.Read(&limitedReader{r: compressed.Body, left: maxFileBytes})
	}
	literal, ok := p.(*packet.LiteralData)
	if !ok || err != nil {
		return nil, foreign("what is in it is no file")
	}
	return literal.Body, nil
}
