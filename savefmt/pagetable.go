package savefmt

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// PageEntry describes one page of a pages frame:
//
//	bits 63-60  type, XEN_DOMCTL_PFINFO_* as in the libxc stream's PAGE_DATA
//	bits 59-56  content: how the page's contents travel
//	bits 55-52  zero
//	bits 51-0   pfn
//
// In a page table it stands for all pages of a run, which have type and content
// in common and whose pfns follow each other. Bits 51-44, above the highest pfn
// that there can be, then say how many follow the first: 0 to 255.
type PageEntry uint64

// Content is how the contents of one page travel.
type Content uint8

// The kinds of content.
const (
	ContentData Content = 0 // in the payload, in the order of the table
	ContentZero Content = 1 // all zero, nothing in the payload
	ContentNone Content = 2 // the type has no contents
)

const (
	pfnMask  = 1<<52 - 1
	runShift = 44
	runMask  = 255 << runShift
)

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

// Sizes in a page table.
const (
	runSize = 8
	sumSize = 4
)

// MaxTable is the length in bytes of the table of n pages at most.
func MaxTable(n int) int { return n * (runSize + sumSize) }

// AppendTable appends the table of a pages frame: the runs of its entries (u64
// each), then the sums (u32 each): of a raw frame the PageSum of each page that
// travels as data, of another SumOfSums of those. Its pfns must ascend and be
// below 2^44.
func AppendTable(dst []byte, entries []PageEntry, sums []uint32) []byte {
	for i := 0; i < len(entries); {
		n := 1
		for i+n < len(entries) && n < MaxPages && entries[i+n] == entries[i]+PageEntry(n) {
			n++
		}
		dst = binary.LittleEndian.AppendUint64(dst, uint64(entries[i])|uint64(n-1)<<runShift)
		i += n
	}
	for _, sum := range sums {
		dst = binary.LittleEndian.AppendUint32(dst, sum)
	}
	return dst
}

// SumOfSums is the one checksum of an encoded frame: CRC-32C of the PageSums of its
// pages. Its pages are whole or damaged together, while each page of a raw one may
// have been written by the guest meanwhile.
func SumOfSums(sums []uint32) uint32 {
	sum := uint32(0)
	var b [sumSize]byte
	for _, s := range sums {
		binary.LittleEndian.PutUint32(b[:], s)
		sum = crc32.Update(sum, castagnoli, b[:])
	}
	return sum
}

// ParseTable reads the table of a frame of count pages into entries and sums,
// which it returns with their new length: one sum for each page that travels as
// data in a raw frame, one for all of them in another codec. It checks that pfns
// ascend and are below limit, that type and content go together, and that there
// is no shorter table of the same pages. It allocates nothing when both have room
// for the pages.
func ParseTable(table []byte, count int, codec Codec, limit uint64, entries []PageEntry, sums []uint32) ([]PageEntry, []uint32, error) {
	entries, sums = entries[:0], sums[:0]
	data := 0
	for next := PageEntry(0); len(entries) < count; {
		if len(table) < runSize {
			return nil, nil, fmt.Errorf("page table ends after %d of %d pages", len(entries), count)
		}
		word := binary.LittleEndian.Uint64(table)
		table = table[runSize:]
		first, n := PageEntry(word&^runMask), int(word&runMask>>runShift)+1
		if len(entries)+n > count {
			return nil, nil, fmt.Errorf("page table has more than the frame's %d pages", count)
		}
		if err := checkRun(first, n, next.PFN(), limit); err != nil {
			return nil, nil, err
		}
		if next != 0 && first == next {
			return nil, nil, fmt.Errorf("page entry %#x: it goes on with the run before", uint64(first))
		}
		for i := range n {
			entries = append(entries, first+PageEntry(i))
		}
		if first.Content() == ContentData {
			data += n
		}
		next = first + PageEntry(n)
	}
	want := data
	if codec != CodecRaw {
		want = min(data, 1)
	}
	if len(table) != want*sumSize {
		return nil, nil, fmt.Errorf("page table has %d bytes of checksums, %d are due", len(table), want*sumSize)
	}
	for ; len(table) > 0; table = table[sumSize:] {
		sums = append(sums, binary.LittleEndian.Uint32(table))
	}
	return entries, sums, nil
}

// firstWithoutData is the lowest page type that has no contents (BROKEN; then
// XALLOC and XTAB), XEN_DOMCTL_PFINFO_BROKEN in public/domctl.h.
const firstWithoutData = 0xD

// checkRun checks a run of n pages, of pfns from least to below limit.
func checkRun(e PageEntry, n int, least, limit uint64) error {
	pfn := e.PFN()
	switch {
	case uint64(e)>>52&15 != 0:
		return fmt.Errorf("page entry %#x: reserved bits are set", uint64(e))
	case pfn >= limit || uint64(n) > limit-pfn:
		return fmt.Errorf("page entry %#x: pfns %#x to %#x are beyond the guest's %#x pages", uint64(e), pfn, pfn+uint64(n)-1, limit)
	case pfn < least:
		return fmt.Errorf("page entry %#x: pfn %#x is out of order", uint64(e), pfn)
	case e.Content() > ContentNone, (e.Content() == ContentNone) != (e.Type() >= firstWithoutData):
		return fmt.Errorf("page entry %#x: type %#x with content %d", uint64(e), e.Type(), e.Content())
	}
	return nil
}
