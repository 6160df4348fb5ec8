package signal

import (
	"fmt"
	"time"
)

// What the event channel and xenferry have to reach.
const (
	mostEvent    = 2 * time.Millisecond // from the stop to our knowing it, 99 of 100 times, under any load
	mostOfWatch  = 1.0 / 25             // of the watch's time, under the heaviest load
	mostFailures = 0                    // saves of xenferry under load
	leastSamples = 30                   // of each kind, for a bar to count
	leastSaves   = 20
)

// Bar is one promise: a figure is at most so much.
type Bar struct {
	Name   string  `json:"name"`
	Figure float64 `json:"figure"`
	Most   float64 `json:"most"`
	Unit   string  `json:"unit,omitempty"`
	Few    bool    `json:"few,omitempty"` // too few measurements to tell
}

// Missed tells whether the bar is not held.
func (b Bar) Missed() bool { return b.Few || b.Figure > b.Most }

// String says how it stands.
func (b Bar) String() string {
	word := "held"
	switch {
	case b.Few:
		word = "MISSED: too few measurements"
	case b.Missed():
		word = "MISSED"
	}
	return fmt.Sprintf("%s: %.3g%s, at most %.3g%s: %s", b.Name, b.Figure, b.Unit, b.Most, b.Unit, word)
}

// SetBars compares what was measured with the bars.
func (d *Document) SetBars() {
	d.Bars = nil
	for _, s := range d.Signals {
		e := s.EventSpread()
		d.Bars = append(d.Bars, Bar{
			Name:   fmt.Sprintf("event channel, p99 with %d clients", s.Clients),
			Figure: milliseconds(e.P99), Most: milliseconds(mostEvent), Unit: " ms", Few: e.N < leastSamples,
		})
	}
	if s := d.heaviest(); s != nil {
		e, w := s.EventSpread(), s.WatchSpread()
		b := Bar{
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
		d.Bars = append(d.Bars, Bar{
			Name:   fmt.Sprintf("failed saves of xenferry with %d clients", s.Clients),
			Figure: float64(failed), Most: mostFailures, Few: failed+took.N < leastSaves,
		})
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
