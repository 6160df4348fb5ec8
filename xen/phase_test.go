package xen

import (
	"context"
	"errors"
	"testing"
)

// TestPhaseOfFailure: what ends before a phase has begun is told with that
// phase.
func TestPhaseOfFailure(t *testing.T) {
	cause := errors.New("lost")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(cause)
	var p phaseRunner
	err := p.runAll(ctx, []phase{{PhaseHello, func(context.Context) error { t.Error("it ran"); return nil }}})
	if err != cause || p.current != PhaseHello {
		t.Errorf("%v in phase %q", err, p.current)
	}
}
