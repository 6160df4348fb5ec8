package conformance

import (
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/xenferry/xenferry/xen"
)

func (s *suite) hostInfo(t *testing.T) {
	info, err := s.host(t).Info(s.context(t))
	must(t, "info of the host", err)
	if info.Name == "" || info.Hypervisor == "" || info.Cores < 1 {
		t.Errorf("incomplete: %+v", info)
	}
	if info.TotalKiB == 0 || info.FreeKiB >= info.TotalKiB {
		t.Errorf("with a guest there, %d of %d KiB are free", info.FreeKiB, info.TotalKiB)
	}
}

func (s *suite) find(t *testing.T) {
	h, dom := s.open(t)
	want := s.info(t, dom)
	if want.Domid != s.domid || want.State != xen.StateRunning || want.VCPUs < 1 ||
		want.MemKiB == 0 || want.MemKiB > dom.Pages()*xen.PageSize/1024 || want.UUID == "" {
		t.Errorf("info of the domain: %+v, with %d pages", want, dom.Pages())
	}
	for _, key := range []string{want.Name, strconv.Itoa(int(want.Domid))} {
		got, err := h.Find(s.context(t), key)
		must(t, "find "+key, err)
		if got.CPUTime = want.CPUTime; got != want {
			t.Errorf("find %s: %+v, want %+v", key, got, want)
		}
	}
	all, err := h.List(s.context(t))
	must(t, "list", err)
	if !slices.IsSortedFunc(all, func(a, b xen.DomainInfo) int { return int(a.Domid) - int(b.Domid) }) {
		t.Errorf("the list is not in the order of domids: %+v", all)
	}
	if !slices.ContainsFunc(all, func(d xen.DomainInfo) bool { return d.Domid == want.Domid && d.Name == want.Name }) {
		t.Errorf("the list lacks the domain: %+v", all)
	}
}

func (s *suite) unknownDomain(t *testing.T) {
	h := s.host(t)
	for _, key := range []string{"no-such-guest", "32000", "", "-1", "99999999999999999999"} {
		if _, err := h.Find(s.context(t), key); !errors.Is(err, xen.ErrNoDomain) {
			t.Errorf("find %q: %v, want %q", key, err, xen.ErrNoDomain)
		} else {
			mentions(t, err, key)
		}
	}
	if dom, err := h.Open(s.context(t), 32000); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("open: %v, %v, want %q", dom, err, xen.ErrNoDomain)
	} else {
		mentions(t, err, "32000")
	}
}

func (s *suite) openAndClose(t *testing.T) {
	h, first := s.open(t)
	must(t, "close", first.Close())
	for range 3 {
		dom, err := h.Open(s.context(t), s.domid)
		must(t, "open again", err)
		if dom.Pages() != first.Pages() {
			t.Errorf("%d pages, then %d", first.Pages(), dom.Pages())
		}
		must(t, "close", dom.Close())
		must(t, "close again", dom.Close())
	}
	s.RunCheck(t, h, s.domid)
}

func (s *suite) rename(t *testing.T) {
	h, dom := s.open(t)
	old := s.info(t, dom).Name
	must(t, "rename", dom.Rename(s.context(t), old+"-renamed"))
	if got := s.info(t, dom).Name; got != old+"-renamed" {
		t.Errorf("renamed, it is called %q", got)
	}
	if _, err := h.Find(s.context(t), old); !errors.Is(err, xen.ErrNoDomain) {
		t.Errorf("find by the old name: %v", err)
	}
	must(t, "rename back", dom.Rename(s.context(t), old))
	if err := dom.Rename(s.context(t), "Domain-0"); !errors.Is(err, xen.ErrNameTaken) {
		t.Errorf("rename to the name of another domain: %v, want %q", err, xen.ErrNameTaken)
	}
	if got := s.info(t, dom).Name; got != old {
		t.Errorf("after a rename that failed it is called %q, not %q", got, old)
	}
}
