//go:build xen

package xl

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/savefmt"
	"github.com/xenferry/xenferry/xen"
)

// incoming is a guest that libxl builds here while we fill its memory. It
// begins before libxl has made the domain, and passes through these states:
//
//	building    libxl waits for its stream, that is for us; Close destroys
//	prepared    Prepare has succeeded: the devices are there; Close destroys
//	finished    Finish has succeeded; the guest is whole and paused
//	gone        destroyed
type incoming struct {
	h     *host
	spec  xen.Spec
	name  string // now, after renames
	uuid  [16]byte
	hello hello // what libxl told its helper about the domain

	create    *creation
	bridge    *bridge
	model     *deviceModel // nil where it has none, and until that is there
	qemu      *qemu        // a quiet one, once it has been given its state
	populated *pageSet     // pfns that have memory
	supers    *superpages
	limit     uint64                   // in pages, that libxl had set; 0 if it is in force
	params    hvmParams                // that the devices were built with, by Prepare
	taken     atomic.Pointer[[]uint64] // pfns that the devices use: not written any more

	handedOver             bool // libxl has been told to go on by itself
	finished, gone, closed bool
}

var _ xen.Incoming = (*incoming)(nil)

// Limits on what libxl does by itself. Its own steps have limits of 10 s (a
// backend, a hotplug script) to 60 s (QEMU), and they add up for a guest with
// many devices.
const (
	helloLimit   = 2 * time.Minute // make the domain, start the helper
	devicesLimit = 5 * time.Minute // devices and QEMU, after the last page
	stopLimit    = time.Minute     // see the stream's end, destroy the domain
	// maxNameLen bounds a name, which is a part of paths in xenstore and in
	// /var/run/xen.
	maxNameLen = 255
)

// receive checks the guest against this host, and starts to build it.
func receive(ctx context.Context, h *host, spec xen.Spec) (*incoming, error) {
	if err := checkSpec(spec); err != nil {
		return nil, err
	}
	if err := h.nameFree(ctx, spec.Name); err != nil {
		return nil, err
	}
	if err := h.domidFree(spec.Domid); err != nil {
		return nil, err
	}
	c, err := openLibxl(h.opts)
	if err != nil {
		return nil, err
	}
	cfg, err := guestConfig(ctx, c, spec)
	if err != nil {
		c.close()
		return nil, err
	}
	in := &incoming{h: h, spec: spec, name: spec.Name, uuid: cfg.uuid(), populated: newPageSet(spec.Pages), supers: newSuperpages(spec.Pages)}
	if in.create, in.bridge, err = startCreation(c, cfg); err != nil {
		cfg.free()
		c.close()
		return nil, err
	}
	if err := in.meetHelper(ctx); err != nil {
		return nil, errors.Join(err, in.Close())
	}
	return in, nil
}

func checkSpec(spec xen.Spec) error {
	if spec.Type != xen.TypePV && spec.Type != xen.TypePVH && spec.Type != xen.TypeHVM {
		return fmt.Errorf("%w: a guest of type %q cannot be received on Xen, only pv, pvh and hvm", xen.ErrUnsupported, spec.Type)
	}
	if spec.Pages == 0 || spec.Pages > xen.MaxPages {
		return fmt.Errorf("guest of %d pages: must have 1 to %d", spec.Pages, uint64(xen.MaxPages))
	}
	if spec.MemKiB > xen.MaxPages*xen.PageSize/1024 {
		return fmt.Errorf("guest with %d KiB of memory: more than Xen can give", spec.MemKiB)
	}
	if spec.Name == "" || len(spec.Name) > maxNameLen || strings.ContainsAny(spec.Name, "/\x00\n") {
		return fmt.Errorf("guest name %.40q: must have 1 to %d characters, none of them a slash or a line's end", spec.Name, maxNameLen)
	}
	if spec.Domid >= domidLimit {
		return fmt.Errorf("domain id %d: must be below %d", spec.Domid, domidLimit)
	}
	return nil
}

// domidLimit is DOMID_FIRST_RESERVED of xen/include/public/xen.h.
const domidLimit = 0x7FF0

