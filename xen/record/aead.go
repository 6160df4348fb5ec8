package record

import (
	"crypto/aes"
	"crypto/cipher"

	"golang.org/x/crypto/chacha20poly1305"
)

// goAEAD is one of Go's libraries.
type goAEAD struct{ cipher.AEAD }

func newChaCha(key []byte) (protection, error) {
	a, err := chacha20poly1305.New(key)
	return goAEAD{a}, err
}

// goLibrary names Go's AES-GCM.
const goLibrary = "AES-GCM in Go"

func newGoAESGCM(key []byte) (protection, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(block)
	return goAEAD{a}, err
}

func (a goAEAD) seal(dst []byte, nonce *[12]byte, header, content []byte, typ byte) []byte {
	at := len(dst)
	dst = append(append(dst, content...), typ)
	return a.Seal(dst[:at], nonce[:], dst[at:], header)
}

func (a goAEAD) open(dst []byte, nonce *[12]byte, header, sealed []byte) (byte, error) {
	plain, err := a.Open(sealed[:0], nonce[:], sealed, header)
	if err != nil {
		return 0, errTag
	}
	copy(dst, plain) // nothing, where it is there already
	return plain[len(dst)], nil
}
