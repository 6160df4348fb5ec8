//go:build xen

package xenctrl

// #include "shim.h"
import "C"

// Claim sets memory of the host aside for the domain, so that it can have
// pages pages in all and nobody else takes them in the meantime: each page
// that it gets then uses up one of the claim. 0 gives back what is left; the
// end of the domain does that too. ENOMEM: the host has not so much free.
// EINVAL: it has as many already, or may not have so many (MaxPages).
func (h *Handle) Claim(domid uint32, pages uint64) error {
	rc, err := C.xc_domain_claim_pages(h.xch, C.uint32_t(domid), C.ulong(pages))
	return check(rc, err, "claim memory", domid)
}
