package xl

import (
	"encoding/binary"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xenctrl"
)

// The bodies of a guest's state records, as stock Xen writes them. What
// records.go reads.

// tscInfoRecord makes a TSC_INFO record:
//
//	u32 mode | u32 kHz | u64 ns | u32 incarnation | u32 0
func tscInfoRecord(t xenctrl.TSCInfo) savefmt.Record {
	le := binary.LittleEndian
	b := make([]byte, 0, tscInfoSize)
	b = le.AppendUint32(b, t.Mode)
	b = le.AppendUint32(b, t.KHz)
	b = le.AppendUint64(b, t.ElapsedNs)
	b = le.AppendUint32(b, t.Incarnation)
	b = le.AppendUint32(b, 0)
	return savefmt.Record{Type: savefmt.RecTSCInfo, Body: b}
}

// hvmParamsRecord makes an HVM_PARAMS record:
//
//	u32 count | u32 0 | count x { u64 index | u64 value }
func hvmParamsRecord(params hvmParams) savefmt.Record {
	le := binary.LittleEndian
	b := make([]byte, paramsHeader, paramsHeader+paramEntrySize*len(params))
	le.PutUint32(b, uint32(len(params)))
	for _, p := range params {
		b = le.AppendUint64(b, uint64(p.index))
		b = le.AppendUint64(b, p.value)
	}
	return savefmt.Record{Type: savefmt.RecHVMParams, Body: b}
}
