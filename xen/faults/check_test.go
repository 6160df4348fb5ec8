package faults

import (
	"time"

	"github.com/xenferry/xenferry/fallback"
	"github.com/xenferry/xenferry/xen"
)

// check looks at the world after a run. It is locked.
func (w *world) check() {
	source, dest := fallback.State(""), fallback.State("") // of the last migration
	for _, s := range w.journals() {
		last := &dest
		if s.Side == fallback.SideSource {
			last = &source
		}
		if *last != "" && !fallback.Finished(s.Side, *last) {
			w.violate("an earlier %s is %q at the end", s.Side, *last)
		}
		*last = s.State
	}
	w.note("at the end: source %q, destination %q", source, dest)
	// Nobody can tell the source what became of the guest.
	excused := source == fallback.SourceInDoubt && (w.everMore || dest == fallback.DestinationUnsure)
	if source != "" && !fallback.Finished(fallback.SideSource, source) && !excused {
		w.violate("the source is %q at the end", source)
	}
	if dest != "" && !fallback.Finished(fallback.SideDestination, dest) {
		w.violate("the destination is %q at the end", dest)
	}
	w.checkRunning(source, excused)
	w.checkTime()
	w.checkLeft(excused)
}

// checkRunning sees that the guest runs exactly once, or has died with a host.
func (w *world) checkRunning(source fallback.State, excused bool) {
	running := 0
	for _, m := range w.hosts {
		for _, g := range m.guests {
			if g.state == xen.StateRunning || w.leftPaused(m, g) {
				running++
			}
		}
	}
	switch {
	case running > 1:
		w.violate("%d run at the end", running)
	case running == 1:
		if source == fallback.SourceLost {
			w.violate("the source says that it can be started again, and it runs")
		}
	case source == fallback.SourceLost:
		if !w.hosts[alpha].lost || w.ranThere {
			w.violate("the source says that it can be started again: its host had its power all the time, or the guest has run at the destination")
		}
	case excused:
	case w.ranThere && w.hosts[beta].lost: // it died where it belonged
	case source == "" && w.hosts[alpha].lost: // before the migration began
	case source == fallback.SourceResumed && w.hosts[alpha].lost: // after it was over
	default:
		w.violate("none runs at the end")
	}
}

// leftPaused tells whether that is the guest, where it was to be left paused.
func (w *world) leftPaused(m *machine, g *guest) bool {
	if m.index != beta || !g.complete || g.state != xen.StatePaused || g.name != guestName {
		return false
	}
	for _, s := range w.journals() {
		arrived := s.State == fallback.DestinationRunning || s.State == fallback.DestinationSettled
		if s.Side == fallback.SideDestination && s.LeavePaused && s.GuestDomid() == g.domid && arrived {
			return true
		}
	}
	return false
}

// senderLimit is the longest that a sender may take: its limits for each wait
// of a migration, one after the other.
var senderLimit = limits.Connect + limits.Handshake + limits.Suspend + 2*limits.Ready + limits.Commit + limits.Doubt + 2*limits.Undo

// checkTime sees that a sender has come to its end, of itself or by its
// guardian.
func (w *world) checkTime() {
	for _, p := range w.procs {
		if p.name != "source" && p.name != "dest" {
			continue
		}
		end := p.ended
		if end.IsZero() {
			end = time.Now()
		}
		if life := end.Sub(p.began); life > senderLimit && p.hung.IsZero() {
			w.violate("%s took %s, its limits allow %s", p.name, life, senderLimit)
		}
	}
}

// checkLeft sees that nothing of a migration is left.
func (w *world) checkLeft(excused bool) {
	for _, m := range w.hosts {
		for _, g := range m.guests {
			switch {
			case g.state == xen.StateRunning && g.name != guestName:
				w.violate("domain %d on %s runs as %s", g.domid, m.name, g.name)
			case g.state == xen.StateRunning && g.logDirty:
				w.violate("domain %d on %s is in log-dirty mode", g.domid, m.name)
			case w.leftPaused(m, g):
			case g.state != xen.StateRunning && !(excused && m.index == alpha):
				w.violate("domain %d (%s) is left on %s, %s", g.domid, g.name, m.name, g.state)
			}
		}
		for name, f := range m.disk.files {
			if f.holder != nil && f.holder.dead {
				w.violate("journal %s is held by %s", name, f.holder.name)
			}
		}
	}
}
