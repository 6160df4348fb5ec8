package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

var (
	_ xen.Domain = (*Domain)(nil)
	_ xen.Pauser = (*Domain)(nil)

	_ xen.Throttler     = (*Domain)(nil)
	_ xen.ConfigChecker = (*Domain)(nil)
)

// Domain is a guest of a simulated host, opened for migration. It implements
// xen.Domain.
type Domain struct {
	handle
	ctl       *control
	stoppedAt time.Time
}

// handle is a guest whose memory this process maps: what Domain and Incoming
// have in common.
type handle struct {
	host *Host
	ref  domainRef
	mem  []byte // nil after close
}

var errClosed = errors.New("closed already")

// openHandle maps the memory that came with a reply.
func openHandle(h *Host, rep *reply, prot int) (handle, error) {
	if rep.Domain == nil || len(rep.files) != 2 || rep.Domain.Pages == 0 || rep.Domain.Pages > xen.MaxPages {
		return handle{}, h.emptyReply()
	}
	mem, err := mapMemory(rep.files[0], rep.Domain.Pages*xen.PageSize, prot)
	return handle{host: h, ref: *rep.Domain, mem: mem}, err
}

// call makes a request about this guest.
func (d *handle) call(ctx context.Context, req request) (*reply, error) {
	if d.mem == nil {
		return &reply{}, fmt.Errorf("%s: %s: %w", d, req.Op, errClosed)
	}
	req.Domid, req.Serial = d.ref.Domid, d.ref.Serial
	if req.Op == opSuspend {
		return d.host.callSlow(ctx, &req)
	}
	return d.host.call(ctx, &req)
}

// String names the guest in messages.
func (d *handle) String() string { return fmt.Sprintf("domain %d", d.ref.Domid) }

// startMap checks a batch that is to be mapped, and makes its lists as long.
func (d *handle) startMap(b *xen.Batch) error {
	if d.mem == nil {
		return fmt.Errorf("%s: map: %w", d, errClosed)
	}
	if n := len(b.PFNs); n > xen.BatchPages {
		return fmt.Errorf("%s: map: %d pages are more than %d", d, n, xen.BatchPages)
	}
	for _, pfn := range b.PFNs {
		if pfn >= d.ref.Pages {
			return fmt.Errorf("%s: map: pfn %#x is beyond its %#x pages", d, pfn, d.ref.Pages)
		}
	}
	b.Grow()
	return nil
}

// view returns the memory of a page below Pages.
func (d *handle) view(pfn uint64) []byte {
	at := pfn * xen.PageSize
	return d.mem[at : at+xen.PageSize : at+xen.PageSize]
}

// Unmap ends the use of a batch. The views were parts of one mapping, which
// stays.
func (d *handle) Unmap(b *xen.Batch) error {
	clear(b.Pages)
	return nil
}

// Rename gives the guest another name.
func (d *handle) Rename(ctx context.Context, name string) error {
	_, err := d.call(ctx, request{Op: opRename, Name: name})
	return err
}

// Destroy ends the guest, in whatever state. Idempotent, and harmless after
// Close.
func (d *handle) Destroy(ctx context.Context) error {
	_, err := d.host.call(ctx, &request{Op: opDestroy, Domid: d.ref.Domid, Serial: d.ref.Serial})
	if errors.Is(err, xen.ErrNoDomain) {
		return nil
	}
	return err
}

// unmap ends all use of the handle. Idempotent.
func (d *handle) unmap() error {
	if d.mem == nil {
		return nil
	}
	mem := d.mem
	d.mem = nil
	return unix.Munmap(mem)
}

func (h *Host) newDomain(rep *reply) (*Domain, error) {
	base, err := openHandle(h, rep, unix.PROT_READ)
	if err != nil {
		return nil, err
	}
	ctl, err := mapControl(rep.files[1], base.ref.Pages)
	if err != nil {
		return nil, errors.Join(err, base.unmap())
	}
	ctl.throttle.Store(0) // what a process that died has left
	return &Domain{handle: base, ctl: ctl}, nil
}

// Info implements xen.Domain.
func (d *Domain) Info(ctx context.Context) (xen.DomainInfo, error) {
	rep, err := d.call(ctx, request{Op: opStatus})
	if err != nil {
		return xen.DomainInfo{}, err
	}
	if rep.Status == nil {
		return xen.DomainInfo{}, d.host.emptyReply()
	}
	return rep.Status.DomainInfo, nil
}

// Config implements xen.Domain: a GuestConfig as JSON.
func (d *Domain) Config(ctx context.Context) ([]byte, error) {
	rep, err := d.call(ctx, request{Op: opConfig})
	if err != nil {
		return nil, err
	}
	if rep.Config == nil {
		return nil, d.host.emptyReply()
	}
	return json.Marshal(rep.Config)
}

