package xen

import (
	"context"
	"sync"
)

// barrier lets n connections go on to the next round together.
type barrier struct {
	mu      sync.Mutex
	n       int
	waiting int
	next    chan struct{}
	ctx     context.Context
}

func newBarrier(ctx context.Context, n int) *barrier {
	return &barrier{n: n, next: make(chan struct{}), ctx: ctx}
}

func (b *barrier) wait() error {
	b.mu.Lock()
	b.waiting++
	next := b.next
	if b.waiting == b.n {
		b.waiting, b.next = 0, make(chan struct{})
		close(next)
	}
	b.mu.Unlock()
	select {
	case <-next:
		return nil
	case <-b.ctx.Done():
		return context.Cause(b.ctx)
	}
}
