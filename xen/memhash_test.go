package xen

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// TestHashEndsWithContext: whoever gives up while memory is summed is obeyed
// within one batch, at either end.
func TestHashEndsWithContext(t *testing.T) {
	given := errors.New("given up")
	ctx, cancel := context.WithCancelCause(t.Context())
	m := newMove()
	maps := 0
	m.src.onCall = func(method string) {
		if maps++; method == "Map" && maps == 2 {
			cancel(given)
		}
	}
	if _, err := hashMemory(ctx, m.dom); !errors.Is(err, given) || maps != 2 {
		t.Errorf("source: %v after %d batches", err, maps)
	}
	arrived := &memory{pages: 1000, present: make([]atomic.Uint64, 16), zero: make([]atomic.Uint64, 16)}
	arrived.present[0].Store(1)
	if _, err := hashArrived(ctx, arrived); !errors.Is(err, given) {
		t.Errorf("destination: %v", err)
	}
}

// TestDowntimeWhileHashing: the pause is bounded while the source sums memory.
func TestDowntimeWhileHashing(t *testing.T) {
	m := newMove()
	m.dom = newFakeDomain(m.src, 40*BatchPages)
	m.opts.MemoryHash, m.opts.MaxDowntime = true, 200*time.Millisecond
	var slow atomic.Int32
	m.src.onCall = func(method string) {
		if method == "Map" && m.src.called("Suspend") {
			slow.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	}
	m.run(t.Context(), t)
	m.expectAtSource(t)
	if !errors.Is(m.srcErr, ErrDowntime) || slow.Load() > 30 {
		t.Errorf("%v after %d batches", m.srcErr, slow.Load())
	}
}
