package xfg

import "time"

// State is what the listener has heard since its start or the last mark.
type State struct {
	SinceMs int64   `json:"since_ms"` // of the listener's CLOCK_REALTIME
	NowMs   int64   `json:"now_ms"`
	Flows   []*Flow `json:"flows"` // in the order of their first packet
}

// Flow returns the flow of one guest, nil if nothing was heard of it.
func (s *State) Flow(id string) *Flow {
	for _, f := range s.Flows {
		if f.ID == id {
			return f
		}
	}
	return nil
}

// Flow is what was heard of one guest.
type Flow struct {
	ID      string `json:"id"`
	From    string `json:"from"`    // the address of the last packet
	Count   uint64 `json:"count"`   // packets
	First   uint64 `json:"first"`   // number of the first packet
	Last    uint64 `json:"last"`    // largest number
	Missing uint64 `json:"missing"` // numbers that were left out
	// Back counts numbers not larger than one heard before. The guests'
	// network neither repeats nor reorders: two copies are sending.
	Back   uint64 `json:"back"`
	BackAt uint64 `json:"back_at"` // the first such number
	Bad    uint64 `json:"bad"`     // what the guest itself found, Beat.TotalBad

	FirstMs int64 `json:"first_ms"` // when the first packet came, CLOCK_REALTIME
	LastMs  int64 `json:"last_ms"`
	MaxGap  Gap   `json:"max_gap"`
	// Gaps are the last MaxGaps gaps of MinGap or more.
	Gaps []Gap `json:"gaps"`

	last time.Time
}

// Gap is a time in which nothing was heard of a guest.
type Gap struct {
	Ms     float64 `json:"ms"`
	After  uint64  `json:"after"`   // number of the packet before it
	FromMs int64   `json:"from_ms"` // when that came
}

// What a Flow keeps of gaps.
const (
	MaxGaps = 512
	MinGap  = 50 * time.Millisecond
)

// Add counts one packet, heard from an address at a time. Packets of one flow
// come in the order in which they were heard.
func (f *Flow) Add(p *Packet, from string, at time.Time) {
	f.ID, f.From, f.Bad = FormatID(p.ID), from, max(f.Bad, p.Bad)
	ms := at.UnixMilli()
	if f.last.IsZero() {
		f.First, f.FirstMs = p.N, ms
	} else {
		f.addGap(at)
		f.addNumber(p.N)
	}
	f.Count++
	f.Last, f.LastMs = max(f.Last, p.N), ms
	f.last = at
}

func (f *Flow) addGap(at time.Time) {
	gap := at.Sub(f.last)
	g := Gap{Ms: float64(gap.Microseconds()) / 1e3, After: f.Last, FromMs: f.LastMs}
	if g.Ms > f.MaxGap.Ms {
		f.MaxGap = g
	}
	if gap < MinGap {
		return
	}
	if len(f.Gaps) == MaxGaps {
		f.Gaps = f.Gaps[1:]
	}
	f.Gaps = append(f.Gaps, g)
}

func (f *Flow) addNumber(n uint64) {
	switch {
	case n > f.Last:
		f.Missing += n - f.Last - 1
	default:
		if f.Back == 0 {
			f.BackAt = n
		}
		f.Back++
	}
}

// Next returns an empty flow that goes on from f: what it counts begins anew,
// but a gap or a number that goes back is seen across the mark.
func (f *Flow) Next() *Flow {
	return &Flow{ID: f.ID, From: f.From, First: f.Last, Last: f.Last, Bad: f.Bad,
		FirstMs: f.LastMs, LastMs: f.LastMs, last: f.last}
}
