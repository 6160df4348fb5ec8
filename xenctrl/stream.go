//go:build xen

package xenctrl

// #include "stream.h"
import "C"

import (
	"fmt"
	"runtime/cgo"
	"sync"
	"syscall"
)

// StreamCalls is what Xen's own writer and reader of a libxc stream (PV guests)
// call back, on the goroutine that has called SaveStream or LoadStream. Log and
// Progress may be nil.
type StreamCalls struct {
	// Suspend suspends the guest and tells whether it has. SaveStream only.
	Suspend func() bool
	// StaticDone is told which static data the stream lacks, as bits
	// XGR_SDD_MISSING_* of xenguest.h, and tells whether to go on. LoadStream
	// only.
	StaticDone func(missing uint32) bool
	// Log is given each message, with its level of xentoollog.h.
	Log func(level uint32, text string)
	// Progress is told how far the pages are, in a unit of Xen's choice.
	Progress func(what string, done, total uint64)

	mu    sync.Mutex
	fault string // the first error that was logged
}

// levelError is XTL_ERROR.
const levelError = 8

// SaveStream writes the libxc stream of a guest to fd, a blocking descriptor:
// live, in rounds while the guest runs; verify, with a second copy of all
// memory behind a VERIFY record. On return log-dirty mode is off. A write that
// fails ends it.
func SaveStream(fd int, domid uint32, live, verify bool, calls *StreamCalls) error {
	var flags C.uint32_t
	if live {
		flags |= C.XCFLAGS_LIVE
	}
	if verify {
		flags |= C.XCFLAGS_DEBUG
	}
	h := cgo.NewHandle(calls)
	defer h.Delete()
	rc, err := C.xf_save_stream(C.uintptr_t(h), C.int(fd), C.uint32_t(domid), flags)
	return calls.result(rc, err, "write the stream of the guest", domid)
}

// LoadPorts are the event channels of a new domain for xenstore and console,
// and the domains at their other ends.
type LoadPorts struct {
	Store, StoreDomid, Console, ConsoleDomid uint32
}

// LoadStream fills a new domain from its libxc stream at fd, a blocking
// descriptor, of which nothing behind the stream's END is read. It returns the
// gfns of the pages for xenstore and console.
func LoadStream(fd int, domid uint32, ports LoadPorts, calls *StreamCalls) (store, console uint64, err error) {
	h := cgo.NewHandle(calls)
	defer h.Delete()
	var res C.struct_xf_results
	rc, err := C.xf_load_stream(C.uintptr_t(h), C.int(fd), C.uint32_t(domid), C.uint32_t(ports.Store), C.uint32_t(ports.StoreDomid),
		C.uint32_t(ports.Console), C.uint32_t(ports.ConsoleDomid), &res)
	return uint64(res.store_gfn), uint64(res.console_gfn), calls.result(rc, err, "read the stream of the guest", domid)
}

func (c *StreamCalls) result(rc C.int, err error, op string, domid uint32) error {
	if rc == 0 {
		return nil
	}
	err = errnoOf(err)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != "" {
		err = fmt.Errorf("%s: %w", c.fault, err)
	}
	return &Error{op, domid, err}
}

func callsOf(h C.uintptr_t) *StreamCalls { return cgo.Handle(h).Value().(*StreamCalls) }

//export xfStreamSuspend
func xfStreamSuspend(h C.uintptr_t) C.int {
	if f := callsOf(h).Suspend; f != nil && f() {
		return 1
	}
	return 0
}

//export xfStreamStatic
func xfStreamStatic(h C.uintptr_t, missing C.uint) C.int {
	if f := callsOf(h).StaticDone; f == nil || f(uint32(missing)) {
		return 0
	}
	return -1
}

//export xfStreamLog
func xfStreamLog(h C.uintptr_t, level, errnum C.int, text *C.char) {
	c, line := callsOf(h), C.GoString(text)
	if errnum > 0 {
		line = fmt.Sprintf("%s (%v)", line, syscall.Errno(errnum))
	}
	if level >= levelError {
		c.mu.Lock()
		if c.fault == "" {
			c.fault = line
		}
		c.mu.Unlock()
	}
	if c.Log != nil {
		c.Log(uint32(level), line)
	}
}

//export xfStreamProgress
func xfStreamProgress(h C.uintptr_t, what *C.char, done, total C.ulong) {
	if f := callsOf(h).Progress; f != nil {
		f(C.GoString(what), uint64(done), uint64(total))
	}
}
