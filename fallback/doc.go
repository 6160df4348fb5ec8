// Package fallback decides which side runs the guest, and sees to it that one
// does, whoever is killed on the way.
//
// Each end of a migration is a [Machine] over one transition table: [Source]
// or [Destination]. A table's row says what an event means in a state, what
// has to be done, what has to be on disk before, and why. An event that a
// table does not list in its state is an error of the program, never ignored.
// docs/protocol.md shows the same tables, and a test keeps it so.
//
// The rule behind the rows: the guest belongs to the source until the source
// has attempted GO, and from the moment on which the destination has recorded
// GO it belongs to the destination. Between the two only the destination's
// word counts.
//
// Each step goes into a [Journal]: one file for each migration and side, which
// also is a lock: whoever holds it is the only one that acts for this end. A
// guardian, a second process, waits for the first one's death ([Guard]) and
// then does what the journal allows ([Recovery.Run]); the same is done by the
// command recover after a reboot, and at the destination for a source that
// asks ([Recovery.Answer]).
package fallback
