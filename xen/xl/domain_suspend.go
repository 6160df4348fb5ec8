//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// dom0 is the domain that we run in.
const dom0 = 0

// Suspend stops the guest, then its device model. The connection to that is
// made while the guest runs, and kept for FinalState.
func (d *domain) Suspend(ctx context.Context) error {
	if d.qemu != nil {
		if err := d.qemu.hold(ctx); err != nil {
			// The guest has not been asked, and runs on.
			return fmt.Errorf("domain %d: suspend: %w: %w", d.domid, xen.ErrSuspendRefused, err)
		}
	}
	err := d.suspend(ctx)
	if err != nil {
		d.qemu.release()
	}
	return err
}

// suspend is Suspend with a connection to the device model. The subscription to
// the suspend event lives no longer than this call.
func (d *domain) suspend(ctx context.Context) error {
	g, err := d.newSuspender(ctx)
	if err != nil {
		return goneOr(err)
	}
	err = urgently(func() error {
		g.event.Rehearse()
		err := suspendGuest(ctx, g)
		d.stoppedAt = g.since()
		return err
	})
	if err != nil {
		err = errors.Join(err, g.portErr)
	}
	if closeErr := g.close(); closeErr != nil && !isGone(closeErr) {
		err = errors.Join(err, closeErr)
	}
	if err != nil {
		return fmt.Errorf("domain %d: suspend: %w", d.domid, err)
	}
	if d.qemu == nil {
		return nil
	}
	if ctx.Err() != nil { // it has suspended late
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), closeLimit)
		defer cancel()
	}
	if err := d.qemu.stop(ctx); err != nil {
		return d.undoSuspend(ctx, fmt.Errorf("domain %d: stop QEMU: %w", d.domid, err))
	}
	d.qemuStopped = true
	return nil
}

// StoppedAt implements xen.Domain.
func (d *domain) StoppedAt() time.Time { return d.stoppedAt }

// undoSuspend makes the guest run on after cause. Where ctx has ended, that is
// the same to the caller as a guest which did not suspend in time.
func (d *domain) undoSuspend(ctx context.Context, cause error) error {
	if ctx.Err() != nil {
		cause = fmt.Errorf("%w: %w", xen.ErrSuspendRefused, cause)
	}
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeLimit)
	defer cancel()
	return errors.Join(cause, d.Resume(undo))
}

// Resume goes through libxl, which starts QEMU again and tells xenstored,
// which otherwise would never report this guest's next suspend.
func (d *domain) Resume(ctx context.Context) error {
	d.qemu.release() // whatever became of that connection
	info, err := d.h.xc.Domain(d.domid)
	if err != nil {
		return goneOr(err)
	}
	f := info.Flags
	switch {
	case f.Dying():
		return fmt.Errorf("%w: domain %d is being destroyed, it cannot be resumed", xen.ErrNoDomain, d.domid)
	case f.Suspended():
		err = d.resumeSuspended()
	case f.Shutdown():
		return fmt.Errorf("%w: domain %d has shut down (%v), it cannot be resumed", xen.ErrNoDomain, d.domid, f.ShutdownReason())
	default:
		// A request that it has not seen yet would suspend it later.
		if _, err = d.clearRequest(); err == nil && d.qemu != nil {
			err = d.qemu.ensureRunning(ctx)
		}
	}
	if err != nil {
		return fmt.Errorf("domain %d: resume: %w", d.domid, err)
	}
	d.qemuStopped = false
	return nil
}

func (d *domain) resumeSuspended() error {
	// A request that is still there would suspend the guest again.
	if _, err := d.clearRequest(); err != nil {
		return err
	}
	if err := d.h.ctx.resume(d.domid); err != nil {
		return err
	}
	info, err := d.h.xc.Domain(d.domid)
	if err != nil {
		return goneOr(err)
	}
	if info.Flags.Suspended() {
		return errors.New("libxl has reported success, but the guest is still suspended")
	}
	return nil
}

// suspendRequest is what the guest finds in its node control/shutdown.
const suspendRequest = "suspend"

func (d *domain) requestPath() string {
	return fmt.Sprintf("/local/domain/%d/control/shutdown", d.domid)
}

// clearRequest takes a request to suspend out of control/shutdown, and tells
// whether there was one: if not, the guest has taken it, which is how it says
// that it will suspend.
func (d *domain) clearRequest() (cleared bool, err error) {
	err = d.store.update(d.requestPath(), func(old string) (string, bool) {
		cleared = old == suspendRequest
		return "", cleared
	})
	return cleared && err == nil, err
}

// suspender is a domain on its way to suspend.
type suspender struct {
	*domain
	event   *evtchn.Suspend
	asks    bool       // the guest is asked; otherwise Xen stops it
	port    *guestPort // through which it is asked first; nil for none
	portErr error      // why the port that it offers is not used

	seen   xenctrl.DomainFlags // by the wait that has just ended
	seenAt time.Duration       // by CLOCK_MONOTONIC; 0: nothing was seen
	fresh  bool                // nobody has asked for it yet
}

