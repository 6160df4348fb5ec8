package xen

import (
	"encoding/binary"
	"testing"
)

// TestDedupKeeps: of a guest in which every second page is a copy of one from
// before nearly all copies are found, though each has many others in between.
func TestDedupKeeps(t *testing.T) {
	const pages = 1 << 16
	d := newDedup(pages)
	page := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) } // as many as there are
	for pfn := range uint64(pages / 2) {
		if other, ok := d.find(page(pfn), uint32(pfn), pfn); ok {
			t.Fatalf("pfn %d was taken for %d", pfn, other)
		}
	}
	lost := 0
	for pfn := range uint64(pages / 2) {
		switch other, ok := d.find(page(pfn), uint32(pfn), pages/2+pfn); {
		case !ok:
			lost++
		case other != pfn:
			t.Fatalf("a copy of %d was taken for one of %d", pfn, other)
		}
	}
	if lost > pages/2/20 {
		t.Errorf("%d of %d copies were not found", lost, pages/2)
	}
}

// TestDedupTells what must not be taken for a copy.
func TestDedupTells(t *testing.T) {
	d := newDedup(100)
	page := []byte("a page")
	expect := func(what string, pfn uint64, sum uint32, found bool) {
		t.Helper()
		if _, ok := d.find(page, sum, pfn); ok != found {
			t.Errorf("%s: found %v", what, ok)
		}
	}
	expect("the first", 1, 7, false)
	expect("the same page", 1, 7, false)
	expect("another checksum", 2, 8, false)
	expect("a copy", 3, 7, true)
	expect("a page that has no place in the table", maxDedupPFN+1, 7, false)
	d.begin(1)
	expect("another round", 4, 7, false)
	expect("a copy in that", 5, 7, true)
}
