package xen

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// RateLimit caps what the data connections of a migration send together. It
// may be changed while they do. The zero value does not limit.
type RateLimit struct {
	bits atomic.Uint64 // a second; 0: no limit

	mu   sync.Mutex
	debt float64   // bytes sent ahead of what was allowed until then
	then time.Time // when debt was right
}

// ParseRate reads bits per second: a number with k, M or G behind it for
// powers of 1000, or without. 0 is no limit.
func ParseRate(s string) (uint64, error) {
	number, factor := s, 1.0
	for suffix, f := range map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			number, factor = n, f
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if bits := v * factor; err == nil && (bits == 0 || bits >= minRate && bits <= maxRate) {
		return uint64(bits), nil
	}
	return 0, fmt.Errorf("rate %q: want bits a second, 1M or more, as in 800M or 2.5G; 0 is no limit", s)
}

// minRate is the lowest cap, in bits a second: below it one frame of 1 MiB
// would take longer than the other end waits for a sign of life. maxRate is
// beyond any link.
const (
	minRate = 1e6
	maxRate = 1e15
)

// checkRate refuses a cap that cannot be set.
func checkRate(bits uint64) error {
	if bits == 0 || bits >= minRate && bits <= maxRate {
		return nil
	}
	return fmt.Errorf("a rate of %d bits a second: 0, or from %g to %g is possible", bits, float64(minRate), float64(maxRate))
}

// Set changes the cap, in bits a second as counted on the link. 0 ends it.
func (l *RateLimit) Set(bitsPerSec uint64) { l.bits.Store(bitsPerSec) }

// Get returns the cap in bits a second, 0 if there is none.
func (l *RateLimit) Get() uint64 { return l.bits.Load() }

// bytesPerSec returns the cap for what is written, or infinity.
func (l *RateLimit) bytesPerSec() float64 {
	if bits := l.bits.Load(); bits > 0 {
		return float64(bits) / 8 * segmentData / segmentWire
	}
	return math.Inf(1)
}

// Of the bytes of a full TCP segment on an Ethernet of 1500 bytes, what is
// data. The cap counts all of them.
const (
	segmentData = 1448
	segmentWire = 1514
)

// rateStep bounds a pause, so that a new cap counts soon.
const rateStep = 50 * time.Millisecond

// take waits until n more bytes may be sent.
func (l *RateLimit) take(ctx context.Context, n int) error {
	for l.bits.Load() > 0 {
		pause := l.tryTake(n, time.Now())
		if pause == 0 {
			return nil
		}
		select {
		case <-time.After(min(pause, rateStep)):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// rateBurst is how much unused time counts: what a late wake-up missed.
const rateBurst = 20 * time.Millisecond

// tryTake takes n bytes if nothing is owed at now, or else says when to try
// again.
func (l *RateLimit) tryTake(n int, now time.Time) time.Duration {
	rate := l.bytesPerSec()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.then.IsZero() {
		l.then = now
	}
	l.debt = max(l.debt-now.Sub(l.then).Seconds()*rate, -rateBurst.Seconds()*rate)
	l.then = now
	if math.IsNaN(l.debt) || math.IsInf(l.debt, 0) { // the cap was lifted
		l.debt = 0
		return 0
	}
	if l.debt > 0 {
		return max(time.Duration(l.debt/rate*float64(time.Second)), time.Microsecond)
	}
	l.debt += float64(n)
	return 0
}
