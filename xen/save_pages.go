package xen

import (
	"context"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// copyLive writes rounds until the policy says stop. A later copy of a page in
// the file replaces an earlier one, as in a stock live migration.
func (s *save) copyLive(ctx context.Context) error {
	return copyLive(ctx, s.dom, &s.size, s.dirty, s.writeRound, func(stats RoundStats) bool {
		s.endRound(stats)
		return s.opts.Policy(s.report.Rounds)
	}, func(what string) { s.emit(Event{Kind: EventNote, Phase: s.current, Text: what}) })
}

// copyLast writes what is left, of a suspended guest: without live rounds
// that is all.
func (s *save) copyLast(ctx context.Context) error {
	if s.opts.Live {
		if err := addLast(ctx, s.dom, &s.size, s.dirty, s.report.Rounds); err != nil {
			return err
		}
	}
	stats, err := s.writeRound(ctx)
	if err != nil {
		return err
	}
	s.endRound(stats)
	return nil
}

// copyAgain writes all pages once more, of a guest that is suspended: the
// reader compares them.
func (s *save) copyAgain(ctx context.Context) error {
	if err := s.writer.Record(savefmt.Record{Type: savefmt.RecVerify}); err != nil {
		return err
	}
	s.again = true
	s.dirty.SetAll(s.dom.Pages())
	stats, err := s.writeRound(ctx)
	if err == nil {
		s.endRound(stats)
	}
	return err
}

func (s *save) endRound(stats RoundStats) {
	s.report.Rounds = append(s.report.Rounds, stats)
	s.emit(Event{Kind: EventRound, Round: &stats})
}

// writeRound writes the pages in s.dirty, a record for each batch, straight
// from guest memory.
func (s *save) writeRound(ctx context.Context) (RoundStats, error) {
	stats := RoundStats{Round: len(s.report.Rounds)}
	begun, before := time.Now(), s.writer.Written()
	total := uint64(0)
	if s.observe != nil {
		total = s.dirty.Count()
	}
	b, pages := NewBatch(), s.dom.Pages()
	for next := uint64(0); next < pages; {
		b.Reset()
		for next < pages && len(b.PFNs) < BatchPages {
			step := min(pages, next+uint64(BatchPages-len(b.PFNs)))
			b.PFNs = s.dirty.AppendRange(b.PFNs, next, step)
			next = step
		}
		if ctx.Err() != nil {
			return stats, context.Cause(ctx)
		}
		if err := s.writeBatch(b, &stats); err != nil {
			return stats, err
		}
		s.progress(&stats, total, begun)
	}
	stats.Time = time.Since(begun)
	stats.WireBytes = uint64(s.writer.Written() - before)
	return stats, nil
}

func (s *save) writeBatch(b *Batch, stats *RoundStats) error {
	if len(b.PFNs) == 0 {
		return nil
	}
	if err := s.dom.Map(b); err != nil {
		return err
	}
	s.entries = s.entries[:0]
	var room [8][]byte
	runs := room[:0]
	stats.Pages += uint64(len(b.PFNs))
	for i, pfn := range b.PFNs {
		typ, page := b.Types[i], b.Pages[i]
		if page == nil {
			stats.Empty++
			if (stats.Round == 0 || s.again) && !typ.Populated() {
				continue // a hole that the restored guest has as well
			}
		}
		s.entries = append(s.entries, savefmt.NewStockPage(uint8(typ), pfn))
		if page != nil {
			runs = appendRun(runs, page)
		}
	}
	var err error
	if len(s.entries) > 0 {
		err = s.writer.Pages(s.entries, runs)
	}
	if unmapErr := s.dom.Unmap(b); err == nil {
		err = unmapErr
	}
	return err
}
