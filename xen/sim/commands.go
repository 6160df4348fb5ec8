package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// Limits of the host's patience with a guest.
const (
	obeyLimit = 10 * time.Second // a command that is obeyed at once
	// fillLimitPerMiB is for filling memory on a busy machine, besides.
	fillLimitPerMiB = 50 * time.Millisecond
)

// Why a request ends before it is done.
var (
	errTakenBack = errors.New("the client took the request back")
	errGone      = errors.New("the client is gone")
	errStopping  = errors.New("the host is being stopped")
)

// boot sends the boot message, and waits until the guest is paused.
func (d *hosted) boot(ctx context.Context, from *guestContext) error {
	frame, err := encodeFrame(bootMessage{Config: d.cfg, Context: from})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, obeyLimit,
		fmt.Errorf("%s did not take its boot message within %v", d, obeyLimit))
	defer cancel()
	d.mu.Lock()
	again := d.booted
	d.booted = true
	d.mu.Unlock()
	if again {
		return fmt.Errorf("%s has been completed before", d)
	}
	if _, err := d.input.Write(frame); err != nil {
		return fmt.Errorf("%s: boot message: %w", d, err)
	}
	return d.await(ctx, d.ctl.wanted(), guestPaused)
}

// command tells the guest to do something, unless that is what it has been
// told already. It returns the word to await.
func (d *hosted) command(c command) (word, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	want := d.ctl.wanted()
	if want.command() != c {
		want = makeWord(want.seq()+1, uint8(c))
		d.ctl.want.Store(uint64(want))
	}
	return want, signal(d.kick)
}

// await waits until the guest has obeyed want and is in that state.
func (d *hosted) await(ctx context.Context, want word, state guestState) error {
	return d.waitUntil(ctx, func() (bool, error) {
		is := d.ctl.state()
		switch {
		case is.state() == guestCrashed:
			return false, fmt.Errorf("%s crashed: %s", d, d.ctl.failure.get())
		case is == makeWord(want.seq(), uint8(state)):
			return true, nil
		case d.ctl.wanted() != want:
			return false, fmt.Errorf("%s: another request came between", d)
		}
		return false, nil
	})
}

// waitUntil waits until done says so. It looks whenever the guest notifies.
func (d *hosted) waitUntil(ctx context.Context, done func() (bool, error)) error {
	for {
		d.mu.Lock()
		changed := d.changed // taken before the look: no change is missed
		d.mu.Unlock()
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-d.destroyed:
			return fmt.Errorf("%s was destroyed: %w", d, xen.ErrNoDomain)
		case <-d.exited:
			return fmt.Errorf("%s crashed: its process has ended", d)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// run makes a guest run that is paused or suspended, or about to be.
func (d *hosted) run(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit,
		fmt.Errorf("%s did not run within %v", d, limit))
	defer cancel()
	want, err := d.command(cmdRun)
	if err != nil {
		return err
	}
	return d.await(ctx, want, guestRunning)
}

// suspend asks the guest to suspend and waits. A request that is taken back
// leaves the guest running. One whose client is gone stands, as on Xen, where
// it is a node in xenstore.
func (d *hosted) suspend(ctx context.Context) error {
	if s := d.runState(); s != xen.StateRunning {
		return fmt.Errorf("%s is %s: only a running guest can be suspended", d, s)
	}
	want, err := d.command(cmdSuspend)
	if err != nil {
		return err
	}
	err = d.await(ctx, want, guestSuspended)
	if !errors.Is(err, errTakenBack) {
		return err
	}
	if err := d.run(context.WithoutCancel(ctx), obeyLimit); err != nil {
		return err
	}
	return fmt.Errorf("%s did not suspend in time, and runs on: %w", d, xen.ErrSuspendRefused)
}

// resume ends a suspension, or a request for one.
func (d *hosted) resume(ctx context.Context) error {
	if s := d.runState(); s != xen.StateSuspended && s != xen.StateRunning {
		return fmt.Errorf("%s is %s: only a suspended guest can be resumed", d, s)
	}
	return d.run(ctx, obeyLimit)
}

// pause ends a suspension without letting the guest run.
func (d *hosted) pause(ctx context.Context) error {
	if s := d.runState(); s != xen.StateSuspended {
		return fmt.Errorf("%s is %s: only a suspended guest can be left paused", d, s)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, obeyLimit, fmt.Errorf("%s did not obey within %v", d, obeyLimit))
	defer cancel()
	want, err := d.command(cmdPause)
	if err != nil {
		return err
	}
	return d.await(ctx, want, guestPaused)
}

// unpause lets a complete guest run that is paused. Idempotent.
func (d *hosted) unpause(ctx context.Context) error {
	if s := d.runState(); s != xen.StatePaused && s != xen.StateRunning {
		return fmt.Errorf("%s is %s: only a paused guest can be unpaused", d, s)
	}
	if d.ctl.state().state() == guestStarting {
		return fmt.Errorf("%s is not complete: it cannot run yet", d)
	}
	d.unused.Store(false)
	return d.run(ctx, obeyLimit)
}

// verifyAll has the guest verify all its memory once, at full speed.
func (d *hosted) verifyAll(ctx context.Context) error {
	if s := d.runState(); s != xen.StateRunning {
		return fmt.Errorf("%s is %s: only a running guest can verify its memory", d, s)
	}
	sweep := d.ctl.sweep.Add(1)
	if err := signal(d.kick); err != nil {
		return err
	}
	return d.waitUntil(ctx, func() (bool, error) {
		for i := range d.cfg.VCPUs {
			if d.ctl.vcpus[i].swept.Load() < sweep {
				return false, nil
			}
		}
		return true, nil
	})
}

// finalContext returns the context of a suspended guest.
func (d *hosted) finalContext() ([]byte, error) {
	if s := d.runState(); s != xen.StateSuspended {
		return nil, fmt.Errorf("%s is %s: only a suspended guest has a final state", d, s)
	}
	n := min(d.ctl.contextLen.Load(), maxContext)
	return append([]byte(nil), d.ctl.context[:n]...), nil
}

func (d *hosted) runState() xen.RunState {
	select {
	case <-d.destroyed:
		return xen.StateDying
	case <-d.exited:
		return xen.StateCrashed
	default:
	}
	switch d.ctl.state().state() {
	case guestRunning:
		return xen.StateRunning
	case guestSuspended:
		return xen.StateSuspended
	case guestCrashed:
		return xen.StateCrashed
	}
	return xen.StatePaused
}

// String names the domain in messages.
func (d *hosted) String() string { return fmt.Sprintf("domain %d", d.domid) }
