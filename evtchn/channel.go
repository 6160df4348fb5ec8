package evtchn

import (
	"context"
	"errors"
	"time"
)

// Port is an event channel port of one domain, 1 to 2^17-1.
type Port = uint32

// ErrClosed is the error of a Channel that has been closed.
var ErrClosed = errors.New("evtchn: channel is closed")

// Channel is a handle on the event channels of the domain that we run in. One
// goroutine waits; the other methods may be called by others meanwhile.
type Channel interface {
	// BindInterdomain connects a new local port with an unbound port of a
	// domain that waits for us, and returns it. It is pending at once.
	BindInterdomain(domid uint32, remote Port) (Port, error)
	// Wait returns the next local port that has fired. It does not fire again
	// before Unmask. The error is ctx's cause when ctx ends first.
	Wait(ctx context.Context) (Port, error)
	Unmask(local Port) error
	// Notify fires the other end of a local port.
	Notify(local Port) error
	Unbind(local Port) error
	// Close closes all its ports and ends a Wait with ErrClosed. Idempotent.
	Close() error
}

// Looker is a Channel that looks at the state of a domain as soon as an event
// has come: before anything else can come in between.
type Looker interface {
	// LookAt makes each Wait look at domid from now on.
	LookAt(domid uint32) error
	// Seen returns what the last Wait has found: XEN_DOMINF_ flags, and when, by
	// CLOCK_MONOTONIC; 0 if it has found nothing. The goroutine that waits calls
	// it.
	Seen() (flags uint32, at time.Duration)
}
