//go:build ipsecmb && cgo

package ipsecmb

/*
#cgo LDFLAGS: -lIPSec_MB
#cgo noescape gcm_new
#cgo nocallback gcm_new
#cgo noescape gcm_seal
#cgo nocallback gcm_seal
#cgo noescape gcm_open
#cgo nocallback gcm_open
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"
)

// Version returns that of the library in use, such as "1.3.0".
func Version() string { return C.GoString(C.imb_get_version_str()) }

// library finds out what the processor can do, once. What it returns is only
// read from then on.
var library = sync.OnceValue(func() *C.IMB_MGR { return C.gcm_library() })

// Usable tells whether the library knows this processor and has found that it
// computes well. Else there is no GCM.
func Usable() bool { return library() != nil }

// Sizes of the key, of AES-128, and of the tag, in bytes.
const (
	KeySize = 16
	TagSize = 16
)

// GCM is AES-GCM with one key, for one goroutine at a time. Its memory comes
// from C, and is overwritten and freed when it is collected.
type GCM struct{ c *C.struct_gcm }

// NewGCM takes a key of KeySize bytes.
func NewGCM(key []byte) (*GCM, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("libipsec-mb: a key of %d bytes", len(key))
	}
	mgr := library()
	if mgr == nil {
		return nil, errors.New("libipsec-mb is not usable on this processor")
	}
	c := C.gcm_new(mgr, unsafe.Pointer(&key[0]))
	if c == nil {
		return nil, errors.New("libipsec-mb: no memory for a key")
	}
	g := &GCM{c}
	runtime.AddCleanup(g, func(c *C.struct_gcm) { C.gcm_free(c) }, c)
	return g, nil
}

// Seal encrypts content and the byte last to dst, which is longer than content
// by that byte and the tag, and does not overlap it.
func (g *GCM) Seal(dst []byte, nonce *[12]byte, aad, content []byte, last byte) {
	_ = dst[len(content)+TagSize]
	C.gcm_seal(g.c, bytes(dst), bytes(content), C.uint64_t(len(content)), C.uint8_t(last),
		bytes(nonce[:]), bytes(aad), C.uint64_t(len(aad)))
	runtime.KeepAlive(g)
}

// Open decrypts sealed, which Seal has made, to dst, which is shorter by the tag
// and the last byte, and may be the beginning of sealed. What is in dst is good
// only if ok.
func (g *GCM) Open(dst []byte, nonce *[12]byte, aad, sealed []byte) (last byte, ok bool) {
	_ = sealed[len(dst)+TagSize]
	r := C.gcm_open(g.c, bytes(dst), bytes(sealed), C.uint64_t(len(dst)),
		bytes(nonce[:]), bytes(aad), C.uint64_t(len(aad)))
	runtime.KeepAlive(g)
	return byte(r), r >= 0
}

func bytes(b []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.SliceData(b)) }
