package xen

import (
	"math"
	"testing"
	"time"
)

// TestRateLimitHolds sends frames by a clock of its own, and changes the cap
// on the way.
func TestRateLimitHolds(t *testing.T) {
	for _, bits := range []uint64{1e6, 100e6, 1e9, 10e9} {
		var l RateLimit
		l.Set(bits)
		now := time.Unix(1000, 0)
		for _, part := range []uint64{1, 2} { // then at half of it
			l.Set(bits / part)
			const frame = 300e3
			begun, sent := now, 0.0
			for now.Sub(begun) < 400*time.Second/time.Duration(max(bits/10e6, 1)) || sent < 50*frame {
				if pause := l.tryTake(frame, now); pause > 0 {
					now = now.Add(pause)
					continue
				}
				sent += frame
			}
			onLink := sent * 8 * segmentWire / segmentData / now.Sub(begun).Seconds()
			if off := onLink/float64(bits/part) - 1; math.Abs(off) > 0.05 {
				t.Errorf("%d bits/s: %+.1f%%", bits/part, 100*off)
			}
		}
	}
}

func TestRateLimitLifted(t *testing.T) {
	var l RateLimit
	if err := l.take(t.Context(), 1<<30); err != nil {
		t.Fatal(err) // no cap
	}
	l.Set(1e6)
	now := time.Now()
	if l.tryTake(1<<30, now) != 0 || l.tryTake(1, now) == 0 {
		t.Error("a frame is let through, and the next must wait")
	}
	done := make(chan error)
	go func() { done <- l.take(t.Context(), 1) }()
	l.Set(0)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestParseRate(t *testing.T) {
	for in, want := range map[string]uint64{"0": 0, "1M": 1e6, "2.5G": 2500e6, "800000k": 800e6, "9000000": 9e6} {
		if got, err := ParseRate(in); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "fast", "-1M", "0.5", "1k", "1e30", "NaN", "Inf", "5MB"} {
		if v, err := ParseRate(in); err == nil { // 0.5 must not lift a cap
			t.Errorf("%q: %d", in, v)
		}
	}
}
