//go:build xen

package xenctrl

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"
)

// EnableLogDirty makes Xen record which pages the domain writes. It marks
// nothing. EINVAL: it is on already, or the domain has a PCI device. ENOMEM:
// its paging pool (shadow_memory in its configuration) is too small.
func (h *Handle) EnableLogDirty(domid uint32) error {
	rc, err := C.xc_shadow_control(h.xch, C.uint32_t(domid), C.XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY, nil, 0)
	return check(rc, err, "enable log-dirty mode", domid)
}

// DisableLogDirty ends it. For a domain not in log-dirty mode it does nothing.
func (h *Handle) DisableLogDirty(domid uint32) error {
	rc, err := C.xc_shadow_control(h.xch, C.uint32_t(domid), C.XEN_DOMCTL_SHADOW_OP_OFF, nil, 0)
	return check(rc, err, "disable log-dirty mode", domid)
}

// DirtyLog holds the buffer into which Xen writes the dirty bitmap of one
// domain, so that no round allocates. One goroutine at a time may use it.
type DirtyLog struct {
	h     *Handle
	domid uint32
	pages uint64
	buf   *C.struct_xf_bitmap // in C memory, as it holds values that Go would take for bad pointers; nil after Close
}

// NewDirtyLog allocates a DirtyLog for the pfns below pages (1 to 2^32). It
// needs a bit for each and does not need log-dirty mode to be on yet.
func (h *Handle) NewDirtyLog(domid uint32, pages uint64) (*DirtyLog, error) {
	const op = "allocate the dirty bitmap"
	if pages == 0 || pages > 1<<32 {
		return nil, &Error{op, domid, fmt.Errorf("%d pages: %w", pages, syscall.EINVAL)}
	}
	buf := (*C.struct_xf_bitmap)(C.calloc(1, C.sizeof_struct_xf_bitmap))
	if rc, err := C.xf_bitmap_alloc(h.xch, buf, C.uint64_t(pages)); rc != 0 {
		C.free(unsafe.Pointer(buf))
		return nil, failed(op, domid, err)
	}
	openHandles.Add(1)
	return &DirtyLog{h: h, domid: domid, pages: pages, buf: buf}, nil
}

// Clean stores the pages written since the last Clean in bm (bit pfn%64 of
// word pfn/64; at least a bit for each page) and forgets them. With final,
// pages that Xen itself may be writing are included: for the time after the
// suspend. The domain is paused meanwhile.
func (l *DirtyLog) Clean(bm []uint64, final bool) (DirtyStats, error) {
	var mode C.uint
	if final {
		mode = C.XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL
	}
	return l.fetch(C.XEN_DOMCTL_SHADOW_OP_CLEAN, bm, mode, "clean the dirty bitmap")
}

// Peek is Clean without forgetting, and without final.
func (l *DirtyLog) Peek(bm []uint64) (DirtyStats, error) {
	return l.fetch(C.XEN_DOMCTL_SHADOW_OP_PEEK, bm, 0, "peek at the dirty bitmap")
}

func (l *DirtyLog) fetch(op C.uint, bm []uint64, mode C.uint, name string) (DirtyStats, error) {
	if l.buf == nil {
		return DirtyStats{}, &Error{name, l.domid, syscall.EBADF}
	}
	words := (l.pages + 63) / 64
	if uint64(len(bm)) < words {
		return DirtyStats{}, &Error{name, l.domid,
			fmt.Errorf("bitmap of %d words, need %d: %w", len(bm), words, syscall.EINVAL)}
	}
	var stats C.xc_shadow_op_stats_t
	n, err := C.xf_logdirty(l.h.xch, C.uint32_t(l.domid), op, l.buf, C.uint64_t(l.pages), mode, &stats)
	if n < 0 {
		return DirtyStats{}, failed(name, l.domid, err)
	}
	if uint64(n) != l.pages {
		return DirtyStats{}, &Error{name, l.domid,
			fmt.Errorf("covered %d of %d pages: %w", n, l.pages, syscall.EIO)}
	}
	copy(bm, unsafe.Slice((*uint64)(unsafe.Pointer(l.buf.words)), words))
	if tail := l.pages % 64; tail != 0 {
		bm[words-1] &= 1<<tail - 1
	}
	return DirtyStats{Faults: uint32(stats.fault_count), Dirty: uint32(stats.dirty_count)}, nil
}

// DirtyStats returns the counts since the last Clean, without a bitmap. It pauses
// the domain only for an instant.
func (h *Handle) DirtyStats(domid uint32) (DirtyStats, error) {
	var stats C.xc_shadow_op_stats_t
	n, err := C.xf_logdirty(h.xch, C.uint32_t(domid), C.XEN_DOMCTL_SHADOW_OP_PEEK, nil, 0, 0, &stats)
	if n < 0 {
		return DirtyStats{}, failed("count dirty pages", domid, err)
	}
	return DirtyStats{Faults: uint32(stats.fault_count), Dirty: uint32(stats.dirty_count)}, nil
}

// Close frees the buffer. Idempotent. Log-dirty mode stays as it is.
func (l *DirtyLog) Close() error {
	if l.buf != nil {
		C.xf_bitmap_free(l.h.xch, l.buf)
		C.free(unsafe.Pointer(l.buf))
		l.buf = nil
		openHandles.Add(-1)
	}
	return nil
}
