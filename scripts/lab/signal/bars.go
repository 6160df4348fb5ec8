package signal

import (
	"fmt"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/bar"
)

// What the event channel and xenferry have to reach.
const (
	mostEvent    = 2 * time.Millisecond // from the stop to our knowing it, 99 of 100 times, under any load
	mostOfWatch  = 1.0 / 25             // of the watch's time, under the heaviest load
	mostFailures = 0                    // saves of xenferry under load
	leastSamples = 30                   // of each kind, for a bar to count
	leastSaves   = 20
)

// SetBars compares what was measured with the bars.
func (d *Document) SetBars() {
	d.Bars = nil
	for _, s := range d.Signals {
		e := s.EventSpread()
		d.Bars = append(d.Bars, bar.Bar{
			Name:   fmt.Sprintf("event channel, p99 with %d clients", s.Clients),
			Figure: milliseconds(e.P99), Most: milliseconds(mostEvent), Unit: " ms", Few: e.N < leastSamples,
		})
	}
	if s := d.heaviest(); s != nil {
		e, w := s.EventSpread(), s.WatchSpread()
		b := bar.Bar{
			Name: fmt.Sprintf("event channel to watch, p99 with %d clients", s.Clients),
			Most: mostOfWatch, Few: min(e.N, w.N) < leastSamples || w.P99 == 0,
		}
		if w.P99 != 0 {
			b.Figure = float64(e.P99) / float64(w.P99)
		}
		d.Bars = append(d.Bars, b)
	}
	if s := d.Saves; s != nil {
		failed, took := s.Of("xenferry")
		d.Bars = append(d.Bars, bar.Bar{
			Name:   fmt.Sprintf("failed saves of xenferry with %d clients", s.Clients),
			Figure: float64(failed), Most: mostFailures, Few: failed+took.N < leastSaves,
		})
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
