package fallback

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestDocumented keeps docs/protocol.md the same as the tables.
func TestDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, table := range map[string]Table{"source": Source, "destination": Destination} {
		if !strings.Contains(string(doc), table.Markdown()) {
			t.Errorf("docs/protocol.md does not hold the %s table; it should read:\n%s", name, table.Markdown())
		}
	}
}

func TestTablesAreSound(t *testing.T) {
	for name, table := range map[string]Table{"source": Source, "destination": Destination} {
		seen := map[[2]string]bool{}
		handlesFailure := map[State]bool{}
		leaves := map[State]bool{}
		for _, r := range table {
			key := [2]string{string(r.From), string(r.On)}
			if seen[key] {
				t.Errorf("%s: two rows for %q in %q", name, r.On, r.From)
			}
			seen[key] = true
			leaves[r.From] = true
			handlesFailure[r.From] = handlesFailure[r.From] || r.On == EventFailure
		}
		for s := range leaves {
			if !handlesFailure[s] {
				t.Errorf("%s: a failure in state %q is not handled", name, s)
			}
		}
	}
}

// reach returns every state that can follow from a state.
func reach(table Table, from State) map[State]bool {
	seen := map[State]bool{from: true}
	for grown := true; grown; {
		grown = false
		for _, r := range table {
			if seen[r.From] && !seen[r.To] {
				seen[r.To], grown = true, true
			}
		}
	}
	return seen
}

// TestNeverTwo walks the rule of the package: resuming at the source needs
// either that GO was never attempted, or the destination's word.
func TestNeverTwo(t *testing.T) {
	for _, r := range Source {
		if r.Do == DoResume && r.From == SourceInDoubt && r.On != EventDiscarded {
			t.Errorf("the source resumes in doubt on %q", r.On)
		}
	}
	if reach(Source, SourceHandedOn)[SourceResuming] {
		t.Error("the source can resume a guest that runs at the destination")
	}
	for _, r := range Source {
		if r.From == SourceHandedOn && r.To == SourceResumed && (r.On != EventRunsHere || r.Do != DoNothing) {
			t.Errorf("a guest that runs at the destination can run here on %q", r.On)
		}
	}
	for _, r := range Destination {
		if r.Do == DoStart && (r.From != DestinationReady || r.On != EventGo) {
			t.Errorf("the destination starts in %q on %q", r.From, r.On)
		}
	}
	if s := reach(Destination, DestinationDiscarding); s[DestinationStarting] || s[DestinationRunning] {
		t.Error("the destination can start a discarded copy")
	}
	if reach(Destination, DestinationRunning)[DestinationDiscarded] {
		t.Error("the destination can discard a guest that runs")
	}
}

func TestMachine(t *testing.T) {
	m := NewMachine(Source)
	if _, err := m.Step(EventStarted); err == nil {
		t.Fatal("STARTED before GO was accepted")
	}
	for _, step := range []struct {
		on Event
		do Action
	}{
		{EventAsked, DoNothing}, {EventSuspended, DoNothing}, {EventReady, DoNothing}, {EventSendGo, DoSendGo},
		{EventFailure, DoAsk}, {EventStarted, DoDestroy}, {EventDestroyed, DoNothing},
	} {
		if do, err := m.Step(step.on); err != nil || do != step.do {
			t.Fatalf("on %q: %q, %v", step.on, do, err)
		}
	}
	if m.State() != SourceGone {
		t.Fatalf("ended in %q", m.State())
	}
}

func TestStepThatCannotBeRecorded(t *testing.T) {
	full := errors.New("disk full")
	refuse := func(Transition) error { return full }
	m := NewMachineAt(Destination, DestinationReady)
	m.OnStep = refuse
	if _, err := m.Step(EventGo); !errors.Is(err, full) || m.State() != DestinationReady {
		t.Fatalf("a durable step: %v, now %q", err, m.State())
	}
	if do, err := m.Step(EventFailure); err != nil || do != DoDiscard {
		t.Fatalf("a failure must be dealt with all the same: %q, %v", do, err)
	}
}
