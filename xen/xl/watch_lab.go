//go:build xen && lab

package xl

// #include <errno.h>
// #include <stdlib.h>
// #include <xenstore.h>
import "C"

import (
	"context"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// releaseDomain is the node that xenstored says has changed whenever a domain
// has shut down.
const releaseDomain = "@releaseDomain"

// watch hears from xenstored, by way of libxenstore and as libxl does, that a
// node has changed. Nothing in the product waits for a watch: this one is what
// the event channel is measured against.
type watch struct {
	xs *C.struct_xs_handle
	fd int // readable while there is an event
}

// openWatch begins to watch a node. The event that comes with each new watch
// has been taken.
func openWatch(path string) (*watch, error) {
	xs, err := C.xs_open(0)
	if xs == nil {
		return nil, fmt.Errorf("xenstore: connect: %w", orEIO(err))
	}
	cPath, cToken := C.CString(path), C.CString("signal")
	defer C.free(unsafe.Pointer(cPath))
	defer C.free(unsafe.Pointer(cToken))
	if ok, err := C.xs_watch(xs, cPath, cToken); !bool(ok) {
		C.xs_close(xs)
		return nil, fmt.Errorf("xenstore: watch %s: %w", path, orEIO(err))
	}
	w := &watch{xs: xs, fd: int(C.xs_fileno(xs))}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.wait(ctx); err != nil {
		w.close()
		return nil, fmt.Errorf("xenstore: watch %s: its first event: %w", path, err)
	}
	return w, nil
}

// wait takes one event, or returns the cause when ctx ends, which it notices
// within a second.
func (w *watch) wait(ctx context.Context) error {
	for ctx.Err() == nil {
		fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Second.Milliseconds()))
		if err == unix.EINTR || err == nil && n == 0 {
			continue
		}
		if err != nil {
			return fmt.Errorf("xenstore: wait for a watch: %w", err)
		}
		event, err := C.xs_check_watch(w.xs)
		if event != nil {
			C.free(unsafe.Pointer(event))
			return nil
		}
		if err != unix.EAGAIN {
			return fmt.Errorf("xenstore: read a watch: %w", orEIO(err))
		}
	}
	return context.Cause(ctx)
}

func (w *watch) close() { C.xs_close(w.xs) }
