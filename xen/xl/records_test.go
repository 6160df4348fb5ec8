package xl

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

func rec(typ uint32, size int) savefmt.Record {
	return savefmt.Record{Type: typ, Body: make([]byte, size)}
}

// paramsRec builds an HVM_PARAMS record from index, value pairs.
func paramsRec(pairs ...uint64) savefmt.Record {
	b := make([]byte, 8)
	binary.LittleEndian.PutUint32(b, uint32(len(pairs)/2))
	for _, v := range pairs {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return savefmt.Record{Type: savefmt.RecHVMParams, Body: b}
}

func TestParseStatic(t *testing.T) {
	for _, c := range []struct {
		name    string
		recs    []savefmt.Record
		missing uint32
		err     string
	}{
		{"both", []savefmt.Record{rec(savefmt.RecCPUIDPolicy, 48), rec(savefmt.RecMSRPolicy, 16)}, 0, ""},
		{"none", nil, missingCPUID | missingMSR, ""},
		{"no MSRs", []savefmt.Record{rec(savefmt.RecCPUIDPolicy, 24)}, missingMSR, ""},
		{"no leaves", []savefmt.Record{rec(savefmt.RecMSRPolicy, 16)}, missingCPUID, ""},
		{"half a leaf", []savefmt.Record{rec(savefmt.RecCPUIDPolicy, 36)}, 0, "not a number of entries of 24"},
		{"half an MSR", []savefmt.Record{rec(savefmt.RecMSRPolicy, 8)}, 0, "not a number of entries of 16"},
		{"empty leaves", []savefmt.Record{rec(savefmt.RecCPUIDPolicy, 0)}, 0, "not a number of entries"},
		{"far too many", []savefmt.Record{rec(savefmt.RecMSRPolicy, 2<<20)}, 0, "over the limit"},
		{"twice", []savefmt.Record{rec(savefmt.RecMSRPolicy, 16), rec(savefmt.RecMSRPolicy, 16)}, 0, "two MSR_POLICY"},
		{"final state here", []savefmt.Record{rec(savefmt.RecTSCInfo, 24)}, 0, "TSC_INFO has no place"},
		{"unknown", []savefmt.Record{rec(0x7777, 24)}, 0, "0x7777 has no place"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := parseStatic(c.recs)
			checkErr(t, err, c.err)
			if err == nil && s.missing() != c.missing {
				t.Errorf("missing %b, want %b", s.missing(), c.missing)
			}
		})
	}
}

func TestParseFinal(t *testing.T) {
	const pages = 0x1000
	tsc, hvm := rec(savefmt.RecTSCInfo, 24), rec(savefmt.RecHVMContext, 100)
	params := paramsRec(xenctrl.ParamStorePFN, 0xffc, xenctrl.ParamConsolePFN, 0xfff)
	with := func(p savefmt.Record) []savefmt.Record { return []savefmt.Record{tsc, p, hvm} }
	for _, c := range []struct {
		name string
		typ  xen.GuestType
		recs []savefmt.Record
		err  string
	}{
		{"pvh", xen.TypePVH, with(params), ""},
		{"hvm", xen.TypeHVM, append(with(params), rec(savefmt.RecDeviceModel, 10)), ""},
		{"another order", xen.TypePVH, []savefmt.Record{hvm, params, tsc}, ""},
		{"no params at all", xen.TypePVH, with(paramsRec()), ""}, // loadFinal then misses the store
		{"hvm without QEMU", xen.TypeHVM, with(params), "no device model record"},
		{"pvh with QEMU", xen.TypePVH, append(with(params), rec(savefmt.RecDeviceModel, 10)), "device model has no place"},
		{"QEMU without state", xen.TypeHVM, append(with(params), rec(savefmt.RecDeviceModel, 0)), "cannot be empty"},
		{"no TSC", xen.TypePVH, []savefmt.Record{params, hvm}, "no TSC_INFO"},
		{"no context", xen.TypePVH, []savefmt.Record{params, tsc}, "no HVM_CONTEXT"},
		{"empty context", xen.TypePVH, []savefmt.Record{params, tsc, rec(savefmt.RecHVMContext, 0)}, "cannot be empty"},
		{"long TSC", xen.TypePVH, []savefmt.Record{params, rec(savefmt.RecTSCInfo, 32), hvm}, "must have 24"},
		{"two TSCs", xen.TypePVH, []savefmt.Record{params, tsc, tsc, hvm}, "two TSC_INFO"},
		{"static state here", xen.TypePVH, append(with(params), rec(savefmt.RecMSRPolicy, 16)), "MSR_POLICY has no place"},
		{"params too short", xen.TypePVH, with(rec(savefmt.RecHVMParams, 7)), "at least 8"},
		{"params fewer than claimed", xen.TypePVH, with(claim(params, 3)), "must have 56"},
		{"params more than claimed", xen.TypePVH, with(claim(params, 1)), "must have 24"},
		{"params claim billions", xen.TypePVH, with(claim(params, 1<<32-1)), "over the limit of 64"},
		{"param twice", xen.TypePVH, with(paramsRec(9, 1, 9, 1)), "param 9 twice"},
		{"param of the host", xen.TypePVH, with(paramsRec(xenctrl.ParamStoreEvtchn, 1)), "param 2, which is not one"},
		{"unknown param", xen.TypePVH, with(paramsRec(63, 1)), "param 63"},
		{"huge index", xen.TypePVH, with(paramsRec(1<<32+1, 1)), "param 4294967297"},
		{"page beyond the guest", xen.TypePVH, with(paramsRec(xenctrl.ParamConsolePFN, pages)), "beyond the guest's"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseFinal(c.recs, c.typ, pages)
			checkErr(t, err, c.err)
		})
	}
}

