package savefmt

import (
	"errors"
	"fmt"
	"hash/crc32"
)

// Layer is one of the three layers of a stock save file, each inside the one
// before it. SPEC.md has the diagrams.
type Layer string

// The layers, from the outside in.
const (
	LayerXL    Layer = "xl file"
	LayerLibxl Layer = "libxl stream"
	LayerLibxc Layer = "libxc stream"
)

// GuestKind is the domain type in the header of a libxc stream.
type GuestKind uint32

// The kinds of guests. Stock Xen writes a PVH guest as HVM. A simulated guest
// has a number of ours, so that stock Xen refuses it at the header.
const (
	KindPV  GuestKind = 1
	KindHVM GuestKind = 2
	KindSim GuestKind = 0x58460001
)

func (k GuestKind) String() string {
	switch k {
	case KindPV:
		return "PV"
	case KindHVM:
		return "HVM"
	case KindSim:
		return "simulated"
	}
	return fmt.Sprintf("unknown (%#x)", uint32(k))
}

// Limits of a stock stream. Stock Xen's only limit is that on a record; the
// others are ours, far above what Xen writes.
const (
	MaxConfig      = 1 << 20   // bytes of the guest's configuration
	MaxRecord      = 128 << 20 // bytes of a record's body, as in Xen's own reader
	MaxRecordPages = 1 << 16   // entries of a PAGE_DATA record; Xen writes 1024 at most
	MaxStockPFN    = 1<<32 - 1 // 16 TiB of guest memory
	maxPolicy      = 1 << 20   // bytes of a CPU policy
	maxHVMContext  = 64 << 20  // bytes; 128 vCPUs need below 1 MiB
	maxVCPUs       = 1 << 13   // vCPUs of a PV guest, Xen's own limit
	maxSimContext  = 1 << 20   // bytes
)

const (
	pageSize  = 4096
	pageShift = 12
)

// StockPage is one entry of a PAGE_DATA record:
//
//	bits 63-60  type, XEN_DOMCTL_PFINFO_* (public/domctl.h) shifted right by 28
//	bits 59-52  zero
//	bits 51-0   pfn
type StockPage uint64

// NewStockPage packs an entry. typ is four bits, pfn 52.
func NewStockPage(typ uint8, pfn uint64) StockPage {
	return StockPage(uint64(typ)<<60 | pfn&pfnMask)
}

// Type returns the page type, four bits.
func (p StockPage) Type() uint8 { return uint8(p >> 60) }

// PFN returns the page frame number.
func (p StockPage) PFN() uint64 { return uint64(p) & pfnMask }

// HasData tells whether the page's contents are in the record.
func (p StockPage) HasData() bool { return p.Type() < firstWithoutData }

// pageTypeNames has the names of XEN_DOMCTL_PFINFO_*. Types without one are
// invalid.
var pageTypeNames = [16]string{
	0: "NOTAB", 1: "L1TAB", 2: "L2TAB", 3: "L3TAB", 4: "L4TAB",
	9: "L1TAB pinned", 10: "L2TAB pinned", 11: "L3TAB pinned", 12: "L4TAB pinned",
	13: "BROKEN", 14: "XALLOC", 15: "XTAB",
}

// FormatError says what is wrong with a saved guest, and where.
type FormatError struct {
	Layer  Layer
	Record string // name of the record, or "header"
	Offset int64  // of its first byte from the beginning, of a container: of its contents
	Err    error
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("%s: %s at offset %#x: %v", e.Layer, e.Record, e.Offset, e.Err)
}

func (e *FormatError) Unwrap() error { return e.Err }

// ErrTruncated is in a FormatError of a saved guest that ends too early.
var ErrTruncated = errors.New("the saved guest ends in the middle of it: it is incomplete")

// ErrNotSaved: what was read is not a saved guest of any format.
var ErrNotSaved = errors.New("this is not a saved guest: neither of xl, libxl or libxc, nor of xenferry save -z")

// extendChecksum continues a checksum over further bytes.
func extendChecksum(sum uint32, b []byte) uint32 { return crc32.Update(sum, castagnoli, b) }
