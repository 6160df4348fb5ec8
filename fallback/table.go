package fallback

import (
	"fmt"
	"strings"
)

// State is where one end of a migration stands.
type State string

// Event is what happens to one end.
type Event string

// Action is what an end must do when it has entered the new state.
type Action string

// Transition is one row of a table.
type Transition struct {
	From State
	On   Event
	To   State
	Do   Action
	// Durable: the step is on disk before it takes effect, and does not happen
	// if that fails. Other steps are written as well, but do not wait for the
	// disk and happen in any case: read back without them, the journal leads
	// to the same end.
	Durable bool
	Why     string
}

// Table is all transitions of one end. The first row leaves the first state.
type Table []Transition

// DoNothing is the action of a transition that only changes the state.
const DoNothing Action = "-"

// find returns the row for an event in a state.
func (t Table) find(from State, on Event) (Transition, error) {
	for _, row := range t {
		if row.From == from && row.On == on {
			return row, nil
		}
	}
	return Transition{}, fmt.Errorf("fallback: event %q is impossible in state %q", on, from)
}

// knows tells whether the table has that state.
func (t Table) knows(s State) bool {
	for _, row := range t {
		if row.From == s || row.To == s {
			return true
		}
	}
	return false
}

// Markdown returns the table as it stands in docs/protocol.md.
func (t Table) Markdown() string {
	var b strings.Builder
	b.WriteString("| state | event | next state | action | on disk first | why |\n|---|---|---|---|---|---|\n")
	for _, r := range t {
		durable := ""
		if r.Durable {
			durable = "yes"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", r.From, r.On, r.To, r.Do, durable, r.Why)
	}
	return b.String()
}

// Machine walks one table. It belongs to one goroutine.
type Machine struct {
	// OnStep, when set, is called with each step before it takes effect: it
	// writes the journal. An error from it stops a durable step: the state
	// stays. Any other step happens all the same.
	OnStep func(Transition) error

	table Table
	state State
}

// NewMachine returns a machine in the first state of the table.
func NewMachine(t Table) *Machine { return NewMachineAt(t, t[0].From) }

// NewMachineAt returns a machine that goes on from a state of the table.
func NewMachineAt(t Table, s State) *Machine { return &Machine{table: t, state: s} }

// State returns where the machine stands.
func (m *Machine) State() State { return m.state }

// Step takes an event and returns what must be done now.
func (m *Machine) Step(on Event) (Action, error) {
	row, err := m.table.find(m.state, on)
	if err != nil {
		return DoNothing, err
	}
	if m.OnStep != nil {
		if err := m.OnStep(row); err != nil && row.Durable {
			return DoNothing, fmt.Errorf("recording the step from %q on %q: %w", row.From, row.On, err)
		}
	}
	m.state = row.To
	return row.Do, nil
}
