package evtchn

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Memory is a set of domains with event channels, all in this process: a
// stand-in for the hypervisor in tests.
type Memory struct {
	mu        sync.Mutex
	next      Port
	ports     map[portKey]*memPort
	subscribe map[uint32]Port // domid: its suspend port
}

type portKey struct {
	domid uint32
	port  Port
}

// memPort is one end. An unbound one has no peer.
type memPort struct {
	remote  uint32 // the domain that may bind it, or is bound
	peer    *memPort
	owner   *memChannel // nil for a port of a guest
	local   Port
	masked  bool
	waiting bool // fired, and nobody has read it yet
}

// NewMemory returns a Memory without domains. A domain needs no registering.
func NewMemory() *Memory {
	return &Memory{ports: map[portKey]*memPort{}, subscribe: map[uint32]Port{}}
}

// Open returns a Channel of domid.
func (m *Memory) Open(domid uint32) Channel {
	return &memChannel{mem: m, domid: domid, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// AllocUnbound makes a port in domid for remote to bind.
func (m *Memory) AllocUnbound(domid, remote uint32) (Port, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alloc(domid, &memPort{remote: remote}), nil
}

func (m *Memory) alloc(domid uint32, p *memPort) Port {
	m.next++
	p.local = m.next
	m.ports[portKey{domid, p.local}] = p
	return p.local
}

// Unbound tells whether domid's port waits for remote to bind it.
func (m *Memory) Unbound(domid uint32, port Port, remote uint32) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[portKey{domid, port}]
	return p != nil && p.peer == nil && p.remote == remote, nil
}

// SubscribeSuspend sets the port on which Suspended sends, 0 for none.
func (m *Memory) SubscribeSuspend(domid uint32, port Port) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subscribe[domid] = port
	return nil
}

// Subscribed returns the port that was set with SubscribeSuspend.
func (m *Memory) Subscribed(domid uint32) Port {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.subscribe[domid]
}

// Suspended sends the event of a domain that has suspended: false if nobody
// has subscribed to it.
func (m *Memory) Suspended(domid uint32) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.ports[portKey{domid, m.subscribe[domid]}]
	if p == nil || p.peer == nil {
		return false
	}
	p.peer.fire()
	return true
}

// Reset closes all ports of domid, as the start of another kernel in it does.
func (m *Memory) Reset(domid uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, p := range m.ports {
		if k.domid == domid {
			m.drop(k, p)
		}
	}
}

// drop closes one end; the other goes back to unbound.
func (m *Memory) drop(k portKey, p *memPort) {
	delete(m.ports, k)
	if p.peer != nil {
		p.peer.peer = nil
	}
}

// fire makes the port pending. The Memory is locked.
func (p *memPort) fire() {
	if p.owner == nil || p.waiting || p.masked {
		p.waiting = p.owner != nil // fires again when it is unmasked
		return
	}
	p.waiting = true
	p.owner.signal()
}

// memChannel is a Channel of a Memory.
type memChannel struct {
	mem   *Memory
	domid uint32
	wake  chan struct{} // holds one token: look again
	done  chan struct{} // closed by Close

	ports  []*memPort // of the Memory's lock, as is closed
	closed bool
}

func (c *memChannel) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// port finds a local port. The Memory is locked.
func (c *memChannel) port(local Port) (*memPort, error) {
	if c.closed {
		return nil, ErrClosed
	}
	for _, p := range c.ports {
		if p.local == local {
			return p, nil
		}
	}
	return nil, fmt.Errorf("evtchn: port %d: %w", local, unix.ENOTCONN)
}

func (c *memChannel) BindInterdomain(domid uint32, remote Port) (Port, error) {
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	if c.closed {
		return 0, ErrClosed
	}
	peer := c.mem.ports[portKey{domid, remote}]
	if peer == nil || peer.peer != nil || peer.remote != c.domid {
		return 0, fmt.Errorf("evtchn: bind port %d of domain %d: %w", remote, domid, unix.EINVAL)
	}
	p := &memPort{remote: domid, peer: peer, owner: c}
	peer.peer = p
	c.mem.alloc(c.domid, p)
	c.ports = append(c.ports, p)
	p.fire()
	return p.local, nil
}

func (c *memChannel) Wait(ctx context.Context) (Port, error) {
	for {
		if p, err := c.next(); p != 0 || err != nil {
			return p, err
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-c.done:
			return 0, ErrClosed
		case <-c.wake:
		}
	}
}

// next takes the first port that has fired and is not masked, or 0.
func (c *memChannel) next() (Port, error) {
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	if c.closed {
		return 0, ErrClosed
	}
	for _, p := range c.ports {
		if p.waiting && !p.masked {
			p.waiting, p.masked = false, true
			return p.local, nil
		}
	}
	return 0, nil
}

func (c *memChannel) Unmask(local Port) error {
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	p, err := c.port(local)
	if err != nil {
		return err
	}
	p.masked = false
	if p.waiting {
		c.signal()
	}
	return nil
}

func (c *memChannel) Notify(local Port) error {
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	p, err := c.port(local)
	if err == nil && p.peer != nil {
		p.peer.fire()
	}
	return err
}

func (c *memChannel) Unbind(local Port) error {
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	p, err := c.port(local)
	if err != nil {
		return err
	}
	c.mem.drop(portKey{c.domid, local}, p)
	c.ports = slices.DeleteFunc(c.ports, func(q *memPort) bool { return q == p })
	return nil
}

func (c *memChannel) Close() error {
	c.mem.mu.Lock()
	defer c.mem.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	for _, p := range c.ports {
		c.mem.drop(portKey{c.domid, p.local}, p)
	}
	c.ports = nil
	close(c.done)
	return nil
}
