//go:build xen

package xenctrl

// #cgo pkg-config: xencontrol xenforeignmemory xenguest xentoollog
// #include "shim.h"
import "C"

import (
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"
)

var openHandles, liveMappings atomic.Int64

// OpenHandles returns the number of handles opened and not yet closed in this
// process, DirtyLogs included: a test that ends with more than it began with
// has leaked.
func OpenHandles() int64 { return openHandles.Load() }

// LiveMappings returns the number of Mappings that now map guest memory.
func LiveMappings() int64 { return liveMappings.Load() }

// Handle is a connection to the hypervisor.
type Handle struct {
	xch  *C.xc_interface
	fmem *C.xenforeignmemory_handle

	closing  sync.Once
	closeErr error
}

// Open connects to the hypervisor. It needs root on a dom0.
func Open() (*Handle, error) {
	xch, err := C.xc_interface_open(C.xf_quiet_logger(), C.xf_quiet_logger(), 0)
	if xch == nil {
		return nil, &Error{"open the hypervisor interface (/dev/xen/privcmd)", NoDomid,
			fmt.Errorf("%w: is this a Xen dom0, and are you root?", errnoOf(err))}
	}
	fmem, err := C.xenforeignmemory_open(C.xf_quiet_logger(), 0)
	if fmem == nil {
		C.xc_interface_close(xch)
		return nil, &Error{"open the foreign memory interface", NoDomid, errnoOf(err)}
	}
	openHandles.Add(1)
	return &Handle{xch: xch, fmem: fmem}, nil
}

// Close ends the connection. Idempotent. Mappings and DirtyLogs of the handle
// must have been closed before.
func (h *Handle) Close() error {
	h.closing.Do(func() {
		openHandles.Add(-1)
		rcMem, errMem := C.xenforeignmemory_close(h.fmem)
		rcCtl, errCtl := C.xc_interface_close(h.xch)
		if rcMem != 0 {
			h.closeErr = &Error{"close the foreign memory interface", NoDomid, errnoOf(errMem)}
		} else if rcCtl != 0 {
			h.closeErr = &Error{"close the hypervisor interface", NoDomid, errnoOf(errCtl)}
		}
	})
	return h.closeErr
}

// Version returns the hypervisor's release.
func (h *Handle) Version() (Version, error) {
	n, err := C.xc_version(h.xch, C.XENVER_version, nil)
	if n < 0 {
		return Version{}, failed("get the Xen version", NoDomid, err)
	}
	v := Version{Major: int(n) >> 16, Minor: int(n) & 0xffff}
	extra := (*C.xen_extraversion_t)(C.calloc(1, C.sizeof_xen_extraversion_t+1))
	defer C.free(unsafe.Pointer(extra))
	if rc, err := C.xc_version(h.xch, C.XENVER_extraversion, unsafe.Pointer(extra)); rc < 0 {
		return Version{}, failed("get the Xen version", NoDomid, err)
	}
	v.Extra = C.GoString(&extra[0])
	return v, nil
}

// HostInfo returns the machine's memory and processors.
func (h *Handle) HostInfo() (HostInfo, error) {
	var info C.xc_physinfo_t
	if rc, err := C.xc_physinfo(h.xch, &info); rc != 0 {
		return HostInfo{}, failed("get host information", NoDomid, err)
	}
	return HostInfo{
		TotalPages: uint64(info.total_pages),
		FreePages:  uint64(info.free_pages),
		ScrubPages: uint64(info.scrub_pages),
		CPUs:       int(info.nr_cpus),
	}, nil
}

// failed makes the Error of a call whose errno cgo reports as err.
func failed(op string, domid uint32, err error) error {
	return &Error{Op: op, Domid: domid, Err: errnoOf(err)}
}

// errnoOf is err, or EIO where a library has failed without setting errno.
func errnoOf(err error) error {
	if err == nil {
		return syscall.EIO
	}
	return err
}
