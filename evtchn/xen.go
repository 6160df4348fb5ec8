//go:build xen

package evtchn

// #cgo pkg-config: xenevtchn xencontrol
// #include <errno.h>
// #include <poll.h>
// #include <stdlib.h>
// #include <time.h>
// #include <xenctrl.h>
// #include <xenevtchn.h>
// #include <xentoollog.h>
//
// #cgo pkg-config: xentoollog
//
// static void quiet_vmessage(xentoollog_logger *l, xentoollog_level level,
//                            int errnoval, const char *context,
//                            const char *format, va_list al) {}
// static void quiet_destroy(xentoollog_logger *l) {}
//
// // Every error reaches the caller as an errno: nothing needs to be printed.
// static xentoollog_logger quiet = {
//     .vmessage = quiet_vmessage, .destroy = quiet_destroy,
// };
//
// static xenevtchn_handle *xf_evtchn_open(void)
// {
//     return xenevtchn_open(&quiet, 0);
// }
//
// static xc_interface *xf_look_open(void)
// {
//     return xc_interface_open(&quiet, &quiet, 0);
// }
//
// // What a look at a domain has found, and when (CLOCK_MONOTONIC, ns).
// struct xf_look {
//     xc_interface *xc; // NULL: none is wanted
//     uint32_t domid, flags;
//     int64_t at; // 0: nothing
// };
//
// // The flags of one domain, by a hypercall of its own: the one that lists
// // domains stands in line with all who list them, such as monitors.
// static int xf_flags(xc_interface *xc, uint32_t domid, uint32_t *flags)
// {
// #if XEN_DOMCTL_INTERFACE_VERSION > 0x15
//     xc_domaininfo_t info;
//     if (xc_domain_getinfo_single(xc, domid, &info))
//         return -1;
//     *flags = info.flags;
// #else
//     xc_dominfo_t info;
//     if (xc_domain_getinfo(xc, domid, 1, &info) != 1 || info.domid != domid)
//         return -1;
//     *flags = (info.dying ? XEN_DOMINF_dying : 0) | (info.paused ? XEN_DOMINF_paused : 0) |
//         (info.shutdown || info.crashed ? XEN_DOMINF_shutdown : 0) |
//         (info.hvm ? XEN_DOMINF_hvm_guest : 0) |
//         (uint32_t)info.shutdown_reason << XEN_DOMINF_shutdownshift;
// #endif
//     return 0;
// }
//
// static void xf_look(struct xf_look *l)
// {
//     struct timespec now;
//     l->at = 0;
//     if (!l->xc || xf_flags(l->xc, l->domid, &l->flags) || clock_gettime(CLOCK_MONOTONIC, &now))
//         return;
//     l->at = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
// }
//
// // Takes the next event, looks at the domain, and returns the event's port, or
// // -1 with errno: ECANCELED when one of the other two descriptors is readable
// // first. An event comes before them. The look goes first, as the guest is
// // stopped meanwhile, and is repeated unless it has seen the end: the domain may
// // have stopped between the look and the event, which stands for both then.
// static long xf_evtchn_wait(xenevtchn_handle *xce, int ended, int closing, struct xf_look *look)
// {
//     xf_look(look); // for nothing: what it needs is at hand then when it counts
//     look->at = 0;
//     struct pollfd fds[] = {
//         { .fd = xenevtchn_fd(xce), .events = POLLIN },
//         { .fd = ended, .events = POLLIN },
//         { .fd = closing, .events = POLLIN },
//     };
//     for (;;) {
//         fds[0].revents = fds[1].revents = fds[2].revents = 0;
//         if (poll(fds, 3, -1) < 0 && errno != EINTR)
//             return -1;
//         if (fds[0].revents)
//             xf_look(look);
//         xenevtchn_port_or_error_t port = xenevtchn_pending(xce);
//         if (port >= 0 && !(look->at && look->flags & XEN_DOMINF_shutdown))
//             xf_look(look);
//         if (port >= 0 || errno != EAGAIN)
//             return port;
//         if (fds[1].revents || fds[2].revents) {
//             errno = ECANCELED;
//             return -1;
//         }
//     }
// }
import "C"

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xenChannel is a Channel of libxenevtchn. A Wait is one call in C, without Go's
// poller and scheduler between it and the event: what is waited for is a
// guest's stop, and each hop costs downtime.
type xenChannel struct {
	closed  atomic.Bool
	closing int // an eventfd that ends a Wait
	ended   int // another, for the end of its context

	mu  sync.RWMutex // held for reading while xce is in use
	xce *C.xenevtchn_handle

	look *C.struct_xf_look // in C's memory; of the goroutine that waits
}

var _ Looker = (*xenChannel)(nil)

