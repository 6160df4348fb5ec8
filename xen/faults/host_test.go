package faults

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

// hostOf is a host as one program sees it. It implements xen.Host.
type hostOf struct{ p *proc }

func (h hostOf) info(g *guest) xen.DomainInfo {
	return xen.DomainInfo{Domid: g.domid, Name: g.name, UUID: g.uuid, Type: xen.TypeSim, State: g.state, MemKiB: guestPages * 4, VCPUs: 1}
}

func (h hostOf) Info(context.Context) (xen.HostInfo, error) {
	return xen.HostInfo{Name: h.p.host.name, Hypervisor: "fake"}, h.p.do("host info", func() error { return nil })
}

func (h hostOf) List(context.Context) (all []xen.DomainInfo, err error) {
	err = h.p.do("list", func() error {
		for _, g := range h.p.host.guests {
			all = append(all, h.info(g))
		}
		return nil
	})
	return all, err
}

func (h hostOf) Find(ctx context.Context, nameOrDomid string) (xen.DomainInfo, error) {
	all, err := h.List(ctx)
	if err != nil {
		return xen.DomainInfo{}, err
	}
	for _, d := range all {
		if d.Name == nameOrDomid || strconv.Itoa(int(d.Domid)) == nameOrDomid {
			return d, nil
		}
	}
	return xen.DomainInfo{}, xen.ErrNoDomain
}

// get returns a guest. The world is locked.
func (h hostOf) get(ref xen.DomainRef) (*guest, error) {
	g := h.p.host.guests[ref.Domid]
	if g == nil || ref.UUID != "" && g.uuid != ref.UUID {
		return nil, fmt.Errorf("domain %d: %w", ref.Domid, xen.ErrNoDomain)
	}
	return g, nil
}

