//go:build lab

package labtest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// consoleDir is where xenconsoled keeps what guests print. The log's name is
// the domain's when its console came: NAME, or NAME--incoming after a
// migration.
const consoleDir = "/var/log/xen/console"

// lines returns the guest's lines on a host, the last of each of its logs.
// No log is no lines.
func (g *Guest) lines(t testing.TB, h *Host, last int) []string {
	t.Helper()
	out, err := h.Run(context.Background(), fmt.Sprintf(
		"cd %s && for f in guest-%s.log guest-%[2]s--*.log; do [ ! -f $f ] || grep -a XFG $f | tail -n %[3]d; done",
		consoleDir, g.Name, last))
	if err != nil {
		t.Fatalf("console logs: %v", err)
	}
	return strings.Split(out, "\n")
}

// Beats returns the guest's last heartbeats on a host, up to the given number
// from each of its logs there, in the order of their numbers.
func (g *Guest) Beats(t testing.TB, h *Host, last int) []xfg.Beat {
	t.Helper()
	return g.beatsIn(g.lines(t, h, last))
}

func (g *Guest) beatsIn(lines []string) []xfg.Beat {
	var beats []xfg.Beat
	for _, line := range lines {
		if b, ok := xfg.ParseBeat(line); ok && (g.ID == "" || b.ID == g.ID) {
			beats = append(beats, b)
		}
	}
	slices.SortStableFunc(beats, func(a, b xfg.Beat) int { return cmp.Compare(a.N, b.N) })
	return beats
}

// LastBeat returns the guest's newest heartbeat on a host.
func (g *Guest) LastBeat(t testing.TB, h *Host) (b xfg.Beat, ok bool) {
	t.Helper()
	beats := g.Beats(t, h, 5)
	if len(beats) == 0 {
		return b, false
	}
	return beats[len(beats)-1], true
}

// WaitBeat waits on h for a heartbeat of which cond holds, and returns it.
func (g *Guest) WaitBeat(t testing.TB, h *Host, limit time.Duration, what string, cond func(xfg.Beat) bool) xfg.Beat {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(time.Second) {
		b, ok := g.LastBeat(t, h)
		if ok && cond(b) {
			return b
		}
		g.failIfEmulatorDid(t, h)
		if time.Now().After(end) {
			t.Fatalf("%s on %s: no heartbeat (%s) in %v; the last one is %v", g.Name, h.Name, what, limit, &b)
		}
	}
}

// emulatorFault is how the guest's kernel reports that it was interrupted a
// second time, by the same interrupt, at the first instruction of its handler,
// where interrupts are off: no processor does that, but QEMU's emulation of SVM
// has been seen to do it, once in some forty guests.
const emulatorFault = "ENTRY_TRAMPOLINE stack guard page was hit"

// failIfEmulatorDid ends the test, in words by which test.sh knows that it has
// to be repeated, if the guest has died of that.
func (g *Guest) failIfEmulatorDid(t testing.TB, h *Host) {
	t.Helper()
	if _, err := h.Run(context.Background(), fmt.Sprintf("grep -aqF %q %s/guest-%s*.log", emulatorFault, consoleDir, g.Name)); err == nil {
		t.Fatalf("emulator fault: %s on %s: %s", g.Name, h.Name, emulatorFault)
	}
}

// AssertClean fails the test unless the guest runs on h and only there, whole:
// its heartbeat goes on; all its memory is verified from now on; its disk and its NIC work, in both directions; and nothing bad was ever
// seen, by itself or by the listeners. It returns the newest heartbeat.
func (g *Guest) AssertClean(t testing.TB, h *Host) xfg.Beat {
	t.Helper()
	first := g.WaitBeat(t, h, CheckLimit, "to begin with", func(xfg.Beat) bool { return true })
	// Otherwise the guest takes its time. It may not be heard yet.
	_, _ = h.Run(context.Background(), "listen sweep "+g.ID)
	last := g.WaitBeat(t, h, CheckLimit, "with memory, disk and network at work since beat "+fmt.Sprint(first.N), func(b xfg.Beat) bool {
		return b.TotalBad() > 0 || b.N >= first.N+5 &&
			b.Verified-first.Verified >= b.MemMB<<20/memcheck.PageSize &&
			(b.MemMB == 0 || b.Writes > first.Writes) &&
			(!g.hasDisk(b) || b.DiskWrites > first.DiskWrites) &&
			(!g.hasNet(b) || b.NetTx > first.NetTx && b.NetRx > first.NetRx)
	})
	g.AssertNothingBad(t)
	if !g.On(t, h) {
		t.Errorf("%s has no domain %s", h.Name, g.Name)
	}
	AssertGone(t, g.Lab.Other(h), g.Name)
	return last
}

