//go:build xen && lab

package xl

// #cgo pkg-config: xencontrol
//
// #include <errno.h>
// #include <stdint.h>
// #include <time.h>
// #include <unistd.h>
// #include <xenctrl.h>
//
// static int64_t now(void)
// {
//     struct timespec t;
//     clock_gettime(CLOCK_MONOTONIC, &t);
//     return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
// }
//
// // Looks until domid has suspended. Writes a byte to tell after the first look.
// static int look(xc_interface *xc, uint32_t domid, int tell, int64_t *running, int64_t *stopped)
// {
//     const uint32_t suspended = XEN_DOMINF_shutdown | SHUTDOWN_suspend << XEN_DOMINF_shutdownshift;
//     const uint32_t mask = XEN_DOMINF_shutdown | XEN_DOMINF_shutdownmask << XEN_DOMINF_shutdownshift;
//     xc_domaininfo_t info;
//     int told = 0;
//     for (;;) {
//         int64_t start = now();
//         int n = xc_domain_getinfolist(xc, domid, 1, &info);
//         if (n < 0)
//             return errno;
//         if (n != 1 || info.domain != domid)
//             return ESRCH;
//         if ((info.flags & mask) == suspended) {
//             *stopped = now();
//             return told ? 0 : EALREADY;
//         }
//         *running = start;
//         if (!told && write(tell, "r", 1) != 1)
//             return errno;
//         told = 1;
//     }
// }
import "C"

import (
	"fmt"
	"syscall"
)

// look looks at a domain's state without a pause. It is in C, as Go's runtime
// interrupts whatever runs for long, and each interrupt costs an emulated
// processor milliseconds.
type look struct {
	xc    *C.xc_interface
	domid uint32
}

func openLook(domid uint32) (*look, error) {
	xc, err := C.xc_interface_open(nil, nil, 0)
	if xc == nil {
		return nil, fmt.Errorf("look at domain %d: %w", domid, err)
	}
	return &look{xc, domid}, nil
}

// untilStop returns the start of the last look that has not found the domain
// suspended, and the end of the first that has. After the first look it writes
// a byte to the descriptor tell.
func (l *look) untilStop(tell int) (running, stopped int64, err error) {
	var from, to C.int64_t
	if rc := C.look(l.xc, C.uint32_t(l.domid), C.int(tell), &from, &to); rc != 0 {
		return 0, 0, fmt.Errorf("look at domain %d: %w", l.domid, syscall.Errno(rc))
	}
	return int64(from), int64(to), nil
}

// monotonic is the one clock of all processes, in nanoseconds. In C it costs no
// system call.
func monotonic() int64 { return int64(C.now()) }
