//go:build xen

package evtchn

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xenctrl"
)

// openXen opens the device. In the lab (XENFERRY_LAB=1) it must be there.
func openXen(t *testing.T) Channel {
	t.Helper()
	ch, err := Open()
	if err != nil {
		if os.Getenv("XENFERRY_LAB") != "1" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { ch.Close() })
	return ch
}

// A port of dom0 that is bound by dom0 itself shows all that a guest's does.
func TestXenChannel(t *testing.T) {
	ch := openXen(t)
	xc, err := xenctrl.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer xc.Close()
	remote, err := xc.AllocUnbound(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := xc.Unbound(0, remote, 0); !ok || err != nil {
		t.Errorf("new port %d: unbound %v, %v", remote, ok, err)
	}
	local, err := ch.BindInterdomain(0, remote)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := xc.Unbound(0, remote, 0); ok || err != nil {
		t.Errorf("bound port %d: unbound %v, %v", remote, ok, err)
	}
	mustFire(t, ch, local)
	if err := ch.Unmask(local); err != nil {
		t.Fatal(err)
	}
	nothing(t, ch)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if p, err := ch.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait returns port %d, %v; want DeadlineExceeded", p, err)
	}
	if err := ch.Unbind(local); err != nil {
		t.Fatal(err)
	}
	if ok, err := xc.Unbound(0, remote, 0); !ok || err != nil {
		t.Errorf("port %d after unbind: unbound %v, %v", remote, ok, err)
	}
	if _, err := ch.BindInterdomain(0, 100000); err == nil {
		t.Error("a port that does not exist can be bound")
	}
}

func TestXenClose(t *testing.T) {
	ch := openXen(t)
	done := make(chan error)
	go func() { _, err := ch.Wait(soon(t)); done <- err }()
	time.Sleep(20 * time.Millisecond) // most often Wait waits by now; either way it must end
	if err := errors.Join(ch.Close(), ch.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Wait ends with %v, want ErrClosed", err)
	}
	if err := ch.Unmask(1); !errors.Is(err, ErrClosed) {
		t.Errorf("use after close: %v, want ErrClosed", err)
	}
}
