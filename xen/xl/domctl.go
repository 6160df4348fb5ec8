//go:build xen

package xl

/*
#include <stdlib.h>
#include <libxl.h>
#include <libxl_utils.h>
*/
import "C"

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/xenferry/xenferry/xen"
)

// What libxl does with one domain, in one call each.

// resume makes a suspended guest run on, with its device model and its place
// in xenstored's books. It does harm to no guest that runs.
func (c *libxl) resume(domid uint32) error {
	return c.call("resume", domid, func() C.int {
		const suspendCancel = 1 // the guest learns that it did not move
		return C.libxl_domain_resume(c.lx, C.uint32_t(domid), suspendCancel, nil)
	})
}

// rename gives the domain the name to. It fails if its name is not from, or
// another domain has that name.
func (c *libxl) rename(domid uint32, from, to string) error {
	cFrom, cTo := C.CString(from), C.CString(to)
	defer C.free(unsafe.Pointer(cFrom))
	defer C.free(unsafe.Pointer(cTo))
	return c.call(fmt.Sprintf("rename %q to %q:", from, to), domid, func() C.int {
		return C.libxl_domain_rename(c.lx, C.uint32_t(domid), cFrom, cTo)
	})
}

// destroy ends the domain: its devices, its device model, its place in
// xenstore. It waits up to 10 s for each device's backend.
func (c *libxl) destroy(domid uint32) error {
	if domid == 0 {
		return fmt.Errorf("libxl: destroy domain 0: refused, it is the host itself")
	}
	return c.call("destroy", domid, func() C.int {
		return C.libxl_domain_destroy(c.lx, C.uint32_t(domid), nil)
	})
}

// pause stops a domain's processors until unpause.
func (c *libxl) pause(domid uint32) error {
	return c.call("pause", domid, func() C.int {
		return C.libxl_domain_pause(c.lx, C.uint32_t(domid), nil)
	})
}

// unpause lets the domain and its device model run.
func (c *libxl) unpause(domid uint32) error {
	return c.call("unpause", domid, func() C.int {
		return C.libxl_domain_unpause(c.lx, C.uint32_t(domid), nil)
	})
}

// info describes one domain. The error wraps xen.ErrNoDomain if there is none
// of that id.
func (c *libxl) info(domid uint32) (xen.DomainInfo, error) {
	var di C.libxl_dominfo
	C.libxl_dominfo_init(&di)
	defer C.libxl_dominfo_dispose(&di)
	err := c.call("get information on", domid, func() C.int {
		return C.libxl_domain_info(c.lx, &di, C.uint32_t(domid))
	})
	if err != nil {
		return xen.DomainInfo{}, err
	}
	return c.describe(&di), nil
}

// list describes all domains, by domid.
func (c *libxl) list() ([]xen.DomainInfo, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	var n C.int
	all := C.libxl_list_domain(c.lx, &n)
	if all == nil {
		return nil, c.failed("list domains", 0, C.ERROR_FAIL)
	}
	defer C.libxl_dominfo_list_free(all, n)
	out := make([]xen.DomainInfo, 0, int(n))
	for i := range unsafe.Slice(all, int(n)) {
		out = append(out, c.describe(&unsafe.Slice(all, int(n))[i]))
	}
	return out, nil
}

// describe translates what libxl says of a domain. A domain without a name is
// one that is just being made or destroyed: it has "".
func (c *libxl) describe(di *C.libxl_dominfo) xen.DomainInfo {
	out := xen.DomainInfo{
		Domid:   uint32(di.domid),
		UUID:    uuidString(*(*[16]byte)(unsafe.Pointer(&di.uuid))),
		Type:    c.typeOf(di),
		State:   runState(di),
		MemKiB:  uint64(di.current_memkb),
		VCPUs:   int(di.vcpu_online),
		CPUTime: time.Duration(di.cpu_time),
	}
	if name := C.libxl_domid_to_name(c.lx, C.uint32_t(di.domid)); name != nil {
		out.Name = C.GoString(name)
		C.free(unsafe.Pointer(name))
	}
	return out
}

// typeOf tells PVH from HVM, which the hypervisor does not and libxl_dominfo
// therefore does not either: libxl keeps it in xenstore. A domain without that
// node is HVM, as for libxl itself.
func (c *libxl) typeOf(di *C.libxl_dominfo) xen.GuestType {
	t := guestType(di.domain_type)
	if t != xen.TypeHVM {
		return t
	}
	value, ok, err := c.xs.read(fmt.Sprintf("/libxl/%d/type", uint32(di.domid)))
	switch {
	case err != nil:
		return "" // better none than a wrong one
	case ok && value == string(xen.TypePVH):
		return xen.TypePVH
	}
	return t
}

func guestType(t C.libxl_domain_type) xen.GuestType {
	switch t {
	case C.LIBXL_DOMAIN_TYPE_HVM:
		return xen.TypeHVM
	case C.LIBXL_DOMAIN_TYPE_PVH:
		return xen.TypePVH
	case C.LIBXL_DOMAIN_TYPE_PV:
		return xen.TypePV
	}
	return ""
}

func runState(di *C.libxl_dominfo) xen.RunState {
	switch {
	case bool(di.dying):
		return xen.StateDying
	case bool(di.shutdown) && di.shutdown_reason == C.LIBXL_SHUTDOWN_REASON_SUSPEND:
		return xen.StateSuspended
	case bool(di.shutdown) && di.shutdown_reason == C.LIBXL_SHUTDOWN_REASON_CRASH:
		return xen.StateCrashed
	case bool(di.shutdown):
		return xen.StateShutdown
	case bool(di.paused):
		return xen.StatePaused
	}
	return xen.StateRunning
}

// uuidString is the usual form, 8-4-4-4-12 hexadecimal digits.
func uuidString(u [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
