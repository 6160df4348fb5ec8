package savefmt

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// bodyRule is what the length of a body must be, and what is in it.
type bodyRule struct {
	min, max uint32
	unit     uint32 // the length is a multiple of it, 0: any
	check    func(body []byte) error
}

// Sizes of the structures in the bodies.
const (
	cpuidLeafSize = 24 // xen_cpuid_leaf_t: u32 leaf, subleaf, a, b, c, d
	msrEntrySize  = 16 // xen_msr_entry_t: u32 index, u32 flags, u64 value
	tscInfoSize   = 24
	pvInfoSize    = 8
	vcpuHeadSize  = 8  // u32 vcpu, u32 0
	paramsHead    = 8  // u32 count, u32 0
	paramSize     = 16 // u64 index, u64 value
	maxParams     = 1 << 10
	p2mHeadSize   = 8 // u32 first pfn, u32 last pfn
)

// bodyRules has every type of a libxc stream but PAGE_DATA, which is read
// piece by piece.
var bodyRules = map[uint32]bodyRule{
	RecEnd:           {},
	RecVerify:        {},
	RecStaticDataEnd: {},
	RecPVInfo:        {min: pvInfoSize, max: pvInfoSize, check: checkPVInfo},
	RecPVP2MFrames:   {min: p2mHeadSize + 8, max: MaxRecord, unit: 8, check: checkP2MFrames},
	RecPVVCPUBasic:   {min: vcpuHeadSize + 1, max: maxPolicy, check: checkVCPU},
	RecPVVCPUExt:     {min: vcpuHeadSize, max: maxPolicy, check: checkVCPU},
	RecPVVCPUXSave:   {min: vcpuHeadSize, max: maxPolicy, check: checkVCPU},
	RecPVVCPUMSRs:    {min: vcpuHeadSize, max: maxPolicy, check: checkVCPU},
	RecSharedInfo:    {min: pageSize, max: pageSize},
	RecTSCInfo:       {min: tscInfoSize, max: tscInfoSize, check: checkTSC},
	RecHVMContext:    {min: hvmHeadSize, max: maxHVMContext, check: checkHVMContext},
	RecHVMParams:     {min: paramsHead, max: paramsHead + maxParams*paramSize, check: checkHVMParams},
	RecCPUIDPolicy:   {min: cpuidLeafSize, max: maxPolicy, unit: cpuidLeafSize},
	RecMSRPolicy:     {min: msrEntrySize, max: maxPolicy, unit: msrEntrySize},
	RecSimContext:    {min: 1, max: maxSimContext, check: checkSimContext},
}

// checkSize checks what a record's header claims, before anything of it is
// read.
func (r bodyRule) checkSize(n uint32) error {
	switch {
	case n < r.min || n > r.max:
		if r.min == r.max {
			return fmt.Errorf("it has %d bytes, want %d", n, r.min)
		}
		return fmt.Errorf("it has %d bytes, want %d to %d", n, r.min, r.max)
	case r.unit != 0 && n%r.unit != 0:
		return fmt.Errorf("it has %d bytes, which is no multiple of %d", n, r.unit)
	}
	return nil
}

func (r bodyRule) checkBody(body []byte) error {
	if r.check == nil {
		return nil
	}
	return r.check(body)
}

var errReserved = errors.New("reserved fields are not zero")

func checkPVInfo(b []byte) error {
	width, levels := b[0], b[1]
	switch {
	case width != 4 && width != 8 || levels != 3 && levels != 4:
		return fmt.Errorf("a guest of width %d with %d levels of page tables", width, levels)
	case binary.LittleEndian.Uint64(b)>>16 != 0:
		return errReserved
	}
	return nil
}

func checkP2MFrames(b []byte) error {
	first, last := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	if first > last {
		return fmt.Errorf("the range of pfns %#x to %#x is empty", first, last)
	}
	return nil
}

// checkP2MCount checks that a P2M_FRAMES record has as many frames as Xen's own
// reader wants: one for each page of the guest's p2m table that has entries of
// the range. An entry has the width of the guest.
func checkP2MCount(b []byte, width byte) error {
	first, last := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	entries := pageSize / uint32(width)
	got, want := uint32(len(b)-p2mHeadSize)/8, last/entries-first/entries+1
	if got != want {
		return fmt.Errorf("it has %d frames for the pfns %#x to %#x, want %d", got, first, last, want)
	}
	return nil
}

func checkSimContext(b []byte) error {
	if !json.Valid(b) {
		return errors.New("it is no JSON")
	}
	return nil
}

func checkVCPU(b []byte) error {
	vcpu, zero := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	switch {
	case vcpu >= maxVCPUs:
		return fmt.Errorf("vCPU %d: Xen gives a guest %d at most", vcpu, maxVCPUs)
	case zero != 0:
		return errReserved
	}
	return nil
}

func checkTSC(b []byte) error {
	if binary.LittleEndian.Uint32(b[20:]) != 0 {
		return errReserved
	}
	return nil
}

func checkHVMParams(b []byte) error {
	count, zero := binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])
	switch {
	case zero != 0:
		return errReserved
	case uint64(len(b)) != paramsHead+uint64(count)*paramSize:
		return fmt.Errorf("%d params in %d bytes", count, len(b))
	}
	return nil
}

// Xen's HVM save blob (public/hvm/save.h, arch-x86/hvm/save.h): entries of
// u16 type, u16 instance, u32 length and so many bytes. The first is the
// header, the last has type 0.
const (
	hvmEntryHead = 8
	hvmHeadSize  = hvmEntryHead + 24
	hvmTypeEnd   = 0
	hvmTypeHead  = 1
	hvmTypeCPU   = 2
	hvmMagic     = 0x54381286
	hvmVersion   = 1
)

func checkHVMContext(b []byte) error {
	_, err := hvmVCPUs(b)
	return err
}

// hvmVCPUs walks an HVM save blob and counts its processors.
func hvmVCPUs(b []byte) (vcpus int, err error) {
	le := binary.LittleEndian
	if typ, magic, version := le.Uint16(b), le.Uint32(b[hvmEntryHead:]), le.Uint32(b[hvmEntryHead+4:]); typ != hvmTypeHead || magic != hvmMagic || version != hvmVersion {
		return 0, fmt.Errorf("no HVM save blob: it begins with type %d, magic %#x, version %d", typ, magic, version)
	}
	for at := 0; ; {
		if len(b)-at < hvmEntryHead {
			return 0, fmt.Errorf("the HVM save blob of %d bytes has no end entry", len(b))
		}
		typ, length := le.Uint16(b[at:]), uint64(le.Uint32(b[at+4:]))
		at += hvmEntryHead
		if length > uint64(len(b)-at) {
			return 0, fmt.Errorf("entry of type %d at %#x of the HVM save blob has %d bytes, %d are left", typ, at-hvmEntryHead, length, len(b)-at)
		}
		at += int(length)
		switch {
		case typ == hvmTypeCPU:
			vcpus++
		case typ == hvmTypeEnd && at != len(b):
			return 0, fmt.Errorf("%d bytes follow the end of the HVM save blob", len(b)-at)
		case typ == hvmTypeEnd:
			return vcpus, nil
		}
	}
}