// newSuspender subscribes to the suspend event.
func (d *domain) newSuspender(ctx context.Context) (*suspender, error) {
	s := &suspender{domain: d, asks: true}
	if d.typ == xen.TypeHVM {
		var err error
		if s.asks, err = d.listens(); err != nil {
			return nil, err
		}
	}
	ch, err := evtchn.Open()
	if err != nil {
		return nil, err
	}
	s.event, err = evtchn.SubscribeSuspend(d.h.xc, portStore{d.store}, ch, d.domid, dom0)
	if err != nil {
		return nil, err
	}
	if s.asks {
		// Only now: our own port is bound, and cannot be offered for this.
		s.port, s.portErr = d.offeredPort()
	}
	return s, nil
}

// listens tells whether an HVM guest would answer a request: it has PV drivers,
// and is not asleep (ACPI S3).
func (d *domain) listens() (bool, error) {
	irq, err := d.h.xc.HVMParam(d.domid, xenctrl.ParamCallbackIRQ)
	if err != nil || irq == 0 {
		return false, err
	}
	sleep, err := d.h.xc.HVMParam(d.domid, xenctrl.ParamACPISState)
	return sleep == 0, err
}

// offerPath is the node in which the guest may name a port.
func (d *domain) offerPath() string {
	return fmt.Sprintf("/local/domain/%d/device/suspend/event-channel", d.domid)
}

// offeredPort binds the port through which the guest wants to be asked, nil if
// there is none.
func (d *domain) offeredPort() (*guestPort, error) {
	offer, _, err := d.store.read(d.offerPath())
	if err != nil {
		return nil, err
	}
	return bindGuestPort(evtchn.Open, d.domid, offer)
}

// close takes the subscription back. Idempotent.
func (s *suspender) close() error { return errors.Join(s.event.Close(), s.port.close()) }

// flags returns once what was seen when the event came.
func (s *suspender) flags() (xenctrl.DomainFlags, error) {
	if s.fresh {
		s.fresh = false
		return s.seen, nil
	}
	s.seenAt = 0
	info, err := s.h.xc.Domain(s.domid)
	return info.Flags, err
}

// askByPort leaves a guest that has another request, such as to power off, to
// request.
func (s *suspender) askByPort() bool {
	if s.port == nil {
		return false
	}
	if other, _, err := s.store.read(s.requestPath()); err != nil || other != "" && other != suspendRequest {
		return false
	}
	s.portErr = s.port.ask()
	return s.portErr == nil
}

// request does not replace another request, such as to power off.
func (s *suspender) request() error {
	if !s.asks {
		return s.h.xc.Shutdown(s.domid, xenctrl.ShutdownSuspend)
	}
	other := ""
	err := s.store.update(s.requestPath(), func(old string) (string, bool) {
		if other = old; old == "" || old == suspendRequest {
			other = ""
		}
		return suspendRequest, other == ""
	})
	if err == nil && other != "" {
		err = fmt.Errorf("%w: it has been asked to %s and has not answered", xen.ErrSuspendRefused, other)
	}
	return err
}

func (s *suspender) takeBack() (taken bool, err error) {
	if !s.asks {
		return true, nil
	}
	cleared, err := s.clearRequest()
	return !cleared, err
}

func (s *suspender) wait(ctx context.Context) error {
	if err := s.event.Wait(ctx); err != nil {
		return err
	}
	flags, at := s.event.Seen()
	s.seen, s.seenAt, s.fresh = xenctrl.DomainFlags(flags), at, at != 0
	return nil
}

// since returns when the state was seen that flags has returned last.
func (s *suspender) since() time.Time {
	now := time.Now()
	if s.seenAt == 0 {
		return now
	}
	var clock unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &clock); err != nil {
		return now // cannot fail on Linux
	}
	return now.Add(s.seenAt - time.Duration(clock.Nano()))
}

func (s *suspender) resume(ctx context.Context) error { return s.Resume(ctx) }

// portStore remembers a domain's suspend port in libxl's part of xenstore,
// which no guest can write and which libxl removes with the domain.
type portStore struct{ s *store }

func (portStore) path(domid uint32) string {
	return fmt.Sprintf("/libxl/%d/xenferry/suspend-port", domid)
}

func (p portStore) SuspendPort(domid uint32) (evtchn.Port, error) {
	v, ok, err := p.s.read(p.path(domid))
	if err != nil || !ok {
		return 0, err
	}
	// What is not a number is not ours: as if there were none.
	n, err := strconv.ParseUint(v, 10, 32)
	if err != nil {
		return 0, nil
	}
	return evtchn.Port(n), nil
}

func (p portStore) SetSuspendPort(domid uint32, port evtchn.Port) error {
	return p.s.write(p.path(domid), strconv.FormatUint(uint64(port), 10))
}
