package destination

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
)

// rclone wants passwords in its configuration obscured, against eyes over a shoulder: AES-CTR, by a key that its source publishes
// (fs/config/obscure/obscure.go). `rclone obscure` would need the password as an argument, or a process more.
var obscureBlock = func() cipher.Block {
	key, err := hex.DecodeString("9c935b48730a554d6bfd7c63c886a92bd390198eb8128afbf4de162b8b95f638")
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	return block
}()

// obscure is `rclone obscure`: twice the same password gives two texts.
func obscure(password Secret) string {
	out := make([]byte, aes.BlockSize+len(password))
	_, _ = rand.Read(out[:aes.BlockSize]) // never fails
	cipher.NewCTR(obscureBlock, out[:aes.BlockSize]).XORKeyStream(out[aes.BlockSize:], []byte(password))
	return base64.RawURLEncoding.EncodeToString(out)
}

// reveal is `rclone reveal`.
func reveal(obscured string) (Secret, error) {
	in, err := base64.RawURLEncoding.DecodeString(obscured)
	if err != nil || len(in) < aes.BlockSize {
		return "", errors.New("is not obscured by rclone")
	}
	out := make([]byte, len(in)-aes.BlockSize)
	cipher.NewCTR(obscureBlock, in[:aes.BlockSize]).XORKeyStream(out, in[aes.BlockSize:])
	return Secret(out), nil
}
