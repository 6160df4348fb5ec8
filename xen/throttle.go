package xen

import (
	"context"
	"fmt"
)

// MaxThrottle is the most of its processor time, in percent, that is taken from
// a guest: with nothing left it would not suspend either.
const MaxThrottle = 99

// Throttler is a Domain that can be made to run more slowly, and so to write
// its memory more slowly.
type Throttler interface {
	// Throttle takes away percent (0 to MaxThrottle) of the processor time
	// that the guest could have; 0 gives all back. It may be called while
	// another method is, but for Suspend, Destroy and Close. Close gives all
	// back, and Host.Open and Host.Reopen what a process that died has taken.
	Throttle(ctx context.Context, percent int) error
}

// checkThrottle checks a percentage that comes from elsewhere.
func checkThrottle(percent uint64) error {
	if percent > MaxThrottle {
		return fmt.Errorf("a throttle of %d %%: 0 to %d are possible", percent, MaxThrottle)
	}
	return nil
}
