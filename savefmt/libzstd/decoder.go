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
	open bool // a frame has begun, all of it so far was read, and it goes on
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
	errEnd    = errors.New("zstd: the frame ends before its pages do")
	errLength = errors.New("zstd: the block holds more or less than its pages")
)

// Decode fills the pieces of dst, in order, from src, which must hold exactly
// as much. fresh: a new frame begins. It may end with src: then the next must be
// fresh, as after an error. Nothing is written beyond the pieces. A rest that is
// no whole block yet shows in the next Decode.
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
	ended := false
	for _, piece := range dst {
		if ended {
			return errEnd
		}
		s, err := d.step(piece, src)
		if err != nil {
			return err
		}
		if s.made != len(piece) {
			return errLength
		}
		src, ended = src[s.used:], s.ended
	}
	if !ended {
		var past [1]byte // nothing may come for it
		s, err := d.step(past[:], src)
		if err != nil {
			return err
		}
		if s.made != 0 {
			return errLength
		}
		src, ended = src[s.used:], s.ended
	}
	if len(src) != 0 {
		return errLength
	}
	d.open = !ended
	runtime.KeepAlive(d)
	return nil
}

// step is what became of one piece.
type step struct {
	used, made int
	ended      bool // with the frame
}

// step decodes src into piece, until one of them ends.
func (d *Decoder) step(piece, src []byte) (step, error) {
	if len(piece) == 0 {
		return step{}, nil
	}
	s := C.decompress_some(d.ctx, unsafe.Pointer(&piece[0]), C.size_t(len(piece)),
		unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)))
	if err := failure(s.code); err != nil {
		return step{}, fmt.Errorf("zstd: %w", err)
	}
	return step{int(s.used), int(s.made), s.code == 0}, nil
}

// memory is what the library has taken for it so far, in bytes. It is for
// tests, which may not use cgo.
func (d *Decoder) memory() int { return int(C.ZSTD_sizeof_DCtx(d.ctx)) }
