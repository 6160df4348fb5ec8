// Package evtchn is how programs hear of what happens at once: of a guest, by
// event channels of Xen; of each other, by memory that they share.
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
//
// Between processes of one host there is a [Page]: a memfd with a [Board], on
// which its owner shows figures, and a [Desk], at which others ask it for
// something. A [Semaphore] wakes who waits. Why so:
//   - A memfd, found among the open files of the owner ([FindPage]): it needs no
//     name on a disk and no socket, is there exactly as long as somebody has it
//     open, and can be read while its owner is stopped or hangs. The kernel
//     cleans up after every kind of death.
//   - Another's death is heard by a pidfd ([Process]): it also works for
//     processes that are not children, and takes no part in what the dead one
//     was doing. A lock in shared memory would have to be repaired instead.
//   - The only lock is that between several who ask. It is one of the kernel's
//     (flock), which ends with its holder.
package evtchn
