//go:build ipsecmb && cgo

package record

import (
	"github.com/xenferry/xenferry/xen/record/ipsecmb"
)

// Library names what does AES-GCM in this program.
func Library() string {
	if !ipsecmb.Usable() {
		return goLibrary
	}
	return "libipsec-mb " + ipsecmb.Version()
}

// newAESGCM takes Go's library where the processor is too old for the other, and
// for AES-256, which two ends that have crypto/tls never agree on.
func newAESGCM(key []byte) (protection, error) {
	if len(key) != ipsecmb.KeySize || !ipsecmb.Usable() {
		return newGoAESGCM(key)
	}
	g, err := ipsecmb.NewGCM(key)
	return cAEAD{g}, err
}

// cAEAD is AES-GCM in C.
type cAEAD struct{ *ipsecmb.GCM }

func (a cAEAD) seal(dst []byte, nonce *[12]byte, header, content []byte, typ byte) []byte {
	at := len(dst)
	dst = dst[:at+len(content)+1+tagSize]
	a.Seal(dst[at:], nonce, header, content, typ)
	return dst
}

func (a cAEAD) open(dst []byte, nonce *[12]byte, header, sealed []byte) (byte, error) {
	last, ok := a.Open(dst, nonce, header, sealed)
	if !ok {
		return 0, errTag
	}
	return last, nil
}
