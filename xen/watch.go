package xen

import (
	"slices"
	"time"
)

// How often progress is told to an observer, and to the panel.
const (
	watchEvery = 250 * time.Millisecond
	panelEvery = 100 * time.Millisecond
)

// watch tells observe and p how far the current round is, until stop. Either
// may be nil.
func (s *sender) watch(stop <-chan struct{}, observe Observer, p *panel) {
	if observe == nil && p == nil {
		return
	}
	observed, shown := time.NewTicker(watchEvery), time.NewTicker(panelEvery)
	defer observed.Stop()
	defer shown.Stop()
	begun, wire := time.Now(), s.traffic().wire
	last := wireSample{begun, wire}
	second := []wireSample{last}
	for {
		select {
		case <-stop:
			return
		case now := <-observed.C:
			t := s.traffic()
			if observe != nil {
				observe(Event{Time: now, Kind: EventProgress, Progress: s.progress(t, last.rate(now, t.wire))})
			}
			last = wireSample{now, t.wire}
		case now := <-shown.C:
			t := s.traffic()
			p.progress(s.progress(t, second[0].rate(now, t.wire)), now.Sub(begun))
			if len(second) > int(time.Second/panelEvery) {
				second = slices.Delete(second, 0, 1)
			}
			second = append(second, wireSample{now, t.wire})
		}
	}
}

// wireSample is how much was on the wire at a moment.
type wireSample struct {
	at   time.Time
	wire uint64
}

// rate returns the bytes a second from then until now.
func (w wireSample) rate(now time.Time, wire uint64) uint64 {
	if !now.After(w.at) {
		return 0
	}
	return uint64(float64(wire-w.wire) / now.Sub(w.at).Seconds())
}

// progress says how far the round is, given the traffic since the start.
func (s *sender) progress(t traffic, rate uint64) *Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	round := t.since(&s.before)
	return &Progress{
		Round: int(s.round.Load()), Pages: round.pages, OfPages: s.ofPages.Load(),
		WireBytes: t.wire, BytesPerS: rate,
		Method: s.tuner.methodNow(), Zero: round.zero, Copied: round.copied,
		Methods: round.named(s.tuner.methods.all()), Stages: round.stages,
	}
}
