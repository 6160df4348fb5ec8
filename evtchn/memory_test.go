package evtchn

import (
	"context"
	"errors"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const guest = 5

// soon is a context that ends so late that a test which needs it has failed.
func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// nothing fails the test if the channel has an event.
func nothing(t *testing.T, ch Channel) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if p, err := ch.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait returns port %d, %v; want no event", p, err)
	}
}

func mustFire(t *testing.T, ch Channel, want Port) {
	t.Helper()
	if p, err := ch.Wait(soon(t)); err != nil || p != want {
		t.Fatalf("Wait returns port %d, %v; want %d", p, err, want)
	}
}

func TestMemoryChannel(t *testing.T) {
	m := NewMemory()
	ch := m.Open(0)
	defer ch.Close()
	p, _ := m.AllocUnbound(guest, 0)
	local, err := ch.BindInterdomain(guest, p)
	if err != nil {
		t.Fatal(err)
	}
	mustFire(t, ch, local) // a new binding is pending
	nothing(t, ch)
	m.SubscribeSuspend(guest, p)
	if !m.Suspended(guest) {
		t.Fatal("the event has no way to go")
	}
	nothing(t, ch) // masked
	if err := ch.Unmask(local); err != nil {
		t.Fatal(err)
	}
	mustFire(t, ch, local) // what came while it was masked is not lost
	if _, err := ch.BindInterdomain(guest, p); !errors.Is(err, unix.EINVAL) {
		t.Errorf("second binding: %v, want EINVAL", err)
	}
	if err := ch.Unbind(local); err != nil {
		t.Fatal(err)
	}
	if ok, _ := m.Unbound(guest, p, 0); !ok {
		t.Error("the guest's end has not gone back to unbound")
	}
	if err := ch.Notify(local); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("notify of an unbound port: %v, want ENOTCONN", err)
	}
}

func TestMemoryPair(t *testing.T) {
	m := NewMemory()
	a, b := m.Open(1), m.Open(2)
	defer a.Close()
	defer b.Close()
	// 2 binds a port that 1 has for it; only 2's end has an owner to wake.
	p, _ := m.AllocUnbound(1, 2)
	if _, err := a.BindInterdomain(1, p); !errors.Is(err, unix.EINVAL) {
		t.Errorf("binding of a port that is for another domain: %v, want EINVAL", err)
	}
	local, err := b.BindInterdomain(1, p)
	if err != nil {
		t.Fatal(err)
	}
	mustFire(t, b, local)
	if err := b.Notify(local); err != nil {
		t.Errorf("notify: %v", err)
	}
}

func TestMemoryClose(t *testing.T) {
	m := NewMemory()
	ch := m.Open(0)
	done := make(chan error)
	go func() { _, err := ch.Wait(soon(t)); done <- err }()
	if err := errors.Join(ch.Close(), ch.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Wait ends with %v, want ErrClosed", err)
	}
	if _, err := ch.BindInterdomain(guest, 1); !errors.Is(err, ErrClosed) {
		t.Errorf("use after close: %v, want ErrClosed", err)
	}
}
