package xen

import (
	"context"
	"time"
)

// The hosts' clocks differ. Before the suspend the source asks for the
// destination's time, as NTP does (RFC 5905, section 8), so that the steps of
// both can be put on one line.

// clockRounds is how often it asks. The quickest answer counts.
const clockRounds = 4

// tellTime answers the question for the time. It is called by the goroutine
// that has read the question.
func (l *Link) tellTime() error {
	came := time.Now().UnixNano()
	return l.send(&message{Kind: kindClock, Clock: &clock{CameNs: came, LeftNs: time.Now().UnixNano()}})
}

// askTime returns by how much the other end's clock is ahead of this one's, and
// by how much that may be wrong: half of the quickest way there and back.
func (l *Link) askTime(ctx context.Context, limit time.Duration) (ahead, uncertain time.Duration, err error) {
	for i := range clockRounds {
		asked := time.Now()
		if err := l.send(&message{Kind: kindClock, Clock: &clock{}}); err != nil {
			return 0, 0, err
		}
		m, _, err := l.receive(ctx, kindClock, limit)
		if err != nil {
			return 0, 0, err
		}
		heard := time.Now()
		came, left := time.Unix(0, m.Clock.CameNs), time.Unix(0, m.Clock.LeftNs)
		way := (heard.Sub(asked) - left.Sub(came)) / 2
		if i == 0 || way < uncertain {
			uncertain = way
			ahead = (came.Sub(asked) + left.Sub(heard)) / 2
		}
	}
	return ahead, uncertain, nil
}
