//go:build xen

package xl

import (
	"fmt"
	"slices"

	"github.com/xenferry/xenferry/xenctrl"
)

// loadParams gives the domain its HVM params, after the pages that they name,
// and the entries of its grant table by which xenstored and its console reach
// their pages.
func (in *incoming) loadParams(params hvmParams) error {
	xc, domid := in.h.xc, in.hello.domid
	if _, ok := params.value(xenctrl.ParamStorePFN); !ok {
		return fmt.Errorf("guest state: HVM param %d (the page for xenstore) is missing: the guest could not speak to its host", xenctrl.ParamStorePFN)
	}
	for _, p := range params {
		if err := in.loadParam(p); err != nil {
			return err
		}
	}
	if err := xc.SetHVMParam(domid, xenctrl.ParamStoreEvtchn, uint64(in.hello.storePort)); err != nil {
		return err
	}
	if err := xc.SetHVMParam(domid, xenctrl.ParamConsoleEvtchn, uint64(in.hello.consolePort)); err != nil {
		return err
	}
	store, console := params.ringPages()
	return xc.SeedGrantTable(domid, console, store, in.hello.consoleDomid, in.hello.storeDomid)
}

func (in *incoming) loadParam(p hvmParam) error {
	if slices.Contains(freshPageParams, p.index) {
		if !in.populated.has(p.value) {
			return fmt.Errorf("guest state: HVM param %d names pfn %#x, which the guest does not have", p.index, p.value)
		}
		if err := in.h.xc.ClearPages(in.hello.domid, p.value, 1); err != nil {
			return err
		}
	}
	return in.h.xc.SetHVMParam(in.hello.domid, p.index, p.value)
}

// reloadParams gives a domain whose devices are there already the params that
// have changed since. Those of pages that the devices use must be the same.
func (in *incoming) reloadParams(params hvmParams) error {
	if !slices.Equal(params.freshPages(), in.params.freshPages()) {
		return fmt.Errorf("guest state: the pages of xenstore, console and device model were %#x when the devices were built, and now are %#x: begin again",
			in.params.freshPages(), params.freshPages())
	}
	for _, p := range params {
		if old, ok := in.params.value(p.index); ok && old == p.value {
			continue
		}
		if err := in.h.xc.SetHVMParam(in.hello.domid, p.index, p.value); err != nil {
			return err
		}
	}
	return nil
}

// loadProcessors gives the domain what follows the params.
func (in *incoming) loadProcessors(s finalState) error {
	if err := in.h.xc.SetTSCInfo(in.hello.domid, s.tsc); err != nil {
		return err
	}
	return in.h.xc.SetHVMContext(in.hello.domid, s.hvmContext)
}

// value returns that of a param, and whether the guest has it.
func (p hvmParams) value(index uint32) (uint64, bool) {
	for _, e := range p {
		if e.index == index {
			return e.value, true
		}
	}
	return 0, false
}

// ringPages returns the pages over which the guest speaks with xenstored and
// its console.
func (p hvmParams) ringPages() (store, console uint64) {
	store, _ = p.value(xenctrl.ParamStorePFN)
	console, _ = p.value(xenctrl.ParamConsolePFN)
	return store, console
}
