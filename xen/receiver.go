package xen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// pageReader takes the frames of one data connection.
type pageReader struct {
	mem     *memory
	barrier *barrier
	round   uint32
	got     uint64 // entries in this round
	ended   bool   // FlagLast was seen

	batch    *Batch
	table    []byte
	entries  []savefmt.PageEntry
	sums     []uint32 // as the table has them
	have     []uint32 // of the pages as they came
	runs     [][]byte
	decoders map[savefmt.Codec]savefmt.Decoder
	payload  []byte         // encoded pages, where there are such
	scratch  []byte         // decoded pages, for verify rounds only
	copies   []savefmt.Copy // of this round, that are yet to be made
	arrived  []savefmt.Copy // of a list, that can be made at once
	sources  *Batch         // of copies, once there are some
	// Of this round: how many copies were listed, and the pfn of the last.
	listed     int
	lastListed uint64
}

func newPageReader(mem *memory, b *barrier) *pageReader {
	return &pageReader{
		mem: mem, barrier: b, batch: NewBatch(), table: make([]byte, savefmt.MaxTable(BatchPages)),
		decoders: map[savefmt.Codec]savefmt.Decoder{},
	}
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
	case h.Type != savefmt.FramePages && h.Type != savefmt.FrameRoundEnd && h.Type != savefmt.FrameCopies:
		return fmt.Errorf("%w: frame of type %d on a data connection", ErrCorrupt, h.Type)
	case p.ended:
		return fmt.Errorf("%w: pages after the last round", ErrCorrupt)
	case h.Round != p.round:
		return fmt.Errorf("%w: a frame of round %d in round %d", ErrCorrupt, h.Round, p.round)
	case h.Type == savefmt.FrameRoundEnd:
		return p.roundEnd(h, in)
	case h.Type == savefmt.FrameCopies:
		return p.copiesFrame(h, in)
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
	p.round, p.got = p.round+1, 0
	if err := p.barrier.wait(); err != nil {
		return err
	}
	if err := p.applyCopies(); err != nil {
		return err
	}
	if err := p.barrier.wait(); err != nil { // the next round may change what was copied
		return err
	}
	p.ended = h.Flags&savefmt.FlagLast != 0
	return p.mem.roundDone(h.Round, h.Flags)
}

func (p *pageReader) pagesFrame(h savefmt.Header, in *frameReader) error {
	table := p.table[:h.Table]
	if err := in.bodyInto(h, table); err != nil {
		return err
	}
	var err error
	if p.entries, p.sums, err = savefmt.ParseTable(table, int(h.Count), h.Codec, p.mem.pages, p.entries, p.sums); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	// Encoded pages are read first: none is mapped while the link is waited for.
	if err := p.readEncoded(h, in); err != nil {
		return err
	}
	start := time.Now()
	p.fillBatch(h.Flags&savefmt.FlagVerify != 0)
	if err := p.mem.in.Map(p.batch); err != nil {
		return err
	}
	elsewhere, err := p.take(h, in)
	if unmapErr := p.mem.in.Unmap(p.batch); err == nil {
		err = unmapErr
	}
	if err == nil && h.Flags&savefmt.FlagVerify == 0 {
		p.publish()
	}
	p.mem.work.store.Add(int64(time.Since(start) - elsewhere))
	p.got += uint64(h.Count)
	return err
}

// readEncoded reads the payload of a frame that is not raw.
func (p *pageReader) readEncoded(h savefmt.Header, in *frameReader) error {
	if h.Codec == savefmt.CodecRaw {
		return nil
	}
	if p.decoders[h.Codec] == nil {
		d, err := savefmt.NewDecoder(h.Codec, p.barrier.n)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		p.decoders[h.Codec] = d
	}
	if p.payload == nil {
		p.payload = make([]byte, savefmt.MaxEncoded)
	}
	start := time.Now()
	p.runs = append(p.runs[:0], p.payload[:h.Length])
	err := in.readFull(p.runs)
	p.mem.work.read.Add(int64(time.Since(start)))
	return err
}

// fillBatch makes the batch of the frame's pages. A zero page that was never
// written is only made present: to touch it would cost memory and time.
func (p *pageReader) fillBatch(verify bool) {
	p.batch.Reset()
	untouched := !verify && p.mem.in.NewPagesZero()
	for _, e := range p.entries {
		pfn, typ := e.PFN(), PageType(e.Type())
		if untouched && e.Content() == savefmt.ContentZero && !p.mem.used.has(pfn) {
			typ = PageXAlloc
		}
		p.batch.PFNs = append(p.batch.PFNs, pfn)
		p.batch.Types = append(p.batch.Types, typ)
	}
	p.batch.Pages = p.batch.Pages[:len(p.entries)]
}

