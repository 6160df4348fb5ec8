package sim

import (
	"context"
	"errors"
	"fmt"

	"github.com/xenferry/xenferry/xen"
)

// What recovery does to guests whose sender or receiver is gone.

// Reopen implements xen.Host. A Domain of a simulated host takes back whatever
// any sender has begun.
func (h *Host) Reopen(ctx context.Context, ref xen.DomainRef) (xen.Domain, error) {
	if _, err := h.find(ctx, ref); err != nil {
		return nil, err
	}
	return h.Open(ctx, ref.Domid)
}

// find returns the domain that ref means.
func (h *Host) find(ctx context.Context, ref xen.DomainRef) (xen.DomainInfo, error) {
	all, err := h.List(ctx)
	if err != nil {
		return xen.DomainInfo{}, err
	}
	for _, d := range all {
		if d.Domid == ref.Domid && d.UUID == ref.UUID {
			return d, nil
		}
	}
	return xen.DomainInfo{}, fmt.Errorf("domain %d with UUID %s: %w", ref.Domid, ref.UUID, xen.ErrNoDomain)
}

// Start implements xen.Host.
func (h *Host) Start(ctx context.Context, ref xen.DomainRef, name string, paused bool) error {
	info, err := h.find(ctx, ref)
	if err != nil {
		return err
	}
	if info.Name != name {
		if _, err := h.call(ctx, &request{Op: opRename, Domid: ref.Domid, Name: name}); err != nil {
			return err
		}
	}
	if paused || info.State == xen.StateRunning {
		return nil
	}
	_, err = h.call(ctx, &request{Op: opUnpause, Domid: ref.Domid})
	return err
}

// Unused implements xen.Host.
func (h *Host) Unused(ctx context.Context, ref xen.DomainRef) error {
	_, err := h.call(ctx, &request{Op: opUnused, Domid: ref.Domid, UUID: ref.UUID})
	return err
}

// Discard implements xen.Host.
func (h *Host) Discard(ctx context.Context, ref xen.DomainRef) error {
	_, err := h.call(ctx, &request{Op: opDiscard, Domid: ref.Domid, UUID: ref.UUID})
	if errors.Is(err, xen.ErrNoDomain) {
		return nil
	}
	return err
}
