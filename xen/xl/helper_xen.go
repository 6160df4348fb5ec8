//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// What libxl's save helper does with the hypervisor.

// libxlSuspendLimit is beyond what libxl gives the guest: 60 s to take the
// request and as many to suspend.
const libxlSuspendLimit = 150 * time.Second

// saveStock writes the libxc stream of a guest for libxl.
func saveStock(ctx context.Context, s *saver) (err error) {
	xh, err := Open(Options{})
	if err != nil {
		return err
	}
	h := xh.(*host)
	defer h.Close()
	d, err := openDomain(h, s.args.domid)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	out, err := openStreamFd(ctx, s.args.streamFd, 0)
	if err != nil {
		return err
	}
	defer out.close()
	return xen.SaveInner(ctx, h, forLibxl(d, &s.callouts), out, xen.InnerSaveOptions{
		Live: s.args.live, Verify: s.args.verify, Suspend: libxlSuspendLimit, Observe: s.observe,
	})
}

// observe tells libxl's user how far it is. What cannot be told is seen with
// the next message that matters.
func (s *saver) observe(e xen.Event) {
	switch {
	case e.Kind == xen.EventNote:
		_ = s.log(logWarn, e.Text)
	case e.Progress != nil:
		_ = s.progress(fmt.Sprintf("Frames iteration %d", e.Progress.Round), e.Progress.Pages, e.Progress.OfPages)
	case e.Round != nil:
		_ = s.log(logInfo, fmt.Sprintf("round %d: %d pages, %d written meanwhile", e.Round.Round, e.Round.Pages, e.Round.Dirty))
	}
}

// forLibxl is the guest as its save helper may handle it.
func forLibxl(d *domain, c *callouts) xen.Domain {
	model := d.qemu
	d.qemu = nil // libxl stops QEMU, and saves its state
	l := &libxlDomain{domain: d, calls: c, model: model}
	if d.typ == xen.TypePV {
		return &libxlPVDomain{pvDomain: pvDomain{d}, libxl: l}
	}
	return l
}

// libxlDomain is a guest that libxl saves through us. It alone speaks to QEMU
// and suspends the guest, and its caller decides whether the guest runs on.
type libxlDomain struct {
	*domain
	calls   *callouts
	model   *qemu // for the case that libxl dies; nil where there is none
	logging bool  // libxl was asked to make QEMU log
}

// setQEMULogDirty has libxl tell QEMU. For a PVH guest it has nothing to do.
func (d *libxlDomain) setQEMULogDirty(on uint32) error {
	rc, err := d.calls.ask(msgQEMULogDirty, appendUint(appendUint(nil, d.domid), on))
	if err == nil && rc != 0 {
		err = fmt.Errorf("domain %d: libxl could not make QEMU log its writes, or stop that (%d)", d.domid, rc)
	}
	return err
}

func (d *libxlDomain) StartLogDirty(ctx context.Context) error {
	d.logging = true // from the try on: whether a failed one took effect is unknown
	if err := d.setQEMULogDirty(1); err != nil {
		return err
	}
	return d.domain.StartLogDirty(ctx)
}

func (d *libxlDomain) StopLogDirty(ctx context.Context) error {
	err := d.domain.StopLogDirty(ctx)
	if !d.logging || d.gone() {
		return err
	}
	d.logging = false
	qerr := d.setQEMULogDirty(0)
	if qerr != nil && d.model != nil {
		qerr = d.model.setLogDirty(ctx, false)
	}
	return errors.Join(err, qerr)
}

// Suspend has libxl suspend the guest. Its word is not enough: where the guest
// does not answer in time, libxl takes the request back and reports success.
func (d *libxlDomain) Suspend(context.Context) error {
	rc, err := d.calls.ask(msgSuspend, nil)
	if err != nil {
		return err
	}
	d.stoppedAt = time.Now()
	info, err := d.h.xc.Domain(d.domid)
	if err != nil {
		return goneOr(err)
	}
	if rc != 1 || !info.Flags.Suspended() {
		return fmt.Errorf("%w: domain %d: libxl answers %d to the request, and the guest's state is %#x", xen.ErrSuspendRefused, d.domid, rc, uint32(info.Flags))
	}
	return nil
}

