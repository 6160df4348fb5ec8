//go:build lab

package labtest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen/memcheck"
)

// pollEvery is how long a test waits at least between two looks at a host.
const pollEvery = 400 * time.Millisecond

// rest waits until the next look at a host: twice as long as the last one took,
// or the looks would take the host's one processor from the guest.
func rest(lookBegan time.Time) { time.Sleep(max(pollEvery, 2*time.Since(lookBegan))) }

// Beats returns the guest's heartbeats on a host, in the order of their numbers.
func (g *Guest) Beats(t testing.TB, h *Host) []xfg.Beat {
	t.Helper()
	g.read(t, h)
	beats := g.beats(h)
	slices.SortStableFunc(beats, func(a, b xfg.Beat) int { return cmp.Compare(a.N, b.N) })
	return beats
}

// beats returns the guest's heartbeats that were read on a host, as they came.
func (g *Guest) beats(h *Host) []xfg.Beat {
	var beats []xfg.Beat
	for _, b := range g.console(h).beats {
		if g.ID == "" || b.ID == g.ID {
			beats = append(beats, b)
		}
	}
	return beats
}

// LastBeat returns the guest's newest heartbeat on a host.
func (g *Guest) LastBeat(t testing.TB, h *Host) (b xfg.Beat, ok bool) {
	t.Helper()
	g.read(t, h)
	for _, beat := range g.beats(h) {
		if !ok || beat.N >= b.N {
			b, ok = beat, true
		}
	}
	return b, ok
}

// WaitBeat waits on h for a heartbeat of which cond holds, and returns it.
func (g *Guest) WaitBeat(t testing.TB, h *Host, limit time.Duration, what string, cond func(xfg.Beat) bool) xfg.Beat {
	t.Helper()
	for end := time.Now().Add(limit); ; {
		began := time.Now()
		b, ok := g.LastBeat(t, h)
		if ok && cond(b) {
			return b
		}
		if panics := g.console(h).panics; len(panics) > 0 {
			t.Fatalf("%s on %s: no heartbeat (%s): its kernel has given up: %s", g.Name, h.Name, what, panics[0])
		}
		if time.Now().After(end) {
			t.Fatalf("%s on %s: no heartbeat (%s) in %v; the last one is %v", g.Name, h.Name, what, limit, &b)
		}
		rest(began)
	}
}

// firstLook is how long the first heartbeat is waited for on the host itself,
// where that costs nothing, before the console is looked at from here.
const firstLook = 20 * time.Second

// beatCommand waits on a host for a heartbeat of the guests with such a name, for
// firstLook.
func beatCommand(pattern string) string {
	return fmt.Sprintf("await %g '%s/guest-%s.log' '%s id='", firstLook.Seconds(), consoleDir, pattern, xfg.BeatWord)
}

// awaitBeat waits for a heartbeat on either host, at no cost to them, and for no
// longer than firstLook.
func (g *Guest) awaitBeat() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var waiting sync.WaitGroup
	for _, h := range g.Lab.Hosts() {
		waiting.Go(func() {
			if _, err := h.Run(ctx, beatCommand(g.Name+"*")); err == nil {
				cancel()
			}
		})
	}
	waiting.Wait()
}

// waitBoot waits for a new guest's first heartbeat.
func (g *Guest) waitBoot(t testing.TB, h *Host) xfg.Beat {
	t.Helper()
	for end := time.Now().Add(BootLimit - firstLook); time.Now().Before(end); {
		_, err := h.Run(t.Context(), beatCommand(g.Name))
		if g.read(t, h); err == nil || len(g.console(h).panics) > 0 {
			break
		}
	}
	return g.WaitBeat(t, h, firstLook, "its first", func(xfg.Beat) bool { return true })
}

