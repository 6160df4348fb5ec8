package sim

import (
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// vcpuClock is the time that a vCPU has had. While the guest is throttled it goes
// more slowly, and so does what the vCPU does by it; and one that has always
// something to do pauses besides.
type vcpuClock struct {
	throttle *atomic.Uint32 // percent
	last     time.Time
	time     time.Duration
	owed     time.Duration // pauses not yet made
}

// What a pause of a throttled vCPU has at least, as shorter ones are gathered,
// and at most, as it may soon be throttled no more.
const (
	leastPause = time.Millisecond
	mostPause  = 50 * time.Millisecond
)

func newVCPUClock(throttle *atomic.Uint32) *vcpuClock {
	return &vcpuClock{throttle: throttle, last: time.Now()}
}

// share returns the part of the processor time that the vCPU has, above 0.
func (c *vcpuClock) share() float64 {
	return 1 - float64(min(c.throttle.Load(), xen.MaxThrottle))/100
}

// now is when a step begins.
func (c *vcpuClock) now() time.Duration {
	now := time.Now()
	c.time += time.Duration(float64(now.Sub(c.last)) * c.share())
	c.last = now
	return c.time
}

// pause returns how long to wait after a step that has nothing to do for wait.
func (c *vcpuClock) pause(wait time.Duration) time.Duration {
	share := c.share()
	if wait > 0 {
		c.owed = 0
		if share == 1 {
			return wait
		}
		return min(time.Duration(float64(wait)/share), mostPause)
	}
	c.owed += time.Duration(float64(time.Since(c.last)) * (1/share - 1))
	if c.owed < leastPause {
		return 0
	}
	pause := min(c.owed, mostPause)
	c.owed = 0
	return pause
}
