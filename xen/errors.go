package xen

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// Code says in one word why an end gave up, on the wire and in JSON output.
type Code string

// The codes.
const (
	CodeFailed      Code = "failed"
	CodeCancelled   Code = "cancelled"
	CodeNoDomain    Code = "no-domain"
	CodeNameTaken   Code = "name-taken"
	CodeNoMemory    Code = "no-memory"
	CodeVersion     Code = "version"
	CodeUnsupported Code = "unsupported"
	CodeSuspend     Code = "no-suspend"
	CodeCorrupt     Code = "corrupt"
	CodeNoHost      Code = "no-host"
)

// codes maps the errors that have a code of their own.
var codes = []struct {
	err  error
	code Code
}{
	{context.Canceled, CodeCancelled},
	{ErrNoHost, CodeNoHost},
	{ErrNoDomain, CodeNoDomain},
	{ErrNameTaken, CodeNameTaken},
	{ErrNoMemory, CodeNoMemory},
	{ErrUnsupported, CodeUnsupported},
	{ErrSuspendRefused, CodeSuspend},
	{ErrVersion, CodeVersion},
	{ErrCorrupt, CodeCorrupt},
}

// Errors of the link between the two ends.
var (
	// ErrPeerLost: the control connection ended without a word.
	ErrPeerLost = errors.New("connection to the other host lost")
	// ErrPeerSilent: the connection is there, but nothing came for Limits.Silence.
	ErrPeerSilent = errors.New("other host does not answer")
	// ErrNoHost: the other program is there, but not its hypervisor.
	ErrNoHost = errors.New("no hypervisor to work with")
	// ErrNotPeer: what answered is not xenferry.
	ErrNotPeer = errors.New("what answers there is not xenferry")
	// ErrVersion: the two programs have no protocol version in common.
	ErrVersion = errors.New("protocol versions do not match")
	// ErrCorrupt: bytes or pages arrived damaged, or make no sense.
	ErrCorrupt = errors.New("stream is corrupt")
)

// CodeOf returns the code of an error: CodeFailed where no other fits.
func CodeOf(err error) Code {
	var peer *PeerError
	if errors.As(err, &peer) {
		return peer.Code
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	if IsDamage(err) {
		return CodeCorrupt
	}
	return CodeFailed
}

// IsDamage tells whether an error is about the bytes of a guest, in a file or
// on the wire.
func IsDamage(err error) bool {
	var format *savefmt.FormatError
	var container *savefmt.ContainerError
	return errors.As(err, &format) || errors.As(err, &container) ||
		errors.Is(err, savefmt.ErrNotSaved) || errors.Is(err, ErrCorrupt)
}

// PeerError is what the other end said before it gave up.
type PeerError struct {
	Host string
	Code Code
	Text string
}

func (e *PeerError) Error() string { return fmt.Sprintf("%s: %s", e.Host, e.Text) }

// Is lets errors.Is see the cause that the code stands for.
func (e *PeerError) Is(target error) bool {
	for _, c := range codes {
		if c.code == e.Code && c.err == target {
			return true
		}
	}
	return false
}

// Outcome is where the guest is when a migration has ended.
type Outcome string

// The outcomes.
const (
	OutcomeMoved     Outcome = "moved"                  // it runs at the destination
	OutcomeAtSource  Outcome = "at source"              // it runs on at the source
	OutcomeInDoubt   Outcome = "in doubt"               // kept suspended at the source; it may run at the destination
	OutcomeSuspended Outcome = "suspended"              // at the source, but it could not be resumed
	OutcomeEnded     Outcome = "ended"                  // by itself, or destroyed by somebody else meanwhile: it is nowhere
	OutcomeLeftover  Outcome = "moved, stale copy left" // it runs at the destination; the source's copy could not be destroyed
)

// PhaseHello is the name of the source's first phase: a failure in it has
// touched neither the guest nor its memory.
const PhaseHello = "hello"

// MigrateError is the failure of a migration at the source: the cause, and
// where the guest is now.
type MigrateError struct {
	Phase   string // the phase that failed
	Outcome Outcome
	Cause   error
	// ResumedAfter is how long the guest took to run again at the source,
	// from the moment that the failure was seen. 0 if it never stopped.
	ResumedAfter time.Duration
	// Cleanup is what else could not be put back, or nil.
	Cleanup error
}

func (e *MigrateError) Error() string {
	text := fmt.Sprintf("migration failed (%s): %v", e.Phase, e.Cause)
	return text + andThen(text, e.Cleanup)
}

// andThen tells of what has failed after that, in one line, without what was
// told already: one cause fails every step.
func andThen(told string, cleanup error) string {
	if cleanup == nil {
		return ""
	}
	var more []string
	for text := range strings.SplitSeq(cleanup.Error(), "\n") { // of errors.Join
		if !strings.Contains(told, text) {
			more, told = append(more, text), told+"\n"+text
		}
	}
	if more == nil {
		return ""
	}
	return fmt.Sprintf(" (and then: %s)", strings.Join(more, "; "))
}

func (e *MigrateError) Unwrap() error { return e.Cause }
