package savefmt

import (
	"bytes"
	"fmt"
	"testing"
)

// TestPageLimit: a page that no restore would take is not verified either.
func TestPageLimit(t *testing.T) {
	const limit = 65536/4 + mmioPages // of testConfig
	for typ, want := range map[string]uint64{"pvh": limit, "hvm": limit, "pv": 65536 / 4} {
		kind := KindHVM
		if typ == "pv" {
			kind = KindPV
		}
		if conf, err := ParseGuestConfig(kind, fmt.Appendf(nil, testConfig, typ)); err != nil || conf.PageLimit() != want {
			t.Errorf("%s: %#x, want %#x, %v", typ, conf.PageLimit(), want, err)
		}
	}
	for pfn, want := range map[uint64]string{limit - 1: "", limit: "is beyond the"} {
		g := hvmGuest("pvh", 0)
		var file bytes.Buffer
		w := NewWriter(&file)
		err := w.Start(g.head)
		if err == nil {
			err = w.records(g.static)
		}
		if err == nil {
			err = w.Pages([]StockPage{NewStockPage(0, pfn)}, [][]byte{testPage(1)})
		}
		if err == nil {
			err = w.records(g.state)
		}
		if err == nil {
			err = w.Finish(nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		_, err = Verify(bytes.NewReader(file.Bytes()))
		expect(t, err, want)
	}
}
