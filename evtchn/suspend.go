package evtchn

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Hypervisor is what a suspend subscription asks of Xen.
type Hypervisor interface {
	// AllocUnbound makes a port in domid which remote may bind.
	AllocUnbound(domid, remote uint32) (Port, error)
	// Unbound tells whether domid's port waits for remote to bind it.
	Unbound(domid uint32, port Port, remote uint32) (bool, error)
	// SubscribeSuspend sets the port from which Xen sends when domid has
	// suspended; 0 ends it.
	SubscribeSuspend(domid uint32, port Port) error
}

// PortStore remembers, for as long as a domain lives, the port that was made
// in it, where the domain itself cannot write. There is one port a domain: it
// can have 1023, and nobody but itself could ever close one again.
type PortStore interface {
	// SuspendPort returns the port, or 0 if there is none.
	SuspendPort(domid uint32) (Port, error)
	SetSuspendPort(domid uint32, port Port) error
}

// Suspend is a subscription to the suspend of one domain. It hears only of a
// suspend that happens after it was made: look at the state of the domain
// first. One goroutine at a time may use it.
type Suspend struct {
	hv    Hypervisor
	ch    Channel
	domid uint32
	local Port
	fired Port // by the last Wait, and masked since; 0 for none
}

// SubscribeSuspend subscribes to the suspend of domid, for a caller in the
// domain self (0 for dom0). It takes the channel over: Close closes it, and so
// does a failure. A leftover of a process that died is replaced.
func SubscribeSuspend(hv Hypervisor, store PortStore, ch Channel, domid, self uint32) (*Suspend, error) {
	s := &Suspend{hv: hv, ch: ch, domid: domid}
	remote, err := s.bind(store, self)
	if err == nil {
		err = s.drain()
	}
	if err == nil {
		err = hv.SubscribeSuspend(domid, remote)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("evtchn: subscribe to the suspend of domain %d: %w", domid, err), s.Close())
	}
	return s, nil
}

// bind binds the port that was made for this domain before, or a new one.
func (s *Suspend) bind(store PortStore, self uint32) (remote Port, err error) {
	if remote, err = store.SuspendPort(s.domid); err != nil {
		return 0, err
	}
	usable := false
	if remote != 0 {
		if usable, err = s.hv.Unbound(s.domid, remote, self); err != nil {
			usable = false // e.g. a number that the domain no longer has
		}
	}
	if !usable {
		if remote, err = s.hv.AllocUnbound(s.domid, self); err != nil {
			return 0, err
		}
		if err = store.SetSuspendPort(s.domid, remote); err != nil {
			return 0, err
		}
	}
	if l, ok := s.ch.(Looker); ok {
		if err = l.LookAt(s.domid); err != nil {
			return 0, err
		}
	}
	s.local, err = s.ch.BindInterdomain(s.domid, remote)
	return remote, err
}

// drainTimeout bounds the wait for an event that is there within microseconds.
const drainTimeout = 500 * time.Millisecond

// drain takes the event that comes with the binding. One that comes later than
// the limit makes the first Wait return early, which is harmless.
func (s *Suspend) drain() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := s.Wait(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// Wait returns nil when the domain may have suspended: look at its state then,
// and wait again if it has not. Its error is ctx's cause when ctx ends first.
// The port is unmasked by the next Wait, which an event in between then ends:
// between a guest's stop and our knowing it nothing is done that can wait.
func (s *Suspend) Wait(ctx context.Context) error {
	if s.fired != 0 {
		if err := s.ch.Unmask(s.fired); err != nil {
			return err
		}
		s.fired = 0
	}
	var err error
	s.fired, err = s.ch.Wait(ctx)
	return err
}

// Rehearse goes the way of a Wait once, on the thread that will wait, while the
// guest runs: a first time takes longer than any other, as memory and code are
// not at hand. It is for the time before the guest is asked to suspend; as after
// a Wait, look at its state then.
func (s *Suspend) Rehearse() {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.Wait(over) // what is wrong shows when it counts
}

// Seen returns the state of the domain at the end of the last Wait, see Looker;
// at is 0 if that is not known.
func (s *Suspend) Seen() (flags uint32, at time.Duration) {
	if l, ok := s.ch.(Looker); ok {
		return l.Seen()
	}
	return 0, 0
}

// Close takes the subscription back and closes the channel. Idempotent.
func (s *Suspend) Close() error {
	if s.ch == nil {
		return nil
	}
	err := Unsubscribe(s.hv, s.domid)
	closeErr := s.ch.Close()
	s.ch = nil
	return errors.Join(err, closeErr)
}

// Unsubscribe takes back whatever subscription to domid's suspend there is,
// such as that of a process which was killed.
func Unsubscribe(hv Hypervisor, domid uint32) error {
	if err := hv.SubscribeSuspend(domid, 0); err != nil {
		return fmt.Errorf("evtchn: end the subscription to the suspend of domain %d: %w", domid, err)
	}
	return nil
}
