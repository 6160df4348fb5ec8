package xen

import (
	"context"
	"sync"
)

// gate holds back the lanes beyond those that may work, until there may be more
// or the round has nothing left.
type gate struct {
	mu      sync.Mutex
	open    int           // lanes 0 to open-1 may work
	over    bool          // nothing is left of the round
	changed chan struct{} // closed and replaced when either changes
}

func newGate(open int) *gate { return &gate{open: open, changed: make(chan struct{})} }

func (g *gate) set(open int) { g.change(func() { g.open = open }) }

// begin begins a round, finish tells that nothing is left of it.
func (g *gate) begin()  { g.change(func() { g.over = false }) }
func (g *gate) finish() { g.change(func() { g.over = true }) }

func (g *gate) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
	close(g.changed)
	g.changed = make(chan struct{})
}

// pass waits until a lane may take its next batch, or ctx ends.
func (g *gate) pass(ctx context.Context, lane int) {
	for {
		g.mu.Lock()
		may, changed := lane < g.open || g.over, g.changed
		g.mu.Unlock()
		if may {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
