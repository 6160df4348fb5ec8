//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xen"
)

// What recovery does to guests whose sender or receiver is gone.

// Reopen opens the guest for a sender that has died.
func (h *host) Reopen(_ context.Context, ref xen.DomainRef) (xen.Domain, error) {
	if err := h.is(ref); err != nil {
		return nil, err
	}
	d, err := openDomain(h, ref.Domid)
	if err != nil {
		return nil, err
	}
	d.leftover = true
	return d.asXen(), nil
}

// is returns nil if ref names a domain that is there.
func (h *host) is(ref xen.DomainRef) error {
	d, err := h.xc.Domain(ref.Domid)
	switch {
	case errors.Is(err, unix.ESRCH), err == nil && d.Flags.Dying():
		return fmt.Errorf("%w: domain %d", xen.ErrNoDomain, ref.Domid)
	case err != nil:
		return err
	case !strings.EqualFold(uuidString(d.UUID), ref.UUID):
		return fmt.Errorf("%w: domain %d is another one, not the guest with UUID %s", xen.ErrNoDomain, ref.Domid, ref.UUID)
	}
	return nil
}

// Start lets a complete copy run. What tells a complete one from others is the
// caller's journal.
func (h *host) Start(_ context.Context, ref xen.DomainRef, name string, paused bool) error {
	if err := h.is(ref); err != nil {
		return err
	}
	info, err := h.ctx.info(ref.Domid)
	if err != nil {
		return err
	}
	if info.Name != name {
		if err := h.ctx.rename(ref.Domid, info.Name, name); err != nil {
			return err
		}
	}
	if paused || info.State == xen.StateRunning {
		return nil
	}
	model, err := h.deviceModel(ref.Domid)
	if err != nil {
		return err
	}
	defer model.close()
	if err := model.alive(); err != nil {
		return err
	}
	return h.ctx.unpause(ref.Domid)
}

// mostEmpty is how much memory a domain without a guest has at most: that of
// Xen's own for it, and none of the stream's. Each guest needs more.
const mostEmpty = 1024 // KiB

// Discard destroys copies that have never run. It looks at what the hypervisor
// knows, not at names: a destroy that was cut short has removed those.
func (h *host) Discard(_ context.Context, ref xen.DomainRef) error {
	if ref.Domid != 0 {
		return h.discardOne(ref)
	}
	all, err := h.ctx.list()
	if err != nil {
		return err
	}
	for _, d := range all {
		if !strings.EqualFold(d.UUID, ref.UUID) || d.MemKiB > mostEmpty {
			continue
		}
		one := h.discardOne(xen.DomainRef{Domid: d.Domid, UUID: ref.UUID})
		if one != nil && !errors.Is(one, xen.ErrHasRun) { // one that is gone but for its last pages
			err = errors.Join(err, one)
		}
	}
	return err
}

func (h *host) discardOne(ref xen.DomainRef) error {
	uuid, err := h.unused(ref)
	if errors.Is(err, xen.ErrNoDomain) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.ensureGone(ref.Domid, uuid)
}

// Unused implements xen.Host.
func (h *host) Unused(_ context.Context, ref xen.DomainRef) error {
	_, err := h.unused(ref)
	return err
}

// unused returns the UUID of a domain that is paused and whose vCPUs have never
// had any time.
func (h *host) unused(ref xen.DomainRef) ([16]byte, error) {
	if err := h.is(ref); err != nil {
		return [16]byte{}, err
	}
	d, err := h.xc.Domain(ref.Domid)
	switch {
	case errors.Is(err, unix.ESRCH):
		return [16]byte{}, fmt.Errorf("domain %d: %w", ref.Domid, xen.ErrNoDomain)
	case err != nil:
		return [16]byte{}, err
	case !d.Flags.Paused() || d.CPUTime != 0 || d.Flags.Shutdown():
		return [16]byte{}, fmt.Errorf("%w: domain %d", xen.ErrHasRun, ref.Domid)
	}
	return d.UUID, nil
}
