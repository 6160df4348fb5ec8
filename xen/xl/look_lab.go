//go:build xen && lab

package xl

// #cgo pkg-config: xencontrol
//
// #include <errno.h>
// #include <stdint.h>
// #include <time.h>
// #include <unistd.h>
// #include <x86intrin.h>
// #include <xenctrl.h>
//
// static int64_t now(void) { return __rdtsc(); }
//
// static int64_t now_and_monotonic(int64_t *monotonic)
// {
//     struct timespec t;
//     clock_gettime(CLOCK_MONOTONIC, &t);
//     *monotonic = t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
//     return now();
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
//         if (info.flags & (XEN_DOMINF_shutdown | XEN_DOMINF_dying))
//             return ECANCELED; // it has ended otherwise
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
	"time"
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
// suspended, and the end of the first that has, as ticks has it. After the first
// look it writes a byte to the descriptor tell.
func (l *look) untilStop(tell int) (running, stopped int64, err error) {
	var from, to C.int64_t
	if rc := C.look(l.xc, C.uint32_t(l.domid), C.int(tell), &from, &to); rc != 0 {
		return 0, 0, fmt.Errorf("look at domain %d: %w", l.domid, syscall.Errno(rc))
	}
	return int64(from), int64(to), nil
}

// ticks is the processors' time-stamp counter, one clock for all processes.
// CLOCK_MONOTONIC is not: Xen keeps a clock for each processor, those of emulated
// ones were seen to be up to 3 ms apart, and Linux then shows the one that is
// behind the last figure of the other.
func ticks() int64 { return int64(C.now()) }

// ticksAt returns what ticks was at a moment of this processor's CLOCK_MONOTONIC,
// a little too late rather than too early. tick: how long one is, in ns.
func ticksAt(moment time.Duration, tick float64) int64 {
	var monotonic C.int64_t
	now := C.now_and_monotonic(&monotonic)
	return int64(now) - int64(float64(int64(monotonic)-int64(moment))/tick)
}
