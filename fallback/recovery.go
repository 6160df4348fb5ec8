package fallback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Errors that a Host's methods wrap.
var (
	// ErrMissing: the domain is not there.
	ErrMissing = errors.New("the domain is not there any more")
	// ErrHasRun: the copy has run, so it is no unused copy that may go.
	ErrHasRun = errors.New("the copy has run")
	// ErrRuns: the guest at the source is not suspended, so it may not go.
	ErrRuns = errors.New("the guest runs here")
)

// Host does to the guest of a migration what a journal allows. Each method is
// idempotent, bounded in time, and touches no domain of another UUID.
type Host interface {
	// Resume lets the guest run on at the source, with everything put back:
	// devices, log-dirty mode, name. A request to suspend that may still be
	// under way is waited for.
	Resume(ctx context.Context, j *Journal) error
	// Suspended returns nil if the guest is at the source as a migration leaves
	// it; ErrRuns if it runs, or was paused.
	Suspended(ctx context.Context, j *Journal) error
	// Destroy ends the suspended guest at the source. It refuses one that is
	// not: ErrRuns.
	Destroy(ctx context.Context, j *Journal) error
	// Start gives the guest its name at the destination and lets it run.
	Start(ctx context.Context, j *Journal) error
	// Unused returns nil if the copy is there, complete, and has never run;
	// ErrHasRun if it has.
	Unused(ctx context.Context, j *Journal) error
	// Discard destroys the copy at the destination, however far it was built.
	// It refuses one that has run: ErrHasRun.
	Discard(ctx context.Context, j *Journal) error
	// Here tells whether a domain of that UUID is on this host, in whatever
	// state, beside the domain except.
	Here(ctx context.Context, uuid string, except uint32) (bool, error)
}

// Answer is what a destination says of a migration to a source in doubt.
type Answer string

// The answers.
const (
	AnswerStarted   Answer = "started"   // the guest runs here
	AnswerDiscarded Answer = "discarded" // it does not and will never, of this migration
	AnswerPending   Answer = "pending"   // not decided: ask again
	AnswerUnsure    Answer = "unsure"    // the record and the host do not tell: a person must
)

// Peer asks the destination of a migration.
type Peer interface {
	Ask(ctx context.Context, m Migration) (Answer, error)
}

// Witness is a third place that knows more than a source whose destination
// cannot be asked, such as a pool's shared store, or one that has fenced the
// destination's host. AnswerPending: it does not know.
type Witness interface {
	Decide(ctx context.Context, m Migration) (Answer, error)
}

// Recovery brings migrations to their end whose own process is gone.
type Recovery struct {
	Store   *Store
	Host    Host
	Peer    Peer    // of a source; nil: nobody can be asked
	Witness Witness // nil: there is none
}

// Finish does for one end what its journal allows, and no more. It takes j over
// and closes it. The summary says how far that was, the error what hindered more.
//
// Nobody holds the journal while the destination is asked, which takes as long
// as a destination that hangs likes: a person can decide meanwhile. What the
// destination then says is acted on only if the doubt is still there; it is as
// true then as when it was said, for a destination never takes it back.
func (r *Recovery) Finish(ctx context.Context, j *Journal) (Summary, error) {
	if j.State() != SourceInDoubt {
		defer j.Close()
		err := r.Run(ctx, j)
		return j.summary(), err
	}
	_ = j.Close()
	on, err := r.ask(ctx, j.Migration)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx) // given up, which says nothing about the guest
	}
	if on == EventFailure {
		sum, readErr := r.Store.Read(j.Migration.ID, j.Migration.Side)
		switch {
		case readErr != nil:
			return j.summary(), errors.Join(err, readErr)
		case sum.Finished: // a person has decided, and nothing hinders any more
			return sum, nil
		}
		return sum, err
	}
	again, err := r.Store.Open(j.Migration.ID, j.Migration.Side)
	if err != nil {
		return j.summary(), err
	}
	defer again.Close()
	if again.State() == SourceInDoubt {
		err = r.decide(ctx, again, on, "")
	} else {
		err = r.Run(ctx, again)
	}
	return again.summary(), err
}

// decide takes the word of one who knows what has become of a migration in
// doubt, and acts by it.
func (r *Recovery) decide(ctx context.Context, j *Journal, on Event, note string) error {
	m := NewMachineAt(Source, j.State())
	m.OnStep = func(t Transition) error { return j.Record(t, note) }
	if _, err := m.Step(on); err != nil {
		return err
	}
	return r.Run(ctx, j)
}

