package fallback

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"
)

// testHost notes what is done to it.
type testHost struct {
	done []string
	err  map[string]error
	here uint32 // a domain of the UUID
}

func (h *testHost) do(what string) error {
	h.done = append(h.done, what)
	return h.err[what]
}
func (h *testHost) Resume(context.Context, *Journal) error  { return h.do("resume") }
func (h *testHost) Destroy(context.Context, *Journal) error { return h.do("destroy") }
func (h *testHost) Start(context.Context, *Journal) error   { return h.do("start") }
func (h *testHost) Unused(context.Context, *Journal) error  { return h.do("unused") }
func (h *testHost) Discard(context.Context, *Journal) error { return h.do("discard") }
func (h *testHost) Here(_ context.Context, _ string, except uint32) (bool, error) {
	return h.here != 0 && h.here != except, nil
}
func (h *testHost) Ask(context.Context, Migration) (Answer, error) {
	return AnswerPending, h.do("ask")
}

// says is a witness with one answer.
type says Answer

func (s says) Decide(context.Context, Migration) (Answer, error) { return Answer(s), nil }

// TestRecovery: what is done in each state in which a program can have died.
func TestRecovery(t *testing.T) {
	broken := errors.New("broken")
	tests := []struct {
		name    string
		side    Side
		state   State
		err     map[string]error
		witness Witness
		want    State
		done    []string
	}{
		{name: "copying", side: SideSource, state: SourceRunning, want: SourceResumed, done: []string{"resume"}},
		{name: "suspended", side: SideSource, state: SourceSuspended, want: SourceResumed, done: []string{"resume"}},
		{name: "cannot be resumed", side: SideSource, state: SourceReady, err: map[string]error{"resume": broken}, want: SourceResuming, done: []string{"resume"}},
		{name: "died with its host", side: SideSource, state: SourceSuspended, err: map[string]error{"resume": ErrMissing}, want: SourceLost, done: []string{"resume"}},
		{name: "no answer", side: SideSource, state: SourceInDoubt, err: map[string]error{"ask": broken}, want: SourceInDoubt, done: []string{"ask"}},
		{name: "not decided", side: SideSource, state: SourceInDoubt, want: SourceInDoubt, done: []string{"ask"}},
		{name: "a witness knows: started", side: SideSource, state: SourceInDoubt, err: map[string]error{"ask": broken}, witness: says(AnswerStarted), want: SourceGone, done: []string{"ask", "destroy"}},
		{name: "a witness knows: discarded", side: SideSource, state: SourceInDoubt, err: map[string]error{"ask": broken}, witness: says(AnswerDiscarded), want: SourceResumed, done: []string{"ask", "resume"}},
		{name: "a witness does not know", side: SideSource, state: SourceInDoubt, err: map[string]error{"ask": broken}, witness: says(AnswerPending), want: SourceInDoubt, done: []string{"ask"}},
		{name: "a witness is not asked before its time", side: SideSource, state: SourceInDoubt, witness: says(AnswerDiscarded), want: SourceInDoubt, done: []string{"ask"}},
		{name: "handed on", side: SideSource, state: SourceHandedOn, want: SourceGone, done: []string{"destroy"}},
		{name: "gone already", side: SideSource, state: SourceHandedOn, err: map[string]error{"destroy": ErrMissing}, want: SourceGone, done: []string{"destroy"}},
		{name: "finished", side: SideSource, state: SourceGone, want: SourceGone},

		{name: "building", side: SideDestination, state: DestinationBuilding, want: DestinationDiscarded, done: []string{"discard"}},
		{name: "ready", side: SideDestination, state: DestinationReady, want: DestinationDiscarded, done: []string{"discard"}},
		{name: "starting", side: SideDestination, state: DestinationStarting, want: DestinationRunning, done: []string{"start"}},
		{name: "cannot be started", side: SideDestination, state: DestinationStarting, err: map[string]error{"start": broken}, want: DestinationDiscarded, done: []string{"start", "unused", "discard"}},
		{name: "started, in spite of the error", side: SideDestination, state: DestinationStarting, err: map[string]error{"start": broken, "unused": ErrHasRun}, want: DestinationRunning, done: []string{"start", "unused"}},
		{name: "cannot be started, and then it is gone", side: SideDestination, state: DestinationStarting, err: map[string]error{"start": broken, "unused": ErrMissing}, want: DestinationUnsure, done: []string{"start", "unused"}},
		{name: "started, though it was said not to", side: SideDestination, state: DestinationUnmaking, err: map[string]error{"discard": ErrHasRun}, want: DestinationRunning, done: []string{"discard"}},
		{name: "nobody knows", side: SideDestination, state: DestinationStarting, err: map[string]error{"start": ErrMissing}, want: DestinationUnsure, done: []string{"start"}},
		{name: "running", side: SideDestination, state: DestinationRunning, want: DestinationRunning},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := testStore(t)
			j := mustBegin(t, s, testMigration(tt.side), tt.state)
			defer j.Close()
			h := &testHost{err: tt.err}
			r := &Recovery{Store: s, Host: h, Peer: h, Witness: tt.witness}
			err := r.Run(t.Context(), j)
			for j.State() != tt.want && err != nil && len(h.done) < 2 {
				err = r.Run(t.Context(), j) // a guardian tries again
			}
			if j.State() != tt.want || !slices.Equal(h.done, tt.done) {
				t.Errorf("%q after %q, want %q after %q: %v", j.State(), h.done, tt.want, tt.done, err)
			}
			if (err == nil) != j.Finished() {
				t.Errorf("finished %v, error %v", j.Finished(), err)
			}
		})
	}
}

