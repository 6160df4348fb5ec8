//go:build xen

package xl

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// inMapping is what a Batch keeps for an incoming from one Map to the next.
type inMapping struct {
	view  xenctrl.Mapping
	fresh []uint64 // pfns to be populated
	gone  []uint64 // pfns that had a page, and have none any more
	data  []uint64 // pfns to be mapped
	at    []int    // where in the batch each of data stands
}

// Map gives the pages of b memory and a writable view. It makes two
// hypercalls, one where the pages are there already, and allocates nothing
// after a batch's first time.
func (in *incoming) Map(b *xen.Batch) error {
	b.Grow()
	m, ok := b.Mapping.(*inMapping)
	if !ok {
		m = &inMapping{
			fresh: make([]uint64, 0, xen.BatchPages),
			gone:  make([]uint64, 0, xen.BatchPages),
			data:  make([]uint64, 0, xen.BatchPages),
			at:    make([]int, 0, xen.BatchPages),
		}
		b.Mapping = m
	}
	err := in.give(b, m)
	if errors.Is(err, xen.ErrNoMemory) {
		// What was populated ahead may be what is missing now. If another batch
		// is giving it back at this moment, this one waits for that.
		in.supers.off.Store(true)
		if err = in.releaseAhead(); err == nil {
			err = in.give(b, m)
		}
	}
	if err != nil {
		return err
	}
	if len(m.data) == 0 {
		return nil
	}
	domid := in.hello.domid
	if err := in.h.xc.Map(&m.view, domid, m.data, true); err != nil {
		return err
	}
	if i, err := m.view.Failed(); i >= 0 {
		return errors.Join(fmt.Errorf("domain %d: map pfn %#x to write it: %w", domid, m.data[i], err), m.view.Unmap())
	}
	for i, at := range m.at {
		b.Pages[at] = m.view.Page(i)
	}
	return nil
}

// give sees that the pages of b have memory.
func (in *incoming) give(b *xen.Batch, m *inMapping) error {
	in.supers.use.RLock()
	defer in.supers.use.RUnlock()
	if err := in.sort(b, m); err != nil {
		return err
	}
	if err := in.release(m.gone); err != nil {
		return err
	}
	return in.populate(m.fresh)
}

// sort finds what must be populated, what mapped and what given back: a guest
// whose balloon grows while it is copied has no use for those pages, and would get
// no others.
func (in *incoming) sort(b *xen.Batch, m *inMapping) error {
	if len(b.PFNs) > xen.BatchPages {
		return fmt.Errorf("domain %d: batch of %d pages, over the limit of %d", in.hello.domid, len(b.PFNs), xen.BatchPages)
	}
	taken := in.taken.Load() // up to four pfns
	m.fresh, m.gone, m.data, m.at = m.fresh[:0], m.gone[:0], m.data[:0], m.at[:0]
	for i, pfn := range b.PFNs {
		t := b.Types[i]
		switch {
		case pfn >= in.spec.Pages:
			return fmt.Errorf("domain %d: pfn %#x is beyond the guest's %#x pages", in.hello.domid, pfn, in.spec.Pages)
		case i > 0 && pfn <= b.PFNs[i-1]:
			return fmt.Errorf("domain %d: pfn %#x is not above the one before it in its batch", in.hello.domid, pfn)
		case t != xen.PageNormal && t != xen.PageBroken && t != xen.PageXAlloc && t != xen.PageXTab:
			return fmt.Errorf("domain %d: pfn %#x has page type %#x, which no %s guest has", in.hello.domid, pfn, t, in.spec.Type)
		}
		b.Pages[i] = nil
		if t.Populated() && !in.populated.has(pfn) {
			m.fresh = append(m.fresh, pfn)
		}
		if t.Populated() {
			in.supers.ahead.remove(pfn)
		} else if in.populated.has(pfn) && (taken == nil || !slices.Contains(*taken, pfn)) {
			m.gone = append(m.gone, pfn)
		}
		if t.HasData() {
			if taken != nil && slices.Contains(*taken, pfn) {
				return fmt.Errorf("domain %d: the source has sent contents of pfn %#x, which the devices use here", in.hello.domid, pfn)
			}
			m.data = append(m.data, pfn)
			m.at = append(m.at, i)
		}
	}
	return nil
}

// populate gives each of pfns, none of which had it when they were sorted, a
// page of memory: by a superpage where they are half of one.
func (in *incoming) populate(pfns []uint64) error {
	if len(pfns) == 0 {
		return nil
	}
	defer in.supers.lock(pfns[0]).Unlock()
	if in.supers.worthwhile(pfns, in.spec.Pages) {
		in.populateSuper(pfns[0] / superPages)
	}
	missing := pfns[:0] // those that no superpage has covered meanwhile
	for _, pfn := range pfns {
		if in.populated.has(pfn) {
			in.supers.ahead.remove(pfn)
		} else {
			missing = append(missing, pfn)
		}
	}
	return in.populateSmall(missing)
}

// populateSuper tries to populate superpage n. Where that is not possible (no
// such piece is free, a page of it is there, the guest is near its limit) its
// pages come one by one.
func (in *incoming) populateSuper(n uint64) {
	in.supers.tried.add(n)
	first := n * superPages
	for pfn := range uint64(superPages) {
		if in.populated.has(first + pfn) {
			return
		}
	}
	if _, err := in.h.xc.Populate(in.hello.domid, superOrder, []uint64{first}); err != nil {
		return
	}
	in.supers.made.Add(1)
	in.supers.ahead.addRange(first, superPages)
	in.populated.addRange(first, superPages)
}

func (in *incoming) populateSmall(pfns []uint64) error {
	done, err := in.h.xc.Populate(in.hello.domid, 0, pfns)
	for _, pfn := range pfns[:done] {
		in.populated.add(pfn)
	}
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("%w: %w", in.short(), err)
	}
	return err
}

// short says which memory has run out. libxl limits the domain to what the guest
// was to have when its configuration was read.
func (in *incoming) short() error {
	d, err := in.h.xc.Domain(in.hello.domid)
	if err == nil && d.TotPages >= d.MaxPages {
		return fmt.Errorf("%w: domain %d has all of the %d MiB that the guest was to have when the migration began, and needs more",
			xen.ErrNoMemory, in.hello.domid, d.MaxPages*xen.PageSize>>20)
	}
	return fmt.Errorf("%w: the host has no more for domain %d", xen.ErrNoMemory, in.hello.domid)
}

// releaseAhead gives back what was populated ahead and has not come.
func (in *incoming) releaseAhead() error {
	in.supers.use.Lock()
	defer in.supers.use.Unlock()
	pfns := in.supers.ahead.all()
	for len(pfns) > 0 {
		n := min(len(pfns), xenctrl.MaxBatchPages)
		if err := in.release(pfns[:n]); err != nil {
			return err
		}
		pfns = pfns[n:]
	}
	return nil
}

// release gives back the pages of pfns.
func (in *incoming) release(pfns []uint64) error {
	if err := in.h.xc.Release(in.hello.domid, pfns); err != nil {
		return err
	}
	for _, pfn := range pfns {
		in.populated.remove(pfn)
		in.supers.ahead.remove(pfn)
	}
	return nil
}

// Unmap ends the views of Map.
func (in *incoming) Unmap(b *xen.Batch) error {
	m, ok := b.Mapping.(*inMapping)
	if !ok {
		return nil
	}
	clear(b.Pages)
	return m.view.Unmap()
}
