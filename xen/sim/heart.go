package sim

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// beatPeriod is the time between two heartbeats of a guest.
const beatPeriod = time.Millisecond

// heartState is the heartbeat's part of a guest's context. Moments are
// CLOCK_MONOTONIC: simulated hosts share a machine, so the gap between the
// last beat on one host and the first on the next is the downtime that the
// guest saw.
type heartState struct {
	Beats  int64         `json:"beats"`
	Last   time.Duration `json:"last_ns"` // moment of the last beat
	MaxGap time.Duration `json:"max_gap_ns"`
	// MaxGapHere is the largest since the guest arrived here, ArrivalGap the
	// one from its last beat at the former host.
	MaxGapHere time.Duration `json:"max_gap_here_ns"`
	ArrivalGap time.Duration `json:"arrival_gap_ns"`
}

func (h *heartState) check() error {
	if h.Beats < 0 || h.Last < 0 || h.MaxGap < 0 || h.MaxGapHere < 0 || h.ArrivalGap < 0 {
		return errors.New("heartbeat with a negative count or time")
	}
	return nil
}

// heart beats while a guest runs.
type heart struct {
	state    heartState
	arriving bool
	counters *heartCounters
}

// arrive makes the next beat the first one at a new host.
func (h *heart) arrive(from heartState) {
	h.state, h.arriving = from, true
	h.state.MaxGapHere, h.state.ArrivalGap = 0, 0
}

func (h *heart) beat(now time.Duration) {
	s := &h.state
	if s.Beats > 0 {
		// The other host may have been another machine, with another clock.
		gap := max(now-s.Last, 0)
		s.MaxGap = max(s.MaxGap, gap)
		if h.arriving {
			s.ArrivalGap = gap
		} else {
			s.MaxGapHere = max(s.MaxGapHere, gap)
		}
	}
	h.arriving = false
	s.Beats++
	s.Last = now
	h.publish()
}

func (h *heart) publish() {
	c, s := h.counters, &h.state
	c.beats.Store(s.Beats)
	c.last.Store(int64(s.Last))
	c.maxGap.Store(int64(s.MaxGap))
	c.maxGapHere.Store(int64(s.MaxGapHere))
	c.arrivalGap.Store(int64(s.ArrivalGap))
}

// run beats for ever, each time with the lock held, which a guest that does
// not run keeps. It sleeps in the kernel: Go's own timers are too coarse.
func (h *heart) run(running sync.Locker) {
	next := monotonic()
	for {
		running.Lock()
		now := monotonic()
		h.beat(now)
		running.Unlock()
		if next += beatPeriod; next < now {
			next = now + beatPeriod // late: no burst to catch up
		}
		until := unix.NsecToTimespec(int64(next))
		for unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &until, nil) == unix.EINTR {
		}
	}
}
