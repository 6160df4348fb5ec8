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

// TestBallooned moves a guest that gets memory while it is copied, and then one
// that gives some back: it arrives whole, and with as much as it has then.
func TestBallooned(t *testing.T) {
	Find(t).onceOnly(t)
	l := Open(t)
	g := l.CreateGuest(t, l.A, "balloon", GuestOptions{MemoryMB: balloonFull, Args: []string{"xfg.mem=64"}})
	g.inflate(t, l.A, balloonSmall)
	from := l.A
	for _, c := range []struct {
		to   int
		note string
	}{{balloonFull, "the guest's memory grew from "}, {balloonSmall, ""}} {
		g.AssertClean(t, from)
		m := g.Start(t, from, "--bandwidth-limit 40M --compress off")
		m.AwaitPhase(t, "copy")
		from.Must(t, fmt.Sprintf("xl mem-set %s %d", g.Name, c.to))
		if c.note != "" {
			m.Await(t, "note of its growth", func(e xen.Event) bool { return e.Kind == xen.EventNote && strings.Contains(e.Text, c.note) })
		}
		if code, report, stderr := m.End(t); code != 0 || report == nil {
			t.Fatalf("to %d MiB: exit code %d: %s", c.to, code, stderr)
		}
		from = l.Other(from)
		g.awaitSize(t, from, c.to)
		g.AssertClean(t, from)
	}
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
	var size int
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Second) {
		if _, err := fmt.Sscan(h.Must(t, "xl list "+g.Name+" | awk 'END { print $3 }'"), &size); err != nil {
			t.Fatal(err)
		}
		if size >= mib && size <= mib+1 {
			return
		}
	}
	t.Fatalf("%s has %d MiB on %s, and should have %d", g.Name, size, h.Name, mib)
}