// Open opens the event channel device. It needs root on a dom0.
func Open() (Channel, error) {
	xce, err := C.xf_evtchn_open()
	if xce == nil {
		return nil, fmt.Errorf("evtchn: open the event channel device (/dev/xen/evtchn): %w: is this a Xen dom0, and are you root?", err)
	}
	err = unix.SetNonblock(int(C.xenevtchn_fd(xce)), true)
	c := &xenChannel{closing: -1, ended: -1, xce: xce, look: (*C.struct_xf_look)(C.calloc(1, C.sizeof_struct_xf_look))}
	for _, fd := range []*int{&c.closing, &c.ended} {
		if err == nil {
			*fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("evtchn: prepare the event channel descriptor: %w", err), c.Close())
	}
	return c, nil
}

// set makes an eventfd readable, and reset takes that back. Neither can fail in
// a way that matters: it is so already.
func set(eventfd int) {
	one := [8]byte{1}
	_, _ = unix.Write(eventfd, one[:])
}

func reset(eventfd int) {
	var n [8]byte
	_, _ = unix.Read(eventfd, n[:])
}

// use runs f with the handle, which stays open meanwhile.
func (c *xenChannel) use(what string, f func(*C.xenevtchn_handle) (C.int, error)) (C.int, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.xce == nil {
		return 0, ErrClosed
	}
	n, err := f(c.xce)
	if n < 0 {
		return 0, fmt.Errorf("evtchn: %s: %w", what, err)
	}
	return n, nil
}

func (c *xenChannel) BindInterdomain(domid uint32, remote Port) (Port, error) {
	p, err := c.use(fmt.Sprintf("bind port %d of domain %d", remote, domid), func(x *C.xenevtchn_handle) (C.int, error) {
		n, err := C.xenevtchn_bind_interdomain(x, C.uint32_t(domid), C.evtchn_port_t(remote))
		return C.int(n), err
	})
	return Port(p), err
}

func (c *xenChannel) Wait(ctx context.Context) (Port, error) {
	c.mu.RLock() // Close ends this before it takes handle and descriptors away
	defer c.mu.RUnlock()
	if c.closed.Load() {
		return 0, ErrClosed
	}
	reset(c.ended)
	defer c.until(ctx)()
	switch n, err := C.xf_evtchn_wait(c.xce, C.int(c.ended), C.int(c.closing), c.look); {
	case n >= 0:
		return Port(n), nil
	case !errors.Is(err, unix.ECANCELED):
		return 0, fmt.Errorf("evtchn: wait for an event: %w", err)
	case c.closed.Load():
		return 0, ErrClosed
	}
	return 0, context.Cause(ctx)
}

// LookAt implements Looker.
func (c *xenChannel) LookAt(domid uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.xce == nil {
		return ErrClosed
	}
	if c.look.xc == nil {
		xc, err := C.xf_look_open()
		if xc == nil {
			return fmt.Errorf("evtchn: open the hypervisor's control interface, to look at domain %d: %w", domid, err)
		}
		c.look.xc = xc
	}
	c.look.domid, c.look.at = C.uint32_t(domid), 0
	return nil
}

// Seen implements Looker.
func (c *xenChannel) Seen() (flags uint32, at time.Duration) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.xce == nil {
		return 0, 0
	}
	return uint32(c.look.flags), time.Duration(c.look.at)
}

// until ends a Wait when ctx ends. After stop it does not any more.
func (c *xenChannel) until(ctx context.Context) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		set(c.ended)
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

func (c *xenChannel) Unmask(local Port) error {
	_, err := c.use(fmt.Sprintf("unmask port %d", local), func(x *C.xenevtchn_handle) (C.int, error) {
		rc, err := C.xenevtchn_unmask(x, C.evtchn_port_t(local))
		return rc, err
	})
	return err
}

func (c *xenChannel) Notify(local Port) error {
	_, err := c.use(fmt.Sprintf("notify port %d", local), func(x *C.xenevtchn_handle) (C.int, error) {
		rc, err := C.xenevtchn_notify(x, C.evtchn_port_t(local))
		return rc, err
	})
	return err
}

func (c *xenChannel) Unbind(local Port) error {
	_, err := c.use(fmt.Sprintf("unbind port %d", local), func(x *C.xenevtchn_handle) (C.int, error) {
		rc, err := C.xenevtchn_unbind(x, C.evtchn_port_t(local))
		return rc, err
	})
	return err
}

func (c *xenChannel) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	set(c.closing)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fd := range []int{c.closing, c.ended} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	if c.look.xc != nil {
		C.xc_interface_close(c.look.xc)
	}
	C.free(unsafe.Pointer(c.look))
	rc, err := C.xenevtchn_close(c.xce)
	c.xce, c.look = nil, nil
	if rc != 0 {
		return fmt.Errorf("evtchn: close: %w", err)
	}
	return nil
}
