package fallback

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// firstTry is the first pause between a guardian's tries.
const firstTry = 250 * time.Millisecond

// Ward is the process that a guardian looks after.
type Ward interface {
	// Wait returns true when the ward has said that nothing is left to do. It
	// returns false when the ward is dead: one that hangs it kills first. The
	// error is that of ctx.
	Wait(ctx context.Context) (clean bool, err error)
}

// Guard waits for the ward's end, and then brings its end of the migration to
// an end, however long that takes. It tries again with pauses that double up to
// retry. report is told what happens.
func Guard(ctx context.Context, w Ward, r *Recovery, id string, side Side, retry time.Duration, report func(text string)) error {
	clean, err := w.Wait(ctx)
	if err != nil || clean {
		return err
	}
	report(fmt.Sprintf("the %s of migration %s has died", side, id))
	pause := min(firstTry, retry)
	said := ""
	for {
		done, err := guardOnce(ctx, r, id, side, report)
		if done || ctx.Err() != nil {
			return err
		}
		if text := fmt.Sprint(err); text != said {
			said = text
			report(text)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, retry)
	}
}

// guardOnce tries once. done: nothing is left, or nothing can be done.
func guardOnce(ctx context.Context, r *Recovery, id string, side Side, report func(string)) (done bool, err error) {
	j, err := r.Store.Await(ctx, id, side)
	if errors.Is(err, ErrUnknown) {
		return true, nil // it died before it began
	}
	if err != nil {
		return false, err
	}
	if j.Finished() {
		return true, j.Close()
	}
	report(fmt.Sprintf("guest %s is %s", j.Migration.Guest, j.State()))
	sum, err := r.Finish(ctx, j)
	if sum.Finished {
		report(fmt.Sprintf("guest %s is %s", sum.Guest, sum.State))
	}
	return sum.Finished, err
}
