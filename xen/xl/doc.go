// Package xl is the real Xen host: [xen.Host] through libxenlight, libxenctrl
// and event channels. It is built with the tag xen; without it Open answers
// with one clear error, and everything else in the program still works.
//
// # The source
//
// A domain (domain.go) is driven by ourselves: log-dirty mode, mapped memory,
// suspend, QEMU over QMP. libxl is asked only for what must leave its own
// books in order: the configuration, resume, rename, destroy.
//
// # The destination
//
// libxl builds the guest (incoming.go), so that devices, QEMU and xenstore are
// made exactly as xl makes them. Only the guest's memory and processor state
// do not go through libxl:
//
//	libxl_domain_create_restore ── stream ──┬── receiver: libxl's header, QEMU's state
//	        │        ▲                      │
//	   starts        │ stdin, stdout        │
//	        ▼        ▼                      │
//	this binary as libxl's save helper ─────┘
//
// libxl reads its stream from one end of a private socket pair and starts a
// save helper, which inherits that end. LIBXL_SAVE_HELPER names our own binary
// (helper.go), so the helper is a bridge: it passes on to libxl, in the form
// that libxl knows, what the receiver at the socket's other end tells it
// (bridge.go), and no page ever goes through it. The receiver itself maps the
// new domain's memory and puts the pages in.
//
// A PV guest's page tables hold frame numbers of its host. Its libxc stream is
// written and read by Xen's own library (domain_pv.go, incoming_pv.go): at the
// destination it goes through the same socket, and the helper hands it to the
// library.
//
// # Under stock xl
//
// Where LIBXL_SAVE_HELPER names our binary for somebody else's libxl, the
// helper is all that is ours: it writes (helper_save.go) or reads
// (helper_stock.go) the libxc stream with the engine of package xen, and has
// libxl do the rest by messages (callouts.go). It tells by the first eight bytes
// of what it is to read whether a receiver of ours or a stock sender is there.
//
// # Who cleans up
//
// A guest that is not finished must never stay behind. While the receiver
// lives, closing its end of the stream makes libxl fail and destroy the
// domain. When the receiver is killed libxl is gone with it, being a library
// in the same process; then the helper, which sees both ends close, destroys
// the domain. Once the helper has told libxl that memory and state are complete
// it must end, as libxl waits for that; a receiver that is killed later leaves
// a paused domain, and whoever keeps the record of the migration must judge it.
//
// # Afterwards
//
// xl leaves a process behind for each guest, which restarts it when it reboots.
// [Monitor] does that for a guest that has arrived here.
//
// # Trust
//
// The configuration and the records come from the other host, which acts as
// root there and is let in by ssh as root here. They are checked all the same
// (lengths, counts, known kinds, the guest's own pages only) before anything
// acts on them, because a broken sender is likelier than a hostile one.
package xl
