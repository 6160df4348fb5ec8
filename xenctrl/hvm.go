//go:build xen

package xenctrl

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
)

// maxHVMContext bounds the context of one domain: 128 vCPUs need well below
// 1 MiB.
const maxHVMContext = 64 << 20

// HVMContext returns the state of the domain's virtual hardware in Xen: vCPUs,
// interrupt controllers, timers. The domain should not be running.
func (h *Handle) HVMContext(domid uint32) ([]byte, error) {
	const op = "get the HVM context"
	size, err := C.xc_domain_hvm_getcontext(h.xch, C.uint32_t(domid), nil, 0)
	if size < 0 {
		return nil, failed(op, domid, err)
	}
	if size == 0 || size > maxHVMContext {
		return nil, &Error{op, domid, fmt.Errorf("%d bytes: %w", size, syscall.EMSGSIZE)}
	}
	buf := make([]byte, size)
	n, err := C.xc_domain_hvm_getcontext(h.xch, C.uint32_t(domid), (*C.uint8_t)(&buf[0]), C.uint32_t(size))
	if n < 0 {
		return nil, failed(op, domid, err)
	}
	return buf[:min(int(n), len(buf))], nil
}

// SetHVMContext loads what HVMContext returned. The domain has never run.
func (h *Handle) SetHVMContext(domid uint32, ctx []byte) error {
	const op = "set the HVM context"
	if len(ctx) == 0 || len(ctx) > maxHVMContext {
		return &Error{op, domid, fmt.Errorf("%d bytes: %w", len(ctx), syscall.EINVAL)}
	}
	rc, err := C.xc_domain_hvm_setcontext(h.xch, C.uint32_t(domid), (*C.uint8_t)(&ctx[0]), C.uint32_t(len(ctx)))
	return check(rc, err, op, domid)
}

// HVMParam returns the param of that index (Param*).
func (h *Handle) HVMParam(domid, index uint32) (uint64, error) {
	var v C.uint64_t
	if rc, err := C.xc_hvm_param_get(h.xch, C.uint32_t(domid), C.uint32_t(index), &v); rc < 0 {
		return 0, failed(fmt.Sprintf("get HVM param %d", index), domid, err)
	}
	return uint64(v), nil
}

// SetHVMParam sets the param of that index. EEXIST: Xen does not let it be
// changed again.
func (h *Handle) SetHVMParam(domid, index uint32, value uint64) error {
	rc, err := C.xc_hvm_param_set(h.xch, C.uint32_t(domid), C.uint32_t(index), C.uint64_t(value))
	return check(rc, err, fmt.Sprintf("set HVM param %d to %#x", index, value), domid)
}

// TSCInfo returns how the domain sees its time stamp counter.
func (h *Handle) TSCInfo(domid uint32) (TSCInfo, error) {
	var mode, khz, incarnation C.uint32_t
	var ns C.uint64_t
	rc, err := C.xc_domain_get_tsc_info(h.xch, C.uint32_t(domid), &mode, &ns, &khz, &incarnation)
	if rc < 0 {
		return TSCInfo{}, failed("get TSC information", domid, err)
	}
	return TSCInfo{Mode: uint32(mode), KHz: uint32(khz), ElapsedNs: uint64(ns), Incarnation: uint32(incarnation)}, nil
}

// SetTSCInfo sets it. The domain has never run.
func (h *Handle) SetTSCInfo(domid uint32, t TSCInfo) error {
	rc, err := C.xc_domain_set_tsc_info(h.xch, C.uint32_t(domid), C.uint32_t(t.Mode),
		C.uint64_t(t.ElapsedNs), C.uint32_t(t.KHz), C.uint32_t(t.Incarnation))
	return check(rc, err, "set TSC information", domid)
}
