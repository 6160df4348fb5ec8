//go:build xen

package evtchn

// #cgo pkg-config: xenevtchn
// #include <errno.h>
// #include <stdlib.h>
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
// static xenevtchn_handle *xf_evtchn_open(void)
// {
//     static xentoollog_logger quiet = {
//         .vmessage = quiet_vmessage, .destroy = quiet_destroy,
//     };
//     return xenevtchn_open(&quiet, 0);
// }
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// xenChannel is a Channel of libxenevtchn. Its descriptor is read only by
// xenevtchn_pending; Go's poller, through a duplicate, says when.
type xenChannel struct {
	poll   *os.File // a duplicate of the descriptor, non-blocking as the original then is
	closed atomic.Bool

	mu  sync.RWMutex // held for reading while xce is in use
	xce *C.xenevtchn_handle
}

// Open opens the event channel device. It needs root on a dom0.
func Open() (Channel, error) {
	xce, err := C.xf_evtchn_open()
	if xce == nil {
		return nil, fmt.Errorf("evtchn: open the event channel device (/dev/xen/evtchn): %w: is this a Xen dom0, and are you root?", err)
	}
	fd, err := unix.FcntlInt(uintptr(C.xenevtchn_fd(xce)), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		C.xenevtchn_close(xce)
		return nil, fmt.Errorf("evtchn: prepare the event channel descriptor: %w", err)
	}
	return &xenChannel{poll: os.NewFile(uintptr(fd), "/dev/xen/evtchn"), xce: xce}, nil
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
	conn, err := c.poll.SyscallConn()
	if err != nil {
		return 0, ErrClosed
	}
	defer c.until(ctx)()
	var port Port
	var readErr error
	err = conn.Read(func(uintptr) bool {
		port, readErr = c.pending()
		return !errors.Is(readErr, unix.EAGAIN)
	})
	switch {
	case err == nil:
		return port, readErr
	case c.closed.Load():
		return 0, ErrClosed
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	}
	return 0, fmt.Errorf("evtchn: wait: %w", err)
}

// until makes reads end when ctx ends. After stop it has no effect any more,
// not even a late one on the next Wait.
func (c *xenChannel) until(ctx context.Context) (stop func()) {
	_ = c.poll.SetReadDeadline(time.Time{}) // fails only on a closed file, as the read then does
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		_ = c.poll.SetReadDeadline(time.Unix(1, 0))
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// pending reads the next port that has fired, or EAGAIN.
func (c *xenChannel) pending() (Port, error) {
	p, err := c.use("read pending port", func(x *C.xenevtchn_handle) (C.int, error) {
		n, err := C.xenevtchn_pending(x)
		return C.int(n), err
	})
	return Port(p), err
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
	c.closed.Store(true)
	c.poll.Close() // ends a Wait
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.xce == nil {
		return nil
	}
	rc, err := C.xenevtchn_close(c.xce)
	c.xce = nil
	if rc != 0 {
		return fmt.Errorf("evtchn: close: %w", err)
	}
	return nil
}
