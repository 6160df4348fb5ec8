//go:build xen

package xl

/*
#include <libxl.h>
*/
import "C"

import (
	"context"
	"fmt"
	"time"

	"github.com/xenferry/xenferry/xen"
)

var _ xen.Throttler = (*domain)(nil)

// capNote is what is kept of a guest that is throttled, in xenstore: it outlives
// the program that has throttled it. It is found by the guest's UUID, as one that
// reboots gets a new domid, and from libxl the cap that it had.
type capNote struct {
	before int // its own cap, in percent of one processor; 0 for none
	set    int // ours; another one has been set by an admin since, and stays
}

func capPath(uuid string) string { return "/xenferry/throttled/" + uuid }

// Throttle caps what the domain gets of the processors: percent below what it
// may have now, all that its vCPUs could use or the cap that an admin has set.
func (d *domain) Throttle(_ context.Context, percent int) error {
	if percent < 0 || percent > xen.MaxThrottle {
		return fmt.Errorf("domain %d: throttle by %d %%: 0 to %d are possible", d.domid, percent, xen.MaxThrottle)
	}
	d.throttling.Lock()
	defer d.throttling.Unlock()
	// A note always tells of the cap that is set, or of none: a further throttle
	// begins with the end of the one before.
	if err := d.h.endThrottle(d.domid, d.uuid); err != nil || percent == 0 {
		return err
	}
	before, err := d.h.ctx.schedCap(d.domid)
	if err != nil {
		return fmt.Errorf("throttle the guest: %w", err)
	}
	full := before
	if full == 0 { // no cap
		info, err := d.h.ctx.info(d.domid)
		if err != nil {
			return err
		}
		full = 100 * info.VCPUs
	}
	set := max(full*(100-percent)/100, 1)
	if err := d.h.ctx.xs.write(capPath(d.uuid), fmt.Sprintf("%d %d", before, set)); err != nil {
		return err
	}
	d.throttled = true
	return d.h.ctx.setSchedCap(d.domid, set)
}

// endThrottle gives a guest its cap back, if a program of ours has taken it. The
// note of a domain that is gone stays: the guest may be back under a new domid.
func (h *host) endThrottle(domid uint32, uuid string) error {
	note, err := h.capNote(uuid)
	if err != nil || note == nil {
		return err
	}
	now, err := h.ctx.schedCap(domid)
	if err == nil && now == note.set {
		err = h.ctx.setSchedCap(domid, note.before)
	}
	if err != nil {
		if h.gone(domid) {
			return nil
		}
		return fmt.Errorf("give the guest its processor time back: %w; try 'xl sched-credit2 -d %d -c %d'", err, domid, note.before)
	}
	return h.ctx.xs.remove(capPath(uuid))
}

// capNote returns the note of a guest, nil if there is none.
func (h *host) capNote(uuid string) (*capNote, error) {
	text, there, err := h.ctx.xs.read(capPath(uuid))
	if err != nil || !there {
		return nil, err
	}
	n := new(capNote)
	if _, err := fmt.Sscanf(text, "%d %d", &n.before, &n.set); err != nil || n.before < 0 {
		return new(capNote), nil // only a hand can have written that: nothing of ours to be taken back
	}
	return n, nil
}

// How long a guest that was throttled when it went may take to come back with
// the cap that it had, and how often it is looked for.
const (
	rebootPatience = 10 * time.Second
	rebootPoll     = 100 * time.Millisecond
)

// unthrottle ends the throttle of this sender, of a guest that has rebooted
// meanwhile as well: libxl sets the cap of a new domain late in its creation.
func (d *domain) unthrottle() error {
	d.throttling.Lock()
	defer d.throttling.Unlock()
	err := d.h.endThrottle(d.domid, d.uuid)
	if err != nil || !d.throttled {
		return err
	}
	for end := time.Now().Add(rebootPatience); d.h.gone(d.domid) && time.Now().Before(end); time.Sleep(rebootPoll) {
		note, err := d.h.capNote(d.uuid)
		if err != nil || note == nil {
			return err
		}
		all, err := d.h.ctx.list()
		if err != nil {
			return err
		}
		for _, other := range all {
			if other.UUID != d.uuid || other.Domid == d.domid {
				continue
			}
			if now, err := d.h.ctx.schedCap(other.Domid); err == nil && now == note.set {
				return d.h.endThrottle(other.Domid, d.uuid)
			}
		}
	}
	return nil
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