// Run is Finish for a journal that stays held. It asks nobody: a doubt stays.
func (r *Recovery) Run(ctx context.Context, j *Journal) error {
	table, err := j.Migration.Side.table()
	if err != nil {
		return err
	}
	if j.Migration.Side == SideDestination && !j.Finished() {
		// What is done here, such as to start the guest, must follow from the
		// journal after a loss of power, too. At the source the guest must
		// not wait for a bad disk, and an unconfirmed doubt does no harm.
		if err := j.confirm(); err != nil {
			return err
		}
	}
	var note string
	m := NewMachineAt(table, j.State())
	m.OnStep = func(t Transition) error { return j.Record(t, note) }
	for !j.Finished() {
		before := m.State()
		on, cause := r.next(ctx, j)
		if ctx.Err() != nil && cause != nil {
			return context.Cause(ctx) // given up, which says nothing about the guest
		}
		if note = ""; cause != nil {
			note = cause.Error()
		}
		if _, err := m.Step(on); err != nil {
			return errors.Join(cause, err)
		}
		if m.State() == before {
			return cause
		}
	}
	return nil
}

// next does what is due in the journal's state and returns what came of it. The
// error is why it is a failure.
func (r *Recovery) next(ctx context.Context, j *Journal) (Event, error) {
	if j.Migration.Side == SideDestination {
		return r.nextAtDestination(ctx, j)
	}
	host := r.host(j)
	switch j.State() {
	case SourceInDoubt:
		return EventFailure, errors.New("only the destination knows whether it runs there")
	case SourceHandedOn:
		return outcome(host.Destroy(ctx, j), EventDestroyed, EventDestroyed)
	case SourceResuming:
		return outcome(host.Resume(ctx, j), EventResumed, EventMissing)
	}
	return EventFailure, errors.New("its sender has ended before its time")
}

func (r *Recovery) nextAtDestination(ctx context.Context, j *Journal) (Event, error) {
	host := r.host(j)
	switch j.State() {
	case DestinationStarting:
		return outcome(host.Start(ctx, j), EventUnpaused, EventMissing)
	case DestinationStalled:
		return Checked(host.Unused(ctx, j))
	case DestinationUnmaking:
		err := host.Discard(ctx, j)
		if errors.Is(err, ErrHasRun) {
			return EventUnpaused, err
		}
		return outcome(err, EventDestroyed, EventDestroyed)
	case DestinationDiscarding:
		return outcome(host.Discard(ctx, j), EventDestroyed, EventDestroyed)
	}
	return EventFailure, errors.New("its receiver has ended before its time")
}

// host is where the guest of a journal is.
func (r *Recovery) host(j *Journal) Host {
	if then, now := j.Migration.Boot, r.Store.disk.Boot(); then != "" && now != "" && then != now {
		return rebooted{r.Host}
	}
	return r.Host
}

// rebooted is a host that was down since: a domain of that id and UUID is the
// same guest, but one that came or was started since.
type rebooted struct{ Host }

var errRebooted = fmt.Errorf("%w: this host has been down since", ErrMissing)

func (rebooted) Resume(context.Context, *Journal) error    { return errRebooted }
func (rebooted) Suspended(context.Context, *Journal) error { return errRebooted }
func (rebooted) Destroy(context.Context, *Journal) error   { return errRebooted }
func (rebooted) Start(context.Context, *Journal) error     { return errRebooted }
func (rebooted) Unused(context.Context, *Journal) error    { return errRebooted }
func (rebooted) Discard(context.Context, *Journal) error   { return errRebooted }

// Checked is the event that the result of Host.Unused means.
func Checked(err error) (Event, error) {
	if errors.Is(err, ErrHasRun) {
		return EventUnpaused, err
	}
	return outcome(err, EventUnused, EventMissing)
}

// outcome is the event that the result of an action means.
func outcome(err error, good, missing Event) (Event, error) {
	switch {
	case err == nil:
		return good, nil
	case errors.Is(err, ErrMissing):
		return missing, nil
	}
	return EventFailure, err
}

// ask asks the destination, and then the witness.
func (r *Recovery) ask(ctx context.Context, m Migration) (Event, error) {
	answer, err := AnswerPending, errors.New("there is no way to ask the destination")
	if r.Peer != nil {
		answer, err = r.Peer.Ask(ctx, m)
	}
	if (err != nil || answer == AnswerUnsure) && r.Witness != nil {
		verdict, werr := r.Witness.Decide(ctx, m)
		if werr == nil && verdict != AnswerPending {
			answer, err = verdict, nil
		}
		err = errors.Join(err, werr)
	}
	if err != nil {
		return EventFailure, fmt.Errorf("asking %s: %w", m.Peer, err)
	}
	return answer.Event(m.Peer)
}

// Event is what the answer means to a source in doubt. The error is why it is
// EventFailure.
func (a Answer) Event(peer string) (Event, error) {
	switch a {
	case AnswerStarted:
		return EventStarted, nil
	case AnswerDiscarded:
		return EventDiscarded, nil
	case AnswerPending:
		return EventFailure, fmt.Errorf("%s has not decided yet", peer)
	case AnswerUnsure:
		return EventFailure, fmt.Errorf("%s cannot tell whether the guest has run there: look there, then use xenferry resolve", peer)
	}
	return EventFailure, fmt.Errorf("%s gives the answer %.40q, which means nothing here", peer, string(a))
}

