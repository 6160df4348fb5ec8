package savefmt

import (
	"encoding/binary"
	"fmt"
)

// PageEntry describes one page of a pages frame:
//
//	bits 63-60  type, XEN_DOMCTL_PFINFO_* as in the libxc stream's PAGE_DATA
//	bits 59-56  content: how the page's contents travel
//	bits 55-52  zero
//	bits 51-0   pfn
type PageEntry uint64

// Content is how the contents of one page travel.
type Content uint8

// The kinds of content.
const (
	ContentData Content = 0 // in the payload, in the order of the table
	ContentZero Content = 1 // all zero, nothing in the payload
	ContentNone Content = 2 // the type has no contents
)

const pfnMask = 1<<52 - 1

// NewPageEntry packs an entry. typ is four bits, pfn 52.
func NewPageEntry(typ uint8, c Content, pfn uint64) PageEntry {
	return PageEntry(uint64(typ)<<60 | uint64(c&15)<<56 | pfn&pfnMask)
}

// Type returns the page type, four bits.
func (e PageEntry) Type() uint8 { return uint8(e >> 60) }

// Content returns how the contents travel.
func (e PageEntry) Content() Content { return Content(e>>56) & 15 }

// PFN returns the page frame number.
func (e PageEntry) PFN() uint64 { return uint64(e) & pfnMask }

// entrySize is the length of an entry with its checksum.
const entrySize = 8 + 4

// TableSize is the length in bytes of the table of n pages.
func TableSize(n int) int { return n * entrySize }

// AppendTable appends the table of a pages frame: all entries (u64 each), then
// for each the CRC-32C of the page's contents (u32, 0 where there are none).
func AppendTable(dst []byte, entries []PageEntry, sums []uint32) []byte {
	for _, e := range entries {
		dst = binary.LittleEndian.AppendUint64(dst, uint64(e))
	}
	for _, s := range sums {
		dst = binary.LittleEndian.AppendUint32(dst, s)
	}
	return dst
}

// ParseTable reads the table of a pages frame into entries and sums, which it
// returns with their new length. It checks that pfns ascend and are below
// limit, and that type and content go together. It allocates nothing when both
// have room for the pages.
func ParseTable(table []byte, limit uint64, entries []PageEntry, sums []uint32) ([]PageEntry, []uint32, error) {
	n := len(table) / entrySize
	if len(table) != TableSize(n) || n > MaxPages {
		return nil, nil, fmt.Errorf("page table of %d bytes", len(table))
	}
	entries, sums = entries[:0], sums[:0]
	next := uint64(0)
	for i := range n {
		e := PageEntry(binary.LittleEndian.Uint64(table[8*i:]))
		if err := checkEntry(e, next, limit); err != nil {
			return nil, nil, err
		}
		next = e.PFN() + 1
		entries = append(entries, e)
		sums = append(sums, binary.LittleEndian.Uint32(table[8*n+4*i:]))
	}
	return entries, sums, nil
}

// firstWithoutData is the lowest page type that has no contents (BROKEN; then
// XALLOC and XTAB), XEN_DOMCTL_PFINFO_BROKEN in public/domctl.h.
const firstWithoutData = 0xD

func checkEntry(e PageEntry, next, limit uint64) error {
	switch {
	case uint64(e)>>52&15 != 0:
		return fmt.Errorf("page entry %#x: reserved bits are set", uint64(e))
	case e.PFN() >= limit:
		return fmt.Errorf("page entry %#x: pfn %#x is beyond the guest's %#x pages", uint64(e), e.PFN(), limit)
	case e.PFN() < next:
		return fmt.Errorf("page entry %#x: pfn %#x is out of order", uint64(e), e.PFN())
	case e.Content() > ContentNone, (e.Content() == ContentNone) != (e.Type() >= firstWithoutData):
		return fmt.Errorf("page entry %#x: type %#x with content %d", uint64(e), e.Type(), e.Content())
	}
	return nil
}