func (h hostOf) open(what string, ref xen.DomainRef) (*domain, error) {
	d := &domain{h: h}
	err := h.p.do(what, func() (err error) {
		d.g, err = h.get(ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (h hostOf) Open(_ context.Context, domid uint32) (xen.Domain, error) {
	d, err := h.open("open", xen.DomainRef{Domid: domid})
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (h hostOf) Reopen(_ context.Context, ref xen.DomainRef) (xen.Domain, error) {
	d, err := h.open("reopen", ref)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (h hostOf) Receive(_ context.Context, spec xen.Spec) (xen.Incoming, error) {
	in := &incoming{domain{h: h}}
	err := h.p.do("receive", func() error {
		in.g = h.p.host.add(spec.Name, spec.UUID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

func (h hostOf) Start(_ context.Context, ref xen.DomainRef, name string, paused bool) error {
	err := h.p.do("start: rename", func() error {
		g, err := h.get(ref)
		if err == nil {
			g.name = name
		}
		return err
	})
	if err != nil || paused {
		return err
	}
	return h.p.do("start: unpause", func() error {
		g, err := h.get(ref)
		if err == nil {
			h.p.host.run(g)
		}
		return err
	})
}

func (h hostOf) Unused(_ context.Context, ref xen.DomainRef) error {
	return h.p.do("unused", func() error {
		g, err := h.get(ref)
		if err == nil && g.hasRun {
			err = fmt.Errorf("domain %d: %w", ref.Domid, xen.ErrHasRun)
		}
		return err
	})
}

func (h hostOf) Discard(_ context.Context, ref xen.DomainRef) error {
	return h.p.do("discard", func() error {
		for domid, g := range h.p.host.guests {
			if g.uuid != ref.UUID || ref.Domid != 0 && ref.Domid != domid {
				continue
			}
			if ref.Domid == 0 && g.filled {
				continue
			}
			if !g.hasRun {
				delete(h.p.host.guests, domid)
			} else if ref.Domid != 0 {
				return fmt.Errorf("domain %d: %w", domid, xen.ErrHasRun)
			}
		}
		return nil
	})
}

func (h hostOf) Close() error { return nil }

// domain is a guest as one program sees it. It implements xen.Domain.
type domain struct {
	h         hostOf
	g         *guest
	stoppedAt time.Time
}

// do is a call about the guest, which must still be there.
func (d *domain) do(what string, effect func() error) error {
	return d.h.p.do(what, func() error {
		if d.h.p.host.guests[d.g.domid] != d.g {
			return fmt.Errorf("domain %d: %w", d.g.domid, xen.ErrNoDomain)
		}
		return effect()
	})
}

func (d *domain) Info(context.Context) (info xen.DomainInfo, err error) {
	err = d.do("info", func() error { info = d.h.info(d.g); return nil })
	return info, err
}

func (d *domain) Config(context.Context) ([]byte, error) { return []byte(`{}`), nil }
func (d *domain) Pages() uint64                          { return guestPages }

func (d *domain) StaticState(context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{{Type: savefmt.RecCPUIDPolicy, Body: []byte("policy")}}, nil
}

func (d *domain) Preparable(context.Context) error { return nil }

func (d *domain) EarlyState(context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{{Type: savefmt.RecHVMParams, Body: []byte("early")}}, d.do("early state", func() error { return nil })
}

func (d *domain) Likely(context.Context) (xen.Bitmap, error) {
	bm := xen.NewBitmap(guestPages)
	bm.Set(0)
	return bm, d.do("likely pages", func() error { return nil })
}

func (d *domain) StartLogDirty(context.Context) error {
	return d.do("start log-dirty", func() error { d.g.logDirty = true; clear(d.g.dirty); return nil })
}

func (d *domain) StopLogDirty(context.Context) error {
	return d.do("stop log-dirty", func() error { d.g.logDirty = false; return nil })
}

func (d *domain) CleanDirty(_ context.Context, bm xen.Bitmap, final bool) (stats xen.DirtyStats, err error) {
	err = d.do("clean dirty", func() error {
		if !final {
			d.g.scribble(d.h.p.w, 4)
		}
		copy(bm, d.g.dirty)
		clear(d.g.dirty)
		stats.Dirty = bm.Count()
		return nil
	})
	return stats, err
}

func (d *domain) Map(b *xen.Batch) error {
	if err := d.h.p.alive(); err != nil {
		return err
	}
	b.Grow()
	for i, pfn := range b.PFNs {
		b.Types[i], b.Pages[i] = xen.PageNormal, d.g.mem[pfn*xen.PageSize:][:xen.PageSize]
	}
	return nil
}

func (d *domain) Unmap(*xen.Batch) error { return nil }

func (in *incoming) Map(b *xen.Batch) error {
	in.h.p.w.mu.Lock()
	in.g.filled = true
	in.h.p.w.mu.Unlock()
	return in.domain.Map(b)
}

func (d *domain) Suspend(context.Context) error {
	err := d.do("ask to suspend", func() error { d.h.p.host.ask(d.g); return nil })
	if err != nil {
		return err
	}
	time.Sleep(2 * suspendsAfter)
	return d.do("suspend", func() error {
		if d.g.state != xen.StateSuspended {
			return xen.ErrSuspendRefused
		}
		d.stoppedAt = time.Now()
		return nil
	})
}

func (d *domain) StoppedAt() time.Time { return d.stoppedAt }

func (d *domain) FinalState(context.Context) ([]savefmt.Record, error) {
	return []savefmt.Record{{Type: savefmt.RecHVMContext, Body: []byte("context")}}, d.do("final state", func() error { return nil })
}

func (d *domain) Resume(context.Context) error {
	return d.do("resume", func() error { d.h.p.host.resume(d.g); return nil })
}

func (d *domain) Rename(_ context.Context, name string) error {
	return d.do("rename", func() error { d.g.name = name; return nil })
}

func (d *domain) Destroy(context.Context) error {
	return d.h.p.do("destroy", func() error { delete(d.h.p.host.guests, d.g.domid); return nil })
}

func (d *domain) Close() error { return nil }

// incoming is a guest that is being built. It implements xen.Incoming.
type incoming struct{ domain }

func (in *incoming) Domid() uint32      { return in.g.domid }
func (in *incoming) NewPagesZero() bool { return true }

func (in *incoming) LoadStatic(context.Context, []savefmt.Record) error {
	return in.do("load static", func() error { return nil })
}

func (in *incoming) Prepare(context.Context, []savefmt.Record) error {
	return in.do("prepare", func() error { return nil })
}

func (in *incoming) Finish(context.Context, []savefmt.Record) error {
	return in.do("finish", func() error { in.g.complete = true; return nil })
}

func (in *incoming) Whole(context.Context) error {
	return in.h.p.do("whole", func() error { return nil })
}

func (in *incoming) Unpause(context.Context) error {
	return in.do("unpause", func() error { in.h.p.host.run(in.g); return nil })
}

// Close destroys what is not complete, as xen.Incoming says.
func (in *incoming) Close() error {
	if in.g.complete {
		return nil
	}
	return in.Destroy(context.Background())
}