// Answer is what this host, as the destination of the migration id, says to its
// source. A migration that is not decided is decided here, for good: without a
// recorded GO the copy is discarded, and an unknown one is recorded as
// discarded, so that a late receiver cannot begin it.
func (r *Recovery) Answer(ctx context.Context, id, uuid string) (Answer, error) {
	j, err := r.Store.Open(id, SideDestination)
	switch {
	case errors.Is(err, ErrUnknown):
		return r.refuseUnknown(ctx, id, uuid)
	case errors.Is(err, ErrBusy):
		sum, err := r.Store.Read(id, SideDestination)
		if err != nil {
			return AnswerPending, nil
		}
		return answerHeld(sum), nil
	case err != nil:
		return AnswerUnsure, err
	}
	defer j.Close()
	err = r.Run(ctx, j)
	return answerOf(j.State()), err
}

func (r *Recovery) refuseUnknown(ctx context.Context, id, uuid string) (Answer, error) {
	// The record may be lost, and a guest that has arrived may have been paused
	// or shut down since. One that moves within this host is here as its own
	// source.
	source, err := r.Store.Read(id, SideSource)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return AnswerUnsure, err
	}
	here, err := r.Host.Here(ctx, uuid, source.GuestDomid())
	if err != nil {
		return AnswerUnsure, err
	}
	if here {
		return AnswerUnsure, fmt.Errorf("migration %s is not recorded here, but a domain of its UUID is here", id)
	}
	note := "unknown here when the source asked"
	j, err := r.Store.Begin(Migration{ID: id, Side: SideDestination, UUID: uuid},
		Record{State: DestinationDiscarded, Note: note})
	if errors.Is(err, fs.ErrExist) {
		return AnswerPending, nil // a receiver has begun this moment
	}
	if err != nil {
		return AnswerPending, err
	}
	return AnswerDiscarded, j.Close()
}

// answerHeld is what is said of a migration that a receiver or a guardian is at
// work on: that one decides. The source's guest need not wait until libxl has
// destroyed a copy that GO never reached: if this host forgets that it was given
// up, it gives it up again. After GO only what is on disk counts.
func answerHeld(sum Summary) Answer {
	switch a := answerOf(sum.State); {
	case a == AnswerStarted:
		return a
	case a == AnswerDiscarded && !slices.ContainsFunc(sum.Steps, func(r Record) bool { return r.State == DestinationStarting }):
		return a
	}
	return AnswerPending
}

// answerOf is what a destination in that state says.
func answerOf(s State) Answer {
	switch s {
	case DestinationRunning, DestinationSettled:
		return AnswerStarted
	case DestinationDiscarded, DestinationDiscarding:
		return AnswerDiscarded
	case DestinationUnsure:
		return AnswerUnsure
	}
	return AnswerPending
}

// Resolve takes a person's word for a source in doubt, and acts by it: resume
// the guest here, or destroy the copy here. It also takes the word that a guest
// belongs here which runs here, though it counts as handed on.
func (r *Recovery) Resolve(ctx context.Context, j *Journal, resume bool) error {
	on, err := r.personsWord(ctx, j, resume)
	if err == nil && on == EventRunsHere {
		// Its name and the like are put back before that is recorded: no
		// journal may say that one which was handed on is to be resumed.
		err = r.host(j).Resume(ctx, j)
	}
	if err != nil {
		return err
	}
	return r.decide(ctx, j, on, "a person's word")
}

// personsWord is the event that a person's word means. What cannot be done is
// refused here, before it is recorded: a guest that runs is not destroyed.
func (r *Recovery) personsWord(ctx context.Context, j *Journal, resume bool) (Event, error) {
	state, id := j.State(), j.Migration.ID
	if j.Migration.Side != SideSource || state != SourceInDoubt && state != SourceHandedOn {
		return "", fmt.Errorf("migration %s is not in doubt here, it is %q: nothing to resolve", id, state)
	}
	if state == SourceInDoubt && resume {
		return EventDiscarded, nil
	}
	err := r.host(j).Suspended(ctx, j)
	runs := errors.Is(err, ErrRuns)
	switch {
	case err != nil && !runs && !errors.Is(err, ErrMissing):
		return "", err
	case state == SourceHandedOn && resume && runs:
		return EventRunsHere, nil
	case !resume && runs:
		return "", err
	case state == SourceInDoubt:
		return EventStarted, nil
	}
	return "", fmt.Errorf("migration %s is %q, and the guest does not run here: nothing to resolve, xenferry recover does the rest", id, state)
}