// take stores, or in a verify round compares, the contents of a frame. It
// returns how much of its time went into waiting or decoding.
func (p *pageReader) take(h savefmt.Header, in *frameReader) (time.Duration, error) {
	verify := h.Flags&savefmt.FlagVerify != 0
	p.runs = p.runs[:0]
	data := 0
	for i, e := range p.entries {
		if e.Content() == savefmt.ContentData {
			p.runs = appendRun(p.runs, p.batch.Pages[i])
			data += PageSize
		}
	}
	if verify {
		if p.scratch == nil {
			p.scratch = make([]byte, savefmt.MaxPayload)
		}
		p.runs = append(p.runs[:0], p.scratch[:data])
	}
	start := time.Now()
	if err := p.readPages(h, in, data); err != nil {
		return 0, err
	}
	elsewhere := time.Since(start)
	if verify {
		return elsewhere, p.verify(h.Codec, p.scratch[:data])
	}
	return elsewhere, p.settle(h.Codec, h.Flags&savefmt.FlagLive != 0)
}

// readPages fills runs, which have data bytes, with the contents of a frame.
func (p *pageReader) readPages(h savefmt.Header, in *frameReader, data int) error {
	start := time.Now()
	if h.Codec != savefmt.CodecRaw {
		err := p.decoders[h.Codec].Decode(p.runs, p.payload[:h.Length], h.Flags&savefmt.FlagFresh != 0)
		p.mem.work.decode.Add(int64(time.Since(start)))
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil
	}
	if data != int(h.Length) {
		return fmt.Errorf("%w: a frame with %d bytes of pages claims %d", ErrCorrupt, data, h.Length)
	}
	if err := in.readFull(p.runs); err != nil {
		return err
	}
	p.mem.work.read.Add(int64(time.Since(start)))
	return nil
}

// settle checks the stored pages against their checksums, clears the zero
// ones, and keeps the books. In a live round a raw page that does not match was
// being written, and comes again.
func (p *pageReader) settle(codec savefmt.Codec, live bool) error {
	m := p.mem
	p.have = p.have[:0]
	for i, e := range p.entries {
		pfn, page, damaged := e.PFN(), p.batch.Pages[i], false
		switch e.Content() {
		case savefmt.ContentData:
			p.have = append(p.have, savefmt.PageSum(page))
			damaged = codec == savefmt.CodecRaw && !p.matches(len(p.have)-1)
			m.used.put(pfn, true)
		case savefmt.ContentZero:
			clear(page) // nil where it was not touched
			m.used.put(pfn, false)
		}
		if damaged && !live {
			return damagedPage(pfn)
		}
		m.suspect.put(pfn, damaged)
		m.zero.put(pfn, e.Content() == savefmt.ContentZero)
	}
	return p.checkEncoded(codec)
}

// matches tells whether a page of a raw frame has come as it was sent: the
// data-th of those with data.
func (p *pageReader) matches(data int) bool { return p.have[data] == p.sums[data] }

func damagedPage(pfn uint64) error {
	return fmt.Errorf("%w: page at pfn %#x arrived damaged", ErrCorrupt, pfn)
}

// checkEncoded compares the pages of a frame that is not raw with its one checksum.
func (p *pageReader) checkEncoded(codec savefmt.Codec) error {
	if codec == savefmt.CodecRaw || len(p.have) == 0 || savefmt.SumOfSums(p.have) == p.sums[0] {
		return nil
	}
	return fmt.Errorf("%w: pages of the frame from pfn %#x to %#x arrived damaged",
		ErrCorrupt, p.entries[0].PFN(), p.entries[len(p.entries)-1].PFN())
}

// publish says that the frame's pages are there, the guest's by now: copies may
// be made of them, on any connection.
func (p *pageReader) publish() {
	for _, e := range p.entries {
		p.mem.present.put(e.PFN(), e.Content() == savefmt.ContentData)
	}
}

// verify compares the pages that came, in payload, with those that are there.
func (p *pageReader) verify(codec savefmt.Codec, payload []byte) error {
	p.have = p.have[:0]
	for i, e := range p.entries {
		same := true
		switch e.Content() {
		case savefmt.ContentData:
			want := payload[:PageSize]
			payload = payload[PageSize:]
			p.have = append(p.have, savefmt.PageSum(want))
			if codec == savefmt.CodecRaw && !p.matches(len(p.have)-1) {
				return damagedPage(e.PFN())
			}
			same = bytes.Equal(want, p.batch.Pages[i])
		case savefmt.ContentZero:
			same = p.mem.zero.has(e.PFN()) || isZero(p.batch.Pages[i])
		}
		if !same {
			p.mem.differ.add(e.PFN())
		}
	}
	return p.checkEncoded(codec)
}
