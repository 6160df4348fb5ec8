package evtchn

import (
	"context"
	"errors"
	"testing"
	"time"
)

// ports is a PortStore in memory.
type ports map[uint32]Port

func (p ports) SuspendPort(domid uint32) (Port, error)       { return p[domid], nil }
func (p ports) SetSuspendPort(domid uint32, port Port) error { p[domid] = port; return nil }

var errTest = errors.New("no")

// failing is a Hypervisor whose named call fails.
type failing struct {
	*Memory
	call string
}

func (f failing) AllocUnbound(domid, remote uint32) (Port, error) {
	if f.call == "alloc" {
		return 0, errTest
	}
	return f.Memory.AllocUnbound(domid, remote)
}

func (f failing) Unbound(domid uint32, port Port, remote uint32) (bool, error) {
	if f.call == "status" {
		return true, errTest
	}
	return f.Memory.Unbound(domid, port, remote)
}

func (f failing) SubscribeSuspend(domid uint32, port Port) error {
	if f.call == "subscribe" && port != 0 {
		return errTest
	}
	return f.Memory.SubscribeSuspend(domid, port)
}

func TestSuspend(t *testing.T) {
	m, store := NewMemory(), ports{}
	first := Port(0)
	for round := range 5 {
		s, err := SubscribeSuspend(m, store, m.Open(0), guest, 0)
		if err != nil {
			t.Fatal(err)
		}
		if first == 0 {
			first = store[guest]
		}
		if store[guest] != first || m.Subscribed(guest) != first {
			t.Fatalf("round %d: port %d, subscribed %d; want %d as in the first", round, store[guest], m.Subscribed(guest), first)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Wait before the suspend: %v, want DeadlineExceeded", err)
		}
		cancel()
		s.Rehearse()
		for range 2 { // a resume, and the same subscription hears the next
			if !m.Suspended(guest) {
				t.Fatal("nobody has subscribed")
			}
			if err := s.Wait(soon(t)); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		if m.Subscribed(guest) != 0 {
			t.Fatal("the subscription stays")
		}
	}
}

// The port's number is of no use any more when the guest has started another
// kernel, or when somebody else holds it.
func TestSuspendPortLost(t *testing.T) {
	for name, lose := range map[string]func(*Memory, Port){
		"reset":      func(m *Memory, _ Port) { m.Reset(guest) },
		"bound":      func(m *Memory, p Port) { m.Open(0).BindInterdomain(guest, p) },
		"reused":     func(m *Memory, p Port) { m.Reset(guest); m.ports[portKey{guest, p}] = &memPort{remote: 3} },
		"never ours": func(m *Memory, p Port) { m.Reset(guest); m.next += 7 },
	} {
		m, store := NewMemory(), ports{}
		s, err := SubscribeSuspend(m, store, m.Open(0), guest, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		old := store[guest]
		lose(m, old)
		if s, err = SubscribeSuspend(m, store, m.Open(0), guest, 0); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if store[guest] == old {
			t.Errorf("%s: port %d is used again", name, old)
		}
		m.Suspended(guest)
		if err := s.Wait(soon(t)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.Close()
	}
}

func TestSuspendFails(t *testing.T) {
	for _, call := range []string{"alloc", "subscribe"} {
		m, store := NewMemory(), ports{}
		m.SubscribeSuspend(guest, 99) // left by a process that died
		ch := m.Open(0)
		if _, err := SubscribeSuspend(failing{m, call}, store, ch, guest, 0); !errors.Is(err, errTest) {
			t.Errorf("%s: %v, want the cause", call, err)
		}
		if m.Subscribed(guest) != 0 {
			t.Errorf("%s: a subscription stays", call)
		}
		if err := ch.Unmask(1); !errors.Is(err, ErrClosed) {
			t.Errorf("%s: the channel is still open", call)
		}
	}
	// A port whose status cannot be had is replaced.
	m, store := NewMemory(), ports{guest: 77}
	s, err := SubscribeSuspend(failing{m, "status"}, store, m.Open(0), guest, 0)
	if err != nil || store[guest] == 77 {
		t.Fatalf("port %d: %v", store[guest], err)
	}
	s.Close()
}
