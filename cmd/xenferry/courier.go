package main

import (
	"sync"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// courier takes events to whoever shows them, and never lets the engine wait: a
// pipe that nobody reads, or a terminal that was stopped, must not keep a guest
// suspended.
type courier struct {
	show func(xen.Event) // called by one goroutine

	mu    sync.Mutex
	queue []xen.Event
	more  chan struct{} // has a value when something was queued
	ended chan struct{} // closed by close
	done  chan struct{} // closed when all is shown
	once  sync.Once
}

// What waits to be shown, and how long for: progress is worth little when it is
// old. Nothing else depends on the courier once it is closed.
const (
	mostProgress = 8
	mostEvents   = 1000
	lastWords    = 30 * time.Second
)

func newCourier(show func(xen.Event)) *courier {
	c := &courier{show: show, more: make(chan struct{}, 1), ended: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	return c
}

// event is a xen.Observer. What nobody takes is dropped, but for the end.
func (c *courier) event(e xen.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	most := mostEvents
	if e.Kind == xen.EventProgress {
		most = mostProgress
	}
	if len(c.queue) >= most && e.Kind != xen.EventEnd {
		return
	}
	c.queue = append(c.queue, e)
	select {
	case c.more <- struct{}{}:
	default:
	}
}

func (c *courier) run() {
	defer close(c.done)
	for {
		select {
		case <-c.more:
			c.showAll()
		case <-c.ended:
			c.showAll()
			return
		}
	}
}

func (c *courier) showAll() {
	for {
		c.mu.Lock()
		queue := c.queue
		c.queue = nil
		c.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		for _, e := range queue {
			c.show(e)
		}
	}
}

// close returns when all is shown, or when that takes too long. Idempotent.
func (c *courier) close() {
	c.once.Do(func() { close(c.ended) })
	select {
	case <-c.done:
	case <-time.After(lastWords):
	}
}
