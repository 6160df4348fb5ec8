//go:build xen

package xenctrl

// #include "shim.h"
import "C"

import (
	"syscall"
	"time"
)

// listChunk is how many domains one hypercall lists.
const listChunk = 64

// Domain returns what Xen knows about one domain. The error is ESRCH if there
// is none of that id.
func (h *Handle) Domain(domid uint32) (DomainInfo, error) {
	const op = "get domain information"
	var info C.xc_domaininfo_t
	n, err := C.xc_domain_getinfolist(h.xch, C.uint32_t(domid), 1, &info)
	if n < 0 {
		return DomainInfo{}, failed(op, domid, err)
	}
	// Xen answers with the next domain if this one is not there.
	if n != 1 || uint32(info.domain) != domid {
		return DomainInfo{}, &Error{op, domid, syscall.ESRCH}
	}
	return domainInfo(&info), nil
}

// Domains returns all domains, by ascending id.
func (h *Handle) Domains() ([]DomainInfo, error) {
	var list []DomainInfo
	chunk := make([]C.xc_domaininfo_t, listChunk)
	for next := uint32(0); ; {
		n, err := C.xc_domain_getinfolist(h.xch, C.uint32_t(next), listChunk, &chunk[0])
		if n < 0 {
			return nil, failed("list domains", NoDomid, err)
		}
		for i := range chunk[:n] {
			list = append(list, domainInfo(&chunk[i]))
		}
		if n < listChunk {
			return list, nil
		}
		next = list[len(list)-1].Domid + 1
	}
}

func domainInfo(c *C.xc_domaininfo_t) DomainInfo {
	info := DomainInfo{
		Domid:    uint32(c.domain),
		Flags:    DomainFlags(c.flags),
		TotPages: uint64(c.tot_pages),
		MaxPages: uint64(c.max_pages),
		CPUTime:  time.Duration(c.cpu_time),
		VCPUs:    int(c.nr_online_vcpus),
	}
	for i := range info.UUID {
		info.UUID[i] = byte(c.handle[i])
	}
	return info
}

// NrPFNs returns the size of the domain's physical address space: its highest
// mapped pfn + 1.
func (h *Handle) NrPFNs(domid uint32) (uint64, error) {
	var n C.xen_pfn_t
	if rc, err := C.xc_domain_nr_gpfns(h.xch, C.uint32_t(domid), &n); rc < 0 {
		return 0, failed("get the size of the physical address space", domid, err)
	}
	return uint64(n), nil
}

// Pause stops the domain's vCPUs. It counts: each Pause needs an Unpause.
func (h *Handle) Pause(domid uint32) error {
	rc, err := C.xc_domain_pause(h.xch, C.uint32_t(domid))
	return check(rc, err, "pause", domid)
}

// Unpause undoes one Pause.
func (h *Handle) Unpause(domid uint32) error {
	rc, err := C.xc_domain_unpause(h.xch, C.uint32_t(domid))
	return check(rc, err, "unpause", domid)
}

// Shutdown stops the domain from outside, as if it had shut down for reason.
func (h *Handle) Shutdown(domid uint32, reason ShutdownReason) error {
	rc, err := C.xc_domain_shutdown(h.xch, C.uint32_t(domid), C.int(reason))
	return check(rc, err, "shut down with reason "+reason.String(), domid)
}

// Resume lets a suspended domain run on. Its suspend hypercall returns
// "cancelled", as a guest which knows that (every current one) expects. The
// device model and xenstored are not told: that is libxl's work.
func (h *Handle) Resume(domid uint32) error {
	rc, err := C.xc_domain_resume(h.xch, C.uint32_t(domid), 1)
	return check(rc, err, "resume", domid)
}

// Destroy ends the domain in the hypervisor and frees its memory, which can
// take seconds. What it has in xenstore and its device model stay.
func (h *Handle) Destroy(domid uint32) error {
	rc, err := C.xc_domain_destroy(h.xch, C.uint32_t(domid))
	return check(rc, err, "destroy", domid)
}

// SetMaxMem sets the most memory that the domain may have.
func (h *Handle) SetMaxMem(domid uint32, maxKiB uint64) error {
	rc, err := C.xc_domain_setmaxmem(h.xch, C.uint32_t(domid), C.uint64_t(maxKiB))
	return check(rc, err, "set the maximum memory", domid)
}

// check turns libxenctrl's 0 or negative into nil or an Error.
func check(rc C.int, err error, op string, domid uint32) error {
	if rc < 0 {
		return failed(op, domid, err)
	}
	return nil
}
