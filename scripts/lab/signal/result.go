// Package signal is what the measurement of signals (make lab-bench-signal)
// yields: figures, the table of them, and the bars that they are held to.
package signal

import (
	"cmp"
	"slices"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/bar"
)

// Sample is one suspend of a guest, as seen from two processes of dom0 with one
// clock. The guest stopped after Running and before Stopped; the waiter had its
// state in hand at Known, and went on at Told. All are nanoseconds since that
// clock's start.
type Sample struct {
	Running int64 `json:"running_ns"` // the start of the last look that found it running
	Stopped int64 `json:"stopped_ns"` // the end of the first that did not
	Known   int64 `json:"known_ns"`
	Told    int64 `json:"told_ns"`
}

// AtMost and AtLeast bound the time from the guest's stop until that is known.
func (s Sample) AtMost() time.Duration { return time.Duration(s.Known - s.Running) }

// AtLeast is 0 where the waiter was quicker than a look of the poller.
func (s Sample) AtLeast() time.Duration { return time.Duration(max(s.Known-s.Stopped, 0)) }

// Doubt is how far apart the two looks are that the stop fell between.
func (s Sample) Doubt() time.Duration { return time.Duration(s.Stopped - s.Running) }

// MostDoubt is the largest with which a suspend is measured.
const MostDoubt = time.Millisecond / 2

// Signals are the suspends that were measured under one load.
type Signals struct {
	Clients  int      `json:"clients"`  // processes that did nothing but ask xenstored
	Requests int      `json:"requests"` // that xenstored answered them in a second
	Unseen   int      `json:"unseen"`   // suspends that are not among these, for the poller's doubt
	Event    []Sample `json:"event"`    // heard of by an event channel
	Watch    []Sample `json:"watch"`    // by a watch on @releaseDomain
}

// AfterKnown is how long the waiter then took to go on with it.
func (s Sample) AfterKnown() time.Duration { return time.Duration(s.Told - s.Known) }

// Spread sums up durations.
type Spread struct {
	N     int           `json:"n"`
	P50   time.Duration `json:"p50_ns"`
	P99   time.Duration `json:"p99_ns"` // the worst of fewer than 100
	Worst time.Duration `json:"worst_ns"`
}

// spreadOf takes percentiles by rank: the least duration that so many percent
// of all do not exceed. Zero for none.
func spreadOf(all []time.Duration) Spread {
	if len(all) == 0 {
		return Spread{}
	}
	all = slices.Sorted(slices.Values(all))
	rank := func(percent int) time.Duration { return all[(len(all)*percent+99)/100-1] }
	return Spread{N: len(all), P50: rank(50), P99: rank(99), Worst: all[len(all)-1]}
}

// EventSpread and WatchSpread take from each range what speaks against the
// event channel: the most for it, the least for the watch.
func (s Signals) EventSpread() Spread { return spreadOf(durations(s.Event, Sample.AtMost)) }

// ToldSpread is how long the event's waiter took to go on.
func (s Signals) ToldSpread() Spread { return spreadOf(durations(s.Event, Sample.AfterKnown)) }

// WatchSpread: see EventSpread.
func (s Signals) WatchSpread() Spread { return spreadOf(durations(s.Watch, Sample.AtLeast)) }

// Doubt is the longest time between the two looks of the poller that a stop
// fell between.
func (s Signals) Doubt() time.Duration {
	widest := time.Duration(0)
	for _, x := range slices.Concat(s.Event, s.Watch) {
		widest = max(widest, x.Doubt())
	}
	return widest
}

func durations(all []Sample, of func(Sample) time.Duration) []time.Duration {
	out := make([]time.Duration, len(all))
	for i, s := range all {
		out[i] = of(s)
	}
	return out
}

// Save is one run of a command that saves a guest.
type Save struct {
	Tool  string        `json:"tool"` // "xl" or "xenferry"
	Took  time.Duration `json:"took_ns"`
	Error string        `json:"error,omitempty"` // what it printed when it failed
}

// Saves are the saves of one guest under one load.
type Saves struct {
	Clients  int    `json:"clients"`
	Requests int    `json:"requests"` // in a second
	Saves    []Save `json:"saves"`
}

// Of returns how many saves of a tool failed, and how long the others took.
func (s Saves) Of(tool string) (failed int, took Spread) {
	var good []time.Duration
	for _, one := range s.Saves {
		switch {
		case one.Tool != tool:
		case one.Error != "":
			failed++
		default:
			good = append(good, one.Took)
		}
	}
	return failed, spreadOf(good)
}

// Document is what the JSON file holds.
type Document struct {
	Started time.Time `json:"started"`
	Took    float64   `json:"took_s"`
	Xen     string    `json:"xen"`
	Signals []Signals `json:"signals"`
	Saves   *Saves    `json:"saves,omitempty"`
	Bars    []bar.Bar `json:"bars"`
}

// heaviest returns the signals under the most clients, nil if there are none.
func (d *Document) heaviest() *Signals {
	if len(d.Signals) == 0 {
		return nil
	}
	m := slices.MaxFunc(d.Signals, func(a, b Signals) int { return cmp.Compare(a.Clients, b.Clients) })
	return &m
}
