package sim

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

var _ xen.Incoming = (*Incoming)(nil)

// Incoming is a guest that is being built on a simulated host. It implements
// xen.Incoming.
type Incoming struct {
	handle
	loaded   bool // LoadStatic has succeeded
	finished bool // Finish has
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
	return &Incoming{handle: base}, nil
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
	for i, pfn := range b.PFNs {
		b.Pages[i] = nil
		if t := b.Types[i]; !t.HasData() {
			continue
		} else if t != xen.PageNormal {
			return fmt.Errorf("%s: map: pfn %#x has type %#x, which no simulated guest has", in, pfn, uint8(t))
		}
		if pageType(pfn) == xen.PageXTab {
			return fmt.Errorf("%s: map: pfn %#x lies in the hole of the guest's memory", in, pfn)
		}
		b.Pages[i] = in.view(pfn)
	}
	return nil
}

// NewPagesZero implements xen.Incoming: the memory is a new file.
func (in *Incoming) NewPagesZero() bool { return true }

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

// Close implements xen.Incoming.
func (in *Incoming) Close() error {
	if in.mem == nil {
		return nil
	}
	var err error
	if !in.finished {
		err = in.Destroy(context.Background()) // bounded by callLimit
	}
	return errors.Join(err, in.unmap())
}
