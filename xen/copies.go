package xen

import (
	"errors"
	"fmt"
	"slices"

	"github.com/xenferry/xenferry/savefmt"
)

// copiesFrame takes a list of pages that are like others of this round. Those
// may still be on their way, on any connection, so it is kept until all have
// ended the round.
func (p *pageReader) copiesFrame(h savefmt.Header, in *frameReader) error {
	if h.Flags&savefmt.FlagVerify != 0 {
		return fmt.Errorf("%w: copies in a verify round", ErrCorrupt)
	}
	if len(p.copies)+int(h.Count) > savefmt.MaxCopies {
		return fmt.Errorf("%w: more than %d copies in a round on one connection", ErrCorrupt, savefmt.MaxCopies)
	}
	if p.payload == nil {
		p.payload = make([]byte, savefmt.MaxEncoded)
	}
	body := p.payload[:h.Length]
	if err := in.bodyInto(h, body); err != nil {
		return err
	}
	had := len(p.copies)
	var err error
	if p.copies, err = savefmt.AppendParsedCopies(p.copies, body, p.mem.pages); err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if had > 0 && p.copies[had].Entry.PFN() <= p.copies[had-1].Entry.PFN() {
		return fmt.Errorf("%w: copy at pfn %#x is out of order", ErrCorrupt, p.copies[had].Entry.PFN())
	}
	p.got += uint64(h.Count)
	return nil
}

// applyCopies makes the copies of the round that has ended. No page of it is
// both source and copy, so the connections may do this at the same time.
func (p *pageReader) applyCopies() error {
	if len(p.copies) > 0 && p.sources == nil {
		p.sources = NewBatch()
	}
	for rest := p.copies; len(rest) > 0; {
		n := min(len(rest), BatchPages)
		if err := p.copyPages(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	p.copies = p.copies[:0]
	return nil
}

// copyPages makes up to BatchPages copies.
func (p *pageReader) copyPages(copies []savefmt.Copy) error {
	p.batch.Reset()
	p.sources.Reset()
	for _, c := range copies {
		if !p.mem.present.has(c.Source) {
			return fmt.Errorf("%w: pfn %#x is to be a copy of %#x, which has not come", ErrCorrupt, c.Entry.PFN(), c.Source)
		}
		p.batch.PFNs = append(p.batch.PFNs, c.Entry.PFN())
		p.batch.Types = append(p.batch.Types, PageType(c.Entry.Type()))
		p.sources.PFNs = append(p.sources.PFNs, c.Source)
	}
	slices.Sort(p.sources.PFNs)
	p.sources.PFNs = slices.Compact(p.sources.PFNs)
	p.sources.Grow()
	clear(p.sources.Types) // PageNormal: others have no contents, or belong to PV guests
	if err := p.mem.in.Map(p.sources); err != nil {
		return err
	}
	err := p.copyTo(copies)
	return errors.Join(err, p.mem.in.Unmap(p.sources))
}

// copyTo copies from the mapped sources to the batch, and checks the result.
func (p *pageReader) copyTo(copies []savefmt.Copy) error {
	p.batch.Pages = p.batch.Pages[:len(copies)]
	if err := p.mem.in.Map(p.batch); err != nil {
		return err
	}
	var err error
	for i, c := range copies {
		at, _ := slices.BinarySearch(p.sources.PFNs, c.Source)
		pfn, page := c.Entry.PFN(), p.batch.Pages[i]
		copy(page, p.sources.Pages[at])
		if savefmt.Checksum(page) != c.Sum {
			err = fmt.Errorf("%w: page at pfn %#x is not like its source at %#x", ErrCorrupt, pfn, c.Source)
			break
		}
		p.mem.suspect.put(pfn, false)
		p.mem.present.put(pfn, true)
		p.mem.used.put(pfn, true)
		p.mem.zero.put(pfn, false)
	}
	return errors.Join(err, p.mem.in.Unmap(p.batch))
}
