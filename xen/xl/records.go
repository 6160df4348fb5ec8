package xl

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// What the sender's records say, checked as far as can be done without a
// hypervisor. Their layouts are those of the libxc stream (Xen's
// docs/specs/libxc-migration-stream).

// Limits on the records, far above what Xen makes and below what would hurt.
const (
	maxPolicyBody  = 1 << 20
	maxHVMContext  = 64 << 20 // as in xenctrl: 128 vCPUs need below 1 MiB
	maxHVMParams   = 64       // HVM_NR_PARAMS is 39
	tscInfoSize    = 24
	paramsHeader   = 8
	paramEntrySize = 16
)

// Bits that tell libxl what the static state lacks (XGR_SDD_MISSING_* in
// xenguest.h).
const (
	missingCPUID uint32 = 1 << iota
	missingMSR
)

// staticState is what must be loaded before any page.
type staticState struct {
	leaves, msrs []byte
}

// missing is the answer for libxl.
func (s staticState) missing() (bits uint32) {
	if len(s.leaves) == 0 {
		bits |= missingCPUID
	}
	if len(s.msrs) == 0 {
		bits |= missingMSR
	}
	return bits
}

// parseStatic reads the records of Domain.StaticState.
func parseStatic(recs []savefmt.Record) (s staticState, err error) {
	if err := eachOnce(recs, savefmt.RecCPUIDPolicy, savefmt.RecMSRPolicy); err != nil {
		return s, err
	}
	for _, r := range recs {
		entry, into := xenctrl.CPUIDLeafSize, &s.leaves
		if r.Type == savefmt.RecMSRPolicy {
			entry, into = xenctrl.MSREntrySize, &s.msrs
		}
		if len(r.Body) > maxPolicyBody {
			return s, recordError(r, "is over the limit of %d", maxPolicyBody)
		}
		if len(r.Body) == 0 || len(r.Body)%entry != 0 {
			return s, recordError(r, "is not a number of entries of %d", entry)
		}
		*into = r.Body
	}
	return s, nil
}

// hvmParam is one HVM param, of an index that a guest brings along.
type hvmParam struct {
	index uint32
	value uint64
}

// hvmParams are the params of one guest.
type hvmParams []hvmParam

// freshPages returns the pages that each host must find empty.
func (p hvmParams) freshPages() (pfns []uint64) {
	for _, e := range p {
		if slices.Contains(freshPageParams, e.index) {
			pfns = append(pfns, e.value)
		}
	}
	return pfns
}

// finalState is what must be loaded after all pages.
type finalState struct {
	tsc         xenctrl.TSCInfo
	params      hvmParams
	hvmContext  []byte
	deviceModel []byte // nil for a PVH guest
}

