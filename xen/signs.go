package xen

import (
	"context"
	"time"
)

// A guest that was let run has yet to show that it does: its processors have to
// be given time, its drivers to connect to this host's devices. That is part of
// the pause that its users see, and is measured from outside, while the source
// destroys what it has left.

// Watcher is an Incoming that sees signs of life of its guest.
type Watcher interface {
	// Signs returns the signs that this guest can give, in the order in which
	// they are to be expected. It is called before Unpause.
	Signs(ctx context.Context) ([]Sign, error)
}

// Sign is something by which a guest shows that it runs.
type Sign struct {
	Name string // as part of the downtime, e.g. "first heartbeat"
	// Shown tells whether it is there by now.
	Shown func(ctx context.Context) (bool, error)
}

// Times of the wait for signs.
const (
	signsEvery = time.Millisecond        // the first pause between two looks
	signsRare  = 20 * time.Millisecond   // and what the pauses grow to
	signsLimit = 1500 * time.Millisecond // how long after STARTED they count
)

// expectSigns asks for the signs of a guest that is about to run.
func (d *destination) expectSigns(ctx context.Context) {
	w, ok := d.incoming.(Watcher)
	if !ok || !d.hello.Signs || d.leavePaused() {
		return
	}
	d.signs, _ = w.Signs(ctx) // figures less, if that fails
}

// tellSigns begins to tell the source of each sign once it is there. The function
// that it returns waits until all are told, the time for them is over, or the
// source has gone.
func (d *destination) tellSigns() (wait func()) {
	ctx, cancel := context.WithTimeout(d.link.Context(), signsLimit)
	told := make(chan struct{})
	go func() {
		defer close(told)
		defer cancel()
		for _, sign := range d.signs {
			if !d.tellSign(ctx, sign) {
				return
			}
		}
	}()
	return func() { <-told }
}

// tellSign tells of one sign, and whether it could.
func (d *destination) tellSign(ctx context.Context, sign Sign) bool {
	pause := signsEvery
	for shown, err := sign.Shown(ctx); !shown; shown, err = sign.Shown(ctx) {
		if err != nil {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(pause):
		}
		pause = min(pause+pause/8, signsRare)
	}
	seen := &step{Name: sign.Name, BeganNs: d.unpaused.UnixNano(), EndedNs: time.Now().UnixNano()}
	return d.link.send(&message{Kind: kindSign, Sign: seen}) == nil
}

// collectSigns takes what the destination has seen of its guest since STARTED.
// What has come by now is taken, however late it is.
func (s *source) collectSigns(ctx context.Context) {
	for range s.signs {
		m, _, err := s.link.receive(ctx, kindSign, max(time.Until(s.heard.Add(signsLimit)), time.Nanosecond))
		if err != nil {
			return
		}
		s.theirs = append(s.theirs, *m.Sign)
	}
}
