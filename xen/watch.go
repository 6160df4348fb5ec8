package xen

import "time"

// watchEvery is how often progress is told.
const watchEvery = 250 * time.Millisecond

// watch tells observe how far the current round is, until stop.
func (s *sender) watch(stop <-chan struct{}, observe Observer) {
	if observe == nil {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	last, lastBytes := time.Now(), s.traffic().wire
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			t := s.traffic()
			rate := float64(t.wire-lastBytes) / now.Sub(last).Seconds()
			observe(Event{Time: now, Kind: EventProgress, Progress: s.progress(t, uint64(rate))})
			last, lastBytes = now, t.wire
		}
	}
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
		Methods: round.named(s.tuner.methods), Stages: round.stages,
	}
}
