//go:build xen

package xenctrl

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"
)

// maxPolicyEntries bounds a CPU policy from outside: Xen's own has below 200
// leaves and a handful of MSRs.
const maxPolicyEntries = 1 << 16

// CPUPolicy returns what the domain sees of the processor, in the form of the
// stream: CPUID leaves of CPUIDLeafSize bytes each and MSRs of MSREntrySize.
func (h *Handle) CPUPolicy(domid uint32) (leaves, msrs []byte, err error) {
	const op = "get the CPU policy"
	var nLeaves, nMSRs C.uint32_t
	if rc, err := C.xc_cpu_policy_get_size(h.xch, &nLeaves, &nMSRs); rc != 0 {
		return nil, nil, failed("get the size of the CPU policy", domid, err)
	}
	if nLeaves == 0 || nLeaves > maxPolicyEntries || nMSRs == 0 || nMSRs > maxPolicyEntries {
		return nil, nil, &Error{op, domid, fmt.Errorf("%d leaves, %d MSRs: %w", nLeaves, nMSRs, syscall.EMSGSIZE)}
	}
	policy := C.xc_cpu_policy_init()
	if policy == nil {
		return nil, nil, &Error{op, domid, syscall.ENOMEM}
	}
	defer C.xc_cpu_policy_destroy(policy)
	if rc, err := C.xc_cpu_policy_get_domain(h.xch, C.uint32_t(domid), policy); rc != 0 {
		return nil, nil, failed(op, domid, err)
	}
	cLeaves := make([]C.xen_cpuid_leaf_t, nLeaves)
	cMSRs := make([]C.xen_msr_entry_t, nMSRs)
	if rc, err := C.xc_cpu_policy_serialise(h.xch, policy, &cLeaves[0], &nLeaves, &cMSRs[0], &nMSRs); rc != 0 {
		return nil, nil, failed("serialise the CPU policy", domid, err)
	}
	leaves = unsafe.Slice((*byte)(unsafe.Pointer(&cLeaves[0])), int(nLeaves)*CPUIDLeafSize)
	msrs = unsafe.Slice((*byte)(unsafe.Pointer(&cMSRs[0])), int(nMSRs)*MSREntrySize)
	return leaves, msrs, nil
}

// SetCPUPolicy sets what CPUPolicy returned; either part may be empty. It
// fails where this machine or hypervisor lacks what the policy promises; the
// error then names the leaf or MSR. The domain has never run.
func (h *Handle) SetCPUPolicy(domid uint32, leaves, msrs []byte) error {
	const op = "set the CPU policy"
	nLeaves, nMSRs := len(leaves)/CPUIDLeafSize, len(msrs)/MSREntrySize
	if len(leaves)%CPUIDLeafSize != 0 || len(msrs)%MSREntrySize != 0 ||
		nLeaves > maxPolicyEntries || nMSRs > maxPolicyEntries {
		return &Error{op, domid, fmt.Errorf("%d bytes of leaves, %d of MSRs: %w", len(leaves), len(msrs), syscall.EINVAL)}
	}
	// Copies: what comes from a stream is not aligned for C.
	cLeaves := make([]C.xen_cpuid_leaf_t, nLeaves+1)
	cMSRs := make([]C.xen_msr_entry_t, nMSRs+1)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&cLeaves[0])), len(leaves)), leaves)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&cMSRs[0])), len(msrs)), msrs)

	const none = ^C.uint32_t(0)
	leaf, subleaf, msr := none, none, none
	rc, err := C.xc_set_domain_cpu_policy(h.xch, C.uint32_t(domid), C.uint32_t(nLeaves), &cLeaves[0],
		C.uint32_t(nMSRs), &cMSRs[0], &leaf, &subleaf, &msr)
	if rc == 0 {
		return nil
	}
	err = errnoOf(err)
	switch {
	case leaf != none:
		err = fmt.Errorf("CPUID leaf %#x, subleaf %#x is not possible here: %w", leaf, subleaf, err)
	case msr != none:
		err = fmt.Errorf("MSR %#x is not possible here: %w", msr, err)
	}
	return &Error{op, domid, err}
}