// Resume is libxl's or its caller's decision.
func (d *libxlDomain) Resume(context.Context) error { return nil }

// libxlPVDomain is a PV guest that libxl saves through us.
type libxlPVDomain struct {
	pvDomain
	libxl *libxlDomain
}

func (d *libxlPVDomain) Suspend(ctx context.Context) error { return d.libxl.Suspend(ctx) }
func (d *libxlPVDomain) Resume(context.Context) error      { return nil }

// resumeLeft lets a guest run on that libxl has left suspended, dead as it is.
func resumeLeft(domid uint32) error {
	xh, err := Open(Options{})
	if err != nil {
		return err
	}
	h := xh.(*host)
	defer h.Close()
	d, err := openDomain(h, domid)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), resumeLimit)
	defer cancel()
	return errors.Join(d.Resume(ctx), d.Close())
}

// loadStock fills the guest from a libxc stream.
func loadStock(h *helper, stream io.Reader) error {
	xc, err := xenctrl.Open()
	if err != nil {
		return err
	}
	defer xc.Close()
	d, err := xc.Domain(h.hello.domid)
	if err != nil {
		return err
	}
	h.uuid = d.UUID
	if !d.Flags.HVM() {
		return h.loadPV(stream)
	}
	const mmioPages = 2 << 20 // what is not memory below 4 GiB, and as much for devices
	pages := min(d.MaxPages+mmioPages, xen.MaxPages)
	into := &direct{incoming: &incoming{
		// No guest of this kind has a device model inside the libxc stream.
		h: &host{xc: xc}, spec: xen.Spec{Type: xen.TypePVH, Pages: pages},
		uuid: d.UUID, hello: h.hello, populated: newPageSet(pages), supers: newSuperpages(pages),
	}, calls: &h.callouts}
	return xen.LoadInner(context.Background(), stream, into, xen.InnerLoadOptions{
		Pages: pages,
		Differs: func(pfn uint64, t xen.PageType) {
			_ = h.sendLog(fmt.Sprintf("verify pfn %#x failed (type %#x)", pfn, uint32(t)<<28))
		},
	})
}

// direct is a guest that libxl builds and this process, its helper, fills.
type direct struct {
	*incoming
	calls *callouts
}

// LoadStatic gives the domain its CPU policy, and lets libxl make up the rest.
func (d *direct) LoadStatic(_ context.Context, recs []savefmt.Record) error {
	s, err := parseStatic(recs)
	if err != nil {
		return err
	}
	if len(s.leaves) > 0 || len(s.msrs) > 0 {
		if err := d.h.xc.SetCPUPolicy(d.hello.domid, s.leaves, s.msrs); err != nil {
			return err
		}
	}
	return staticDone(d.calls, s.missing())
}

func staticDone(c *callouts, missing uint32) error {
	rc, err := c.ask(msgStaticDataDone, appendUint(nil, missing))
	if err == nil && rc != 0 {
		err = fmt.Errorf("libxl could not make up the CPU policy (%d)", rc)
	}
	return err
}

// Finish loads the state, and tells libxl where the rings are.
func (d *direct) Finish(_ context.Context, recs []savefmt.Record) error {
	s, err := parseFinal(recs, d.spec.Type, d.spec.Pages)
	if err != nil {
		return err
	}
	if err := d.releaseAhead(); err != nil {
		return err
	}
	if err := d.loadParams(s.params); err != nil {
		return err
	}
	if err := d.loadProcessors(s); err != nil {
		return err
	}
	store, console := s.params.ringPages()
	return d.calls.send(msgRestoreResults, appendUlong(appendUlong(nil, store), console))
}
