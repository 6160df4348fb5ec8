package xen

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// copiesFrame takes a list of pages that are like others of this round. Those
// may still be on their way, on any connection: what has to wait for them is
// kept until all have ended the round.
func (p *pageReader) copiesFrame(h savefmt.Header, in *frameReader) error {
	if h.Flags&savefmt.FlagVerify != 0 {
		return fmt.Errorf("%w: copies in a verify round", ErrCorrupt)
	}
	if p.listed+int(h.Count) > savefmt.MaxCopies {
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
	if first := p.copies[had].Entry.PFN(); p.listed > 0 && first <= p.lastListed {
		return fmt.Errorf("%w: copy at pfn %#x is out of order", ErrCorrupt, first)
	}
	p.listed += int(h.Count)
	p.lastListed = p.copies[len(p.copies)-1].Entry.PFN()
	p.got += uint64(h.Count)
	if h.Round > 0 {
		return nil
	}
	start := time.Now()
	err = p.copyArrived(had)
	p.mem.work.store.Add(int64(time.Since(start)))
	return err
}

// copyArrived makes those of the copies from index had on whose sources have
// come, in the first round, which has nearly all of them: a page that is present
// then has come in that round, and does not change before its end. So they are
// made while the link is busy, and not when all wait for the round's end.
func (p *pageReader) copyArrived(had int) error {
	p.arrived = p.arrived[:0]
	late := p.copies[:had]
	for _, c := range p.copies[had:] {
		if p.mem.present.has(c.Source) {
			p.arrived = append(p.arrived, c)
		} else {
			late = append(late, c) // overwrites what was looked at
		}
	}
	p.copies = late
	if len(p.arrived) == 0 {
		return nil
	}
	return p.copyPages(p.arrived)
}

// applyCopies makes the copies that are left of the round that has ended. No
// page of it is both source and copy, so the connections may do this at the same
// time.
func (p *pageReader) applyCopies() error {
	for rest := p.copies; len(rest) > 0; {
		n := min(len(rest), BatchPages)
		if err := p.copyPages(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	p.copies, p.listed = p.copies[:0], 0
	return nil
}

// copyPages makes up to BatchPages copies.
func (p *pageReader) copyPages(copies []savefmt.Copy) error {
	if p.sources == nil {
		p.sources = NewBatch()
	}
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
		if savefmt.PageSum(page) != c.Sum {
			err = fmt.Errorf("%w: page at pfn %#x is not like its source at %#x", ErrCorrupt, pfn, c.Source)
			break
		}
		p.mem.suspect.put(pfn, false)
		p.mem.used.put(pfn, true)
		p.mem.zero.put(pfn, false)
	}
	if err = errors.Join(err, p.mem.in.Unmap(p.batch)); err != nil {
		return err
	}
	for _, c := range copies {
		p.mem.present.put(c.Entry.PFN(), true)
	}
	return nil
}
