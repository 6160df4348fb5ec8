package fallback

// The states of the destination.
const (
	DestinationBuilding  State = "building"  // memory and state are arriving
	DestinationReady     State = "ready"     // the guest is whole and paused
	DestinationStarting  State = "starting"  // GO came: it is being let run
	DestinationRunning   State = "running"   // it runs here
	DestinationDiscarded State = "discarded" // the copy is destroyed
)

// The events at the destination, besides EventFailure.
const (
	EventBuilt    Event = "built"    // the guest is complete, with its devices
	EventGo       Event = "GO"       // the source has given it up
	EventUnpaused Event = "unpaused" // it runs, or is left paused as asked for
)

// The actions of the destination.
const (
	DoSendReady   Action = "send READY"
	DoStart       Action = "rename and unpause the guest"
	DoSendStarted Action = "send STARTED"
	DoDiscard     Action = "say DISCARDED, destroy the copy"
	DoUnmake      Action = "destroy the copy, then say DISCARDED"
)

// Destination is the table of the receiving end.
var Destination = Table{
	{DestinationBuilding, EventBuilt, DestinationReady, DoSendReady, "only GO is missing"},
	{DestinationBuilding, EventFailure, DestinationDiscarded, DoDiscard, "the source still has the guest"},
	{DestinationReady, EventGo, DestinationStarting, DoStart, "the source does not resume it by itself any more"},
	{DestinationReady, EventFailure, DestinationDiscarded, DoDiscard, "without GO it may not start; the source still has it"},
	{DestinationStarting, EventUnpaused, DestinationRunning, DoSendStarted, "the guest has moved"},
	{DestinationStarting, EventFailure, DestinationDiscarded, DoUnmake, "it may have been about to run: DISCARDED is true only when it is gone"},
	{DestinationRunning, EventFailure, DestinationRunning, DoNothing, "it runs here, whatever becomes of the link"},
}
