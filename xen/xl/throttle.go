//go:build xen

package xl

/*
#include <libxl.h>
*/
import "C"

import (
	"context"
	"fmt"
	"strconv"

	"github.com/xenferry/xenferry/xen"
)

var _ xen.Throttler = (*domain)(nil)

// uncappedNode holds the cap that a domain had before it was throttled, while it
// is. It goes with the domain, and outlives the program that has throttled it.
func uncappedNode(domid uint32) string { return fmt.Sprintf("/libxl/%d/xenferry-cap", domid) }

// Throttle caps what the domain gets of the processors: percent below what it
// may have now, all that its vCPUs could use or the cap that an admin has set.
func (d *domain) Throttle(_ context.Context, percent int) error {
	if percent < 0 || percent > xen.MaxThrottle {
		return fmt.Errorf("domain %d: throttle by %d %%: 0 to %d are possible", d.domid, percent, xen.MaxThrottle)
	}
	if percent == 0 {
		return d.endThrottle()
	}
	now, err := d.h.ctx.schedCap(d.domid)
	if err != nil {
		return fmt.Errorf("throttle the guest: %w", err)
	}
	before, throttled, err := d.capBefore()
	if err != nil {
		return err
	}
	if !throttled {
		before = now
		if err := d.store.write(uncappedNode(d.domid), strconv.Itoa(before)); err != nil {
			return err
		}
	}
	full := before
	if full == 0 { // no cap
		info, err := d.h.ctx.info(d.domid)
		if err != nil {
			return err
		}
		full = 100 * info.VCPUs
	}
	return d.h.ctx.setSchedCap(d.domid, max(full*(100-percent)/100, 1))
}

// endThrottle gives the domain its cap back, if a program of ours has taken it.
func (d *domain) endThrottle() error {
	before, throttled, err := d.capBefore()
	if err != nil || !throttled {
		return err
	}
	if err := d.h.ctx.setSchedCap(d.domid, before); err != nil {
		if d.gone() {
			return nil
		}
		return fmt.Errorf("give the guest its processor time back: %w; try 'xl sched-credit2 -d %d -c %d'", err, d.domid, before)
	}
	return d.store.remove(uncappedNode(d.domid))
}

// capBefore returns the cap that a throttled domain had before, and whether it
// is throttled.
func (d *domain) capBefore() (before int, throttled bool, err error) {
	text, throttled, err := d.store.read(uncappedNode(d.domid))
	if err != nil || !throttled {
		return 0, false, err
	}
	if before, err = strconv.Atoi(text); err != nil || before < 0 {
		before = 0 // only a hand can have written that: better no cap than a guest that stays slow
	}
	return before, true, nil
}

// schedCap returns the domain's cap: percent of one processor, 0 for none. The
// error wraps ErrUnsupported where its scheduler has no caps.
func (c *libxl) schedCap(domid uint32) (int, error) {
	var params C.libxl_domain_sched_params
	C.libxl_domain_sched_params_init(&params)
	defer C.libxl_domain_sched_params_dispose(&params)
	err := c.call("get the scheduler's parameters of", domid, func() C.int {
		return C.libxl_domain_sched_params_get(c.lx, C.uint32_t(domid), &params)
	})
	if err != nil {
		return 0, err
	}
	switch params.sched {
	case C.LIBXL_SCHEDULER_CREDIT, C.LIBXL_SCHEDULER_CREDIT2:
		return int(params.cap), nil
	}
	return 0, fmt.Errorf("%w: the scheduler of domain %d (%s) has no caps, only credit and credit2 have",
		xen.ErrUnsupported, domid, C.GoString(C.libxl_scheduler_to_string(params.sched)))
}

func (c *libxl) setSchedCap(domid uint32, percent int) error {
	var params C.libxl_domain_sched_params
	C.libxl_domain_sched_params_init(&params) // the weight stays as it is
	defer C.libxl_domain_sched_params_dispose(&params)
	params.cap = C.int(percent)
	return c.call("set the cap of", domid, func() C.int {
		return C.libxl_domain_sched_params_set(c.lx, C.uint32_t(domid), &params)
	})
}
