package xen

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/xenferry/xenferry/savefmt"
)

// memory is the guest's memory at the destination while it arrives: what has
// come, and what of it is not yet as the source had it. Its methods are called
// by several connections at once, with different pfns.
type memory struct {
	in    Incoming
	pages uint64

	present atomicBitmap // has contents, other than known zeros
	zero    atomicBitmap // is zero, and may never have been touched
	suspect atomicBitmap // came damaged in a live round: must come again

	differ differences // what a verify round found
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
		in: in, pages: pages,
		present: newAtomicBitmap(pages), zero: newAtomicBitmap(pages), suspect: newAtomicBitmap(pages),
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
	count, first := 0, uint64(0)
	for pfn := range m.pages {
		if m.suspect.has(pfn) {
			if count == 0 {
				first = pfn
			}
			count++
		}
	}
	if count > 0 {
		return fmt.Errorf("%w: %d pages arrived damaged and were not sent again, the first is pfn %#x", ErrCorrupt, count, first)
	}
	return nil
}

// pageReader takes the frames of one data connection.
type pageReader struct {
	mem     *memory
	barrier *barrier
	round   uint32
	got     uint64 // entries in this round
	ended   bool   // FlagLast was seen

	batch   *Batch
	table   []byte
	entries []savefmt.PageEntry
	sums    []uint32
	runs    [][]byte
	scratch []byte // one payload, for verify rounds only
}

func newPageReader(mem *memory, b *barrier) *pageReader {
	return &pageReader{mem: mem, barrier: b, batch: NewBatch(), table: make([]byte, savefmt.TableSize(BatchPages))}
}

// serve reads a data connection until its last round has ended.
func (p *pageReader) serve(in *frameReader) error {
	for !p.ended {
		h, err := in.header()
		if err == nil {
			err = p.frame(h, in)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("data connection: %w", ErrPeerLost)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// frame takes one frame whose header was just read. It is a frameSink.
func (p *pageReader) frame(h savefmt.Header, in *frameReader) error {
	switch {
	case h.Type != savefmt.FramePages && h.Type != savefmt.FrameRoundEnd:
		return fmt.Errorf("%w: frame of type %d on a data connection", ErrCorrupt, h.Type)
	case p.ended:
		return fmt.Errorf("%w: pages after the last round", ErrCorrupt)
	case h.Round != p.round:
		return fmt.Errorf("%w: a frame of round %d in round %d", ErrCorrupt, h.Round, p.round)
	case h.Type == savefmt.FrameRoundEnd:
		return p.roundEnd(h, in)
	}
	return p.pagesFrame(h, in)
}

func (p *pageReader) roundEnd(h savefmt.Header, in *frameReader) error {
	body, err := in.body(h)
	if err != nil {
		return err
	}
	pages, err := savefmt.ParseRoundEnd(body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if pages != p.got {
		return fmt.Errorf("%w: round %d had %d pages here, the source sent %d", ErrCorrupt, p.round, p.got, pages)
	}
	p.round, p.got, p.ended = p.round+1, 0, h.Flags&savefmt.FlagLast != 0
	return p.barrier.wait()
}

func (p *pageReader) pagesFrame(h savefmt.Header, in *frameReader) error {
	if h.Codec != savefmt.CodecRaw {
		return fmt.Errorf("%w: pages in codec %d, which this program does not have", ErrCorrupt, h.Codec)
	}
	table := p.table[:savefmt.TableSize(int(h.Count))]
	if err := in.bodyInto(h, table); err != nil {
		return err
	}
	var err error
	if p.entries, p.sums, err = savefmt.ParseTable(table, p.mem.pages, p.entries, p.sums); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	p.fillBatch()
	if err := p.mem.in.Map(p.batch); err != nil {
		return err
	}
	err = p.take(h, in)
	if unmapErr := p.mem.in.Unmap(p.batch); err == nil {
		err = unmapErr
	}
	p.got += uint64(h.Count)
	return err
}

// fillBatch makes the batch of those pages that have to be mapped.
func (p *pageReader) fillBatch() {
	p.batch.Reset()
	for _, e := range p.entries {
		p.batch.PFNs = append(p.batch.PFNs, e.PFN())
		p.batch.Types = append(p.batch.Types, PageType(e.Type()))
	}
	p.batch.Pages = p.batch.Pages[:len(p.entries)]
}

// take stores, or in a verify round compares, the contents of a frame.
func (p *pageReader) take(h savefmt.Header, in *frameReader) error {
	p.runs = p.runs[:0]
	data := 0
	for i, e := range p.entries {
		if e.Content() == savefmt.ContentData {
			p.runs = appendRun(p.runs, p.batch.Pages[i])
			data += PageSize
		}
	}
	if data != int(h.Length) {
		return fmt.Errorf("%w: a frame with %d bytes of pages claims %d", ErrCorrupt, data, h.Length)
	}
	if h.Flags&savefmt.FlagVerify != 0 {
		return p.verify(data, in)
	}
	for _, run := range p.runs {
		if _, err := io.ReadFull(in.r, run); err != nil {
			return err
		}
	}
	return p.settle(h.Flags&savefmt.FlagLive != 0)
}

// settle checks the stored pages against their checksums, clears the zero
// ones, and keeps the books.
func (p *pageReader) settle(live bool) error {
	m := p.mem
	for i, e := range p.entries {
		pfn, page, damaged := e.PFN(), p.batch.Pages[i], false
		switch e.Content() {
		case savefmt.ContentData:
			damaged = savefmt.Checksum(page) != p.sums[i]
		case savefmt.ContentZero:
			if m.present.has(pfn) || !m.in.NewPagesZero() {
				clear(page)
			}
		}
		if damaged && !live {
			return fmt.Errorf("%w: page at pfn %#x arrived damaged", ErrCorrupt, pfn)
		}
		m.suspect.put(pfn, damaged)
		m.present.put(pfn, e.Content() == savefmt.ContentData)
		m.zero.put(pfn, e.Content() == savefmt.ContentZero)
	}
	return nil
}

// verify compares the pages that come with those that are there.
func (p *pageReader) verify(data int, in *frameReader) error {
	if p.scratch == nil {
		p.scratch = make([]byte, savefmt.MaxPayload)
	}
	payload := p.scratch[:data]
	if _, err := io.ReadFull(in.r, payload); err != nil {
		return err
	}
	for i, e := range p.entries {
		same := true
		switch e.Content() {
		case savefmt.ContentData:
			want := payload[:PageSize]
			payload = payload[PageSize:]
			if savefmt.Checksum(want) != p.sums[i] {
				return fmt.Errorf("%w: page at pfn %#x arrived damaged", ErrCorrupt, e.PFN())
			}
			same = bytes.Equal(want, p.batch.Pages[i])
		case savefmt.ContentZero:
			same = p.mem.zero.has(e.PFN()) || isZero(p.batch.Pages[i])
		}
		if !same {
			p.mem.differ.add(e.PFN())
		}
	}
	return nil
}

// barrier lets n connections go on to the next round together.
type barrier struct {
	mu      sync.Mutex
	n       int
	waiting int
	next    chan struct{}
	ctx     context.Context
}

func newBarrier(ctx context.Context, n int) *barrier {
	return &barrier{n: n, next: make(chan struct{}), ctx: ctx}
}

func (b *barrier) wait() error {
	b.mu.Lock()
	b.waiting++
	next := b.next
	if b.waiting == b.n {
		b.waiting, b.next = 0, make(chan struct{})
		close(next)
	}
	b.mu.Unlock()
	select {
	case <-next:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}
