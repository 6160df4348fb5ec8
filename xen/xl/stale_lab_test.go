//go:build xen && lab

package xl

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/xenferry/xenferry/evtchn"
	"github.com/xenferry/xenferry/xen"
)

// A subscription that a killed process has left behind hides the guest's
// suspends from all stock tools. It is taken back by whoever opens the guest
// next: a new sender, or recovery, which is also what a guardian does.
func TestRealStaleSubscription(t *testing.T) {
	d := realDomain(t)
	h := d.h
	info, err := d.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stale, err := h.xc.AllocUnbound(d.domid, dom0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := evtchn.Unsubscribe(h.xc, d.domid); err != nil {
			t.Error(err)
		}
	}()
	subscribe := func() {
		if err := h.xc.SubscribeSuspend(d.domid, stale); err != nil {
			t.Fatal(err)
		}
	}
	subscribe()
	if err := suspendSeen(t, d, 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with a subscription left behind the watch says %v: nothing would be shown by this test", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (xen.Domain, error){
		"sender": func() (xen.Domain, error) { return h.Open(t.Context(), d.domid) },
		"recovery": func() (xen.Domain, error) {
			return h.Reopen(t.Context(), xen.DomainRef{Domid: d.domid, UUID: info.UUID})
		},
	} {
		subscribe()
		opened, err := open()
		if err != nil {
			t.Fatal(err)
		}
		if err := suspendSeen(t, opened.(*domain), suspendLimit); err != nil {
			t.Errorf("%s: the watch has not told of the suspend: %v", name, err)
		}
		if err := opened.Close(); err != nil {
			t.Error(err)
		}
	}
}

// suspendSeen suspends the guest as stock tools do, waits until the watch on
// @releaseDomain tells of it, up to limit after it has, and resumes the guest.
func suspendSeen(t *testing.T, d *domain, limit time.Duration) error {
	t.Helper()
	w, err := openWatch(releaseDomain)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	s := &suspender{domain: d, asks: true}
	if err := s.request(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(suspendLimit); ; time.Sleep(50 * time.Millisecond) {
		f, err := s.flags()
		if err != nil || time.Now().After(end) {
			t.Fatalf("the guest has not suspended: flags %#x, %v", f, err)
		}
		if f.Suspended() {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	heard := heardOf(ctx, s, w.wait)
	mustResume(t, d)
	goesOn(t, d)
	return heard
}
