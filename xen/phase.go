package xen

import (
	"context"
	"time"
)

// phase is one step of a source or a destination.
type phase struct {
	name string
	run  func(ctx context.Context) error
}

// phaseRunner runs phases one after the other, notes their times and tells the
// observer.
type phaseRunner struct {
	observe Observer
	times   []PhaseTime
	current string
}

// runAll runs the phases in order until one fails or ctx ends.
func (p *phaseRunner) runAll(ctx context.Context, phases []phase) error {
	for _, ph := range phases {
		if err := p.runPhase(ctx, ph); err != nil {
			return err
		}
	}
	return nil
}

func (p *phaseRunner) runPhase(ctx context.Context, ph phase) error {
	p.current = ph.name // where it failed, even if it has ended before
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p.emit(Event{Kind: EventPhase, Phase: ph.name})
	start := time.Now()
	err := ph.run(ctx)
	p.times = append(p.times, PhaseTime{Name: ph.name, Time: time.Since(start)})
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx) // what ended the phase says more than how it noticed
	}
	return err
}

func (p *phaseRunner) emit(e Event) {
	if p.observe != nil {
		e.Time = time.Now()
		p.observe(e)
	}
}
