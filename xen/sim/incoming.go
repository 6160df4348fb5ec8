package sim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

var (
	_ xen.Incoming = (*Incoming)(nil)
	_ xen.Watcher  = (*Incoming)(nil)
)

// Incoming is a guest that is being built on a simulated host. It implements
// xen.Incoming.
type Incoming struct {
	handle
	file     *os.File        // the guest's memory
	there    []atomic.Uint64 // a bit for each page: Map has made it present
	loaded   bool            // LoadStatic has succeeded
	finished bool            // Finish has
}

func (h *Host) newIncoming(rep *reply) (*Incoming, error) {
	base, err := openHandle(h, rep, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		if rep.Domain != nil { // made, but of no use
			made := handle{host: h, ref: *rep.Domain}
			err = errors.Join(err, made.Destroy(context.Background()))
		}
		return nil, err
	}
	in := &Incoming{handle: base, there: make([]atomic.Uint64, (base.ref.Pages+63)/64)}
	fd, err := unix.FcntlInt(rep.files[0].Fd(), unix.F_DUPFD_CLOEXEC, 0) // the reply closes its own
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: memory: %w", in, err), in.Close())
	}
	in.file = os.NewFile(uintptr(fd), in.String())
	return in, nil
}

// Domid implements xen.Incoming.
func (in *Incoming) Domid() uint32 { return in.ref.Domid }

// LoadStatic implements xen.Incoming.
func (in *Incoming) LoadStatic(_ context.Context, recs []savefmt.Record) error {
	switch {
	case in.mem == nil:
		return fmt.Errorf("%s: static state: %w", in, errClosed)
	case in.loaded:
		return fmt.Errorf("%s: static state is loaded already", in)
	}
	if err := checkStatic(recs); err != nil {
		return fmt.Errorf("%s: %w", in, err)
	}
	in.loaded = true
	return nil
}

// newPages is what a Batch keeps for an Incoming: pages that are new, which go
// into the guest's memory by pwrite. That costs half of what a page fault and
// a write to the mapping do: the kernel need not clear a page first.
type newPages struct {
	room []byte // PageSize for each page of a batch
	at   []int  // where in the batch they stand
}

// Map implements xen.Incoming.
func (in *Incoming) Map(b *xen.Batch) error {
	switch {
	case !in.loaded:
		return fmt.Errorf("%s: map: static state is not loaded yet", in)
	case in.finished:
		return fmt.Errorf("%s: map: the guest is complete, its memory is its own", in)
	case len(b.Types) != len(b.PFNs):
		return fmt.Errorf("%s: map: %d pages with %d types", in, len(b.PFNs), len(b.Types))
	}
	if err := in.startMap(b); err != nil {
		return err
	}
	m, ok := b.Mapping.(*newPages)
	if !ok {
		m = &newPages{room: make([]byte, xen.BatchPages*xen.PageSize), at: make([]int, 0, xen.BatchPages)}
		b.Mapping = m
	}
	m.at = m.at[:0]
	for i, pfn := range b.PFNs {
		b.Pages[i] = nil
		t := b.Types[i]
		if !t.Populated() {
			continue
		}
		if t != xen.PageNormal && t != xen.PageXAlloc {
			return fmt.Errorf("%s: map: pfn %#x has type %#x, which no simulated guest has", in, pfn, uint8(t))
		}
		if pageType(pfn) == xen.PageXTab {
			return fmt.Errorf("%s: map: pfn %#x lies in the hole of the guest's memory", in, pfn)
		}
		there := in.there[pfn/64].Or(1<<(pfn%64))&(1<<(pfn%64)) != 0
		switch {
		case !t.HasData():
		case there:
			b.Pages[i] = in.view(pfn)
		default:
			b.Pages[i] = m.room[i*xen.PageSize:][:xen.PageSize:xen.PageSize]
			m.at = append(m.at, i)
		}
	}
	return nil
}

// Unmap implements xen.Incoming.
func (in *Incoming) Unmap(b *xen.Batch) error {
	defer clear(b.Pages)
	m, ok := b.Mapping.(*newPages)
	if !ok {
		return nil
	}
	for rest := m.at; len(rest) > 0; {
		n, first := 1, rest[0]
		for n < len(rest) && rest[n] == first+n && b.PFNs[rest[n]] == b.PFNs[first]+uint64(n) {
			n++
		}
		if _, err := in.file.WriteAt(m.room[first*xen.PageSize:][:n*xen.PageSize], int64(b.PFNs[first]*xen.PageSize)); err != nil {
			return fmt.Errorf("%s: new pages from pfn %#x on: %w", in, b.PFNs[first], err)
		}
		rest = rest[n:]
	}
	m.at = m.at[:0]
	return nil
}

// NewPagesZero implements xen.Incoming: the memory is a new file.
func (in *Incoming) NewPagesZero() bool { return true }

// Prepare implements xen.Incoming. There is nothing to be built but what is
// there from the beginning.
func (in *Incoming) Prepare(_ context.Context, recs []savefmt.Record) error {
	if !in.loaded || in.finished {
		return fmt.Errorf("%s: prepare: it comes after the static state and before the end", in)
	}
	if err := checkStatic(recs); err != nil {
		return fmt.Errorf("%s: early state: %w", in, err)
	}
	return nil
}

// Finish implements xen.Incoming.
func (in *Incoming) Finish(ctx context.Context, recs []savefmt.Record) error {
	if !in.loaded {
		return fmt.Errorf("%s: static state is not loaded yet", in)
	}
	if _, err := in.call(ctx, request{Op: opFinish, Records: recs}); err != nil {
		return err
	}
	in.finished = true
	return nil
}

// Whole implements xen.Incoming. A simulated guest that has died is found by
// Unpause.
func (in *Incoming) Whole(context.Context) error { return nil }

// Unpause implements xen.Incoming.
func (in *Incoming) Unpause(ctx context.Context) error {
	_, err := in.call(ctx, request{Op: opUnpause})
	return err
}

// Signs implements xen.Watcher: a simulated guest has a heart.
func (in *Incoming) Signs(ctx context.Context) ([]xen.Sign, error) {
	before, err := in.host.Status(ctx, in.ref.Domid)
	if err != nil {
		return nil, err
	}
	return []xen.Sign{{Name: "first heartbeat", Shown: func(ctx context.Context) (bool, error) {
		now, err := in.host.Status(ctx, in.ref.Domid)
		return now.Beats > before.Beats, err
	}}}, nil
}

// Close implements xen.Incoming.
func (in *Incoming) Close() error {
	if in.mem == nil {
		return nil
	}
	var err error
	if !in.finished {
		err = in.Destroy(context.Background()) // bounded by callLimit
	}
	if in.file != nil {
		err = errors.Join(err, in.file.Close())
	}
	return errors.Join(err, in.unmap())
}
