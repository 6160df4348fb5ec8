package xenctrl

import (
	"fmt"
	"time"
)

// ShutdownReason is why a domain shut down: SHUTDOWN_* of
// xen/include/public/sched.h.
type ShutdownReason uint8

// The reasons of Xen.
const (
	ShutdownPoweroff  ShutdownReason = 0
	ShutdownReboot    ShutdownReason = 1
	ShutdownSuspend   ShutdownReason = 2
	ShutdownCrash     ShutdownReason = 3
	ShutdownWatchdog  ShutdownReason = 4
	ShutdownSoftReset ShutdownReason = 5
)

func (r ShutdownReason) String() string {
	names := [...]string{"poweroff", "reboot", "suspend", "crash", "watchdog", "soft reset"}
	if int(r) < len(names) {
		return names[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// DomainFlags is the flags word of a domain: XEN_DOMINF_* of
// xen/include/public/domctl.h.
type DomainFlags uint32

// Dying: it is being destroyed; only its last pages are left.
func (f DomainFlags) Dying() bool { return f&(1<<0) != 0 }

// HVM: its memory is translated by hardware: true for HVM and PVH, not for PV.
func (f DomainFlags) HVM() bool { return f&(1<<1) != 0 }

// Shutdown: it has stopped by itself, for ShutdownReason.
func (f DomainFlags) Shutdown() bool { return f&(1<<2) != 0 }

// Paused: a toolstack has paused it.
func (f DomainFlags) Paused() bool { return f&(1<<3) != 0 }

// Blocked: all its vCPUs wait for an event.
func (f DomainFlags) Blocked() bool { return f&(1<<4) != 0 }

// Running: one of its vCPUs runs at this moment.
func (f DomainFlags) Running() bool { return f&(1<<5) != 0 }

// ShutdownReason means something only if Shutdown.
func (f DomainFlags) ShutdownReason() ShutdownReason { return ShutdownReason(f >> 16) }

// Suspended: it has shut down with reason suspend, and can be resumed.
func (f DomainFlags) Suspended() bool {
	return f.Shutdown() && f.ShutdownReason() == ShutdownSuspend
}

// DomainInfo is what the hypervisor knows about a domain
// (struct xen_domctl_getdomaininfo).
type DomainInfo struct {
	Domid    uint32
	Flags    DomainFlags
	UUID     [16]byte
	TotPages uint64 // pages now allocated to it
	MaxPages uint64 // the most it may have
	CPUTime  time.Duration
	VCPUs    int // online now
}

// HostInfo is what the hypervisor knows about the machine.
type HostInfo struct {
	TotalPages uint64
	FreePages  uint64 // free now, not counting what is still to be scrubbed
	ScrubPages uint64 // free, being scrubbed: usable soon
	CPUs       int    // physical CPUs online
}

// Version is a release of the hypervisor.
type Version struct {
	Major, Minor int
	Extra        string // e.g. ".5"
}

// String is in the form "4.17.5".
func (v Version) String() string { return fmt.Sprintf("%d.%d%s", v.Major, v.Minor, v.Extra) }

// TSCInfo is how a domain sees its time stamp counter
// (XEN_DOMCTL_gettscinfo).
type TSCInfo struct {
	Mode        uint32 // TSC_MODE_* of xen/include/asm-x86/time.h: 0 is default
	KHz         uint32
	ElapsedNs   uint64
	Incarnation uint32 // how often it has been restored
}

// DirtyStats is what a log-dirty operation found (struct
// xen_domctl_shadow_op_stats): both count since the last Clean.
type DirtyStats struct {
	Faults uint32 // write faults taken
	Dirty  uint32 // distinct pages written
}

// PortState is the state of an event channel port: EVTCHNSTAT_* of
// xen/include/public/event_channel.h.
type PortState uint32

// The states that matter here.
const (
	PortClosed      PortState = 0
	PortUnbound     PortState = 1
	PortInterdomain PortState = 2
)

// PortStatus describes a port of a domain.
type PortStatus struct {
	State PortState
	// Remote is the domain which may bind the port (PortUnbound) or is bound
	// to it (PortInterdomain). Otherwise 0.
	Remote uint32
}

// Sizes of the entries of a serialised CPU policy
// (xen/include/public/arch-x86/xen.h).
const (
	CPUIDLeafSize = 24 // xen_cpuid_leaf_t: u32 leaf, subleaf, a, b, c, d
	MSREntrySize  = 16 // xen_msr_entry_t: u32 index, u32 flags, u64 value
)

// MaxBatchPages is the most pages that one page type query or mapping may
// take: the limit of XEN_DOMCTL_getpageframeinfo3.
const MaxBatchPages = 1024

// Indices of HVM params (xen/include/public/hvm/params.h).
const (
	ParamCallbackIRQ        = 0
	ParamStorePFN           = 1
	ParamStoreEvtchn        = 2
	ParamPAEEnabled         = 4
	ParamIOReqPFN           = 5
	ParamBufIOReqPFN        = 6
	ParamViridian           = 9
	ParamIdentPT            = 12
	ParamACPISState         = 14
	ParamConsolePFN         = 17
	ParamConsoleEvtchn      = 18
	ParamACPIIOPorts        = 19
	ParamPagingRingPFN      = 27
	ParamMonitorRingPFN     = 28
	ParamSharingRingPFN     = 29
	ParamIOReqServerPFN     = 32
	ParamNrIOReqServerPages = 33
	ParamVMGenIDAddr        = 34
	ParamX87FIPWidth        = 36
	ParamVM86TSSSized       = 37
	ParamMCACap             = 38
)
