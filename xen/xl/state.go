//go:build xen

package xl

import (
	"fmt"
	"slices"

	"github.com/xenferry/xenferry/xenctrl"
)

// loadFinal gives the domain everything but its devices, in the order that Xen
// needs: params after the pages that they name, the processors' state after
// the params.
func (in *incoming) loadFinal(s finalState) error {
	xc, domid := in.h.xc, in.hello.domid
	if _, ok := s.param(xenctrl.ParamStorePFN); !ok {
		return fmt.Errorf("guest state: HVM param %d (the page for xenstore) is missing: the guest could not speak to its host", xenctrl.ParamStorePFN)
	}
	if err := xc.SetTSCInfo(domid, s.tsc); err != nil {
		return err
	}
	for _, p := range s.params {
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
	if err := xc.SetHVMContext(domid, s.hvmContext); err != nil {
		return err
	}
	store, console := s.ringPages()
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

// param returns the value of a param, and whether the guest has it.
func (s finalState) param(index uint32) (uint64, bool) {
	for _, p := range s.params {
		if p.index == index {
			return p.value, true
		}
	}
	return 0, false
}

// ringPages returns the pages over which the guest speaks with xenstored and
// its console.
func (s finalState) ringPages() (store, console uint64) {
	store, _ = s.param(xenctrl.ParamStorePFN)
	console, _ = s.param(xenctrl.ParamConsolePFN)
	return store, console
}