// claim sets the count of an HVM_PARAMS record.
func claim(r savefmt.Record, count uint32) savefmt.Record {
	b := append([]byte(nil), r.Body...)
	binary.LittleEndian.PutUint32(b, count)
	return savefmt.Record{Type: r.Type, Body: b}
}

func TestParseFinalValues(t *testing.T) {
	tsc := rec(savefmt.RecTSCInfo, 24)
	le := binary.LittleEndian
	le.PutUint32(tsc.Body, 1)
	le.PutUint32(tsc.Body[4:], 2300000)
	le.PutUint64(tsc.Body[8:], 1<<40)
	le.PutUint32(tsc.Body[16:], 3)
	params := paramsRec(xenctrl.ParamPAEEnabled, 1, xenctrl.ParamStorePFN, 0xffc)
	s, err := parseFinal([]savefmt.Record{tsc, params, rec(savefmt.RecHVMContext, 1)}, xen.TypePVH, 0x1000)
	if err != nil {
		t.Fatal(err)
	}
	if want := (xenctrl.TSCInfo{Mode: 1, KHz: 2300000, ElapsedNs: 1 << 40, Incarnation: 3}); s.tsc != want {
		t.Errorf("TSC %+v, want %+v", s.tsc, want)
	}
	if len(s.params) != 1 || s.params[0] != (hvmParam{xenctrl.ParamStorePFN, 0xffc}) {
		t.Errorf("params %+v, want the store page only", s.params)
	}
}

// checkErr fails unless err is nil as want is empty, or contains want.
func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error %v", err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("error %v, want %q in it", err, want)
	}
}

func TestParseEarly(t *testing.T) {
	const pages = 0x1000
	params := paramsRec(xenctrl.ParamStorePFN, 0xffc, xenctrl.ParamX87FIPWidth, 8, xenctrl.ParamConsolePFN, 0xfff)
	got, err := parseEarly([]savefmt.Record{params}, pages)
	if err != nil {
		t.Fatal(err)
	}
	if fresh := got.freshPages(); !slices.Equal(fresh, []uint64{0xffc, 0xfff}) {
		t.Errorf("pages that are to begin empty: %#x", fresh)
	}
	for name, c := range map[string]struct {
		recs []savefmt.Record
		err  string
	}{
		"nothing":        {nil, "no HVM_PARAMS record"},
		"a final record": {[]savefmt.Record{params, rec(savefmt.RecTSCInfo, 24)}, "TSC_INFO has no place"},
		"twice":          {[]savefmt.Record{params, params}, "two HVM_PARAMS"},
		"beyond the end": {[]savefmt.Record{paramsRec(xenctrl.ParamStorePFN, pages)}, "beyond the guest's"},
	} {
		_, err := parseEarly(c.recs, pages)
		if err == nil {
			t.Errorf("%s was taken", name)
			continue
		}
		checkErr(t, err, c.err)
	}
}
