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
func (h *testHost) Resume(context.Context, *Journal) error    { return h.do("resume") }
func (h *testHost) Suspended(context.Context, *Journal) error { return h.err["suspended"] }
func (h *testHost) Destroy(context.Context, *Journal) error   { return h.do("destroy") }
func (h *testHost) Start(context.Context, *Journal) error     { return h.do("start") }
func (h *testHost) Unused(context.Context, *Journal) error    { return h.do("unused") }
func (h *testHost) Discard(context.Context, *Journal) error   { return h.do("discard") }
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
			h := &testHost{err: tt.err}
			r := &Recovery{Store: s, Host: h, Peer: h, Witness: tt.witness}
			sum, err := r.Finish(t.Context(), mustBegin(t, s, testMigration(tt.side), tt.state))
			for sum.State != tt.want && err != nil && len(h.done) < 2 {
				sum, err = finish(t, r, tt.side) // a guardian tries again
			}
			if sum.State != tt.want || !slices.Equal(h.done, tt.done) {
				t.Errorf("%q after %q, want %q after %q: %v", sum.State, h.done, tt.want, tt.done, err)
			}
			if (err == nil) != sum.Finished {
				t.Errorf("finished %v, error %v", sum.Finished, err)
			}
			if j, err := s.Open(testID, tt.side); err != nil {
				t.Errorf("the journal is still held: %v", err)
			} else if _ = j.Close(); j.State() != tt.want {
				t.Errorf("the journal says %q", j.State())
			}
		})
	}
}

func finish(t *testing.T, r *Recovery, side Side) (Summary, error) {
	t.Helper()
	j, err := r.Store.Open(testID, side)
	if err != nil {
		t.Fatal(err)
	}
	return r.Finish(t.Context(), j)
}

// slowPeer gives its answer after a person has decided.
type slowPeer struct {
	t      *testing.T
	r      *Recovery
	resume bool
	answer Answer
}

func (p slowPeer) Ask(ctx context.Context, m Migration) (Answer, error) {
	j, err := p.r.Store.Open(m.ID, m.Side)
	if err != nil {
		p.t.Fatalf("a person cannot decide while the destination is asked: %v", err)
	}
	defer j.Close()
	if err := p.r.Resolve(ctx, j, p.resume); err != nil {
		p.t.Error(err)
	}
	return p.answer, nil
}

// TestDecidedWhileAsked: a person decides while the destination thinks. What it
// says afterwards changes nothing.
func TestDecidedWhileAsked(t *testing.T) {
	for _, resume := range []bool{true, false} {
		for _, answer := range []Answer{AnswerStarted, AnswerDiscarded, AnswerPending} {
			t.Run(fmt.Sprintf("resume %v, %s", resume, answer), func(t *testing.T) {
				s, _ := testStore(t)
				h := &testHost{}
				r := &Recovery{Store: s, Host: h}
				r.Peer = slowPeer{t, r, resume, answer}
				_ = mustBegin(t, s, testMigration(SideSource), SourceInDoubt).Close()
				want, done := SourceGone, "destroy"
				if resume {
					want, done = SourceResumed, "resume"
				}
				sum, err := finish(t, r, SideSource)
				if err != nil || sum.State != want || !slices.Equal(h.done, []string{done}) {
					t.Errorf("%q after %q, want %q: %v", sum.State, h.done, want, err)
				}
			})
		}
	}
}

// TestResolve: what a person says is recorded only if it can be done.
func TestResolve(t *testing.T) {
	for _, tt := range []struct {
		name    string
		state   State
		look    error // of Suspended
		resume  bool
		want    State
		refused bool
	}{
		{"resume", SourceInDoubt, nil, true, SourceResumed, false},
		{"destroy", SourceInDoubt, nil, false, SourceGone, false},
		{"destroy what is gone", SourceInDoubt, ErrMissing, false, SourceGone, false},
		{"destroy what runs here", SourceInDoubt, ErrRuns, false, SourceInDoubt, true},
		{"destroy what cannot be seen", SourceInDoubt, errors.New("no hypervisor"), false, SourceInDoubt, true},
		{"resume what runs here, handed on", SourceHandedOn, ErrRuns, true, SourceResumed, false},
		{"resume what is suspended, handed on", SourceHandedOn, nil, true, SourceHandedOn, true},
		{"resume what is gone, handed on", SourceHandedOn, ErrMissing, true, SourceHandedOn, true},
		{"destroy what runs here, handed on", SourceHandedOn, ErrRuns, false, SourceHandedOn, true},
		{"destroy what is suspended, handed on", SourceHandedOn, nil, false, SourceHandedOn, true},
		{"resume what has not left", SourceReady, nil, true, SourceReady, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := testStore(t)
			j := mustBegin(t, s, testMigration(SideSource), tt.state)
			defer j.Close()
			h := &testHost{err: map[string]error{"suspended": tt.look}}
			err := (&Recovery{Store: s, Host: h}).Resolve(t.Context(), j, tt.resume)
			if (err != nil) != tt.refused || j.State() != tt.want || tt.refused && len(h.done) > 0 {
				t.Errorf("%q after %q, want %q: %v", j.State(), h.done, tt.want, err)
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
