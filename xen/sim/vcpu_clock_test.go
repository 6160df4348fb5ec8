package sim

import (
	"sync/atomic"
	"testing"
	"time"
)

// TestVCPUClock: a throttled vCPU has less time, and pauses.
func TestVCPUClock(t *testing.T) {
	var throttle atomic.Uint32
	c := newVCPUClock(&throttle)
	if got := c.pause(time.Second); got != time.Second {
		t.Errorf("a vCPU that is not throttled waits %v, not 1s", got)
	}
	throttle.Store(90)
	c.time, c.last = 0, time.Now().Add(-time.Hour)
	if got := c.now(); got < 6*time.Minute || got > 7*time.Minute {
		t.Errorf("throttled by 90 %% it has %v of an hour", got)
	}
	if got := c.pause(2 * time.Millisecond); got != 20*time.Millisecond {
		t.Errorf("throttled by 90 %% it waits %v instead of 2ms, not 20ms", got)
	}
	if got := c.pause(time.Second); got != mostPause {
		t.Errorf("it waits %v, more than %v", got, mostPause)
	}
	for _, busy := range []time.Duration{50 * time.Microsecond, time.Millisecond} {
		c.owed, c.last = 0, time.Now().Add(-busy)
		got := c.pause(0)
		if busy < leastPause/9 && got != 0 && got < leastPause || busy == time.Millisecond && got < 9*time.Millisecond {
			t.Errorf("after %v of work it pauses %v", busy, got)
		}
	}
}