// AssertClean fails the test unless the guest runs on h and only there, whole:
// its heartbeat goes on; all its memory is verified from now on; its disk and its NIC work, in both directions; and
// nothing bad was ever seen, by itself or by the listeners. It returns the newest heartbeat.
func (g *Guest) AssertClean(t testing.TB, h *Host) xfg.Beat {
	t.Helper()
	first := g.WaitBeat(t, h, CheckLimit, "to begin with", func(xfg.Beat) bool { return true })
	// Otherwise the guest takes its time. It may not be heard yet.
	_, _ = h.Run(context.Background(), "listen sweep "+g.ID)
	last := g.WaitBeat(t, h, CheckLimit, "with memory, disk and network at work since beat "+fmt.Sprint(first.N), func(b xfg.Beat) bool {
		return b.TotalBad() > 0 || b.N >= first.N+5 &&
			b.Verified-first.Verified >= b.MemMB<<20/memcheck.PageSize &&
			b.Still-first.Still >= b.StillMB<<20/memcheck.PageSize &&
			(b.MemMB == 0 || b.Writes > first.Writes) &&
			(!g.hasDisk(b) || b.DiskWrites > first.DiskWrites) &&
			(!g.hasNet(b) || b.NetTx > first.NetTx && b.NetRx > first.NetRx)
	})
	g.AssertNothingBad(t)
	other := g.Lab.Other(h)
	lists := mustAll(t, listDomains, h, other)
	if !slices.Contains(slices.Collect(maps.Values(parseDomains(lists[0]))), g.Name) {
		t.Errorf("%s has no domain %s", h.Name, g.Name)
	}
	if len(remains(parseDomains(lists[1]), g.Name)) > 0 {
		AssertGone(t, other, g.Name)
	}
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
	g.read(t, g.Lab.Hosts()...)
	heard := g.Lab.heard(t, "state")
	for i, h := range g.Lab.Hosts() {
		for _, text := range g.console(h).bad {
			alarms = append(alarms, fmt.Sprintf("%s on %s: %s", g.Name, h.Name, text))
		}
		for _, b := range g.beats(h) {
			if before := seen[b.N]; before != "" {
				alarms = append(alarms, fmt.Sprintf("%s: heartbeat %d came on %s and on %s: two copies ran", g.Name, b.N, before, h.Name))
			}
			seen[b.N] = h.Name
			if bad := b.TotalBad(); bad > 0 {
				alarms = append(alarms, fmt.Sprintf("%s on %s: %d bad: %v", g.Name, h.Name, bad, &b))
				break
			}
		}
		if f := heard[i].Flow(g.ID); f != nil && f.Back > 0 {
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
	l.heard(t, "mark")
}

// heard gives both listeners a word and returns what each answers, in the order
// of Hosts.
func (l *Lab) heard(t testing.TB, word string) []*xfg.State {
	t.Helper()
	var states []*xfg.State
	for i, out := range mustAll(t, "listen "+word, l.Hosts()...) {
		states = append(states, parseState(t, l.Hosts()[i], out))
	}
	return states
}

func (h *Host) heard(t testing.TB, word string) *xfg.State {
	t.Helper()
	return parseState(t, h, h.Must(t, "listen "+word))
}

func parseState(t testing.TB, h *Host, out string) *xfg.State {
	t.Helper()
	var s xfg.State
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		t.Fatalf("%s: listener: %v: %.200s", h.Name, err, out)
	}
	return &s
}

// heardLately is how old a guest's last packet may be that is heard all the time.
const heardLately = 500 * time.Millisecond

// MarkHeard marks when both listeners hear the guest: it is silent while it verifies
// all its memory, and a silence across a mark counts from its beginning.
func (g *Guest) MarkHeard(t testing.TB) {
	t.Helper()
	for end := time.Now().Add(CheckLimit); time.Now().Before(end); {
		began := time.Now()
		if !slices.ContainsFunc(g.Lab.heard(t, "state"), func(s *xfg.State) bool {
			f := s.Flow(g.ID)
			return f == nil || s.NowMs-f.LastMs > heardLately.Milliseconds()
		}) {
			g.Lab.Mark(t)
			return
		}
		rest(began)
	}
	t.Fatalf("%s is not heard by both hosts all the time", g.Name)
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
	for _, b := range g.Beats(t, h) {
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
