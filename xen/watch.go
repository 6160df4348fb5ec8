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
	last, lastBytes := time.Now(), s.wireBytes.Load()
	for {
		select {
		case <-stop:
			return
		case now := <-ticker.C:
			bytes := s.wireBytes.Load()
			rate := float64(bytes-lastBytes) / now.Sub(last).Seconds()
			observe(Event{Time: now, Kind: EventProgress, Progress: &Progress{
				Round: int(s.round.Load()), Pages: s.pages.Load(), OfPages: s.ofPages.Load(),
				WireBytes: bytes, BytesPerS: uint64(rate),
			}})
			last, lastBytes = now, bytes
		}
	}
}
