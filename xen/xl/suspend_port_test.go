package xl

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/evtchn"
)

// noting is a Channel that notes which ports were notified.
type noting struct {
	evtchn.Channel
	notified []evtchn.Port
}

func (c *noting) Notify(local evtchn.Port) error {
	c.notified = append(c.notified, local)
	return c.Channel.Notify(local)
}

func TestGuestPort(t *testing.T) {
	const domid = 7
	m := evtchn.NewMemory()
	var ch *noting
	open := func() (evtchn.Channel, error) {
		ch = &noting{Channel: m.Open(0)}
		return ch, nil
	}
	alloc := func(remote uint32) evtchn.Port {
		port, err := m.AllocUnbound(domid, remote)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	offer := alloc(0)
	for range 2 { // it can be used again
		p, err := bindGuestPort(open, domid, strconv.Itoa(int(offer)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bindGuestPort(open, domid, strconv.Itoa(int(offer))); err == nil {
			t.Error("a port that is in use was bound once more")
		}
		ch = p.ch.(*noting)
		if err := p.ask(); err != nil || !slices.Equal(ch.notified, []evtchn.Port{p.local}) {
			t.Errorf("asked on ports %v, want %d: %v", ch.notified, p.local, err)
		}
		if err := errors.Join(p.close(), p.close()); err != nil {
			t.Fatal(err)
		}
		if free, err := m.Unbound(domid, offer, 0); !free || err != nil {
			t.Fatalf("the port is not given back: %v", err)
		}
		if err := p.ask(); !errors.Is(err, evtchn.ErrClosed) {
			t.Errorf("asked after close: %v", err)
		}
	}
	if p, err := bindGuestPort(open, domid, ""); p != nil || err != nil || p.close() != nil {
		t.Errorf("no offer: %v, %v", p, err)
	}
	other := strconv.Itoa(int(alloc(3)))
	for _, bad := range []string{"0", "-1", "+5", "131072", "4294967297", " 5", "5\x00", "x", "1e3", strings.Repeat("9", 4000), "99999", other} {
		ch = nil
		p, err := bindGuestPort(open, domid, bad)
		if p != nil || err == nil || len(err.Error()) > 200 {
			t.Errorf("offer %.20q: port %v, error %.300v", bad, p, err)
		}
		if ch != nil {
			if _, err := ch.BindInterdomain(domid, offer); !errors.Is(err, evtchn.ErrClosed) {
				t.Errorf("offer %.20q: the channel stays open", bad)
			}
		}
	}
	broken := errors.New("no device")
	if _, err := bindGuestPort(func() (evtchn.Channel, error) { return nil, broken }, domid, "5"); !errors.Is(err, broken) {
		t.Errorf("no channel: %v", err)
	}
}
