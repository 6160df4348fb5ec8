package xen

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A host takes seconds to build a guest's devices: backends, hotplug scripts, a
// device model. Where the devices allow it, the destination does that while the
// guest still runs at the source, after all its pages were sent once, and they
// are not part of the downtime.

// mayPrepare asks whether the guest's devices allow it.
func (s *source) mayPrepare(ctx context.Context) (bool, error) {
	err := s.dom.Preparable(ctx)
	if errors.Is(err, ErrUnsupported) {
		s.note("the destination builds the devices only after the suspend, which makes that longer: %v", err)
		return false, nil
	}
	return err == nil, err
}

// askForDevices lets the destination begin.
func (s *source) askForDevices(ctx context.Context) error {
	if !s.early {
		return nil
	}
	records, err := s.dom.EarlyState(ctx)
	if err != nil {
		return err
	}
	return s.link.sendState(records, &message{Kind: kindPrepare})
}

// awaitDevices waits until they are there. What the guest has written in the
// meantime is sent in further live rounds.
func (s *source) awaitDevices(ctx context.Context) error {
	if err := s.awaitReadied(ctx); err != nil {
		return err
	}
	if !s.welcome.Clock {
		return nil
	}
	var err error
	s.report.ClockAhead, s.report.ClockUncertain, err = s.link.askTime(ctx, s.opts.Limits.Handshake)
	return err
}

func (s *source) awaitReadied(ctx context.Context) error {
	if !s.early {
		return nil
	}
	waits := !s.link.waiting()
	begun := time.Now()
	if _, _, err := s.link.receive(ctx, kindReadied, s.opts.Limits.Ready); err != nil {
		return err
	}
	s.report.Devices = time.Since(begun)
	if !waits {
		return nil
	}
	return s.copyLive(ctx)
}

// prepare builds the devices at the destination when the source says so, beside
// the pages that still arrive, and gets the copy ready while the guest answers
// the request to suspend.
func (d *destination) prepare(ctx context.Context) error {
	if !d.hello.Early {
		return nil
	}
	_, records, err := d.link.receive(ctx, kindPrepare, noLimit)
	if err != nil {
		return err
	}
	select {
	case <-d.mem.once: // it was sent; now it is stored
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := d.incoming.Prepare(ctx, records); err != nil {
		return fmt.Errorf("building the devices: %w", err)
	}
	if err := d.link.send(&message{Kind: kindReadied}); err != nil || !d.asks() {
		return err
	}
	if _, _, err := d.link.receive(ctx, kindAsked, noLimit); err != nil {
		return err
	}
	return d.getReady(ctx)
}
