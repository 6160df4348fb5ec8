package xen

import (
	"net"
	"testing"
	"time"
)

// heldWriter is a connection that has so many bytes on their way.
// Of what was written gain more bytes have arrived each time that it is asked.
type heldWriter struct {
	held      int
	got, gain uint64
}

func (w *heldWriter) writeFrame(*net.Buffers) error { return nil }
func (w *heldWriter) unsent() int                   { return w.held }
func (w *heldWriter) arrived() uint64               { w.got += w.gain; return w.got }

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
	expect("when little is on its way", startMost-1, 0)
	begun := time.Now()
	expect("when little arrives", startMost, 2)
	if waited := time.Since(begun); waited < startTime {
		t.Errorf("what had arrived after %v was taken for all that would after %v", waited, startTime)
	}
	out.gain = 1 << 30
	expect("when much arrives", startMost, 0)
	out.gain = 0
	expect("when little arrives again", startMost, 2)
	now := time.Now()
	for range startWindows {
		s.tuner.link.begun = now
		now = now.Add(linkWindow)
		s.tuner.link.sample(now, 0, 1, 0)
	}
	expect("when the link was seen to keep up", startMost, 0)
}
