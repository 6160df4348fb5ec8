package xl

import (
	"encoding/hex"
	"testing"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xenctrl"
)

// The bytes are those of the stream's specification.
func TestStateRecords(t *testing.T) {
	for _, tc := range []struct {
		name string
		rec  savefmt.Record
		typ  uint32
		body string
	}{
		{"tsc", tscInfoRecord(xenctrl.TSCInfo{Mode: 1, KHz: 0x00249f00, ElapsedNs: 0x1122334455667788, Incarnation: 3}), 0x08,
			"01000000" + "009f2400" + "8877665544332211" + "03000000" + "00000000"},
		{"params", hvmParamsRecord(hvmParams{{1, 0xfeffc}, {36, 8}}), 0x0A,
			"02000000" + "00000000" + "0100000000000000" + "fcef0f0000000000" + "2400000000000000" + "0800000000000000"},
		{"no params", hvmParamsRecord(nil), 0x0A, "00000000" + "00000000"},
	} {
		if got := hex.EncodeToString(tc.rec.Body); tc.rec.Type != tc.typ || got != tc.body {
			t.Errorf("%s: type %#x, body %s\nwant %#x, %s", tc.name, tc.rec.Type, got, tc.typ, tc.body)
		}
	}
}

func TestStateRecordsRoundTrip(t *testing.T) {
	want := xenctrl.TSCInfo{Mode: 2, KHz: 2400000, ElapsedNs: 1 << 60, Incarnation: 9}
	if got, err := parseTSC(tscInfoRecord(want)); err != nil || got != want {
		t.Errorf("TSC %+v, want %+v: %v", got, want, err)
	}
	params := hvmParams{{xenctrl.ParamStorePFN, 0xff}, {xenctrl.ParamConsolePFN, 0xfe}}
	got, err := parseParams(hvmParamsRecord(params), 0x100)
	if err != nil || len(got) != 2 || got[0] != params[0] || got[1] != params[1] {
		t.Errorf("params %+v, want %+v: %v", got, params, err)
	}
}
