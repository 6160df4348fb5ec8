package xen

import (
	"fmt"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

// memory is the guest's memory at the destination while it arrives: what has
// come, and what of it is not yet as the source had it. Its methods are called
// by several connections at once, with different pfns.
type memory struct {
	in    Incoming
	pages uint64

	present atomicBitmap // has contents, other than known zeros
	zero    atomicBitmap // is zero, and may never have been touched
	used    atomicBitmap // was written, and not cleared since
	suspect atomicBitmap // came damaged in a live round: must come again

	differ differences // what a verify round found
	work   receiverWork

	rounds atomic.Uint32 // that are stored
	once   chan struct{} // closed when the first one is: every page was there once
	// onStored, if set, is told of each round as it is stored, with the flags
	// of its end.
	onStored func(round uint32, flags uint16) error
}

// roundDone notes that a round is stored. Each connection says so.
func (m *memory) roundDone(round uint32, flags uint16) error {
	if !m.rounds.CompareAndSwap(round, round+1) {
		return nil
	}
	if round == 0 {
		close(m.once)
	}
	if m.onStored == nil {
		return nil
	}
	return m.onStored(round, flags)
}

// receiverWork is how long the readers were at work in ns, all together. They
// add to it once a frame.
type receiverWork struct {
	read   atomic.Int64
	decode atomic.Int64
	store  atomic.Int64
}

// stats returns what was done so far.
func (w *receiverWork) stats() ReceiverStats {
	return ReceiverStats{
		Read: time.Duration(w.read.Load()), Decompress: time.Duration(w.decode.Load()),
		Store: time.Duration(w.store.Load()), CPU: processCPU(),
	}
}

// differences are pages that a verify round found to differ from the source's.
type differences struct {
	mu    sync.Mutex
	count uint64
	first []uint64 // pfns of the first of them
}

// maxDiffering is how many pfns of differing pages are told.
const maxDiffering = 16

func (d *differences) add(pfn uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	if len(d.first) < maxDiffering {
		d.first = append(d.first, pfn)
	}
}

func newMemory(in Incoming, pages uint64) *memory {
	return &memory{
		in: in, pages: pages, once: make(chan struct{}),
		present: newAtomicBitmap(pages), zero: newAtomicBitmap(pages), used: newAtomicBitmap(pages), suspect: newAtomicBitmap(pages),
	}
}

// atomicBitmap is a bitmap whose words several goroutines change.
type atomicBitmap []atomic.Uint64

func newAtomicBitmap(n uint64) atomicBitmap { return make(atomicBitmap, (n+63)/64) }

func (b atomicBitmap) has(pfn uint64) bool { return b[pfn/64].Load()&(1<<(pfn%64)) != 0 }

// put sets or clears a bit, and writes only where that changes something.
func (b atomicBitmap) put(pfn uint64, on bool) {
	bit := uint64(1) << (pfn % 64)
	switch word := &b[pfn/64]; {
	case on && word.Load()&bit == 0:
		word.Or(bit)
	case !on && word.Load()&bit != 0:
		word.And(^bit)
	}
}

// settled returns an error unless every page arrived as it was sent.
func (m *memory) settled() error {
	count, first := 0, 0
	for i := range m.suspect { // in the downtime: a word at a time
		word := m.suspect[i].Load()
		if word != 0 && count == 0 {
			first = i*64 + bits.TrailingZeros64(word)
		}
		count += bits.OnesCount64(word)
	}
	if count > 0 {
		return fmt.Errorf("%w: %d pages arrived damaged and were not sent again, the first is pfn %#x", ErrCorrupt, count, first)
	}
	return nil
}
