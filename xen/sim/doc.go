// Package sim is a host made of Linux processes: everything that a migration
// does to a guest on Xen can be done to a guest here, without Xen and without
// root, and it can fail in the same ways.
//
//	host process                  guest process, one a domain
//	  domains, memory account       vCPU goroutines: workload and checker
//	  unix socket <name>.sock       heartbeat, 1 ms
//	      |                             |
//	      | requests,          memfd: guest memory
//	      | descriptors        memfd: control area, dirty bitmap
//	      |                    eventfd: kick (to the guest), notify (from it)
//	      |                             |
//	sender or receiver  ----------------+  maps both memfds
//	  package xen's engine, through [Host]
//
// A host is started by [Serve], and reached with [Dial]. The sender and the
// receiver are other processes: killed, they harm neither the guest nor the
// host. What they leave behind is what they would leave on Xen: a guest that
// is suspended, or about to be, log-dirty mode that is on, a half-built guest
// at the destination. If the host ends, its guests end.
//
// # The guest
//
// Guest memory starts with a low mebibyte as a PC has it, in which pfns
// 0xA0-0xBF are a hole without pages. The rest is an area of package
// xen/memcheck, which the vCPUs write and verify all the time. With an image
// the area is only as large as the workload's set, and what lies beyond it, and
// below it, holds the image: contents of real programs to measure with.
//
// A vCPU writes a page, then marks it in the dirty bitmap. Whoever cleans the
// bitmap between the two sees the page again in the next round: it costs a
// resend, never a loss. Marking is unconditional, and a locked instruction: a
// look at the log-dirty flag instead could be done by the processor before the
// page's store is visible, and then a page would be lost.
//
// # Requests
//
// Each call is a connection of its own: one request, one reply (wire.go). A
// client that gives up sends one byte more, and the host takes the request
// back; a client that dies just goes, and the host leaves things as they are.
package sim
