// Package evtchn waits for event channels, and so for the moment in which a
// guest has suspended.
//
// [Channel] is one handle on the event channel device: on Xen by libxenevtchn
// (build tag xen), in tests by [Memory]. [SubscribeSuspend] uses one to hear
// from Xen directly that a guest has suspended, without the guest's help and
// without xenstored in between: Xen sends the event in the instant in which
// the last vCPU stops.
//
// The traps of that subscription, all of which it takes care of:
//   - The port belongs to the guest, and dom0 cannot close it again: it is kept
//     and used again, see [PortStore].
//   - While there is a subscription Xen does not raise the notification that
//     xenstored and stock tools wait for. It must be taken back on every way
//     out, and outlives a process that was killed: it is taken back first.
//   - A newly bound port is pending at once. That first event means nothing.
package evtchn
