package xen

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// A round that is written is not yet there: megabytes of it may wait in the
// buffers of sockets and be worked on at the destination. As long as the source
// does not wait for them, its rounds look shorter than they are, and what it
// takes for the last few pages queues behind those megabytes while the guest is
// suspended. So the destination tells when a live round is stored, and only
// then is the round over. That costs a way there and back for each.

// storedRounds is what the other end has said about rounds. The link's reader
// adds to it, one goroutine waits.
type storedRounds struct {
	n    atomic.Int64  // all rounds before this one are stored
	more chan struct{} // has a value when n has grown
}

func (s *storedRounds) tell(round uint32) {
	s.n.Store(int64(round) + 1)
	select {
	case s.more <- struct{}{}:
	default: // the waiter has not seen the last one yet, and looks at n then
	}
}

// awaitStored waits up to limit until the other end has stored a round.
func (l *Link) awaitStored(ctx context.Context, round int, limit time.Duration) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for l.stored.n.Load() <= int64(round) {
		select {
		case <-l.stored.more:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.ctx.Done():
			return context.Cause(l.ctx)
		case <-timer.C:
			return fmt.Errorf("%s: %w: round %d was written, and is not stored there after %s", l.peer, ErrPeerSilent, round, limit)
		}
	}
	return nil
}

// awaitStored makes stats a round that has arrived.
func (s *source) awaitStored(ctx context.Context, stats *RoundStats) error {
	if !s.welcome.Stored {
		return nil
	}
	begun := time.Now()
	err := s.link.awaitStored(ctx, stats.Round, s.opts.Limits.Ready)
	stats.Time += time.Since(begun)
	return err
}

// tellStored tells the source that a round with these flags is stored.
func (d *destination) tellStored(round uint32, flags uint16) error {
	if !d.hello.Stored || flags&savefmt.FlagLive == 0 {
		return nil
	}
	return d.link.send(&message{Kind: kindStored, Stored: &stored{Round: round}})
}
