//go:build xen

package xl

import (
	"sync"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

// TestLiveShort fills a new guest to its limit with half of its superpages
// populated ahead for nothing, from several goroutines: what they need then comes,
// pages that have gone are given back, and none is lost on the way.
func TestLiveShort(t *testing.T) {
	l := openLive(t)
	received, err := l.h.Receive(t.Context(), l.spec)
	if err != nil {
		t.Fatal(err)
	}
	defer received.Close()
	if err := received.LoadStatic(t.Context(), l.static); err != nil {
		t.Fatal(err)
	}
	in := received.(*incoming)
	pages := func() uint64 {
		t.Helper()
		d, err := in.h.xc.Domain(in.Domid())
		if err != nil {
			t.Fatal(err)
		}
		return d.TotPages
	}
	in.mustGive(t, in.spec.Pages/2, 100, 1, xen.PageXAlloc) // so that a batch finds room for a part of it
	d, err := in.h.xc.Domain(in.Domid())
	if err != nil {
		t.Fatal(err)
	}
	base, blocks := d.TotPages, (d.MaxPages-d.TotPages)/superPages
	t.Logf("%d pages of %d, and %d superpages", base, d.MaxPages, blocks)
	for n := range blocks {
		in.mustGive(t, n*superPages, superPages/2, 1, xen.PageXAlloc)
	}
	if made := in.supers.made.Load(); made != blocks || pages() != base+blocks*superPages {
		t.Fatalf("%d superpages of %d, %d pages", made, blocks, pages())
	}
	const parts = 4
	high, each := blocks*superPages*2, blocks*superPages/2/parts
	var all sync.WaitGroup
	for i := range uint64(parts) {
		all.Go(func() { in.mustGive(t, high+i*each*2, each, 2, xen.PageXAlloc) }) // every other pfn: one by one
	}
	all.Wait()
	if want := base + blocks*superPages/2 + parts*each; pages() != want {
		t.Errorf("%d pages, want %d", pages(), want)
	}
	in.mustGive(t, high, each, 2, xen.PageXTab)
	if want := base + blocks*superPages/2 + (parts-1)*each; pages() != want {
		t.Errorf("%d pages with some gone, want %d", pages(), want)
	}
	in.mustGive(t, high, each, 2, xen.PageXAlloc)
	if want := base + blocks*superPages/2 + parts*each; pages() != want {
		t.Errorf("%d pages when they have come again, want %d", pages(), want)
	}
}

// mustGive maps count pfns, every step-th from first on, all of one type.
func (in *incoming) mustGive(t *testing.T, first, count, step uint64, typ xen.PageType) {
	t.Helper()
	b := xen.NewBatch()
	for done := uint64(0); done < count; {
		b.Reset()
		for ; done < count && len(b.PFNs) < superPages/2; done++ {
			b.PFNs = append(b.PFNs, first+done*step)
		}
		b.Grow()
		for i := range b.Types {
			b.Types[i] = typ
		}
		if err := in.Map(b); err != nil {
			t.Error(err)
			return
		}
		if err := in.Unmap(b); err != nil {
			t.Error(err)
			return
		}
	}
}
