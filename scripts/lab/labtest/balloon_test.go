//go:build lab

package labtest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/xen"
)

// Sizes of TestBallooned's guest, in MiB, as its configuration and its balloon have it.
const (
	balloonFull  = 256
	balloonSmall = 190
)

// TestBallooned moves a guest that gets memory while it is copied: it arrives
// whole, and with as much as it has then. One that is given more than the
// destination knows of stays.
func TestBallooned(t *testing.T) {
	longOnly(t)
	Find(t).onceOnly(t)
	const options = "--bandwidth-limit 40M --compress off"
	l := Open(t)
	g := l.CreateGuest(t, l.A, "balloon", GuestOptions{MemoryMB: balloonFull, Args: []string{"xfg.mem=64"}})

	g.inflate(t, l.A, balloonSmall)
	m := g.Start(t, l.A, options)
	m.AwaitPhase(t, "copy")
	l.A.Must(t, fmt.Sprintf("xl mem-set %s %d", g.Name, balloonFull))
	code, _, stderr := m.End(t)
	if code != 6 || !strings.Contains(stderr, "and needs more") && !strings.Contains(stderr, "is given no more") {
		t.Fatalf("given more than it was to have: exit code %d: %s", code, stderr)
	}
	g.awaitSize(t, l.A, balloonFull)
	g.AssertClean(t, l.A)

	// It is on its way up when the migration begins: it has too little time to be there.
	g.inflate(t, l.A, balloonSmall)
	l.A.Must(t, fmt.Sprintf("xl sched-credit2 -d %s -c 3 && xl mem-set %[1]s %d", g.Name, balloonFull))
	m = g.Start(t, l.A, options)
	m.AwaitPhase(t, "copy")
	l.A.Must(t, fmt.Sprintf("xl sched-credit2 -d %s -c 0", g.Name))
	m.Await(t, "note of its growth", func(e xen.Event) bool {
		return e.Kind == xen.EventNote && strings.Contains(e.Text, "the guest's memory grew from ")
	})
	g.arrives(t, m, l.B, balloonFull, fmt.Sprintf("xl sched-credit2 -d %s -c 0", g.Name)) // the configuration had that cap
}

// arrives waits until the guest runs on h, gives a command there, and expects that
// the guest is whole and of that size.
func (g *Guest) arrives(t testing.TB, m *Migration, h *Host, mib int, then string) {
	t.Helper()
	if code, _, stderr := m.End(t); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	h.Must(t, then)
	if size, ok := g.hasSize(t, h, mib); !ok {
		t.Errorf("%s has %d MiB on %s, and should have %d", g.Name, size, h.Name, mib)
	}
	g.AssertClean(t, h)
}

// inflate sets the guest's size, and waits until it has it.
func (g *Guest) inflate(t testing.TB, h *Host, mib int) {
	t.Helper()
	h.Must(t, fmt.Sprintf("xl mem-set %s %d", g.Name, mib))
	g.awaitSize(t, h, mib)
}

// awaitSize waits until Xen says that the guest has that size.
func (g *Guest) awaitSize(t testing.TB, h *Host, mib int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		size, ok := g.hasSize(t, h, mib)
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s has %d MiB on %s, and should have %d", g.Name, size, h.Name, mib)
		}
	}
}

// hasSize asks Xen for the guest's size in MiB, and tells whether it is the given
// one, or one more.
func (g *Guest) hasSize(t testing.TB, h *Host, mib int) (size int, ok bool) {
	t.Helper()
	if _, err := fmt.Sscan(h.Must(t, "xl list "+g.Name+" | awk 'END { print $3 }'"), &size); err != nil {
		t.Fatal(err)
	}
	return size, size == mib || size == mib+1
}
