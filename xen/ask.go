package xen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// How a source in doubt asks: soon, then more and more seldom.
const (
	firstAsk = 100 * time.Millisecond
	lastAsk  = 5 * time.Second
)

// Ask asks the destination of a migration, over a link to a new receiver there,
// what has become of it.
func Ask(ctx context.Context, link *Link, m fallback.Migration) (fallback.Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(link.Context(), func() { cancel(context.Cause(link.Context())) })()
	if err := link.send(&message{Kind: kindAsk, Ask: &ask{ID: m.ID, UUID: m.UUID}}); err != nil {
		return fallback.AnswerPending, err
	}
	got, _, err := link.receive(ctx, kindAnswer, link.limits.Ready)
	if err != nil {
		return fallback.AnswerPending, err
	}
	if got.Answer.Text != "" {
		return got.Answer.Answer, &PeerError{Host: link.peer, Code: CodeFailed, Text: got.Answer.Text}
	}
	return got.Answer.Answer, nil
}

// errAnswered ends a receiver that was only asked.
var errAnswered = errors.New("answered")

// answer tells a source in doubt what has become of its migration.
func (d *destination) answer(ctx context.Context, q *ask) error {
	reply := &answer{Answer: fallback.AnswerPending, Text: "this receiver keeps no record of migrations"}
	if d.opts.Answer != nil {
		known, err := d.opts.Answer(ctx, q.ID, q.UUID)
		reply = &answer{Answer: known}
		if err != nil && known == fallback.AnswerPending {
			reply.Text = err.Error()
		}
	}
	d.report.Asked, d.report.ID = true, q.ID
	if err := d.link.send(&message{Kind: kindAnswer, Answer: reply}); err != nil {
		return err
	}
	return errAnswered
}

// doubt asks the destination until it has an answer, or for Limits.Doubt, and
// returns what that means. cause is why there is no answer on the link.
func (s *source) doubt(ctx context.Context, cause error) fallback.Event {
	var said *PeerError
	if errors.As(cause, &said) {
		return fallback.EventDiscarded
	}
	if s.opts.Ask == nil {
		return fallback.EventFailure
	}
	s.note("no answer from %s (%v): asking it over a new connection; the guest stays suspended here until then", s.link.peer, cause)
	ctx, cancel := context.WithTimeout(ctx, s.opts.Limits.Doubt)
	defer cancel()
	for pause := firstAsk; ; pause = min(2*pause, lastAsk) {
		reply, err := s.opts.Ask(ctx, s.migration)
		event := fallback.EventFailure
		if err == nil {
			event, err = reply.Event(s.link.peer)
		}
		if event != fallback.EventFailure {
			return event
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			s.note("%v", fmt.Errorf("no answer within %s: %w", s.opts.Limits.Doubt, err))
			return fallback.EventFailure
		}
	}
}
