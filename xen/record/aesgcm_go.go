//go:build !ipsecmb || !cgo

package record

// Library names what does AES-GCM in this program.
func Library() string { return goLibrary }

func newAESGCM(key []byte) (protection, error) { return newGoAESGCM(key) }
