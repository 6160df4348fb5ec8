package conformance

import (
	"testing"

	"github.com/xenferry/xenferry/xen"
)

func (s *suite) throttle(t *testing.T) {
	h, dom := s.open(t)
	th, ok := dom.(xen.Throttler)
	if !ok {
		t.Fatal("this guest cannot be throttled")
	}
	for _, percent := range []int{50, 90, 0, 0, 30} {
		must(t, "throttle", th.Throttle(s.context(t), percent))
		s.mustBeThrottled(t, h, percent)
		if percent == 50 {
			s.RunCheck(t, h, s.domid) // more slowly, but it runs
		}
	}
	for _, percent := range []int{-1, xen.MaxThrottle + 1} {
		if err := th.Throttle(s.context(t), percent); err == nil {
			t.Errorf("throttled by %d %%", percent)
		}
	}
	s.mustBeThrottled(t, h, 30)
	must(t, "close", dom.Close())
	s.mustBeThrottled(t, h, 0)

	s.LeaveThrottle(t, h, s.domid)
	again, err := h.Open(s.context(t), s.domid)
	must(t, "open", err)
	s.mustBeThrottled(t, h, 0)
	must(t, "close", again.Close())
	s.RunCheck(t, h, s.domid)
}

func (s *suite) mustBeThrottled(t *testing.T, h xen.Host, percent int) {
	t.Helper()
	if got := s.Throttle(t, h, s.domid); got != percent {
		t.Errorf("throttled by %d %%, not %d", got, percent)
	}
}
