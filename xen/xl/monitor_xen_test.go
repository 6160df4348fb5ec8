//go:build xen

package xl

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
	"github.com/xenferry/xenferry/xenctrl"
)

// TestLiveMonitor lets the guest reboot twice under a monitor. It must come up
// again under its name each time. (The tests' guest has on_reboot at its
// default, restart.)
func TestLiveMonitor(t *testing.T) {
	l := openLive(t)
	l.d.Close()
	xc := l.h.(*host).xc
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Monitor(ctx, Options{}, l.info.Domid, func(s string) { t.Log(s) })
	}()
	waitDomain := func(ok func(xen.DomainInfo, error) bool) xen.DomainInfo {
		t.Helper()
		for range 150 {
			if d, err := l.h.Find(t.Context(), l.info.Name); ok(d, err) {
				return d
			}
			time.Sleep(200 * time.Millisecond)
		}
		t.Fatal("the guest has not got there in 30 s")
		return xen.DomainInfo{}
	}
	domid := l.info.Domid
	for range 2 {
		time.Sleep(2 * deathPoll) // the monitor has taken its lock
		if err := Monitor(ctx, Options{}, domid, nil); err == nil || ctx.Err() != nil {
			t.Error("a second monitor was accepted")
		}
		if err := xc.Shutdown(domid, xenctrl.ShutdownReboot); err != nil {
			t.Fatal(err)
		}
		d := waitDomain(func(d xen.DomainInfo, err error) bool {
			return err == nil && d.Domid != domid && d.State == xen.StateRunning
		})
		if d.UUID != l.info.UUID || d.Type != l.info.Type {
			t.Errorf("the guest came up as %+v, it was %+v", d, l.info)
		}
		domid = d.Domid
	}
	stop := errors.New("enough")
	cancel(stop)
	if err := <-ended; !errors.Is(err, stop) {
		t.Errorf("the monitor ended with %v, want %v", err, stop)
	}
}
