//go:build xen

package xenctrl

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// absent is a domid that no domain of a test host has.
const absent = 31999

// open connects to the hypervisor. In the lab (XENFERRY_LAB=1) it must be there.
func open(t *testing.T) *Handle {
	t.Helper()
	before := OpenHandles()
	h, err := Open()
	if err != nil {
		if os.Getenv("XENFERRY_LAB") != "1" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		}
		if n := OpenHandles() - before; n != 0 {
			t.Errorf("%d handles leaked", n)
		}
	})
	return h
}

func TestXenHost(t *testing.T) {
	h := open(t)
	v, err := h.Version()
	if err != nil || v.Major != 4 || v.Minor < 17 {
		t.Errorf("version %v: %v", v, err)
	}
	info, err := h.HostInfo()
	if err != nil || info.TotalPages == 0 || info.FreePages >= info.TotalPages || info.CPUs == 0 {
		t.Errorf("host %+v: %v", info, err)
	}
}

func TestXenDomains(t *testing.T) {
	h := open(t)
	all, err := h.Domains()
	if err != nil || len(all) == 0 || all[0].Domid != 0 {
		t.Fatalf("domains %+v: %v", all, err)
	}
	d0, err := h.Domain(0)
	if err != nil || d0.Domid != 0 || d0.TotPages == 0 || d0.VCPUs == 0 {
		t.Errorf("domain 0: %+v: %v", d0, err)
	}
	// One below another that exists: Xen would answer with the other.
	for _, d := range all[1:] {
		if _, err := h.Domain(d.Domid - 1); d.Domid-1 != 0 && !containsDomid(all, d.Domid-1) && !errors.Is(err, unix.ESRCH) {
			t.Errorf("domain %d is not there: %v, want ESRCH", d.Domid-1, err)
		}
	}
}

func containsDomid(all []DomainInfo, domid uint32) bool {
	for _, d := range all {
		if d.Domid == domid {
			return true
		}
	}
	return false
}

// Every call on a domain that is not there must return an Error that names the
// domain, and an errno.
func TestXenNoDomain(t *testing.T) {
	h := open(t)
	pfn := []uint64{0}
	calls := map[string]func() error{
		"Domain":           func() error { _, err := h.Domain(absent); return err },
		"NrPFNs":           func() error { _, err := h.NrPFNs(absent); return err },
		"Pause":            func() error { return h.Pause(absent) },
		"Unpause":          func() error { return h.Unpause(absent) },
		"Shutdown":         func() error { return h.Shutdown(absent, ShutdownSuspend) },
		"Resume":           func() error { return h.Resume(absent) },
		"Destroy":          func() error { return h.Destroy(absent) },
		"SetMaxMem":        func() error { return h.SetMaxMem(absent, 4096) },
		"Claim":            func() error { return h.Claim(absent, 1) },
		"EnableLogDirty":   func() error { return h.EnableLogDirty(absent) },
		"DisableLogDirty":  func() error { return h.DisableLogDirty(absent) },
		"DirtyStats":       func() error { _, err := h.DirtyStats(absent); return err },
		"PageTypes":        func() error { return PageTypes(h, absent, pfn, make([]uint8, 1)) },
		"Populate":         func() error { _, err := h.Populate(absent, 0, pfn); return err },
		"ClearPages":       func() error { return h.ClearPages(absent, 0, 1) },
		"HVMContext":       func() error { _, err := h.HVMContext(absent); return err },
		"SetHVMContext":    func() error { return h.SetHVMContext(absent, []byte{1}) },
		"HVMParam":         func() error { _, err := h.HVMParam(absent, ParamStorePFN); return err },
		"SetHVMParam":      func() error { return h.SetHVMParam(absent, ParamStorePFN, 1) },
		"TSCInfo":          func() error { _, err := h.TSCInfo(absent); return err },
		"SetTSCInfo":       func() error { return h.SetTSCInfo(absent, TSCInfo{}) },
		"CPUPolicy":        func() error { _, _, err := h.CPUPolicy(absent); return err },
		"SetCPUPolicy":     func() error { return h.SetCPUPolicy(absent, make([]byte, CPUIDLeafSize), nil) },
		"AllocUnbound":     func() error { _, err := h.AllocUnbound(absent, 0); return err },
		"PortStatus":       func() error { _, err := h.PortStatus(absent, 1); return err },
		"Unbound":          func() error { _, err := h.Unbound(absent, 1, 0); return err },
		"SubscribeSuspend": func() error { return h.SubscribeSuspend(absent, 0) },
		"SeedGrantTable":   func() error { return h.SeedGrantTable(absent, 1, 2, 0, 0) },
	}
	for name, call := range calls {
		err := call()
		var e *Error
		var errno unix.Errno
		if !errors.As(err, &e) || e.Domid != absent || !errors.As(err, &errno) || errno == 0 {
			t.Errorf("%s: %v, want an Error of domain %d with an errno", name, err, absent)
		}
	}
}

// A page that cannot be mapped is reported for itself.
func TestXenMapFails(t *testing.T) {
	h := open(t)
	var m Mapping
	if err := h.Map(&m, absent, []uint64{7, 8}, false); err != nil {
		t.Fatal(err)
	}
	if LiveMappings() != 1 {
		t.Errorf("%d mappings, want 1", LiveMappings())
	}
	if i, err := m.Failed(); i != 0 || !errors.Is(err, unix.ESRCH) {
		t.Errorf("page %d failed: %v, want page 0, ESRCH", i, err)
	}
	if err := h.Map(&m, absent, []uint64{7}, false); !errors.Is(err, unix.EBUSY) {
		t.Errorf("second Map: %v, want EBUSY", err)
	}
	for range 2 {
		if err := m.Unmap(); err != nil {
			t.Error(err)
		}
	}
	if LiveMappings() != 0 {
		t.Errorf("%d mappings are left", LiveMappings())
	}
}

// What a caller can get wrong must not reach the hypervisor, or memory.
func TestXenLimits(t *testing.T) {
	h := open(t)
	many := make([]uint64, MaxBatchPages+1)
	var m Mapping
	log, err := h.NewDirtyLog(absent, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"too many types":      PageTypes(h, absent, many, make([]uint8, len(many))),
		"no room for types":   PageTypes(h, absent, many[:2], make([]uint8, 1)),
		"too many pages":      h.Map(&m, absent, many, false),
		"no pages":            h.Map(&m, absent, nil, false),
		"half a leaf":         h.SetCPUPolicy(absent, make([]byte, CPUIDLeafSize-1), nil),
		"half an MSR":         h.SetCPUPolicy(absent, nil, make([]byte, MSREntrySize+1)),
		"empty HVM context":   h.SetHVMContext(absent, nil),
		"bitmap too small":    second(log.Clean(make([]uint64, 15), false)),
		"bitmap of no pages":  second(h.NewDirtyLog(absent, 0)),
		"bitmap of all pages": second(h.NewDirtyLog(absent, 1<<32+1)),
	} {
		if !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v, want EINVAL", name, err)
		}
	}
	for range 2 {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := log.Peek(make([]uint64, 16)); !errors.Is(err, unix.EBADF) {
		t.Errorf("use after close: %v, want EBADF", err)
	}
	if err := errors.Join(m.Unmap(), PageTypes(h, absent, nil, []uint8(nil)), h.Release(absent, nil)); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }
