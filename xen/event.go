package xen

import "time"

// Event is something that an observer of a migration may want to show. One
// with Kind EventProgress comes several times a second, the others as they
// happen.
type Event struct {
	Time  time.Time   `json:"time"`
	Kind  EventKind   `json:"event"`
	Phase string      `json:"phase,omitempty"`
	Text  string      `json:"text,omitempty"`
	Round *RoundStats `json:"round,omitempty"`
	// Progress of the current round.
	Progress *Progress `json:"progress,omitempty"`
	Report   *Report   `json:"report,omitempty"`
}

// EventKind tells the parts that an Event has.
type EventKind string

// The kinds of events.
const (
	EventPhase    EventKind = "phase"    // Phase begins
	EventRound    EventKind = "round"    // Round has ended
	EventProgress EventKind = "progress" // Progress
	EventNote     EventKind = "note"     // Text: something that a person should know
	EventEnd      EventKind = "end"      // Report; Text is the error, if any
)

// Progress is how far the current round is.
type Progress struct {
	Round     int    `json:"round"`
	Pages     uint64 `json:"pages"`       // done in this round
	OfPages   uint64 `json:"of_pages"`    // in this round
	WireBytes uint64 `json:"wire_bytes"`  // since the start
	BytesPerS uint64 `json:"bytes_per_s"` // on the wire, over the last interval
	// Method is how pages are encoded now. The rest is of this round so far.
	Method  string        `json:"method"`
	Zero    uint64        `json:"zero"`
	Copied  uint64        `json:"copied"`
	Methods []MethodStats `json:"methods,omitempty"`
	Stages  StageTimes    `json:"stages"`
}

// Observer receives events, one at a time. It must not block for long: the
// migration waits for it.
type Observer func(Event)
