package xen

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
)

// memoryHash sums a guest's memory: SHA-256 over each page that has contents,
// ascending, as its pfn followed by its bytes, or by one byte where all are
// zero. The guest is suspended.
type memoryHash struct{ h hash.Hash }

func newMemoryHash() *memoryHash { return &memoryHash{sha256.New()} }

func (m *memoryHash) add(pfn uint64, page []byte, zero bool) {
	var head [9]byte
	binary.LittleEndian.PutUint64(head[:], pfn)
	if zero {
		m.h.Write(head[:])
		return
	}
	m.h.Write(head[:8])
	m.h.Write(page)
}

func (m *memoryHash) sum() string { return hex.EncodeToString(m.h.Sum(nil)) }

// mapper is the part of a Domain or an Incoming that hashing needs.
type mapper interface {
	Map(*Batch) error
	Unmap(*Batch) error
}

// hashMemory sums the memory of a suspended guest at the source.
func hashMemory(ctx context.Context, dom Domain) (string, error) {
	all := NewBitmap(dom.Pages())
	all.SetAll(dom.Pages())
	return hashPages(ctx, dom, all, dom.Pages(), nil)
}

// hashArrived sums the memory that has arrived.
func hashArrived(ctx context.Context, m *memory) (string, error) {
	bm, zero := NewBitmap(m.pages), NewBitmap(m.pages)
	for i := range bm {
		zero[i] = m.zero[i].Load()
		bm[i] = m.present[i].Load() | zero[i]
	}
	return hashPages(ctx, m.in, bm, m.pages, zero)
}

// hashPages sums the pages in bm. Those also in zero are known to be zero and
// not read. It ends when ctx does: the guest is suspended meanwhile.
func hashPages(ctx context.Context, from mapper, bm Bitmap, pages uint64, zero Bitmap) (string, error) {
	sum, b := newMemoryHash(), NewBatch()
	cur := &cursor{bm: bm, pages: pages, most: BatchPages}
	for cur.fill(b) {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		b.Grow()
		clear(b.Types)
		if err := from.Map(b); err != nil {
			return "", err
		}
		for i, pfn := range b.PFNs {
			switch page := b.Pages[i]; {
			case zero != nil && zero.Has(pfn):
				sum.add(pfn, nil, true)
			case page != nil:
				sum.add(pfn, page, isZero(page))
			}
		}
		if err := from.Unmap(b); err != nil {
			return "", err
		}
	}
	return sum.sum(), nil
}
