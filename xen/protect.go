package xen

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/fallback"
)

// Protect begins the journal of a migration, and starts its guardian. It is
// called before anything is done that would have to be undone.
type Protect func(ctx context.Context, m fallback.Migration) (Protection, error)

// Protection is what outlives this process: it makes sure that the migration
// comes to an end even if the process does not.
type Protection interface {
	// Append writes a step, see fallback.Journal.
	Append(r fallback.Record, durable bool) error
	// Ready waits until the guardian is able to act.
	Ready(ctx context.Context) error
	// Release gives the migration up: finished, or to the guardian, who acts
	// at once when this process has ended.
	Release(finished bool)
}

// protected is the part of a source or destination that keeps its state, in
// memory and in the journal.
type protected struct {
	side    fallback.Side
	machine *fallback.Machine
	shield  Protection // nil until begun, and where none is wanted
	refused bool       // a durable step failed, but may be on disk
	note    string     // why the next step is taken, if that says something
	late    bool       // the guest may suspend yet, although that has failed
}

func newProtected(side fallback.Side, table fallback.Table) protected {
	return protected{side: side, machine: fallback.NewMachine(table)}
}

// begin makes the journal. protect may be nil.
func (p *protected) begin(ctx context.Context, protect Protect, m fallback.Migration) error {
	if protect == nil {
		return nil
	}
	shield, err := protect(ctx, m)
	if err != nil {
		return fmt.Errorf("this migration cannot be protected against a crash: %w", err)
	}
	p.shield = shield
	p.machine.OnStep = func(t fallback.Transition) error {
		if t.From == t.To {
			return nil
		}
		return shield.Append(fallback.Record{State: t.To, Note: p.note}, t.Durable)
	}
	return nil
}

// ready waits for the guardian.
func (p *protected) ready(ctx context.Context) error {
	if p.shield == nil {
		return nil
	}
	return p.shield.Ready(ctx)
}

// step takes an event, for a reason or none.
func (p *protected) step(on fallback.Event, why error) (fallback.Action, error) {
	p.note = ""
	if why != nil {
		p.note = why.Error()
	}
	do, err := p.machine.Step(on)
	p.refused = p.refused || err != nil
	return do, err
}

// checkStart finds out whether a copy has run whose start was said to have
// failed, and takes the step that follows. The error is why it stays, unless
// the action is DoUnmake.
func (p *protected) checkStart(host Host, copied DomainRef, limit time.Duration) (fallback.Action, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	on, why := fallback.Checked(copyError(host.Unused(ctx, copied)))
	do, err := p.step(on, why)
	return do, errors.Join(why, err)
}

// undone is the event that putting a guest back has come to. One that has
// powered off meanwhile, or was destroyed, is nobody's to put back; after any
// other failure the guardian tries again.
func undone(err error) fallback.Event {
	switch {
	case err == nil:
		return fallback.EventResumed
	case errors.Is(err, ErrNoDomain):
		return fallback.EventMissing
	}
	return fallback.EventFailure
}

// release ends the protection, or leaves the rest to the guardian.
func (p *protected) release() {
	if p.shield != nil {
		p.shield.Release(fallback.Finished(p.side, p.machine.State()))
		p.shield = nil
	}
}

// Errors of the limits that a user sets for the whole.
var (
	// ErrDeadline: the migration was not done in the time given to it.
	ErrDeadline = errors.New("not done before the deadline")
	// ErrDowntime: the guest would have been suspended for longer than allowed.
	ErrDowntime = errors.New("the pause got longer than allowed")
)
