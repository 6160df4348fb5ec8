package xen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/savefmt"
)

// suspend asks the guest to suspend, and goes on with live rounds while it takes
// its time to do so: what they carry is not part of the downtime. If it is
// quicker, the pages are sent all the same, as they would have to be.
func (s *source) suspend(ctx context.Context) error {
	if err := s.endThrottle(); err != nil {
		return err
	}
	if s.welcome.Asks {
		if err := s.link.send(&message{Kind: kindAsked}); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	runs, stopped := context.WithCancelCause(ctx)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		if err := s.roundsWhile(ctx, runs); err != nil {
			cancel(err) // the first cause stays
		}
	}()
	if err := s.stop(ctx); err != nil {
		cancel(err)
	}
	stopped(errStopped)
	suspended := time.Now()
	<-sent
	if context.Cause(ctx) == nil {
		s.watch.add("device model stops", s.stopped, suspended)
		s.watch.note("rest of the live round", suspended)
	}
	return context.Cause(ctx)
}

// The pause between two rounds while the guest has not suspended yet. It grows,
// so that one which takes long costs no more rounds than it is worth; and it is
// idleShare times what the round took, as on a busy host the guest waits for
// the processor that these rounds would take from it.
const (
	leastPause = 2 * time.Millisecond
	mostPause  = 50 * time.Millisecond
	idleShare  = 4
)

// errStopped ends what is done while the guest has not suspended yet.
var errStopped = errors.New("the guest has suspended")

// roundsWhile sends live rounds until runs has ended with errStopped: first what
// is known to be dirty, then what is written meanwhile.
func (s *source) roundsWhile(ctx, runs context.Context) error {
	pause := leastPause
	for {
		begun := time.Now()
		stats, err := s.sendRound(ctx, savefmt.FlagLive)
		if err != nil {
			return err
		}
		err = s.awaitStored(runs, &stats)
		idle := idleShare * time.Since(begun)
		for err == nil && stats.Dirty == 0 {
			stats.Dirty, err = s.dirtyAfter(ctx, runs, max(pause, idle))
			pause = min(2*pause, mostPause)
		}
		s.endRound(stats)
		switch {
		case errors.Is(err, errStopped): // what is in s.dirty was sent
			return nil
		case err != nil:
			return err
		}
	}
}

// dirtyAfter puts what the guest has written into s.dirty, after a pause, and
// leaves it as it is when runs ends before. What is under way goes on then: the
// pages that CleanDirty takes out of the log are known to nobody else.
func (s *source) dirtyAfter(ctx, runs context.Context, pause time.Duration) (uint64, error) {
	select {
	case <-runs.Done():
		return 0, context.Cause(runs)
	case <-time.After(pause):
	}
	found, err := s.dom.CleanDirty(ctx, s.dirty, false)
	return found.Dirty, err
}

// stop suspends the guest.
func (s *source) stop(ctx context.Context) error {
	asked := time.Now()
	var err error
	if s.stopped, err = s.stopGuest(ctx, s.dom, s.opts.Limits.Suspend); err != nil {
		return err
	}
	s.report.SuspendWait = s.stopped.Sub(asked)
	if limit := s.settleDowntime(); limit > 0 {
		s.tooLong = time.AfterFunc(limit, func() {
			s.cancel(fmt.Errorf("%w: %s", ErrDowntime, limit))
		})
	}
	_, err = s.step(fallback.EventSuspended, nil)
	return err
}