// guestConfig reads the configuration, fits it to this host, and sees that
// there is room for the guest.
func guestConfig(ctx context.Context, c *libxl, spec xen.Spec) (*config, error) {
	cfg, err := c.parseConfig(spec.Config)
	if err != nil {
		return nil, err
	}
	if t := cfg.guestType(); t != spec.Type {
		cfg.free()
		return nil, fmt.Errorf("the guest is said to be of type %s, its configuration is for type %q", spec.Type, t)
	}
	if spec.UUID != "" {
		if err := cfg.setUUID(spec.UUID); err != nil {
			cfg.free()
			return nil, err
		}
	}
	if spec.Early && spec.Type == xen.TypeHVM {
		if err := cfg.setQuiet(); err != nil {
			cfg.free()
			return nil, err
		}
	}
	cfg.setName(spec.Name)
	cfg.setDomid(spec.Domid)
	need, err := c.needKiB(cfg)
	if err == nil {
		// A guest that was given more than its configuration says needs that.
		err = c.makeRoom(ctx, max(need, spec.MemKiB))
	}
	if err != nil {
		cfg.free()
		return nil, err
	}
	return cfg, nil
}

// meetHelper waits until libxl has made the domain and started its helper.
func (in *incoming) meetHelper(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, helloLimit, fmt.Errorf("libxl has not made the domain within %v", helloLimit))
	defer cancel()
	hi, err := in.bridge.open(limited, in.uuid)
	if err != nil {
		return in.explain(limited, err)
	}
	in.hello = hi
	d, err := in.h.xc.Domain(hi.domid)
	if err != nil {
		return err
	}
	if d.UUID != in.uuid || d.Flags.HVM() == (in.spec.Type == xen.TypePV) {
		return fmt.Errorf("domain %d, which libxl says it has made, is not the guest", hi.domid)
	}
	if in.spec.Type != xen.TypePV {
		if d.MaxPages, err = in.raiseLimit(d.MaxPages); err != nil {
			return err
		}
	}
	if pages := min(in.spec.MemKiB/(xen.PageSize/1024), d.MaxPages); pages > d.TotPages {
		return in.claim(pages)
	}
	return nil
}

// sparePages is what libxl allows a domain beyond its memory (LIBXL_MAXMEM_CONSTANT
// of tools/libs/light/libxl_internal.h: 1 MiB).
const sparePages = 1 << 20 / xen.PageSize

// raiseLimit lets the domain have what the guest has: libxl limits it to the target
// of the guest's balloon, which may still be on its way there. It returns the limit
// in pages. Finish takes it back.
func (in *incoming) raiseLimit(limit uint64) (uint64, error) {
	need := in.spec.MemKiB/(xen.PageSize/1024) + sparePages
	if need <= limit {
		return limit, nil
	}
	in.limit = limit
	return need, in.h.xc.SetMaxMem(in.hello.domid, need*(xen.PageSize/1024))
}

// restoreLimit is what raiseLimit did undone: Xen gives the guest no more than its
// target, and takes nothing away.
func (in *incoming) restoreLimit() error {
	if in.limit == 0 {
		return nil
	}
	return in.h.xc.SetMaxMem(in.hello.domid, in.limit*(xen.PageSize/1024))
}

// claim sets the guest's memory aside, so that of two guests that arrive at
// the same time one is refused now and not in the middle of its migration.
func (in *incoming) claim(pages uint64) error {
	err := in.h.xc.Claim(in.hello.domid, pages)
	if errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("%w: the guest has %d MiB, and other guests have taken what this host had free", xen.ErrNoMemory, in.spec.MemKiB/1024)
	}
	return err
}

// explain finds the reason why the bridge failed: libxl has given up, and its
// own error says more than a closed socket.
func (in *incoming) explain(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	in.bridge.close()
	if lerr := in.create.wait(ctx, stopLimit); lerr != nil {
		return lerr
	}
	return err
}

// Domid is the id of the new domain.
func (in *incoming) Domid() uint32 { return in.hello.domid }

// NewPagesZero is false: Xen may scrub free memory with a pattern.
func (in *incoming) NewPagesZero() bool { return false }

// LoadStatic gives the domain its CPU policy. It fails where this host cannot
// give the guest what it had.
func (in *incoming) LoadStatic(ctx context.Context, recs []savefmt.Record) error {
	s, err := parseStatic(recs)
	if err != nil {
		return err
	}
	if len(s.leaves) > 0 || len(s.msrs) > 0 {
		if err := in.h.xc.SetCPUPolicy(in.hello.domid, s.leaves, s.msrs); err != nil {
			return err
		}
	}
	return in.explain(ctx, in.bridge.staticDone(ctx, s.missing()))
}

