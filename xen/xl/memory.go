//go:build xen

package xl

/*
#include <libxl.h>
*/
import "C"

import (
	"context"
	"fmt"
	"math"
	"regexp"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// ballooningLimit is how long dom0 may take to give memory back, as for xl.
const ballooningLimit = 30 * time.Second

// dom0MemFixed finds, in Xen's command line, a dom0_mem that sets dom0's size:
// the host's owner then does not want it changed. xl looks for the same.
var dom0MemFixed = regexp.MustCompile(`(^| )dom0_mem=\S`)

// needKiB returns the memory that the host must have free to build the guest,
// in KiB. It fills defaults into the configuration, as the build does later.
func (c *libxl) needKiB(cfg *config) (uint64, error) {
	var need C.uint64_t
	err := c.call("compute the memory needed by the guest", 0, func() C.int {
		return C.libxl_domain_need_memory(c.lx, cfg.p, math.MaxUint32, &need)
	})
	return uint64(need), err
}

// freeKiB returns the memory that a new guest can have: free or still to be
// scrubbed, and not claimed by another guest that is being built.
func (c *libxl) freeKiB() (uint64, error) {
	var pi C.libxl_physinfo
	C.libxl_physinfo_init(&pi)
	defer C.libxl_physinfo_dispose(&pi)
	err := c.call("get the host's free memory", 0, func() C.int {
		return C.libxl_get_physinfo(c.lx, &pi)
	})
	free := uint64(pi.free_pages + pi.scrub_pages)
	free -= min(free, uint64(pi.outstanding_pages))
	return free * (xen.PageSize / 1024), err
}

// makeRoom sees to it that the host has need KiB free, and lets dom0 shrink
// for that where xl would. The error wraps xen.ErrNoMemory and has figures.
func (c *libxl) makeRoom(ctx context.Context, need uint64) error {
	deadline := time.Now().Add(ballooningLimit)
	for {
		free, err := c.freeKiB()
		if err != nil {
			return err
		}
		if free >= need {
			return nil
		}
		short := fmt.Errorf("%w: the guest needs %d MiB, this host has %d MiB free",
			xen.ErrNoMemory, (need+1023)/1024, free/1024)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !c.dom0MayShrink() || time.Now().After(deadline) {
			return short
		}
		if err := c.shrinkDom0(need - free); err != nil {
			return fmt.Errorf("%w (dom0 cannot give more: %w)", short, err)
		}
	}
}

// dom0MayShrink follows xl's default, autoballoon="auto".
func (c *libxl) dom0MayShrink() bool {
	if c.enter() != nil {
		return false
	}
	defer c.leave()
	info := C.libxl_get_version_info(c.lx)
	return info != nil && !dom0MemFixed.MatchString(C.GoString(info.commandline))
}

// shrinkDom0 asks dom0 to give up KiB of its memory, and waits until it has or
// makes no progress for 10 s.
func (c *libxl) shrinkDom0(by uint64) error {
	const relative, enforce, waitSec = 1, 0, 10
	err := c.call("shrink dom0", 0, func() C.int {
		return C.libxl_set_memory_target(c.lx, 0, -C.int64_t(by), relative, enforce)
	})
	if err != nil {
		return err
	}
	return c.call("wait for dom0 to shrink", 0, func() C.int {
		return C.libxl_wait_for_memory_target(c.lx, 0, waitSec)
	})
}
