package evtchn

import (
	"context"
	"errors"
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
