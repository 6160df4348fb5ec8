//go:build xen

package xl

/*
#include <stdlib.h>
#include <libxl.h>
#include <libxl_uuid.h>
*/
import "C"

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/xenferry/xenferry/xenctrl"
)

const (
	// deathPoll is how often a guest is looked at. Looking, one hypercall,
	// rather than waiting for xenstore's @releaseDomain: that event does not
	// come while a migration is subscribed to the guest's suspend.
	deathPoll = time.Second
	// dumpDir is where xl puts the core of a crashed guest.
	dumpDir = "/var/lib/xen/dump"
)

// Monitor looks after a guest of this host until it is gone for good, as the
// process does that xl leaves behind for each guest which it creates: when the
// guest powers off, reboots or crashes, it does what on_poweroff, on_reboot,
// on_watchdog, on_crash or on_soft_reset of its configuration says. A guest
// that is suspended is being moved or saved, and is left alone.
//
// It returns nil once the guest is destroyed or preserved, by whomever, and
// the cause when ctx ends. A guest has one monitor at a time: the error says
// so if it has one of ours. report, which may be nil, is told of each step.
func Monitor(ctx context.Context, opts Options, domid uint32, report func(text string)) error {
	if domid == 0 {
		return fmt.Errorf("domain 0 is the host itself, it needs no monitor")
	}
	xh, err := Open(opts)
	if err != nil {
		return err
	}
	defer xh.Close()
	if report == nil {
		report = func(string) {}
	}
	m := &monitor{h: xh.(*host), report: report}
	for next := domid; next != 0; {
		if next, err = m.guard(ctx, next); err != nil {
			return err
		}
	}
	return nil
}

type monitor struct {
	h      *host
	report func(string)
}

// guard looks after one domain to its end. It returns the id of the domain
// that has taken its place, or 0.
func (m *monitor) guard(ctx context.Context, domid uint32) (next uint32, err error) {
	lock, err := lockFile(fmt.Sprintf("%s/xenferry-monitor-%d.lock", lockDir, domid))
	if errors.Is(err, unix.EWOULDBLOCK) {
		return 0, fmt.Errorf("domain %d has a monitor already: %w", domid, err)
	}
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	first, err := m.h.xc.Domain(domid)
	if err != nil {
		return 0, goneOr(err)
	}
	tick := time.NewTicker(deathPoll)
	defer tick.Stop()
	for {
		d, err := m.h.xc.Domain(domid)
		switch {
		case errors.Is(err, unix.ESRCH) || err == nil && (d.UUID != first.UUID || d.Flags.Dying()):
			m.report(fmt.Sprintf("domain %d is gone", domid))
			return 0, nil
		case err != nil:
			return 0, err
		case d.Flags.Shutdown() && !d.Flags.Suspended():
			return m.ended(ctx, domid, d.Flags.ShutdownReason())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// ended does what the configuration says for a guest that has shut down.
func (m *monitor) ended(ctx context.Context, domid uint32, reason xenctrl.ShutdownReason) (next uint32, err error) {
	c := m.h.ctx
	// The configuration is read with the cap that the guest has.
	if info, err := c.info(domid); err == nil {
		if err := m.h.endThrottle(domid, info.UUID); err != nil {
			m.report(err.Error()) // the guest matters more
		}
	}
	cfg, err := c.retrieveConfig(domid)
	if err != nil {
		return 0, err
	}
	defer cfg.free()
	action := cfg.actionOn(reason)
	m.report(fmt.Sprintf("domain %d has shut down (%v), to be done: %s", domid, reason, actionName(action)))

	switch action {
	case C.LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_DESTROY, C.LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_RESTART:
		if err := c.dumpCore(domid, filepath.Join(dumpDir, filepath.Base(cfg.name()))); err != nil {
			m.report(err.Error()) // the guest matters more
		}
	}
	switch action {
	case C.LIBXL_ACTION_ON_SHUTDOWN_PRESERVE:
		return 0, nil
	case C.LIBXL_ACTION_ON_SHUTDOWN_RESTART, C.LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_RESTART:
		err = c.destroy(domid)
	case C.LIBXL_ACTION_ON_SHUTDOWN_RESTART_RENAME:
		err = c.preserve(domid, cfg)
	case C.LIBXL_ACTION_ON_SHUTDOWN_SOFT_RESET:
		if err = c.softReset(domid, cfg); err == nil {
			err = c.unpause(domid)
		}
		return domid, err
	default:
		return 0, c.destroy(domid)
	}
	if err != nil {
		return 0, err
	}
	return m.restart(ctx, cfg)
}

// restart boots the guest anew.
func (m *monitor) restart(ctx context.Context, cfg *config) (domid uint32, err error) {
	c := m.h.ctx
	cfg.setDomid(0)
	need, err := c.needKiB(cfg)
	if err != nil {
		return 0, err
	}
	if err := c.makeRoom(ctx, need); err != nil {
		return 0, fmt.Errorf("restart %s: %w", cfg.name(), err)
	}
	if domid, err = c.createNew(cfg); err != nil {
		return 0, err
	}
	m.report(fmt.Sprintf("%s is started again as domain %d", cfg.name(), domid))
	return domid, c.unpause(domid)
}

func (g *config) name() string { return C.GoString(g.p.c_info.name) }

// actionOn returns what is to be done with a guest that shut down for reason.
// One that Xen has no name for ends the guest, as with xl.
func (g *config) actionOn(reason xenctrl.ShutdownReason) C.libxl_action_on_shutdown {
	switch reason {
	case xenctrl.ShutdownPoweroff:
		return g.p.on_poweroff
	case xenctrl.ShutdownReboot:
		return g.p.on_reboot
	case xenctrl.ShutdownCrash:
		return g.p.on_crash
	case xenctrl.ShutdownWatchdog:
		return g.p.on_watchdog
	case xenctrl.ShutdownSoftReset:
		return g.p.on_soft_reset
	}
	return C.LIBXL_ACTION_ON_SHUTDOWN_DESTROY
}

func actionName(a C.libxl_action_on_shutdown) string {
	return C.GoString(C.libxl_action_on_shutdown_to_string(a))
}

// createNew boots a guest. It is paused.
func (c *libxl) createNew(cfg *config) (uint32, error) {
	domid := C.uint32_t(noDomid)
	err := c.call("start "+cfg.name(), 0, func() C.int {
		return C.libxl_domain_create_new(c.lx, cfg.p, &domid, nil, nil)
	})
	return uint32(domid), err
}

// preserve sets a dead domain aside for whoever wants to look at it: it gets
// another UUID and, with the time, another name.
func (c *libxl) preserve(domid uint32, cfg *config) error {
	suffix := C.CString(time.Now().UTC().Format("-20060102T1504Z"))
	defer C.free(unsafe.Pointer(suffix))
	var uuid C.libxl_uuid
	C.libxl_uuid_generate(&uuid)
	return c.call("preserve", domid, func() C.int {
		return C.libxl_domain_preserve(c.lx, C.uint32_t(domid), &cfg.p.c_info, suffix, uuid)
	})
}

func (c *libxl) softReset(domid uint32, cfg *config) error {
	return c.call("soft reset", domid, func() C.int {
		return C.libxl_domain_soft_reset(c.lx, cfg.p, C.uint32_t(domid), nil, nil)
	})
}

func (c *libxl) dumpCore(domid uint32, path string) error {
	cPath := C.CString(path)
	defer C.free(unsafe.Pointer(cPath))
	return c.call("write to "+path+" the core of", domid, func() C.int {
		return C.libxl_domain_core_dump(c.lx, C.uint32_t(domid), cPath, nil)
	})
}
