package xen

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/xenferry/xenferry/savefmt"
)

// loadInner fills a guest from a stream, and returns the pfns that differ from
// their second copy.
func loadInner(t *testing.T, stream []byte) (*savedIncoming, []uint64) {
	t.Helper()
	to := &savedHost{fakeHost: &fakeHost{name: "beta"}}
	if _, err := to.Receive(t.Context(), Spec{Name: "db1"}); err != nil {
		t.Fatal(err)
	}
	var differ []uint64
	src := bytes.NewReader(append(bytes.Clone(stream), "libxl's"...))
	err := LoadInner(t.Context(), savefmt.NewInnerReader(src), to.got, InnerLoadOptions{
		Pages: savedPages, Differs: func(pfn uint64, _ PageType) { differ = append(differ, pfn) },
	})
	if err != nil || !to.got.finished || src.Len() != len("libxl's") {
		t.Fatalf("%v; %d bytes are left", err, src.Len())
	}
	return to.got, differ
}

// TestInner: only the libxc stream is written, the guest is left suspended and
// unlogged, and what is read from it is the guest.
func TestInner(t *testing.T) {
	for name, opts := range map[string]InnerSaveOptions{
		"stopped": {}, "live": {Live: true}, "compared": {Live: true, Verify: true},
	} {
		t.Run(name, func(t *testing.T) {
			host, dom := newSaved(TypeHVM)
			hvm := &bareDomain{dom} // QEMU's state is not in the libxc stream
			var out bytes.Buffer
			if err := SaveInner(t.Context(), host, hvm, &out, opts); err != nil {
				t.Fatal(err)
			}
			if dom.state != StateSuspended || dom.logDirty || dom.destroyed || host.called("Config") {
				t.Errorf("guest %s, log-dirty %v, calls %v", dom.state, dom.logDirty, host.calls)
			}
			sum, err := savefmt.Verify(bytes.NewReader(out.Bytes()))
			if err != nil || sum.Format != savefmt.LayerLibxc || sum.Verified != opts.Verify {
				t.Fatalf("%+v, %v", sum, err)
			}
			in, differ := loadInner(t, out.Bytes())
			if len(in.static) != 2 || len(in.final) != 3 || len(differ) != 0 {
				t.Errorf("%d static and %d final records, differing: %v", len(in.static), len(in.final), differ)
			}
			for pfn := range dom.Pages() {
				if dom.types[pfn].HasData() && !bytes.Equal(dom.mem[pfn*PageSize:][:PageSize], in.mem[pfn*PageSize:][:PageSize]) {
					t.Fatalf("pfn %#x differs", pfn)
				}
			}
		})
	}
}

// bareDomain is a guest whose device model somebody else saves.
type bareDomain struct{ *savedDomain }

func (d *bareDomain) FinalState(ctx context.Context) ([]savefmt.Record, error) {
	recs, err := d.savedDomain.FinalState(ctx)
	return recs[:3], err
}

// TestInnerDiffers: a page that is written between its two copies is told.
func TestInnerDiffers(t *testing.T) {
	host, dom := newSaved(TypePVH)
	maps := 0
	host.onCall = func(method string) {
		if method == "Map" {
			if maps++; maps == 3 { // two batches are all pages
				dom.scribble(6)
			}
		}
	}
	var out bytes.Buffer
	if err := SaveInner(t.Context(), host, dom, &out, InnerSaveOptions{Verify: true}); err != nil {
		t.Fatal(err)
	}
	if _, differ := loadInner(t, out.Bytes()); !slices.Equal(differ, []uint64{6}) {
		t.Errorf("differing: %v, want 6", differ)
	}
}

// TestInnerRepeats: state that comes again and again, as version 2 allows,
// is kept once.
func TestInnerRepeats(t *testing.T) {
	host, dom := newSaved(TypePVH)
	var out bytes.Buffer
	if err := SaveInner(t.Context(), host, dom, &out, InnerSaveOptions{}); err != nil {
		t.Fatal(err)
	}
	r := savefmt.NewReader(bytes.NewReader(out.Bytes()))
	defer r.Close()
	if _, err := r.Open(); err != nil {
		t.Fatal(err)
	}
	old := bytes.Clone(out.Bytes()[:40]) // the headers
	old[15] = 2
	begin, end := 0, 0 // of the pages; of HVM_CONTEXT, the last record
	context := 0
	for {
		item, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if item.Type == savefmt.RecPageData && begin == 0 {
			begin = int(item.Offset)
		}
		if item.Type == savefmt.RecHVMContext {
			context = int(item.Offset)
		}
		if item.Type == savefmt.RecEnd {
			end = int(item.Offset)
			break
		}
	}
	old = append(old, out.Bytes()[begin:context]...)
	for range 1000 {
		old = append(old, out.Bytes()[context:end]...)
	}
	if in, _ := loadInner(t, append(old, out.Bytes()[end:]...)); len(in.final) != 3 {
		t.Errorf("%d records of state, want 3", len(in.final))
	}
}

// TestInnerFails: the guest is not resumed, which is for others to decide, and
// not logged.
func TestInnerFails(t *testing.T) {
	for _, method := range []string{"Info", "StaticState", "StartLogDirty", "CleanDirty", "Map", "Suspend", "FinalState"} {
		host, dom := newSaved(TypePVH)
		told := errors.New("told to")
		host.failAt = map[string]error{method: told}
		err := SaveInner(t.Context(), host, dom, &bytes.Buffer{}, InnerSaveOptions{Live: true})
		if !errors.Is(err, told) || dom.logDirty || host.called("Resume") || !host.called("StopLogDirty") {
			t.Errorf("%s: %v, log-dirty %v, calls %v", method, err, dom.logDirty, host.calls)
		}
	}
}
