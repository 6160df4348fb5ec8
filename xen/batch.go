package xen

import "math/bits"

// PageSize is the size of a guest page in bytes, on every Xen for x86.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
)

// BatchPages is the most pages that travel together: 1 MiB of guest memory.
const BatchPages = 256

// PageType is Xen's type of a guest page: XEN_DOMCTL_PFINFO_* (public/domctl.h)
// shifted down to its four bits, as in bits 63-60 of a stream's PAGE_DATA entry.
type PageType uint8

// The page types that an HVM or PVH guest can have. 1-4 and 9-12 are a PV
// guest's page tables.
const (
	PageNormal PageType = 0x0
	PageBroken PageType = 0xD // no contents, not populated
	PageXAlloc PageType = 0xE // no contents, populated
	PageXTab   PageType = 0xF // no page there
)

// HasData tells whether a page of this type has contents that must be sent.
func (t PageType) HasData() bool { return t < PageBroken }

// Populated tells whether a page of this type has memory at the destination.
func (t PageType) Populated() bool { return t.HasData() || t == PageXAlloc }

// Batch is a set of up to BatchPages pages that are mapped together. It is
// reused: nothing is allocated for each page or each batch.
type Batch struct {
	PFNs  []uint64   // ascending, each once
	Types []PageType // same length
	Pages [][]byte   // same length: PageSize bytes, or nil where there are none

	// Mapping is what the Domain or Incoming needs to undo the mapping. It
	// belongs to it from Map to Unmap, and may keep buffers in it after.
	Mapping any
}

// NewBatch returns an empty batch with room for BatchPages.
func NewBatch() *Batch {
	return &Batch{
		PFNs:  make([]uint64, 0, BatchPages),
		Types: make([]PageType, 0, BatchPages),
		Pages: make([][]byte, 0, BatchPages),
	}
}

// Reset empties the batch.
func (b *Batch) Reset() {
	b.PFNs, b.Types, b.Pages = b.PFNs[:0], b.Types[:0], b.Pages[:0]
}

// Grow gives Types and Pages the length of PFNs. Map starts with it.
func (b *Batch) Grow() {
	n := len(b.PFNs)
	b.Types, b.Pages = b.Types[:n], b.Pages[:n]
}

// Bitmap has one bit for each pfn, bit pfn%64 of word pfn/64.
type Bitmap []uint64

// NewBitmap returns a bitmap of at least n bits, all clear.
func NewBitmap(n uint64) Bitmap { return make(Bitmap, (n+63)/64) }

// Set sets the bit of pfn.
func (b Bitmap) Set(pfn uint64) { b[pfn/64] |= 1 << (pfn % 64) }

// Clear clears the bit of pfn.
func (b Bitmap) Clear(pfn uint64) { b[pfn/64] &^= 1 << (pfn % 64) }

// Has tells whether the bit of pfn is set.
func (b Bitmap) Has(pfn uint64) bool { return b[pfn/64]&(1<<(pfn%64)) != 0 }

// SetAll sets the first n bits and clears the rest.
func (b Bitmap) SetAll(n uint64) {
	for i := range b {
		b[i] = ^uint64(0)
	}
	if tail := n % 64; tail != 0 && len(b) > 0 {
		b[len(b)-1] = 1<<tail - 1
	}
}

// Count returns the number of bits set.
func (b Bitmap) Count() uint64 {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return uint64(n)
}

// AppendRange appends the pfns set in [from, to) to dst.
func (b Bitmap) AppendRange(dst []uint64, from, to uint64) []uint64 {
	for w := from / 64; w*64 < to; w++ {
		word := b[w]
		for word != 0 {
			pfn := w*64 + uint64(bits.TrailingZeros64(word))
			word &= word - 1
			if pfn >= from && pfn < to {
				dst = append(dst, pfn)
			}
		}
	}
	return dst
}
