package xl

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/xenferry/xenferry/savefmt"
)

// innerStream is a PV guest's libxc stream, as small as one can be.
func innerStream(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := savefmt.NewWriter(&out)
	vcpu := make([]byte, 9)
	err := w.Start(savefmt.Head{Outer: savefmt.LayerLibxc, Kind: savefmt.KindPV, XenMajor: 4, XenMinor: 17})
	for _, r := range []savefmt.Record{
		{Type: savefmt.RecPVInfo, Body: []byte{8, 4, 0, 0, 0, 0, 0, 0}}, {Type: savefmt.RecStaticDataEnd},
		{Type: savefmt.RecPVP2MFrames, Body: make([]byte, 16)},
	} {
		err = errors.Join(err, w.Record(r))
	}
	err = errors.Join(err, w.Pages([]savefmt.StockPage{savefmt.NewStockPage(0, 1)}, [][]byte{make([]byte, 4096)}))
	for _, r := range []savefmt.Record{
		{Type: savefmt.RecTSCInfo, Body: make([]byte, 24)}, {Type: savefmt.RecSharedInfo, Body: make([]byte, 4096)},
		{Type: savefmt.RecPVVCPUBasic, Body: vcpu},
	} {
		err = errors.Join(err, w.Record(r))
	}
	if err = errors.Join(err, w.Finish(nil)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestHelperTakesStream: from stock xl, and from our receiver behind its hello.
// Either way libxl finds what follows the stream's END untouched.
func TestHelperTakesStream(t *testing.T) {
	for _, bridged := range []bool{false, true} {
		r := newRig(t, false)
		if bridged {
			if _, err := r.bridge.open(t.Context(), r.uuid); err != nil {
				t.Fatal(err)
			}
			if err := r.bridge.write(opStream); err != nil {
				t.Fatal(err)
			}
		} else if err := savefmt.NewLibxlWriter(r.bridge.f).Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.bridge.f.Write(innerStream(t)); err != nil {
			t.Fatal(err)
		}
		if err := savefmt.NewLibxlWriter(r.bridge.f).End(); err != nil {
			t.Fatal(err)
		}
		if err := r.wait(t); err != nil {
			t.Fatalf("helper: %v", err)
		}
		if got := r.numbers(t); len(got) != 2 || got[0] != msgRestoreResults || got[1] != msgComplete {
			t.Fatalf("libxl got messages %v, want 9, 10", got)
		}
		if got := r.libxl.got[1].args; !bytes.Equal(got, make([]byte, 8)) {
			t.Errorf("complete with % x, want zeros", got)
		}
		rest := make([]byte, 8) // libxl's END
		r.stream.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(r.stream, rest); err != nil || !bytes.Equal(rest, make([]byte, 8)) {
			t.Errorf("libxl reads on with % x, %v", rest, err)
		}
	}
}