// hasDisk and hasNet: a guest without the device has never used it. The first
// packet is sent, and the first block written, before the first heartbeats.
func (g *Guest) hasDisk(b xfg.Beat) bool { return b.DiskWrites+b.DiskErrs > 0 }
func (g *Guest) hasNet(b xfg.Beat) bool  { return b.NetTx+b.NetErrs > 0 }

// AssertNothingBad fails the test if the guest, its consoles on both hosts or
// a listener has seen damage or a second copy.
func (g *Guest) AssertNothingBad(t testing.TB) {
	t.Helper()
	for _, alarm := range g.Alarms(t) {
		t.Error(alarm)
	}
}

// Alarms returns all that was seen of damage and of second copies of the guest.
func (g *Guest) Alarms(t testing.TB) []string {
	t.Helper()
	var alarms []string
	seen := map[uint64]string{} // beat number: host
	for _, h := range g.Lab.Hosts() {
		lines := g.lines(t, h, 1000000)
		for _, line := range lines {
			if at := strings.Index(line, xfg.BadWord); at >= 0 {
				alarms = append(alarms, fmt.Sprintf("%s on %s: %s", g.Name, h.Name, line[at:]))
			}
		}
		for _, b := range g.beatsIn(lines) {
			if before := seen[b.N]; before != "" {
				alarms = append(alarms, fmt.Sprintf("%s: heartbeat %d came on %s and on %s: two copies ran", g.Name, b.N, before, h.Name))
			}
			seen[b.N] = h.Name
			if bad := b.TotalBad(); bad > 0 {
				alarms = append(alarms, fmt.Sprintf("%s on %s: %d bad: %v", g.Name, h.Name, bad, &b))
				break
			}
		}
		if f := g.Flow(t, h); f != nil && f.Back > 0 {
			alarms = append(alarms, fmt.Sprintf("%s: %s heard %d packets twice or late, first number %d: two copies ran", g.Name, h.Name, f.Back, f.BackAt))
		}
	}
	return alarms
}

// Flow returns what the listener on h has heard of the guest since the last
// Mark, nil if nothing.
func (g *Guest) Flow(t testing.TB, h *Host) *xfg.Flow {
	t.Helper()
	return h.heard(t, "state").Flow(g.ID)
}

// Mark makes both listeners count anew.
func (l *Lab) Mark(t testing.TB) {
	t.Helper()
	for _, h := range l.Hosts() {
		h.heard(t, "mark")
	}
}

func (h *Host) heard(t testing.TB, word string) *xfg.State {
	t.Helper()
	var s xfg.State
	out := h.Must(t, "listen "+word)
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%s: listener: %v: %.200s", h.Name, err, out)
	}
	return &s
}

// Pause is how long a guest was away in a time, as seen from three sides.
type Pause struct {
	Beats   time.Duration // largest time between two heartbeats, by the guest's CLOCK_BOOTTIME
	Network time.Duration // largest time between two packets, by the listener's clock
	Lost    uint64        // packets that were sent and not heard
}

// String returns the pause for a test's log.
func (p Pause) String() string {
	return fmt.Sprintf("%v between heartbeats, %v between packets, %d packets lost", p.Beats, p.Network, p.Lost)
}

// Pause returns the guest's longest pause after its heartbeat number since and
// after the last Mark. Its heartbeats are on h now. The listener that is asked
// is h's own: its clock is the one that matters to who waits for the guest.
func (g *Guest) Pause(t testing.TB, h *Host, since uint64) Pause {
	t.Helper()
	var p Pause
	for _, b := range g.Beats(t, h, 1000000) {
		if b.N > since {
			p.Beats = max(p.Beats, time.Duration(b.GapMs)*time.Millisecond)
		}
	}
	if f := g.Flow(t, h); f != nil {
		p.Network = time.Duration(f.MaxGap.Ms * float64(time.Millisecond))
		p.Lost = f.Missing
	}
	return p
}
