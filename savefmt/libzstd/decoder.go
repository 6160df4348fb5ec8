//go:build libzstd && cgo

package libzstd

/*
#cgo noescape decompress_some
#cgo nocallback decompress_some
#include "shim.h"
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"unsafe"
)

// Decoder reads what an Encoder writes, or any other that keeps to the same
// window.
type Decoder struct {
	ctx  *C.ZSTD_DCtx
	open bool // a frame has begun, and all of it so far was read
}

// NewDecoder returns a decoder that keeps up to 1<<windowLog bytes, and refuses
// a frame that wants more.
func NewDecoder(windowLog int) (*Decoder, error) {
	ctx := C.ZSTD_createDCtx()
	if ctx == nil {
		return nil, errors.New("zstd: no memory for a decoder")
	}
	d := &Decoder{ctx: ctx}
	runtime.AddCleanup(d, func(ctx *C.ZSTD_DCtx) { C.ZSTD_freeDCtx(ctx) }, ctx)
	if err := failure(C.ZSTD_DCtx_setParameter(d.ctx, C.ZSTD_d_windowLogMax, C.int(windowLog))); err != nil {
		return nil, fmt.Errorf("zstd: a window of 2^%d bytes: %w", windowLog, err)
	}
	return d, nil
}

// magic begins each frame. The library would also take frames of its versions
// before 1.0, whose decoders know no limit of memory, and frames to be skipped.
var magic = []byte{0x28, 0xB5, 0x2F, 0xFD}

// Errors of blocks.
var (
	errFresh  = errors.New("zstd: the first block on a connection is not marked as fresh")
	errMagic  = errors.New("zstd: a fresh block does not begin as a frame does")
	errEnd    = errors.New("zstd: the frame ends, which it never may")
	errLength = errors.New("zstd: the block holds more or less than its pages")
)

// Decode fills the pieces of dst, in order, from src, which must hold exactly
// as much. fresh: a new frame begins. Nothing is written beyond the pieces. A
// rest that is no whole block yet shows in the next Decode. After an error the
// next block must be fresh.
func (d *Decoder) Decode(dst [][]byte, src []byte, fresh bool) error {
	if fresh {
		if !bytes.HasPrefix(src, magic) {
			return errMagic
		}
		C.ZSTD_DCtx_reset(d.ctx, C.ZSTD_reset_session_only)
	} else if !d.open {
		return errFresh
	}
	d.open = false
	for _, piece := range dst {
		used, made, err := d.step(piece, src)
		if err != nil {
			return err
		}
		if made != len(piece) {
			return errLength
		}
		src = src[used:]
	}
	var past [1]byte // nothing may come for it
	used, made, err := d.step(past[:], src)
	if err == nil && (made != 0 || used != len(src)) {
		err = errLength
	}
	d.open = err == nil
	runtime.KeepAlive(d)
	return err
}

// step decodes src into piece, until one of them ends.
func (d *Decoder) step(piece, src []byte) (used, made int, err error) {
	if len(piece) == 0 {
		return 0, 0, nil
	}
	s := C.decompress_some(d.ctx, unsafe.Pointer(&piece[0]), C.size_t(len(piece)),
		unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)))
	if err := failure(s.code); err != nil {
		return 0, 0, fmt.Errorf("zstd: %w", err)
	}
	if s.code == 0 {
		return 0, 0, errEnd
	}
	return int(s.used), int(s.made), nil
}

// memory is what the library has taken for it so far, in bytes. It is for
// tests, which may not use cgo.
func (d *Decoder) memory() int { return int(C.ZSTD_sizeof_DCtx(d.ctx)) }
