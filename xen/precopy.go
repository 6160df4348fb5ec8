package xen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// What a migration and a live save have in common.

// copyLive runs rounds while the guest runs. round deals with the pages in
// dirty, end takes its figures and tells whether that was enough. The pages
// that the last CleanDirty found are left in dirty. note is told when all pages
// have to be sent anew, whatever is enough.
func copyLive(ctx context.Context, dom Domain, size *sizeWatch, dirty Bitmap, round func(context.Context) (RoundStats, error), end func(RoundStats) (enough bool), note func(string)) error {
	for {
		stats, err := round(ctx)
		if err != nil {
			return err
		}
		found, err := dom.CleanDirty(ctx, dirty, false)
		if err != nil {
			return err
		}
		grown, err := size.grown(found.MemKiB)
		if err != nil {
			return err
		}
		if stats.Dirty = found.Dirty; grown != "" {
			note(grown + ": all of it is sent again")
			dirty.SetAll(dom.Pages())
			stats.Dirty = dom.Pages()
		}
		if enough := end(stats); enough && grown == "" {
			return nil
		}
	}
}

// addLast adds to dirty what the guest, now suspended, has written since the
// last live round, which is the last of rounds.
func addLast(ctx context.Context, dom Domain, size *sizeWatch, dirty Bitmap, rounds []RoundStats) error {
	late := NewBitmap(dom.Pages())
	found, err := dom.CleanDirty(ctx, late, true)
	if err != nil {
		return err
	}
	if err := size.settled(found.MemKiB); err != nil {
		return err
	}
	rounds[len(rounds)-1].Dirty += found.Dirty
	for i, word := range late {
		dirty[i] |= word
	}
	return nil
}

// stopGuest suspends the guest, and returns when it was known to have stopped.
// The caller takes the step that says so.
func (p *protected) stopGuest(ctx context.Context, dom Domain, limit time.Duration) (stopped time.Time, err error) {
	if _, err := p.step(fallback.EventAsked, nil); err != nil {
		return stopped, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%w within %s", ErrSuspendRefused, limit))
	defer cancel()
	if err := dom.Suspend(ctx); err != nil {
		p.late = !errors.Is(err, ErrSuspendRefused) && !errors.Is(err, ErrNoDomain)
		return stopped, err
	}
	return dom.StoppedAt(), nil
}

// resumeLate resumes the guest once more where the call that asked it to
// suspend has failed in a way that leaves open whether it will follow.
func (p *protected) resumeLate(ctx context.Context, dom Domain, limit time.Duration) error {
	if !p.late {
		return nil
	}
	return resumeLate(ctx, dom, limit)
}
