package savefmt

// Record is one piece of a guest's state besides its pages, in the form of a
// record of the libxc migration stream, version 3 (Xen's
// docs/specs/libxc-migration-stream): the type, and the body without header
// and padding. The device model's state, which stock Xen keeps in the outer
// libxl stream, has a type of ours.
type Record struct {
	Type uint32
	Body []byte
}

// Types of the libxc stream that describe an HVM or PVH guest.
const (
	RecTSCInfo     uint32 = 0x08 // u32 mode, u32 kHz, u64 ns, u32 incarnation, u32 0
	RecHVMContext  uint32 = 0x09 // Xen's HVM save blob
	RecHVMParams   uint32 = 0x0A // u32 count, u32 0, count x {u64 index, u64 value}
	RecCPUIDPolicy uint32 = 0x11 // array of xen_cpuid_leaf_t, 24 bytes each
	RecMSRPolicy   uint32 = 0x12 // array of xen_msr_entry_t, 16 bytes each
)

// Types of our own. They never appear in a stock stream.
const (
	RecDeviceModel uint32 = 0x58460001 // QEMU's state, as xen-save-devices-state writes it
	RecSimContext  uint32 = 0x58460002 // the simulated guest's processor state
)
