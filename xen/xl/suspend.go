package xl

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

const (
	// suspendPoll is the longest time for which only the event is waited for:
	// of a guest's destruction or crash there is none.
	suspendPoll = 250 * time.Millisecond
	// suspendGrace is how long a guest that has taken the request, and so
	// cannot be stopped any more, may need after ctx has ended. Linux gives
	// its own processes 20 s to freeze.
	suspendGrace = 25 * time.Second
	// portPatience is how long a guest that was asked through its own port may
	// take before it is asked in the common way as well. One that hears the
	// port begins at once; any guest can name a port that it does not hear.
	portPatience = 2 * time.Second
	// resumeLimit bounds the resume of a guest that suspended too late.
	resumeLimit = 30 * time.Second
)

// suspendable is a guest as suspendGuest sees it.
type suspendable interface {
	// flags returns its state. ESRCH: it is gone.
	flags() (xenctrl.DomainFlags, error)
	// askByPort asks the guest through a port that it offers for that, which
	// cannot be taken back. asked is false where there is none of use.
	askByPort() (asked bool)
	// request asks the guest to suspend, in the common way.
	request() error
	// takeBack undoes request. taken: the guest has taken it already.
	takeBack() (taken bool, err error)
	// wait returns nil when the guest may have suspended, or an error when
	// ctx ends.
	wait(ctx context.Context) error
	// resume makes a suspended guest run on.
	resume(ctx context.Context) error
}

// suspendGuest brings the guest to a halt with reason suspend. Only the state
// of the domain counts as success, whatever anything else reports. When ctx
// ends first, the request is taken back and the error wraps
// xen.ErrSuspendRefused. A guest that has taken it by then suspends all the
// same: that counts where only the time was over, as until then it has run;
// after a cancel it is resumed.
func suspendGuest(ctx context.Context, g suspendable) error {
	switch f, err := g.flags(); {
	case err != nil:
		return goneOr(err)
	case f.Suspended() && !f.Dying():
		return nil
	case f.Paused() && !f.Shutdown():
		return fmt.Errorf("%w: it is paused, and so cannot answer: unpause it first", xen.ErrSuspendRefused)
	}
	byPort := g.askByPort()
	if byPort {
		err := awaitPort(ctx, g)
		switch {
		case ctx.Err() != nil && err != nil:
			return giveUp(ctx, g, byPort)
		case !errors.Is(err, errUnanswered):
			return err
		}
	}
	requestErr := g.request()
	if requestErr != nil && !byPort {
		_, backErr := g.takeBack() // it may have come through all the same
		return errors.Join(requestErr, backErr)
	}
	err := awaitSuspend(ctx, g)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return errors.Join(giveUp(ctx, g, byPort), requestErr)
	}
	_, backErr := g.takeBack()
	return errors.Join(err, requestErr, backErr)
}

// errUnanswered: the guest does not hear its own port.
var errUnanswered = errors.New("it does not answer on the suspend port that it offers")

// awaitPort waits for a guest that was asked through its port. The error is
// errUnanswered when it has not suspended in the time that it gets, and there
// is time left to ask it in the other way.
func awaitPort(ctx context.Context, g suspendable) error {
	patience := portPatience
	if end, ok := ctx.Deadline(); ok {
		patience = min(patience, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errUnanswered)
	defer cancel()
	return awaitSuspend(ctx, g)
}

// awaitSuspend returns nil once the guest has suspended; an error if it does
// something else, or when ctx ends.
func awaitSuspend(ctx context.Context, g suspendable) error {
	for {
		f, err := g.flags()
		switch {
		case err != nil:
			return goneOr(err)
		case f.Dying():
			return fmt.Errorf("%w: it has been destroyed in the meantime", xen.ErrNoDomain)
		case f.Suspended():
			return nil
		case f.Shutdown():
			return fmt.Errorf("guest has shut down in the meantime (%v)", f.ShutdownReason())
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		poll, cancel := context.WithTimeout(ctx, suspendPoll)
		err = g.wait(poll)
		ended := poll.Err() != nil
		cancel()
		if err != nil && !ended {
			return fmt.Errorf("wait for the suspend event: %w", err)
		}
	}
}

// giveUp is what happens when ctx has ended before the guest has suspended.
// byPort: it was asked through its port, too.
func giveUp(ctx context.Context, g suspendable, byPort bool) error {
	refused := fmt.Errorf("%w: %w", xen.ErrSuspendRefused, context.Cause(ctx))
	taken, err := g.takeBack()
	if err != nil {
		refused = errors.Join(refused, err)
	}
	late := context.WithoutCancel(ctx)
	var cancel context.CancelFunc
	if taken || byPort || err != nil {
		// It is, or may be, on its way down. Nobody would resume it if we left now.
		late, cancel = context.WithTimeout(late, suspendGrace)
	} else {
		late, cancel = context.WithCancel(late)
		cancel() // one look at its state
	}
	err = awaitSuspend(late, g)
	ended := late.Err() != nil
	cancel()
	switch {
	case err == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil
	case err == nil:
		resumeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), resumeLimit)
		defer cancel()
		if err := g.resume(resumeCtx); err != nil {
			return errors.Join(fmt.Errorf("%w, suspended too late, and could not be resumed", refused), err)
		}
		return refused
	case ended:
		return refused
	}
	return err
}

// goneOr tells of a domain that is gone in the words of package xen.
func goneOr(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: it has gone in the meantime: %w", xen.ErrNoDomain, err)
	}
	return err
}
