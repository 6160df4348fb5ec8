package fallback

// The states of the source.
const (
	SourceRunning   State = "running"   // the guest runs here, its memory is being copied
	SourceSuspended State = "suspended" // it is suspended here, nothing is promised
	SourceReady     State = "ready"     // the destination has all of it
	SourceInDoubt   State = "in doubt"  // GO was attempted: only the destination knows
	SourceHandedOn  State = "handed on" // the destination runs it
	SourceGone      State = "gone"      // it is destroyed here
	SourceResumed   State = "resumed"   // it runs here again
)

// The events at the source.
const (
	EventSuspended Event = "suspended"  // the guest and its devices have stopped
	EventReady     Event = "READY"      // the destination says that its copy is whole
	EventSendGo    Event = "GO attempt" // about to hand the guest over
	EventStarted   Event = "STARTED"    // the destination says that the guest runs
	EventDiscarded Event = "DISCARDED"  // the destination says that its copy is gone
	EventFailure   Event = "failure"    // anything failed, was cancelled, or the link broke
	EventDestroyed Event = "destroyed"  // the guest here is destroyed
)

// The actions of the source.
const (
	DoResume  Action = "resume the guest here"
	DoSendGo  Action = "send GO"
	DoDestroy Action = "destroy the guest here, send ACK"
	DoKeep    Action = "keep the guest suspended, report"
)

// Source is the table of the sending end.
var Source = Table{
	{SourceRunning, EventSuspended, SourceSuspended, DoNothing, "its last pages can be sent"},
	{SourceRunning, EventFailure, SourceResumed, DoResume, "it never left; a suspend under way is taken back"},
	{SourceSuspended, EventReady, SourceReady, DoNothing, "the copy is whole, and does not run"},
	{SourceSuspended, EventFailure, SourceResumed, DoResume, "without GO the destination cannot start"},
	{SourceReady, EventSendGo, SourceInDoubt, DoSendGo, "once GO may have left, the destination may run"},
	{SourceReady, EventFailure, SourceResumed, DoResume, "without GO the destination cannot start"},
	{SourceInDoubt, EventStarted, SourceHandedOn, DoDestroy, "it runs there, so never again here"},
	{SourceInDoubt, EventDiscarded, SourceResumed, DoResume, "the destination has given its copy up for good"},
	{SourceInDoubt, EventFailure, SourceInDoubt, DoKeep, "it may run there: running it here too would destroy its data"},
	{SourceHandedOn, EventDestroyed, SourceGone, DoNothing, "exactly one is left"},
	{SourceHandedOn, EventFailure, SourceHandedOn, DoKeep, "the stale copy stays suspended until it can be destroyed"},
}
