//go:build xen

package xl

/*
#include <libxl.h>
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// host is this machine, a Xen dom0.
type host struct {
	opts Options
	ctx  *libxl          // libxl
	xc   *xenctrl.Handle // the hypervisor

	closing sync.Once
	err     error
}

// Open connects to the Xen host that this process is the dom0 of. It needs
// root.
func Open(opts Options) (xen.Host, error) {
	xc, err := xenctrl.Open()
	if err != nil {
		return nil, err
	}
	c, err := openLibxl(opts)
	if err != nil {
		xc.Close()
		return nil, err
	}
	h := &host{opts: opts, ctx: c, xc: xc}
	// The first domctl shows whether the hypervisor speaks the interface
	// version that this binary was built for.
	if _, err := h.xc.Domain(0); err != nil {
		h.Close()
		return nil, fmt.Errorf("%w: is this binary built for the Xen release that runs here?", err)
	}
	return h, nil
}

// Info describes the machine: TotalKiB and FreeKiB are those of Xen, FreeKiB
// with what is still to be scrubbed.
func (h *host) Info(context.Context) (xen.HostInfo, error) {
	name, err := os.Hostname()
	if err != nil {
		return xen.HostInfo{}, fmt.Errorf("get this host's name: %w", err)
	}
	v, err := h.xc.Version()
	if err != nil {
		return xen.HostInfo{}, err
	}
	hi, err := h.xc.HostInfo()
	if err != nil {
		return xen.HostInfo{}, err
	}
	const kiBPerPage = xen.PageSize / 1024
	return xen.HostInfo{
		Name:       name,
		Hypervisor: "Xen " + v.String(),
		TotalKiB:   hi.TotalPages * kiBPerPage,
		FreeKiB:    (hi.FreePages + hi.ScrubPages) * kiBPerPage,
		Cores:      hi.CPUs,
	}, nil
}

// List returns all domains, by domid.
func (h *host) List(context.Context) ([]xen.DomainInfo, error) { return h.ctx.list() }

// Find looks for a name first: a guest may be named "7".
func (h *host) Find(_ context.Context, nameOrDomid string) (xen.DomainInfo, error) {
	all, err := h.ctx.list()
	if err != nil {
		return xen.DomainInfo{}, err
	}
	for _, d := range all {
		if d.Name == nameOrDomid && d.Name != "" {
			return d, nil
		}
	}
	if id, err := strconv.ParseUint(nameOrDomid, 10, 16); err == nil {
		for _, d := range all {
			if uint64(d.Domid) == id {
				return d, nil
			}
		}
	}
	return xen.DomainInfo{}, fmt.Errorf("%w: %q is neither the name nor the id of a domain on this host", xen.ErrNoDomain, nameOrDomid)
}

// Open opens a guest for migration away from here.
func (h *host) Open(_ context.Context, domid uint32) (xen.Domain, error) {
	if domid == 0 {
		return nil, fmt.Errorf("%w: domain 0 is the host itself, it cannot be moved", xen.ErrUnsupported)
	}
	d, err := openDomain(h, domid)
	if err != nil {
		return nil, err
	}
	return d.asXen(), nil
}

// Receive begins to build a guest that arrives here. See incoming.go.
func (h *host) Receive(ctx context.Context, spec xen.Spec) (xen.Incoming, error) {
	in, err := receive(ctx, h, spec)
	if err != nil {
		return nil, err
	}
	return in.asXen(), nil
}

// Close ends the connections. What was opened through the host must be closed
// before. Idempotent.
func (h *host) Close() error {
	h.closing.Do(func() {
		h.ctx.close()
		h.err = h.xc.Close()
	})
	return h.err
}

// nameFree returns nil if no domain here has that name, or an error that wraps
// xen.ErrNameTaken.
func (h *host) nameFree(ctx context.Context, name string) error {
	d, err := h.Find(ctx, name)
	switch {
	case errors.Is(err, xen.ErrNoDomain):
		return nil
	case err != nil:
		return err
	case d.Name == name:
		return fmt.Errorf("%w: domain %d is named %q on this host", xen.ErrNameTaken, d.Domid, name)
	}
	return nil // found by its id
}
