//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

const (
	// closeLimit bounds what Close asks of QEMU.
	closeLimit = 10 * time.Second
	// mapAttempts is how often the types and the mapping of a batch are tried:
	// a live guest may give a page back between the two.
	mapAttempts = 3
)

// StartLogDirty makes Xen, and QEMU for its own writes, log. Where Xen says
// no, log-dirty mode may be on still from a migration that crashed.
func (d *domain) StartLogDirty(ctx context.Context) error {
	if err := d.h.xc.EnableLogDirty(d.domid); err != nil {
		if err := d.h.xc.DisableLogDirty(d.domid); err != nil {
			return goneOr(err)
		}
		if err := d.h.xc.EnableLogDirty(d.domid); err != nil {
			return fmt.Errorf("%w (a guest with a PCI device cannot be moved live; one with little shadow_memory may lack room)", err)
		}
	}
	d.logDirty = true
	if d.qemu == nil {
		return nil
	}
	d.qemuLogDirty = true // from the try on: whether a failed one took effect is unknown
	if err := d.qemu.setLogDirty(ctx, true); err != nil {
		return errors.Join(fmt.Errorf("domain %d: %w", d.domid, err), d.StopLogDirty(ctx))
	}
	return nil
}

// CleanDirty fetches the log. The last one also proves that the guest has not
// grown beyond what the log covers.
func (d *domain) CleanDirty(_ context.Context, bm xen.Bitmap, final bool) (xen.DirtyStats, error) {
	if !d.logDirty {
		// Xen would report that nothing has been written.
		return xen.DirtyStats{}, fmt.Errorf("domain %d: dirty pages are asked for, but are not logged", d.domid)
	}
	if final {
		if err := d.checkPages(); err != nil {
			return xen.DirtyStats{}, err
		}
	}
	info, err := d.h.xc.Domain(d.domid)
	if err == nil {
		_, err = d.dirty.Clean(bm, final)
	}
	if err != nil {
		return xen.DirtyStats{}, goneOr(err)
	}
	// Xen's own count leaves out the pages that final adds.
	return xen.DirtyStats{Dirty: bm.Count(), MemKiB: info.TotPages * (xen.PageSize / 1024)}, nil
}

// checkPages returns an error if the guest has pages beyond Pages().
func (d *domain) checkPages() error {
	n, err := d.h.xc.NrPFNs(d.domid)
	if err != nil {
		return goneOr(err)
	}
	if n > d.pages {
		return fmt.Errorf("domain %d has grown from %d to %d pages during the migration: begin again", d.domid, d.pages, n)
	}
	return nil
}

// StopLogDirty switches both off. A domain that is gone has nothing to stop.
func (d *domain) StopLogDirty(ctx context.Context) error {
	var err error
	if d.leftover {
		err = d.takeOverLog(ctx)
	}
	if d.logDirty {
		xenErr := d.h.xc.DisableLogDirty(d.domid)
		if xenErr == nil || isGone(xenErr) {
			d.logDirty, xenErr = false, nil
		}
		err = errors.Join(err, xenErr)
	}
	if d.qemuLogDirty {
		qemuErr := d.qemu.setLogDirty(ctx, false)
		if qemuErr == nil || d.gone() {
			d.qemuLogDirty, qemuErr = false, nil
		}
		err = errors.Join(err, qemuErr)
	}
	return err
}

// takeOverLog makes logging that a dead sender may have left on our own. QEMU
// must be told to log before it is told to stop: it does not survive being told
// to stop what it does not do.
func (d *domain) takeOverLog(ctx context.Context) error {
	d.leftover, d.logDirty = false, true
	if d.qemu == nil || d.gone() {
		return nil
	}
	if err := d.qemu.setLogDirty(ctx, true); err != nil {
		return fmt.Errorf("domain %d: %w", d.domid, err)
	}
	d.qemuLogDirty = true
	return nil
}

// batchMapping is a Batch's Mapping for a domain of ours.
type batchMapping struct {
	m    xenctrl.Mapping
	pfns []uint64 // those of the batch that have contents
}

// Map asks for the types and maps the pages with contents, one hypercall each.
func (d *domain) Map(b *xen.Batch) error {
	bm, ok := b.Mapping.(*batchMapping)
	if !ok {
		bm = &batchMapping{pfns: make([]uint64, 0, xen.BatchPages)}
		b.Mapping = bm
	}
	b.Grow()
	if n := len(b.PFNs); n > 0 && b.PFNs[n-1] >= d.pages {
		return fmt.Errorf("domain %d: map: pfn %#x is beyond its %#x pages", d.domid, b.PFNs[n-1], d.pages)
	}
	for attempt := 1; ; attempt++ {
		if err := xenctrl.PageTypes(d.h.xc, d.domid, b.PFNs, b.Types); err != nil {
			return goneOr(err)
		}
		d.leaveOutFresh(b)
		i, err := d.mapData(b, bm)
		if err == nil {
			return nil
		}
		if i < 0 {
			return goneOr(err)
		}
		if attempt == mapAttempts {
			return fmt.Errorf("domain %d: map pfn %#x: %w", d.domid, bm.pfns[i], err)
		}
	}
}

// leaveOutFresh makes the pages of xenstore, console and device model pages
// without contents: those of the new host begin empty.
func (d *domain) leaveOutFresh(b *xen.Batch) {
	for _, pfn := range d.fresh {
		if i, found := slices.BinarySearch(b.PFNs, pfn); found && b.Types[i].HasData() {
			b.Types[i] = xen.PageXAlloc
		}
	}
}

// mapData maps the pages of b whose types have contents. Where one of them
// cannot be mapped, none is, and failed is its index in bm.pfns.
func (d *domain) mapData(b *xen.Batch, bm *batchMapping) (failed int, err error) {
	bm.pfns = bm.pfns[:0]
	for i, t := range b.Types {
		b.Pages[i] = nil
		if t.HasData() {
			bm.pfns = append(bm.pfns, b.PFNs[i])
		}
	}
	if len(bm.pfns) == 0 {
		return -1, nil
	}
	const writable = false
	if err := d.h.xc.Map(&bm.m, d.domid, bm.pfns, writable); err != nil {
		return -1, err
	}
	if i, err := bm.m.Failed(); err != nil {
		return i, errors.Join(err, bm.m.Unmap())
	}
	next := 0
	for i, t := range b.Types {
		if t.HasData() {
			b.Pages[i] = bm.m.Page(next)
			next++
		}
	}
	return -1, nil
}

// Unmap takes the views back. Idempotent.
func (d *domain) Unmap(b *xen.Batch) error {
	clear(b.Pages)
	if bm, ok := b.Mapping.(*batchMapping); ok {
		return bm.m.Unmap()
	}
	return nil
}
