package xen

import (
	"net"
	"testing"
	"time"
)

// heldWriter is a connection that has so many bytes on their way.
type heldWriter struct{ held int }

func (w *heldWriter) writeFrame(*net.Buffers) error { return nil }
func (w *heldWriter) unsent() int                   { return w.held }

// TestStart: while nothing is known of the link, pages are sent as they are
// where it keeps up, and made smaller where they pile up.
func TestStart(t *testing.T) {
	out := &heldWriter{}
	s, err := newSender(benchDomain(1000), []frameWriter{out}, &PipeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, held, want int) {
		t.Helper()
		out.held = held
		if got := s.tuner.choose(s.lanes[0], PageSize); got != want {
			t.Errorf("%s, %d bytes on their way: method %d, want %d", when, held, got, want)
		}
	}
	expect("at first", 0, 0)
	expect("when nothing was written yet", startMost, 0)
	now := time.Now()
	s.tuner.link.first, s.tuner.link.written = now.Add(-2*startTime), startMost
	expect("when little has arrived", startMost-1, 0)
	expect("when little has arrived", startMost, 2)
	s.tuner.link.first = time.Now()
	expect("when that was waited for", startMost, 2)
	if waited := time.Since(s.tuner.link.first); waited < startTime {
		t.Errorf("what had arrived after %v was taken for all that would after %v", waited, startTime)
	}
	s.tuner.link.first, s.tuner.link.written = now.Add(-2*startTime), 1<<40
	expect("when much has arrived", startMost, 0)
	for range startWindows {
		s.tuner.link.begun = now
		now = now.Add(linkWindow)
		s.tuner.link.sample(now, 0, 1, 0)
	}
	expect("when the link was seen to keep up", startMost, 0)
}
