// Package fallback decides which side runs the guest.
//
// Each end of a migration is a [Machine] over one transition table: [Source]
// or [Destination]. A table's row says what an event means in a state, what
// has to be done, and why. An event that a table does not list in its state is
// an error of the program, never ignored. docs/protocol.md shows the same
// tables, and a test keeps it so.
//
// The rule behind the rows: the guest belongs to the source until the source
// has attempted GO. Before that any failure resumes it there at once, and the
// destination discards its copy. After that only the destination's word counts.
//
// [Machine.OnStep] sees each step before it takes effect: the place of the
// durable journal.
package fallback