// Prepare lets libxl add devices and QEMU, for a guest that still runs at the
// source: from now on their pages are theirs, see sort.
func (in *incoming) Prepare(ctx context.Context, recs []savefmt.Record) error {
	params, err := parseEarly(recs, in.spec.Pages)
	if err != nil {
		return err
	}
	if !in.spec.Early || in.handedOver {
		return fmt.Errorf("domain %d (%s): its devices are not to be built early, or are being built already", in.hello.domid, in.name)
	}
	fresh := params.freshPages()
	in.taken.Store(&fresh)
	if err := in.loadParams(params); err != nil {
		return err
	}
	if err := in.addDevices(ctx, params, nil); err != nil {
		return err
	}
	in.params = params
	return in.h.ctx.forgetQuiet(in.hello.domid)
}

// quiet tells whether the guest's QEMU is told to wait for its state, see
// quiet.go.
func (in *incoming) quiet() bool { return in.spec.Early && in.spec.Type == xen.TypeHVM }

// addDevices hands the guest over to libxl, which adds its devices and QEMU.
func (in *incoming) addDevices(ctx context.Context, params hvmParams, deviceModel []byte) (err error) {
	store, console := params.ringPages()
	in.handedOver = true
	if in.quiet() {
		deviceModel = laterState
	}
	if err := in.bridge.complete(ctx, store, console, deviceModel); err != nil {
		return in.explain(ctx, err)
	}
	if in.quiet() {
		watching, cancel := context.WithCancel(ctx)
		var reporting sync.WaitGroup
		reporting.Go(func() { in.reportQuiet(watching) })
		defer reporting.Wait()
		defer cancel()
	}
	if err := in.create.wait(ctx, devicesLimit); err != nil {
		return err
	}
	in.bridge.close()
	in.model, err = in.h.deviceModel(in.hello.domid)
	return err
}

// Finish loads the state that follows the pages, and has libxl add the devices
// if they are not there yet.
func (in *incoming) Finish(ctx context.Context, recs []savefmt.Record) error {
	s, err := parseFinal(recs, in.spec.Type, in.spec.Pages)
	if err != nil {
		return err
	}
	if err := in.releaseAhead(); err != nil {
		return err
	}
	if in.params != nil {
		err = in.finishPrepared(ctx, s)
	} else {
		err = in.finishNew(ctx, s)
	}
	if err == nil {
		err = in.restoreLimit()
	}
	in.finished = err == nil
	return err
}

func (in *incoming) finishNew(ctx context.Context, s finalState) error {
	if err := in.loadParams(s.params); err != nil {
		return err
	}
	if err := in.loadProcessors(s); err != nil {
		return err
	}
	if err := in.h.xc.Claim(in.hello.domid, 0); err != nil {
		return err
	}
	return in.addDevices(ctx, s.params, s.deviceModel)
}

func (in *incoming) finishPrepared(ctx context.Context, s finalState) error {
	if err := in.reloadParams(s.params); err != nil {
		return err
	}
	if err := in.loadProcessors(s); err != nil {
		return err
	}
	if err := in.h.xc.Claim(in.hello.domid, 0); err != nil {
		return err
	}
	if in.quiet() {
		if err := in.loadDevices(ctx, s.deviceModel); err != nil {
			return err
		}
	}
	disks, err := configDisks(in.spec.Config)
	if err != nil {
		return err
	}
	return forgetCached(disks)
}

// loadDevices gives a quiet QEMU its state. Where it ends instead, its last words
// say why.
func (in *incoming) loadDevices(ctx context.Context, state []byte) error {
	in.qemu = qemuOf(in.hello.domid)
	err := in.qemu.hold(ctx) // until it is let run
	if err == nil {
		err = in.qemu.load(ctx, state)
	}
	if err == nil {
		return nil
	}
	err = fmt.Errorf("domain %d: give QEMU the state of its devices: %w", in.hello.domid, err)
	if words := lastWords(in.spec.Name); words != "" {
		err = fmt.Errorf("%w (QEMU's last words: %s)", err, words)
	}
	return err
}

// Whole fails if the guest's device model has died.
func (in *incoming) Whole(context.Context) error { return in.model.alive() }

// Rename gives the guest another name.
func (in *incoming) Rename(_ context.Context, name string) error {
	if err := in.h.ctx.rename(in.hello.domid, in.name, name); err != nil {
		return err
	}
	in.name = name
	return nil
}

