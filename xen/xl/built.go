//go:build xen

package xl

/*
#include <libxl.h>
#include <xenctrl.h>

static const char *built_for(void) {
#if XEN_DOMCTL_INTERFACE_VERSION == 0x15
	return "4.17";
#elif XEN_DOMCTL_INTERFACE_VERSION == 0x16
	return "4.18";
#elif defined(LIBXL_HAVE_BUILDINFO_LLC_COLORS)
	return "4.20";
#else
	return "4.19";
#endif
}
*/
import "C"

// BuiltFor returns the Xen release whose libraries this binary uses, such as
// "4.17", or "" for a binary without Xen support. The toolstack's interface to
// the hypervisor is bound to its release.
func BuiltFor() string { return C.GoString(C.built_for()) }
