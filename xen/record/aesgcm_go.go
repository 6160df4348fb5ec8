//go:build !ipsecmb || !cgo

package record

import (
	"crypto/aes"
	"crypto/cipher"
)

// Library names what does AES-GCM in this program.
func Library() string { return "AES-GCM in Go" }

func newAESGCM(key []byte) (protection, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	a, err := cipher.NewGCM(block)
	return goAEAD{a}, err
}
