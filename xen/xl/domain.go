//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// lockDir holds the locks of domains that are being moved.
const lockDir = "/var/run/xen"

// domain is a guest of this host that may be moved away. Its memory is in
// domain_memory.go, suspend and resume are in domain_suspend.go.
type domain struct {
	h     *host
	domid uint32
	uuid  string
	typ   xen.GuestType
	pages uint64
	lock  *os.File
	store *store
	qemu  *qemu // nil for a PV or PVH guest

	dirty        *xenctrl.DirtyLog
	logDirty     bool      // Xen logs
	qemuLogDirty bool      // QEMU logs
	leftover     bool      // a dead sender may have made either log
	stoppedAt    time.Time // see StoppedAt
	qemuStopped  bool      // from Suspend on
	fresh        []uint64  // pages that the host and the guest share: each host has its own

	throttling sync.Mutex // of Throttle, beside other methods
	throttled  bool       // by this sender, some time

	closing  sync.Once
	closeErr error
}

// openDomain opens a guest for migration. One process at a time can.
func openDomain(h *host, domid uint32) (d *domain, err error) {
	info, err := h.ctx.info(domid)
	if err != nil {
		return nil, err
	}
	if info.State == xen.StateDying {
		return nil, fmt.Errorf("%w: domain %d is being destroyed", xen.ErrNoDomain, domid)
	}
	d = &domain{h: h, domid: domid, uuid: info.UUID, typ: info.Type}
	switch d.typ {
	case xen.TypePVH, xen.TypePV:
	case xen.TypeHVM:
		d.qemu = qemuOf(domid)
	default:
		return nil, fmt.Errorf("%w: domain %d is of type %q: only pv, pvh and hvm guests can be moved", xen.ErrUnsupported, domid, d.typ)
	}
	if err := d.acquire(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// acquire takes what Close frees.
func (d *domain) acquire() (err error) {
	if d.lock, err = lockDomain(lockDir, d.domid); err != nil {
		return err
	}
	if d.store, err = openStore(); err != nil {
		return err
	}
	if d.pages, err = d.h.xc.NrPFNs(d.domid); err != nil {
		return err
	}
	if d.pages == 0 || d.pages > xen.MaxPages {
		return fmt.Errorf("%w: domain %d has a physical address space of %d pages, 1 to %d are possible",
			xen.ErrUnsupported, d.domid, d.pages, uint64(xen.MaxPages))
	}
	if d.typ != xen.TypePV { // whose log and pages Xen's own library reads
		params, err := d.params()
		if err != nil {
			return goneOr(err)
		}
		d.fresh = params.freshPages()
		if d.dirty, err = d.h.xc.NewDirtyLog(d.domid, d.pages); err != nil {
			return err
		}
	}
	// What a killed process may have left: a subscription would make stock tools
	// miss the guest's next suspend, a throttle would go with it to another host.
	return errors.Join(evtchn.Unsubscribe(d.h.xc, d.domid), d.h.endThrottle(d.domid, d.uuid))
}

// qemuOf returns the device model of domid. libxl gives QEMU two monitors: the
// second, made for statistics, is free for us, the first is libxl's own.
func qemuOf(domid uint32) *qemu {
	const dir = "/var/run/xen"
	return &qemu{sockets: []string{
		fmt.Sprintf("%s/qmp-libxenstat-%d", dir, domid),
		fmt.Sprintf("%s/qmp-libxl-%d", dir, domid),
	}}
}

func (d *domain) Info(context.Context) (xen.DomainInfo, error) { return d.h.ctx.info(d.domid) }

func (d *domain) Config(context.Context) ([]byte, error) { return d.h.ctx.configJSON(d.domid) }

func (d *domain) Pages() uint64 { return d.pages }

// StaticState is the CPU policy: CPUID leaves and MSRs.
func (d *domain) StaticState(context.Context) ([]savefmt.Record, error) {
	leaves, msrs, err := d.h.xc.CPUPolicy(d.domid)
	if err != nil {
		return nil, err
	}
	var recs []savefmt.Record
	if len(leaves) > 0 {
		recs = append(recs, savefmt.Record{Type: savefmt.RecCPUIDPolicy, Body: leaves})
	}
	if len(msrs) > 0 {
		recs = append(recs, savefmt.Record{Type: savefmt.RecMSRPolicy, Body: msrs})
	}
	return recs, nil
}

// Preparable looks at the devices that the guest has now.
func (d *domain) Preparable(ctx context.Context) error {
	config, err := d.Config(ctx)
	if err != nil {
		return err
	}
	backends, err := d.h.ctx.diskBackends(d.domid)
	if err != nil {
		return err
	}
	return checkPreparable(config, backends)
}

// EarlyState is what libxl needs to build the devices: the params.
func (d *domain) EarlyState(context.Context) ([]savefmt.Record, error) {
	params, err := d.params()
	if err != nil {
		return nil, goneOr(err)
	}
	return []savefmt.Record{hvmParamsRecord(params)}, nil
}

// params reads the HVM params that move with the guest and are not zero.
func (d *domain) params() (params hvmParams, err error) {
	for _, index := range movingParams {
		v, err := d.h.xc.HVMParam(d.domid, index)
		if err != nil {
			return nil, err
		}
		if v != 0 {
			params = append(params, hvmParam{index, v})
		}
	}
	return params, nil
}

// FinalState is the state of the virtual hardware: in Xen, and in QEMU.
func (d *domain) FinalState(ctx context.Context) ([]savefmt.Record, error) {
	info, err := d.h.xc.Domain(d.domid)
	if err != nil {
		return nil, goneOr(err)
	}
	if !info.Flags.Suspended() {
		return nil, fmt.Errorf("domain %d: its final state is asked for, but it is not suspended", d.domid)
	}
	if d.qemu != nil && !d.qemuStopped {
		return nil, fmt.Errorf("domain %d: its final state is asked for, but QEMU has not been stopped", d.domid)
	}
	tsc, err := d.h.xc.TSCInfo(d.domid)
	if err != nil {
		return nil, err
	}
	params, err := d.params()
	if err != nil {
		return nil, err
	}
	hvm, err := d.h.xc.HVMContext(d.domid)
	if err != nil {
		return nil, err
	}
	// The params come first, as the stream's specification asks.
	recs := []savefmt.Record{
		tscInfoRecord(tsc),
		hvmParamsRecord(params),
		{Type: savefmt.RecHVMContext, Body: hvm},
	}
	if d.qemu == nil {
		return recs, nil
	}
	model, err := d.qemu.save(ctx)
	d.qemu.release()
	if err != nil {
		return nil, fmt.Errorf("domain %d: save QEMU's state: %w", d.domid, err)
	}
	return append(recs, savefmt.Record{Type: savefmt.RecDeviceModel, Body: model}), nil
}

func (d *domain) Rename(ctx context.Context, name string) error {
	info, err := d.h.ctx.info(d.domid)
	if err != nil || info.Name == name {
		return err
	}
	err = d.h.ctx.rename(d.domid, info.Name, name)
	if err != nil {
		// Only now: to look at all names would cost downtime.
		if taken := d.h.nameFree(ctx, name); errors.Is(taken, xen.ErrNameTaken) {
			return taken
		}
	}
	return err
}

func (d *domain) Destroy(context.Context) error {
	if err := d.h.ctx.destroy(d.domid); !isGone(err) {
		return err
	}
	return nil
}

// Close does its work even when ctx of the migration has ended long ago, and
// on a domain that is gone.
func (d *domain) Close() error {
	d.closing.Do(func() { d.closeErr = d.release() })
	return d.closeErr
}

func (d *domain) release() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	err := d.StopLogDirty(ctx)
	d.qemu.release()
	if d.store != nil {
		err = errors.Join(err, d.unthrottle())
	}
	if d.dirty != nil {
		err = errors.Join(err, d.dirty.Close())
	}
	if d.store != nil {
		d.store.close()
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// gone tells whether the domain does not exist any more, or is about to.
func (d *domain) gone() bool { return d.h.gone(d.domid) }

func (h *host) gone(domid uint32) bool {
	info, err := h.xc.Domain(domid)
	return isGone(err) || err == nil && info.Flags.Dying()
}

// isGone tells whether err says that the domain does not exist any more.
func isGone(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, xen.ErrNoDomain)
}
