package xl

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/xenferry/xenferry/evtchn"
)

// maxPort is the highest event channel port of the newest interface of Xen
// (EVTCHN_FIFO_NR_CHANNELS of xen/include/public/event_channel.h, less one).
const maxPort = 1<<17 - 1

// guestPort is the port through which a guest wants to be asked to suspend, as
// kernels of the XenLinux line do. It only carries the question: that the guest
// has suspended we hear on a port of our own, whatever the guest does to its.
//
// The guest can write anything into the node that names it. So nothing is read
// from the port, and one that does not exist, is not for dom0, or is in use
// means that the guest is asked in the other way.
type guestPort struct {
	ch    evtchn.Channel
	local evtchn.Port
}

// bindGuestPort binds the port that a guest offers in device/suspend/event-channel.
// It returns nil without an error where that is empty.
func bindGuestPort(open func() (evtchn.Channel, error), domid uint32, offer string) (*guestPort, error) {
	if offer == "" {
		return nil, nil
	}
	remote, err := strconv.ParseUint(offer, 10, 32)
	if err != nil || remote == 0 || remote > maxPort {
		return nil, fmt.Errorf("its suspend port is %.20q, a number from 1 to %d would be one", offer, maxPort)
	}
	// A channel of its own, in which no event is ever taken: the port stays
	// masked after the first one, and a guest that sends more wakes nobody.
	ch, err := open()
	if err != nil {
		return nil, err
	}
	local, err := ch.BindInterdomain(domid, evtchn.Port(remote))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("its suspend port %d cannot be used: %w", remote, err), ch.Close())
	}
	return &guestPort{ch, local}, nil
}

// ask sends the guest the request to suspend. It cannot be taken back.
func (p *guestPort) ask() error { return p.ch.Notify(p.local) }

// close gives the port back to whoever asks next. Idempotent; p may be nil.
func (p *guestPort) close() error {
	if p == nil {
		return nil
	}
	return p.ch.Close()
}
