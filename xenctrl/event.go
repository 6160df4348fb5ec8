//go:build xen

package xenctrl

// #include "shim.h"
import "C"

import "unsafe"

// AllocUnbound makes a new port in domid, which remote may bind. Only domid
// itself can close it again.
func (h *Handle) AllocUnbound(domid, remote uint32) (port uint32, err error) {
	p, err := C.xc_evtchn_alloc_unbound(h.xch, C.uint32_t(domid), C.uint32_t(remote))
	if p < 0 {
		return 0, failed("allocate an event channel port", domid, err)
	}
	return uint32(p), nil
}

// PortStatus returns the state of one of domid's ports.
func (h *Handle) PortStatus(domid, port uint32) (PortStatus, error) {
	st := C.xc_evtchn_status_t{dom: C.domid_t(domid), port: C.evtchn_port_t(port)}
	if rc, err := C.xc_evtchn_status(h.xch, &st); rc < 0 {
		return PortStatus{}, failed("get the status of an event channel port", domid, err)
	}
	out := PortStatus{State: PortState(st.status)}
	if out.State == PortUnbound || out.State == PortInterdomain {
		// The domid is the first field of both members of the union.
		out.Remote = uint32(*(*C.domid_t)(unsafe.Pointer(&st.u)))
	}
	return out, nil
}

// Unbound tells whether domid's port waits for remote to bind it.
func (h *Handle) Unbound(domid, port, remote uint32) (bool, error) {
	st, err := h.PortStatus(domid, port)
	return err == nil && st.State == PortUnbound && st.Remote == remote, err
}

// SubscribeSuspend makes Xen send on domid's port when domid has suspended, in
// place of the global notification that xenstored and libxl wait for. The last
// subscription wins. It stays when the subscriber dies, and stock tools then
// miss the domain's suspends until port 0 takes it back.
func (h *Handle) SubscribeSuspend(domid, port uint32) error {
	rc, err := C.xc_domain_subscribe_for_suspend(h.xch, C.uint32_t(domid), C.evtchn_port_t(port))
	return check(rc, err, "subscribe to the suspend event", domid)
}

// SeedGrantTable writes the entries of the xenstore and console pages, gfns of
// an HVM or PVH domain, into its grant table.
func (h *Handle) SeedGrantTable(domid uint32, consoleGFN, storeGFN uint64, consoleDomid, storeDomid uint32) error {
	rc, err := C.xc_dom_gnttab_seed(h.xch, C.uint32_t(domid), true, C.xen_pfn_t(consoleGFN),
		C.xen_pfn_t(storeGFN), C.uint32_t(consoleDomid), C.uint32_t(storeDomid))
	return check(rc, err, "seed the grant table", domid)
}
