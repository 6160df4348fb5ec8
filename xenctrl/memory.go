//go:build xen

package xenctrl

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"
)

const pageSize = C.XC_PAGE_SIZE

// PageTypes stores the type of each of up to MaxBatchPages pfns in types: the
// four bits XEN_DOMCTL_PFINFO_* of xen/include/public/domctl.h, shifted down.
// A pfn that is mapped populate-on-demand gets populated.
func PageTypes[T ~uint8](h *Handle, domid uint32, pfns []uint64, types []T) error {
	const op = "get page types"
	if len(pfns) == 0 {
		return nil
	}
	if len(pfns) > MaxBatchPages || len(types) < len(pfns) {
		return &Error{op, domid, fmt.Errorf("%d pfns, room for %d types, at most %d: %w",
			len(pfns), len(types), MaxBatchPages, syscall.EINVAL)}
	}
	rc, err := C.xf_page_types(h.xch, C.uint32_t(domid), C.uint32_t(len(pfns)),
		(*C.uint64_t)(&pfns[0]), (*C.uint8_t)(unsafe.Pointer(&types[0])))
	return check(rc, err, op, domid)
}

// Mapping is a view of up to MaxBatchPages pages of a domain. The zero value
// is ready for Map; it is reused, and allocates nothing. One goroutine at a
// time may use it.
type Mapping struct {
	h    *Handle
	addr unsafe.Pointer // nil: nothing is mapped
	n    int
	errs [MaxBatchPages]C.int
}

// Map maps the pages of pfns, in their order, for reading and, if writable,
// for writing. A page that cannot be mapped does not fail the call: see
// Failed. What was mapped before must have been unmapped.
func (h *Handle) Map(m *Mapping, domid uint32, pfns []uint64, writable bool) error {
	const op = "map guest pages"
	if m.addr != nil {
		return &Error{op, domid, fmt.Errorf("the last mapping is still there: %w", syscall.EBUSY)}
	}
	if len(pfns) == 0 || len(pfns) > MaxBatchPages {
		return &Error{op, domid, fmt.Errorf("%d pages, 1 to %d are possible: %w", len(pfns), MaxBatchPages, syscall.EINVAL)}
	}
	prot := C.int(C.PROT_READ)
	if writable {
		prot |= C.PROT_WRITE
	}
	addr, err := C.xenforeignmemory_map(h.fmem, C.uint32_t(domid), prot, C.size_t(len(pfns)),
		(*C.xen_pfn_t)(unsafe.Pointer(&pfns[0])), &m.errs[0])
	if addr == nil {
		return failed(op, domid, err)
	}
	m.h, m.addr, m.n = h, addr, len(pfns)
	liveMappings.Add(1)
	return nil
}

// Failed returns the index of the first page that could not be mapped, and
// why; or -1. Touching such a page ends the process with SIGBUS.
func (m *Mapping) Failed() (int, error) {
	for i, e := range m.errs[:m.n] {
		if e != 0 {
			return i, syscall.Errno(-e)
		}
	}
	return -1, nil
}

// Page returns the view of the i-th page, valid until Unmap.
func (m *Mapping) Page(i int) []byte {
	all := unsafe.Slice((*byte)(m.addr), m.n*pageSize)
	return all[i*pageSize : (i+1)*pageSize : (i+1)*pageSize]
}

// Unmap ends the view. Idempotent.
func (m *Mapping) Unmap() error {
	if m.addr == nil {
		return nil
	}
	rc, err := C.xenforeignmemory_unmap(m.h.fmem, m.addr, C.size_t(m.n))
	m.addr, m.n = nil, 0
	liveMappings.Add(-1)
	return check(rc, err, "unmap guest pages", NoDomid)
}

// Populate gives the domain an extent of 2^order pages at each of pfns, and
// returns at how many of them, from the first on: all, or there is an error too
// (EBUSY where memory has run out). The domain's limit and the host's free memory
// bound it. A new page holds anything. Doing it twice for one pfn loses the first
// page.
func (h *Handle) Populate(domid uint32, order uint, pfns []uint64) (int, error) {
	if len(pfns) == 0 {
		return 0, nil
	}
	rc, err := C.xc_domain_populate_physmap(h.xch, C.uint32_t(domid), C.ulong(len(pfns)),
		C.uint(order), 0, (*C.xen_pfn_t)(unsafe.Pointer(&pfns[0])))
	if int(rc) == len(pfns) {
		return len(pfns), nil
	}
	if rc >= 0 {
		err = syscall.EBUSY
	}
	return max(int(rc), 0), failed(fmt.Sprintf("populate %d extents of order %d", len(pfns), order), domid, err)
}

// Release takes the pages pfns away from the domain. They are nobody's then.
func (h *Handle) Release(domid uint32, pfns []uint64) error {
	if len(pfns) == 0 {
		return nil
	}
	rc, err := C.xc_domain_decrease_reservation_exact(h.xch, C.uint32_t(domid), C.ulong(len(pfns)),
		0, (*C.xen_pfn_t)(unsafe.Pointer(&pfns[0])))
	return check(rc, err, fmt.Sprintf("release %d pages", len(pfns)), domid)
}

// ClearPages fills num pages from pfn on with zeros.
func (h *Handle) ClearPages(domid uint32, pfn uint64, num int) error {
	rc, err := C.xc_clear_domain_pages(h.xch, C.uint32_t(domid), C.ulong(pfn), C.int(num))
	if rc != 0 {
		return failed(fmt.Sprintf("clear %d pages at pfn %#x", num, pfn), domid, err)
	}
	return nil
}
