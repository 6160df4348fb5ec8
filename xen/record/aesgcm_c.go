//go:build ipsecmb && cgo

package record

import (
	"github.com/xenferry/xenferry/xen/record/ipsecmb"
)

// Library names what does AES-GCM in this program.
func Library() string { return "libipsec-mb " + ipsecmb.Version() }

// cAEAD is AES-GCM in C.
type cAEAD struct{ *ipsecmb.GCM }

func newAESGCM(key []byte) (protection, error) {
	g, err := ipsecmb.NewGCM(key)
	return cAEAD{g}, err
}

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
