package fallback

// The states of the destination.
const (
	DestinationBuilding   State = "building"   // memory and state are arriving
	DestinationReady      State = "ready"      // the guest is whole and paused
	DestinationStarting   State = "starting"   // GO came: it is being let run
	DestinationStalled    State = "stalled"    // the start has failed: whether it has run is to be seen
	DestinationRunning    State = "running"    // it runs here
	DestinationSettled    State = "settled"    // and the source has destroyed its own
	DestinationDiscarding State = "discarding" // the copy will never run, and is being destroyed
	DestinationUnmaking   State = "unmaking"   // the same after GO: the source is not told before it is gone
	DestinationDiscarded  State = "discarded"  // the copy is destroyed
	DestinationUnsure     State = "unsure"     // GO came, and the copy is gone: nobody knows whether it has run
)

// The events at the destination, besides EventFailure, EventDestroyed and
// EventMissing.
const (
	EventBuilt    Event = "built"    // the guest is complete, with its devices
	EventGo       Event = "GO"       // the source has given it up
	EventUnpaused Event = "unpaused" // it runs, or is left paused as asked for
	EventUnused   Event = "unused"   // it is there, paused, and has never run
	EventAck      Event = "ACK"      // the source has destroyed its own
)

// The actions of the destination.
const (
	DoSendReady     Action = "send READY"
	DoStart         Action = "rename and unpause the guest"
	DoCheck         Action = "see whether it has run"
	DoSendStarted   Action = "send STARTED"
	DoDiscard       Action = "say DISCARDED, destroy the copy"
	DoUnmake        Action = "destroy the copy"
	DoSendDiscarded Action = "say DISCARDED"
)

// Destination is the table of the receiving end.
var Destination = Table{
	{DestinationBuilding, EventBuilt, DestinationReady, DoSendReady, false, "only GO is missing"},
	{DestinationBuilding, EventFailure, DestinationDiscarding, DoDiscard, false, "the source still has the guest"},
	{DestinationReady, EventGo, DestinationStarting, DoStart, true, "the source does not resume it by itself any more"},
	{DestinationReady, EventFailure, DestinationDiscarding, DoDiscard, false, "without a recorded GO it may not start, ever; the source still has it"},
	{DestinationStarting, EventUnpaused, DestinationRunning, DoSendStarted, false, "the guest has moved"},
	{DestinationStarting, EventFailure, DestinationStalled, DoCheck, false, "what is said to have failed may have had its effect"},
	{DestinationStarting, EventMissing, DestinationUnsure, DoReport, false, "it may have run before it went: only a person can know"},
	{DestinationStalled, EventUnused, DestinationUnmaking, DoUnmake, true, "it has not run: the source may have it back, once it is gone here"},
	{DestinationStalled, EventUnpaused, DestinationRunning, DoSendStarted, true, "it has run after all, so it lives here"},
	{DestinationStalled, EventMissing, DestinationUnsure, DoReport, false, "it may have run before it went: only a person can know"},
	{DestinationStalled, EventFailure, DestinationStalled, DoRetry, false, "it stays as it is until that can be seen"},
	{DestinationUnmaking, EventDestroyed, DestinationDiscarded, DoSendDiscarded, true, "only now is it true that it will never run"},
	{DestinationUnmaking, EventUnpaused, DestinationRunning, DoSendStarted, true, "it has run after all, so it lives here"},
	{DestinationUnmaking, EventFailure, DestinationUnmaking, DoRetry, false, "the copy stays paused until it can be destroyed"},
	{DestinationDiscarding, EventDestroyed, DestinationDiscarded, DoNothing, false, "nothing is left"},
	{DestinationDiscarding, EventFailure, DestinationDiscarding, DoRetry, false, "the copy stays paused until it can be destroyed"},
	{DestinationRunning, EventAck, DestinationSettled, DoNothing, false, "nobody will ask any more"},
	{DestinationRunning, EventFailure, DestinationRunning, DoNothing, false, "it runs here, whatever becomes of the link"},
}
