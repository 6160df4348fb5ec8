package savefmt

import "fmt"

// Record is one piece of a guest's state besides its pages, in the form of a
// record of the libxc migration stream, version 3 (Xen's
// docs/specs/libxc-migration-stream): the type, and the body without header
// and padding. The device model's state, which stock Xen keeps in the outer
// libxl stream, has a type of ours.
type Record struct {
	Type uint32
	Body []byte
}

// Types of the libxc stream. SPEC.md describes their bodies.
const (
	RecEnd           uint32 = 0x00
	RecPageData      uint32 = 0x01
	RecPVInfo        uint32 = 0x02
	RecPVP2MFrames   uint32 = 0x03
	RecPVVCPUBasic   uint32 = 0x04
	RecPVVCPUExt     uint32 = 0x05
	RecPVVCPUXSave   uint32 = 0x06
	RecSharedInfo    uint32 = 0x07
	RecTSCInfo       uint32 = 0x08 // u32 mode, u32 kHz, u64 ns, u32 incarnation, u32 0
	RecHVMContext    uint32 = 0x09 // Xen's HVM save blob
	RecHVMParams     uint32 = 0x0A // u32 count, u32 0, count x {u64 index, u64 value}
	RecToolstack     uint32 = 0x0B
	RecPVVCPUMSRs    uint32 = 0x0C
	RecVerify        uint32 = 0x0D
	RecCheckpoint    uint32 = 0x0E
	RecDirtyPFNs     uint32 = 0x0F
	RecStaticDataEnd uint32 = 0x10
	RecCPUIDPolicy   uint32 = 0x11 // array of xen_cpuid_leaf_t, 24 bytes each
	RecMSRPolicy     uint32 = 0x12 // array of xen_msr_entry_t, 16 bytes each

	// RecOptional is the bit of a type that a reader which does not know it
	// may skip.
	RecOptional uint32 = 1 << 31
)

// Types of our own. They never appear in a stream that is meant for stock Xen.
const (
	RecDeviceModel uint32 = 0x58460001 // QEMU's state, as xen-save-devices-state writes it
	RecSimContext  uint32 = 0x58460002 // the simulated guest's processor state
)

var libxcNames = map[uint32]string{
	RecEnd: "END", RecPageData: "PAGE_DATA", RecPVInfo: "X86_PV_INFO", RecPVP2MFrames: "X86_PV_P2M_FRAMES",
	RecPVVCPUBasic: "X86_PV_VCPU_BASIC", RecPVVCPUExt: "X86_PV_VCPU_EXTENDED", RecPVVCPUXSave: "X86_PV_VCPU_XSAVE",
	RecSharedInfo: "SHARED_INFO", RecTSCInfo: "X86_TSC_INFO", RecHVMContext: "HVM_CONTEXT", RecHVMParams: "HVM_PARAMS",
	RecToolstack: "TOOLSTACK", RecPVVCPUMSRs: "X86_PV_VCPU_MSRS", RecVerify: "VERIFY", RecCheckpoint: "CHECKPOINT",
	RecDirtyPFNs: "CHECKPOINT_DIRTY_PFN_LIST", RecStaticDataEnd: "STATIC_DATA_END",
	RecCPUIDPolicy: "X86_CPUID_POLICY", RecMSRPolicy: "X86_MSR_POLICY", RecSimContext: "SIM_CONTEXT",
}

var libxlNames = map[uint32]string{
	LibxlEnd: "END", LibxlLibxcContext: "LIBXC_CONTEXT", LibxlEmulatorXenstore: "EMULATOR_XENSTORE_DATA",
	LibxlEmulatorContext: "EMULATOR_CONTEXT", LibxlCheckpointEnd: "CHECKPOINT_END", LibxlCheckpointState: "CHECKPOINT_STATE",
}

// RecordName returns the specification's name of a record type in a layer, or
// the number of one that is unknown.
func RecordName(l Layer, typ uint32) string {
	names := libxcNames
	if l == LayerLibxl {
		names = libxlNames
	}
	if n, ok := names[typ]; ok {
		return n
	}
	return fmt.Sprintf("%#x", typ)
}