// CheckConfig implements xen.ConfigChecker. What the guest's memory and context
// were made with cannot be another in the copy.
func (d *Domain) CheckConfig(ctx context.Context, config []byte) error {
	other, err := parseConfig(config)
	if err != nil {
		return err
	}
	text, err := d.Config(ctx)
	if err != nil {
		return err
	}
	own, err := parseConfig(text)
	switch {
	case err != nil:
		return err
	case other.MemMiB != own.MemMiB:
		return fmt.Errorf("it has %d MiB of memory, the guest has %d", other.MemMiB, own.MemMiB)
	case other.VCPUs != own.VCPUs:
		return fmt.Errorf("it has %d vCPUs, the guest has %d", other.VCPUs, own.VCPUs)
	case other.Seed != own.Seed:
		return fmt.Errorf("its seed is %#x, the guest's is %#x", other.Seed, own.Seed)
	}
	return nil
}

// Pages implements xen.Domain.
func (d *Domain) Pages() uint64 { return d.ref.Pages }

// StaticState implements xen.Domain.
func (d *Domain) StaticState(context.Context) ([]savefmt.Record, error) {
	return staticRecords(), nil
}

// Preparable implements xen.Domain: a simulated guest has no devices.
func (d *Domain) Preparable(context.Context) error { return nil }

// EarlyState implements xen.Domain.
func (d *Domain) EarlyState(context.Context) ([]savefmt.Record, error) {
	return staticRecords(), nil
}

// Likely implements xen.Domain: a simulated guest has few pfns without a page.
func (d *Domain) Likely(context.Context) (xen.Bitmap, error) { return nil, nil }

// StartLogDirty implements xen.Domain. The guest marks its writes at all
// times, so that this has only to forget the old ones.
func (d *Domain) StartLogDirty(context.Context) error {
	if d.mem == nil {
		return fmt.Errorf("%s: log-dirty: %w", d, errClosed)
	}
	d.ctl.logDirty.Store(1)
	d.ctl.clean(nil)
	return nil
}

// CleanDirty implements xen.Domain.
func (d *Domain) CleanDirty(_ context.Context, bm xen.Bitmap, _ bool) (xen.DirtyStats, error) {
	switch {
	case d.mem == nil:
		return xen.DirtyStats{}, fmt.Errorf("%s: log-dirty: %w", d, errClosed)
	case d.ctl.logDirty.Load() == 0:
		return xen.DirtyStats{}, fmt.Errorf("%s: log-dirty is not on", d)
	case len(bm) != len(d.ctl.dirty):
		return xen.DirtyStats{}, fmt.Errorf("%s: log-dirty: bitmap of %d words, want %d", d, len(bm), len(d.ctl.dirty))
	}
	return xen.DirtyStats{Dirty: d.ctl.clean(bm)}, nil
}

// StopLogDirty implements xen.Domain.
func (d *Domain) StopLogDirty(context.Context) error {
	if d.mem != nil {
		d.ctl.logDirty.Store(0)
	}
	return nil
}

// Throttle implements xen.Throttler.
func (d *Domain) Throttle(_ context.Context, percent int) error {
	if d.mem == nil {
		return fmt.Errorf("%s: throttle: %w", d, errClosed)
	}
	if percent < 0 || percent > xen.MaxThrottle {
		return fmt.Errorf("%s: throttle by %d %%: 0 to %d are possible", d, percent, xen.MaxThrottle)
	}
	d.ctl.throttle.Store(uint32(percent))
	return nil
}

// Map implements xen.Domain.
func (d *Domain) Map(b *xen.Batch) error {
	if err := d.startMap(b); err != nil {
		return err
	}
	for i, pfn := range b.PFNs {
		b.Types[i], b.Pages[i] = pageType(pfn), nil
		if b.Types[i].HasData() {
			b.Pages[i] = d.view(pfn)
		}
	}
	return nil
}

// Suspend implements xen.Domain.
func (d *Domain) Suspend(ctx context.Context) error {
	// A request that is never made is as good as one that is taken back.
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s was not asked to suspend: %w: %w", d, xen.ErrSuspendRefused, err)
	}
	_, err := d.call(ctx, request{Op: opSuspend})
	if err == nil {
		d.stoppedAt = time.Now()
	}
	outOfTime := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if outOfTime && !errors.Is(err, xen.ErrSuspendRefused) {
		err = fmt.Errorf("%w: %w", xen.ErrSuspendRefused, err)
	}
	return err
}

// StoppedAt implements xen.Domain: when the host has said so.
func (d *Domain) StoppedAt() time.Time { return d.stoppedAt }

// FinalState implements xen.Domain.
func (d *Domain) FinalState(ctx context.Context) ([]savefmt.Record, error) {
	rep, err := d.call(ctx, request{Op: opFinal})
	return rep.Records, err
}

// Resume implements xen.Domain.
func (d *Domain) Resume(ctx context.Context) error {
	_, err := d.call(ctx, request{Op: opResume})
	return err
}

// ResumePaused implements xen.Pauser.
func (d *Domain) ResumePaused(ctx context.Context) error {
	_, err := d.call(ctx, request{Op: opPause})
	return err
}

// Close implements xen.Domain.
func (d *Domain) Close() error {
	if d.mem == nil {
		return nil
	}
	d.ctl.logDirty.Store(0)
	d.ctl.throttle.Store(0)
	return errors.Join(d.ctl.unmap(), d.unmap())
}