// Unpause lets the guest run here.
func (in *incoming) Unpause(ctx context.Context) error {
	if !in.finished || in.gone {
		return fmt.Errorf("domain %d (%s): cannot be unpaused, it is not complete", in.hello.domid, in.name)
	}
	if err := in.model.alive(); err != nil {
		return err
	}
	switch {
	case in.qemu != nil: // what libxl does, over the connection that is there
		defer in.qemu.release()
		if err := in.qemu.cont(ctx); err != nil {
			return fmt.Errorf("domain %d (%s): let QEMU run: %w", in.hello.domid, in.name, err)
		}
	case in.spec.Type == xen.TypeHVM:
		return in.h.ctx.unpause(in.hello.domid)
	}
	return in.h.xc.Unpause(in.hello.domid)
}

// Destroy ends the guest here. It does not stop when ctx ends, as half a guest
// must not stay; libxl's own limits bound it.
func (in *incoming) Destroy(context.Context) error {
	if in.gone {
		return nil
	}
	domid := in.hello.domid
	if !in.finished {
		if err := in.stopCreation(); err != nil {
			return err
		}
		if domid == 0 && in.create.domid != noDomid {
			domid = in.create.domid // it failed before the helper could say hello
		}
	}
	if err := in.h.ensureGone(domid, in.uuid); err != nil {
		return err
	}
	in.gone = true
	return nil
}

// stopCreation ends libxl's work on a guest that will not be complete: by
// ending its stream, or, if it does not look at that any more, by abort.
func (in *incoming) stopCreation() error {
	in.bridge.close()
	err := errCreationStuck
	if !in.handedOver || in.create.ended() {
		err = in.create.wait(context.Background(), stopLimit)
	}
	if errors.Is(err, errCreationStuck) {
		in.create.abort()
		err = in.create.wait(context.Background(), devicesLimit)
	}
	if errors.Is(err, errCreationStuck) {
		return fmt.Errorf("domain %d (%s): %w; look at it with 'xl list', and destroy it", in.hello.domid, in.name, err)
	}
	return nil // whatever libxl says: it has ended
}

// Close frees what the Incoming holds, and destroys a guest that is not
// finished.
func (in *incoming) Close() error {
	if in.closed {
		return nil
	}
	in.closed = true
	var err error
	if !in.finished {
		err = in.Destroy(context.Background())
	}
	in.bridge.close()
	in.model.close()
	in.qemu.release()
	if in.create.ended() {
		in.create.free()
	}
	return err
}

// ensureGone destroys domain domid if it is still there and is the guest of
// that UUID. One that Xen is taking down already counts as gone.
func (h *host) ensureGone(domid uint32, uuid [16]byte) error {
	if domid == 0 {
		return nil // it was never made
	}
	d, err := h.xc.Domain(domid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.UUID != uuid || d.Flags.Dying() {
		return nil
	}
	err = h.ctx.destroy(domid)
	if err == nil {
		return nil
	}
	// Its save helper may have been at the same work.
	if _, gone := h.xc.Domain(domid); errors.Is(gone, unix.ESRCH) {
		return nil
	}
	// libxl destroys the domain itself from a child process, which a host that
	// has run out of memory may not be able to make. This needs nothing new.
	if xerr := h.xc.Destroy(domid); xerr != nil {
		return errors.Join(err, xerr)
	}
	return nil
}

// domidFree returns an error if the guest cannot have that id.
func (h *host) domidFree(domid uint32) error {
	if domid == 0 {
		return nil // any
	}
	_, err := h.xc.Domain(domid)
	if err == nil {
		return fmt.Errorf("domain id %d is in use on this host", domid)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// destroyUnfinished destroys a guest whose receiver has died, from its save
// helper. It touches only the guest of that UUID, and only if it has never
// run, so that a mix-up costs no living guest.
func destroyUnfinished(domid uint32, uuid [16]byte) error {
	xh, err := Open(Options{})
	if err != nil {
		return err
	}
	defer xh.Close()
	h := xh.(*host)
	d, err := h.xc.Domain(domid)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	if d.UUID != uuid || !d.Flags.Paused() || d.CPUTime != 0 {
		return fmt.Errorf("domain %d is another one or has been running", domid)
	}
	return h.ensureGone(domid, uuid)
}
