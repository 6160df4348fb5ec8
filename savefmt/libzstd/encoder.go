//go:build libzstd && cgo

package libzstd

/*
#cgo pkg-config: libzstd
#cgo noescape compress_parts
#cgo nocallback compress_parts
#cgo noescape compress_whole
#cgo nocallback compress_whole
#include "shim.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"
)

// Version returns that of the library in use, such as "1.5.4".
func Version() string { return C.GoString(C.ZSTD_versionString()) }

// Encoder writes one frame that goes on from block to block or, where Whole says
// so of its level, a frame for each block.
type Encoder struct {
	ctx   *C.ZSTD_CCtx
	whole bool
	part  int // bytes of a block that the library makes a block of its own of; 0: it chooses
}

// Whole tells whether blocks of that level, without long matches, are frames of
// their own. What one of these levels remembers of the block before is worth
// 0.05 % of the size on the benchmark's image, and costs 8 % of the time: the
// library copies the block to have it at hand.
func Whole(level int) bool { return level <= 1 }

// fastMinMatch is the shortest match that level 1 looks for. The library's own
// choice, 7, suits text; memory is full of words of 8 bytes whose upper half
// repeats. Measured on the benchmark's image: 1.3 % smaller, in the same time.
const fastMinMatch = 5

// FastestLevel is the lowest level of an Encoder: the lower, the faster.
const FastestLevel = -7

// fastWindowLog bounds the window of the levels below 1, whose table remembers too
// little to find anything farther back: on that image the output is the same, to a
// thousandth, and what the library reads stays in the processor's cache, which
// takes a tenth off the time. Level 1 is given its block part by part, so that the
// library copies it to a buffer first: there is room for all of it, as to begin
// anew in that buffer takes 7 % of the time.
const (
	fastWindowLog = 19
	partWindowLog = 20
)

// partSize is how many bytes become a block inside zstd's frame, with codes of its
// own for what it has: a guest's memory changes its nature every few pages, and of
// the library's choice, 128 KiB, not all is alike. Measured: 0.6 % smaller for the
// benchmark's image and 0.9 % for the memory of a Debian host, in 4 % more time; 32 KiB
// would bring 1.0 and 1.4 %, in 9 %. From level splitLevel on the library looks by
// itself for where to split.
const (
	partSize   = 64 << 10
	splitLevel = 16
)

// tableLog bounds the tables of the levels from boundLevel on: 2^20 entries
// each. Unbounded, level 22 takes 660 MiB for a connection, and with a window
// of 4 MiB its output is 0.3 % smaller for that.
const (
	tableLog   = 20
	boundLevel = 8
)

// param is one parameter of the library.
type param struct {
	name  C.ZSTD_cParameter
	value int
}

// NewEncoder returns an encoder of a level from FastestLevel to 22, but not 0,
// whose matches reach back up to 1<<windowLog bytes, up to level 1 no more than
// 1<<fastWindowLog.
func NewEncoder(level, windowLog int) (*Encoder, error) {
	switch {
	case level < 1:
		windowLog = min(windowLog, fastWindowLog)
	case level == 1:
		windowLog = min(windowLog, partWindowLog)
	}
	e, err := newEncoder(level, windowLog)
	if err == nil {
		e.whole = Whole(level)
	}
	return e, err
}

// longEntry is how many bytes of the window have one entry in the table of long
// matches, as a power of two. Half as much as the library takes costs 0.2 % of
// the size and saves 5 % of the time, as more of the table is in the cache.
const longEntry = 8

// NewLongEncoder returns an encoder that also looks for long matches, of 64
// bytes and more, in all of the window.
func NewLongEncoder(level, windowLog int) (*Encoder, error) {
	return newEncoder(level, windowLog,
		param{C.ZSTD_c_enableLongDistanceMatching, 1}, param{C.ZSTD_c_ldmHashLog, windowLog - longEntry})
}

func newEncoder(level, windowLog int, more ...param) (*Encoder, error) {
	ctx := C.ZSTD_createCCtx()
	if ctx == nil {
		return nil, errors.New("zstd: no memory for an encoder")
	}
	e := &Encoder{ctx: ctx}
	if level >= 1 && level < splitLevel {
		e.part = partSize
	}
	runtime.AddCleanup(e, func(ctx *C.ZSTD_CCtx) { C.ZSTD_freeCCtx(ctx) }, ctx)
	params := append([]param{{C.ZSTD_c_compressionLevel, level}, {C.ZSTD_c_windowLog, windowLog}}, more...)
	switch {
	case level == 1:
		params = append(params, param{C.ZSTD_c_minMatch, fastMinMatch})
	case level >= boundLevel:
		params = append(params, param{C.ZSTD_c_hashLog, tableLog}, param{C.ZSTD_c_chainLog, tableLog})
	}
	for _, p := range params {
		if err := failure(C.ZSTD_CCtx_setParameter(e.ctx, p.name, C.int(p.value))); err != nil {
			return nil, fmt.Errorf("zstd level %d, window of 2^%d bytes: %w", level, windowLog, err)
		}
	}
	return e, nil
}

// Reset lets the next block begin a new frame.
func (e *Encoder) Reset() {
	C.ZSTD_CCtx_reset(e.ctx, C.ZSTD_reset_session_only)
	runtime.KeepAlive(e)
}

// Encode appends src, encoded, to dst. It allocates nothing where dst has room
// for what the library says that src becomes at worst. After an error the
// encoder needs a Reset.
func (e *Encoder) Encode(dst, src []byte) ([]byte, error) {
	if len(src) == 0 {
		return dst, nil
	}
	n := len(dst)
	dst = slices.Grow(dst, bound(len(src)))
	room := dst[n:cap(dst)]
	var s C.struct_step
	if e.whole && e.part == 0 {
		s = C.compress_whole(e.ctx, unsafe.Pointer(&room[0]), C.size_t(len(room)), unsafe.Pointer(&src[0]), C.size_t(len(src)))
	} else {
		s = C.compress_parts(e.ctx, unsafe.Pointer(&room[0]), C.size_t(len(room)), unsafe.Pointer(&src[0]), C.size_t(len(src)),
			C.size_t(e.partOf(len(src))), end(e.whole))
	}
	runtime.KeepAlive(e)
	if err := failure(s.code); err != nil {
		return dst[:n], fmt.Errorf("zstd: %w", err)
	}
	if s.code != 0 || int(s.used) != len(src) {
		return dst[:n], fmt.Errorf("zstd: %d bytes have no room in %d", len(src), len(room))
	}
	return dst[:n+int(s.made)], nil
}

// partOf returns the size of the parts of n bytes.
func (e *Encoder) partOf(n int) int {
	if e.part == 0 {
		return n
	}
	return e.part
}

func end(whole bool) C.int {
	if whole {
		return 1
	}
	return 0
}

// memory is what the library has taken for it so far, in bytes. It is for
// tests, which may not use cgo.
func (e *Encoder) memory() int { return int(C.ZSTD_sizeof_CCtx(e.ctx)) }

// bound is how many bytes n become at worst. The library's figure is for whole
// frames; 64 more are for the beginning of a frame and for blocks that are cut
// where the library's buffer ends, and 4 for each part.
func bound(n int) int { return int(C.ZSTD_compressBound(C.size_t(n))) + 64 + 4*(n/partSize) }

// failure returns the error that a result of libzstd stands for, or nil.
func failure(code C.size_t) error {
	if C.ZSTD_isError(code) == 0 {
		return nil
	}
	return errors.New(C.GoString(C.ZSTD_getErrorName(code)))
}