// earlier is a disk before its host went down.
type earlier struct{ Disk }

func (earlier) Boot() string { return "earlier" }

// TestRebooted: domains of an earlier run of the host are not there any more,
// whichever have their ids and UUIDs now.
func TestRebooted(t *testing.T) {
	for _, tt := range []struct {
		side        Side
		state, want State
	}{
		{SideSource, SourceSuspended, SourceLost},
		{SideSource, SourceHandedOn, SourceGone},
		{SideDestination, DestinationReady, DestinationDiscarded},
		{SideDestination, DestinationStarting, DestinationUnsure},
		{SideDestination, DestinationUnmaking, DestinationDiscarded},
	} {
		t.Run(fmt.Sprint(tt.side, "/", tt.state), func(t *testing.T) {
			s, _ := testStore(t)
			mustBegin(t, NewStore(earlier{s.disk}), testMigration(tt.side), tt.state).Close()
			j, err := s.Open(testID, tt.side)
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			h := &testHost{}
			_ = (&Recovery{Store: s, Host: h}).Run(t.Context(), j)
			if j.State() != tt.want || len(h.done) > 0 {
				t.Errorf("%q after %q, want %q", j.State(), h.done, tt.want)
			}
		})
	}
}

func TestAnswer(t *testing.T) {
	t.Run("unknown", func(t *testing.T) {
		s, _ := testStore(t)
		r := &Recovery{Store: s, Host: &testHost{}}
		for range 2 {
			if a, err := r.Answer(t.Context(), testID, "u"); a != AnswerDiscarded || err != nil {
				t.Fatalf("%q, %v", a, err)
			}
		}
		if _, err := s.Begin(testMigration(SideDestination)); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a late receiver may begin: %v", err)
		}
	})
	t.Run("unknown, and it is here", func(t *testing.T) {
		s, _ := testStore(t)
		r := &Recovery{Store: s, Host: &testHost{here: 7}}
		if a, err := r.Answer(t.Context(), testID, "u"); a != AnswerUnsure || err == nil {
			t.Errorf("%q, %v", a, err)
		}
	})
	t.Run("unknown, and the source is here", func(t *testing.T) {
		s, _ := testStore(t)
		m := testMigration(SideSource)
		mustBegin(t, s, m).Close()
		r := &Recovery{Store: s, Host: &testHost{here: m.Domid}}
		if a, err := r.Answer(t.Context(), m.ID, "u"); a != AnswerDiscarded || err != nil {
			t.Errorf("%q, %v", a, err)
		}
	})
	for _, tt := range []struct {
		want   Answer
		states []State
	}{
		{AnswerPending, []State{DestinationBuilding}},
		{AnswerPending, []State{DestinationStarting}},
		{AnswerStarted, []State{DestinationRunning}},
		{AnswerStarted, []State{DestinationSettled}},
		{AnswerDiscarded, []State{DestinationReady, DestinationDiscarding}},
		{AnswerPending, []State{DestinationReady, DestinationStarting, DestinationDiscarding}}, // a disk that refused GO
		{AnswerPending, []State{DestinationStarting, DestinationStalled, DestinationUnmaking}},
	} {
		want := tt.want
		t.Run(fmt.Sprint("held/", tt.states), func(t *testing.T) {
			s, _ := testStore(t)
			j := mustBegin(t, s, testMigration(SideDestination), tt.states...)
			defer j.Close()
			r := &Recovery{Store: s, Host: &testHost{}}
			if a, err := r.Answer(t.Context(), testID, "u"); a != want || err != nil {
				t.Errorf("%q, want %q: %v", a, want, err)
			}
		})
	}
}
