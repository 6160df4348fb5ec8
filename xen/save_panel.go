package xen

import (
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// startPanel shows how far a save is in shared memory, see OpenPanel. It takes
// no changes. That there is none is no reason not to save.
func (s *save) startPanel(m fallback.Migration) {
	if !s.opts.Panel {
		return
	}
	compress := NoCompression.String()
	if s.opts.Codec != nil {
		compress = s.opts.Codec.String()
	}
	p, err := openPanel(m, Figures{Phase: s.current, MemoryPages: s.dom.Pages(), Compress: compress, Method: compress})
	if err != nil {
		s.emit(Event{Kind: EventNote, Text: "this save cannot be looked at while it runs: " + err.Error()})
		return
	}
	observe := s.observe
	s.panel, s.observe = p, func(e Event) {
		p.event(e)
		if observe != nil {
			observe(e)
		}
	}
}

// progress tells observer and panel now and then how far a round is.
func (s *save) progress(stats *RoundStats, total uint64, begun time.Time) {
	now := time.Now()
	if s.observe == nil || now.Sub(s.told.at) < watchEvery {
		return
	}
	p := &Progress{
		Round: stats.Round, Pages: stats.Pages, OfPages: total, Zero: stats.Zero, WireBytes: uint64(s.writer.Written()),
	}
	if !s.told.at.IsZero() {
		p.BytesPerS = s.told.rate(now, p.WireBytes)
	}
	s.told = wireSample{now, p.WireBytes}
	s.emit(Event{Kind: EventProgress, Progress: p})
	s.panel.progress(p, now.Sub(begun))
}
