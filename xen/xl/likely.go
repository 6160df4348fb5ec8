//go:build xen

package xl

import (
	"context"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

const (
	// likelyBlock: whoever gives a guest memory does it by large pages, or at
	// the beginning or the end of what one would cover.
	likelyBlock = 512
	// mostlyHoles: with so many pfns for each page it pays to look where the
	// pages are.
	mostlyHoles = 2
)

// likelyOffsets are the pfns of a block that are asked for.
var likelyOffsets = [...]uint64{0, likelyBlock / 2, likelyBlock - 1}

// Likely asks for the type of some pfns of each block, and takes the blocks in
// which one of them has a page, and those of the pages that Prepare needs.
func (d *domain) Likely(ctx context.Context) (xen.Bitmap, error) {
	info, err := d.h.xc.Domain(d.domid)
	if err != nil {
		return nil, goneOr(err)
	}
	if d.pages < mostlyHoles*info.TotPages {
		return nil, nil
	}
	bm := xen.NewBitmap(d.pages)
	for _, pfn := range d.fresh {
		d.setBlock(bm, pfn)
	}
	pfns, types := make([]uint64, 0, xenctrl.MaxBatchPages), make([]xen.PageType, xenctrl.MaxBatchPages)
	for pfn := uint64(0); pfn < d.pages; pfn += likelyBlock {
		for _, at := range likelyOffsets {
			if pfn+at < d.pages {
				pfns = append(pfns, pfn+at)
			}
		}
		if last := pfn+likelyBlock >= d.pages; !last && cap(pfns)-len(pfns) >= len(likelyOffsets) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		if err := xenctrl.PageTypes(d.h.xc, d.domid, pfns, types[:len(pfns)]); err != nil {
			return nil, goneOr(err)
		}
		for i, at := range pfns {
			if types[i].Populated() {
				d.setBlock(bm, at)
			}
		}
		pfns = pfns[:0]
	}
	return bm, nil
}

// setBlock sets the bits of the block of pfn.
func (d *domain) setBlock(bm xen.Bitmap, pfn uint64) {
	first := pfn / likelyBlock * likelyBlock
	for at := first; at < min(first+likelyBlock, d.pages); at++ {
		bm.Set(at)
	}
}