// parseFinal reads the records of Domain.FinalState for a guest of that type
// whose pfns are below pages.
func parseFinal(recs []savefmt.Record, typ xen.GuestType, pages uint64) (s finalState, err error) {
	want := []uint32{savefmt.RecTSCInfo, savefmt.RecHVMParams, savefmt.RecHVMContext}
	if typ == xen.TypeHVM {
		want = append(want, savefmt.RecDeviceModel)
	}
	if err := allOnce(recs, want...); err != nil {
		return s, err
	}
	for _, r := range recs {
		switch r.Type {
		case savefmt.RecTSCInfo:
			s.tsc, err = parseTSC(r)
		case savefmt.RecHVMParams:
			s.params, err = parseParams(r, pages)
		case savefmt.RecHVMContext:
			s.hvmContext, err = blob(r, maxHVMContext)
		case savefmt.RecDeviceModel:
			s.deviceModel, err = blob(r, savefmt.MaxDeviceModel)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// parseEarly reads the records of Domain.EarlyState: the params, which name the
// pages that the devices use.
func parseEarly(recs []savefmt.Record, pages uint64) (hvmParams, error) {
	if err := allOnce(recs, savefmt.RecHVMParams); err != nil {
		return nil, err
	}
	return parseParams(recs[0], pages)
}

// allOnce checks that recs holds each of the given types once, and nothing else.
func allOnce(recs []savefmt.Record, types ...uint32) error {
	if err := eachOnce(recs, types...); err != nil {
		return err
	}
	for _, w := range types {
		if !slices.ContainsFunc(recs, func(r savefmt.Record) bool { return r.Type == w }) {
			return fmt.Errorf("guest state: there is no %s record", recordName(w))
		}
	}
	return nil
}

// parseTSC reads u32 mode, u32 kHz, u64 ns, u32 incarnation, u32 zero.
func parseTSC(r savefmt.Record) (xenctrl.TSCInfo, error) {
	if len(r.Body) != tscInfoSize {
		return xenctrl.TSCInfo{}, recordError(r, "must have %d", tscInfoSize)
	}
	le := binary.LittleEndian
	return xenctrl.TSCInfo{
		Mode: le.Uint32(r.Body), KHz: le.Uint32(r.Body[4:]),
		ElapsedNs: le.Uint64(r.Body[8:]), Incarnation: le.Uint32(r.Body[16:]),
	}, nil
}

// Params that a guest brings along, as stock Xen sends them. The others belong
// to the host (event channel ports, callbacks into it) or to the hypervisor.
var movingParams = []uint32{
	xenctrl.ParamStorePFN, xenctrl.ParamIOReqPFN, xenctrl.ParamBufIOReqPFN,
	xenctrl.ParamPagingRingPFN, xenctrl.ParamMonitorRingPFN, xenctrl.ParamSharingRingPFN,
	xenctrl.ParamVM86TSSSized, xenctrl.ParamConsolePFN, xenctrl.ParamACPIIOPorts,
	xenctrl.ParamViridian, xenctrl.ParamIdentPT, xenctrl.ParamVMGenIDAddr,
	xenctrl.ParamIOReqServerPFN, xenctrl.ParamNrIOReqServerPages,
	xenctrl.ParamX87FIPWidth, xenctrl.ParamMCACap,
}

// freshPageParams name pages which this host must find empty: what the old
// host had written there means nothing here.
var freshPageParams = []uint32{
	xenctrl.ParamStorePFN, xenctrl.ParamConsolePFN, xenctrl.ParamIOReqPFN, xenctrl.ParamBufIOReqPFN,
}

// parseParams reads u32 count, u32 zero, count x {u64 index, u64 value}.
func parseParams(r savefmt.Record, pages uint64) (hvmParams, error) {
	le := binary.LittleEndian
	if len(r.Body) < paramsHeader {
		return nil, recordError(r, "must have at least %d", paramsHeader)
	}
	count := uint64(le.Uint32(r.Body))
	if count > maxHVMParams {
		return nil, recordError(r, "claims %d params, over the limit of %d", count, maxHVMParams)
	}
	if want := paramsHeader + count*paramEntrySize; uint64(len(r.Body)) != want {
		return nil, recordError(r, "must have %d for its %d params", want, count)
	}
	var params hvmParams
	for e := r.Body[paramsHeader:]; len(e) > 0; e = e[paramEntrySize:] {
		index, value := le.Uint64(e), le.Uint64(e[8:])
		if index == xenctrl.ParamPAEEnabled {
			continue // old senders have it; it has no meaning any more
		}
		p := hvmParam{uint32(index), value}
		if index > maxHVMParams || !slices.Contains(movingParams, p.index) {
			return nil, recordError(r, "has param %d, which is not one that moves with a guest", index)
		}
		if slices.ContainsFunc(params, func(o hvmParam) bool { return o.index == p.index }) {
			return nil, recordError(r, "has param %d twice", index)
		}
		if slices.Contains(freshPageParams, p.index) && value >= pages {
			return nil, recordError(r, "has param %d naming pfn %#x, beyond the guest's %#x pages", index, value, pages)
		}
		params = append(params, p)
	}
	return params, nil
}

// blob returns a body that only Xen or QEMU can read.
func blob(r savefmt.Record, limit int) ([]byte, error) {
	if len(r.Body) == 0 {
		return nil, recordError(r, "cannot be empty")
	}
	if len(r.Body) > limit {
		return nil, recordError(r, "is over the limit of %d", limit)
	}
	return r.Body, nil
}

// eachOnce checks that recs holds only the given types, each at most once.
func eachOnce(recs []savefmt.Record, types ...uint32) error {
	seen := map[uint32]bool{}
	for _, r := range recs {
		if !slices.Contains(types, r.Type) {
			return fmt.Errorf("guest state: a record of type %s has no place here", recordName(r.Type))
		}
		if seen[r.Type] {
			return fmt.Errorf("guest state: there are two %s records", recordName(r.Type))
		}
		seen[r.Type] = true
	}
	return nil
}

func recordError(r savefmt.Record, format string, args ...any) error {
	return fmt.Errorf("guest state: the %s record of %d bytes %s", recordName(r.Type), len(r.Body), fmt.Sprintf(format, args...))
}

func recordName(typ uint32) string {
	names := map[uint32]string{
		savefmt.RecTSCInfo: "TSC_INFO", savefmt.RecHVMContext: "HVM_CONTEXT",
		savefmt.RecHVMParams: "HVM_PARAMS", savefmt.RecCPUIDPolicy: "CPUID_POLICY",
		savefmt.RecMSRPolicy: "MSR_POLICY", savefmt.RecDeviceModel: "device model",
	}
	if n, ok := names[typ]; ok {
		return n
	}
	return fmt.Sprintf("%#x", typ)
}
