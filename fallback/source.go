package fallback

// The states of the source.
const (
	SourceRunning    State = "running"    // the guest runs here, its memory is being copied
	SourceSuspending State = "suspending" // it has been asked to suspend
	SourceSuspended  State = "suspended"  // it is suspended here, nothing is promised
	SourceReady      State = "ready"      // the destination has all of it
	SourceInDoubt    State = "in doubt"   // GO was attempted: only the destination knows
	SourceHandedOn   State = "handed on"  // the destination runs it
	SourceGone       State = "gone"       // it is destroyed here
	SourceResuming   State = "resuming"   // it belongs here, and is being let run
	SourceResumed    State = "resumed"    // it runs here again
	SourceLost       State = "lost"       // it belonged here, and has ended: with this host, or by itself
)

// The events at the source.
const (
	EventAsked     Event = "suspend asked" // the guest is about to be asked
	EventSuspended Event = "suspended"     // the guest and its devices have stopped
	EventReady     Event = "READY"         // the destination says that its copy is whole
	EventSendGo    Event = "GO attempt"    // about to hand the guest over
	EventStarted   Event = "STARTED"       // the destination says that the guest runs
	EventDiscarded Event = "DISCARDED"     // the destination says that its copy is gone
	EventFailure   Event = "failure"       // anything failed, was cancelled, or the link broke
	EventDestroyed Event = "destroyed"     // the guest here is destroyed
	EventResumed   Event = "runs again"    // it runs here, and all is put back
	EventSaved     Event = "saved"         // the guest is whole in a file
	EventRunsHere  Event = "runs here"     // a person says that it belongs here, where it runs
	EventMissing   Event = "missing"       // there is no such domain here any more
)

// The actions of the source.
const (
	DoResume  Action = "resume the guest here"
	DoSendGo  Action = "send GO"
	DoDestroy Action = "destroy the guest here, send ACK"
	DoAsk     Action = "keep the guest suspended, ask the destination"
	DoRetry   Action = "report, try again"
	DoReport  Action = "report"
)

// Source is the table of the sending end.
var Source = Table{
	{SourceRunning, EventAsked, SourceSuspending, DoNothing, false, "from now on it may stop at any moment"},
	{SourceRunning, EventFailure, SourceResuming, DoResume, false, "it never left"},
	{SourceSuspending, EventSuspended, SourceSuspended, DoNothing, false, "its last pages can be sent"},
	{SourceSuspending, EventFailure, SourceResuming, DoResume, false, "the request is taken back; a guest that follows it late is resumed"},
	{SourceSuspended, EventReady, SourceReady, DoNothing, false, "the copy is whole, and does not run"},
	{SourceSuspended, EventFailure, SourceResuming, DoResume, false, "without GO the destination cannot start"},
	{SourceSuspended, EventSaved, SourceHandedOn, DoDestroy, true, "it lives on in the file only"},
	{SourceReady, EventSendGo, SourceInDoubt, DoSendGo, true, "once GO may have left, the destination may run"},
	{SourceReady, EventFailure, SourceResuming, DoResume, false, "without GO the destination cannot start"},
	{SourceInDoubt, EventStarted, SourceHandedOn, DoDestroy, false, "it runs there, so never again here"},
	{SourceInDoubt, EventDiscarded, SourceResuming, DoResume, false, "the destination has given its copy up for good"},
	{SourceInDoubt, EventFailure, SourceInDoubt, DoAsk, false, "it may run there: running it here too would destroy its data"},
	{SourceHandedOn, EventDestroyed, SourceGone, DoNothing, false, "exactly one is left"},
	{SourceHandedOn, EventFailure, SourceHandedOn, DoRetry, false, "the stale copy stays suspended until it can be destroyed"},
	{SourceHandedOn, EventRunsHere, SourceResumed, DoNothing, false, "somebody has let it run on, which nothing here would do"},
	{SourceResuming, EventResumed, SourceResumed, DoNothing, false, "as if nothing had been"},
	{SourceResuming, EventFailure, SourceResuming, DoRetry, false, "it is whole, and belongs here"},
	{SourceResuming, EventMissing, SourceLost, DoReport, false, "it has not run elsewhere: it can be started anew here"},
}
