//go:build lab

package labtest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen"
)

// ResumeLimit is how soon after a failure was seen the guest must run again at
// the source.
const ResumeLimit = 2 * time.Second

// mishap is something that goes wrong during a migration from A to B.
type mishap struct {
	name   string
	strike func(t testing.TB, l *Lab)
}

var (
	receiverKilled = mishap{"receiver killed", func(t testing.TB, l *Lab) { harm(t, l.B, kill("KILL", receivers)) }}
	// The receiver has claimed the guest's memory, so no other guest can take
	// it away. But it can find that it may map nothing any more: ENOMEM,
	// wherever it asks next, in its clean-up as well.
	outOfMemory = mishap{"out of memory", func(t testing.TB, l *Lab) {
		harm(t, l.B, "pid=$(pgrep -o -f "+receivers+"); kib=$(sed -n 's/^VmSize:[^0-9]*\\([0-9]*\\).*/\\1/p' /proc/$pid/status);"+
			" prlimit --as=$(( (kib - 4096) * 1024 )) --pid $pid")
	}}
)

// harm runs a command that does the harm.
func harm(t testing.TB, h *Host, command string) {
	t.Helper()
	if out, err := h.Run(context.Background(), command); err != nil {
		t.Errorf("the fault could not be made: %v\n%s", err, out)
	}
}

// moment is when a fault strikes: when a phase of the source begins. It must
// end the migration in one of the phases in.
type moment struct {
	name  string
	phase string
	in    []string
}

// The guest is suspended from the end of "suspend" on. The verify round of
// --debug makes that last for seconds, so that a fault surely strikes in it.
var (
	whileCopying   = moment{"pre-copy", "copy", []string{"copy", "devices"}}
	whileSuspended = moment{"suspended", "verify", []string{"verify", "final state", "destination ready"}}
)

// TestFaults is what TestKills leaves: a destination that runs out of memory,
// while memory is copied and while the guest is suspended, and the resume of a
// suspended guest on the newer release. The guest runs on at the source within
// ResumeLimit, whole, with its devices, and nothing of it is left at the
// destination.
func TestFaults(t *testing.T) {
	if !Find(t).SameRelease() {
		t.Skip("tried on pairs of one release")
	}
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			moments, wrong := []moment{whileSuspended}, receiverKilled
			if l.A.Release == oldest {
				wrong = outOfMemory
				if kind == "pvh" {
					moments = []moment{whileCopying, whileSuspended}
				}
			}
			g := l.CreateGuest(t, l.A, "fault-"+kind, GuestOptions{Type: kind, MemoryMB: 128,
				Args: []string{"xfg.mem=16", "xfg.verify=16MB", "xfg.workload=hot:20MB/s,set=4MiB"}})
			for _, at := range moments {
				g.suffer(t, wrong, at)
			}
			// After all that stock xl can save it.
			l.A.Must(t, fmt.Sprintf("xl save -c %s /var/lib/fault.save && rm /var/lib/fault.save", g.Name))
		})
	}
}

// suffer starts a migration, lets the fault strike, and checks what is left.
func (g *Guest) suffer(t *testing.T, f mishap, at moment) {
	t.Run(fmt.Sprintf("%s/%s", at.name, f.name), func(t *testing.T) {
		l := g.Lab
		l.witness(t)
		before := g.WaitBeat(t, l.A, CheckLimit, "before", func(b xfg.Beat) bool { return true })
		m := g.Start(t, l.A, "--debug --data plain")
		m.AwaitPhase(t, at.phase)
		f.strike(t, l)
		code, report, stderr := m.End(t)
		if report == nil {
			t.Fatalf("exit code %d, no report: %s", code, stderr)
		}
		t.Logf("%s; failed in %q; ran again %v after that was seen", report.Error, report.FailedIn, report.ResumedAfter)
		if code != 6 || report.Outcome != xen.OutcomeAtSource {
			t.Errorf("exit code %d, outcome %q: %s", code, report.Outcome, stderr)
		}
		if !slices.Contains(at.in, report.FailedIn) {
			t.Errorf("it failed in phase %q, want one of %q", report.FailedIn, at.in)
		}
		if t.Failed() {
			t.Logf("it said: %s", stderr)
		}
		if report.ResumedAfter > ResumeLimit {
			t.Errorf("the guest ran again only after %v", report.ResumedAfter)
		}
		if after := g.AssertClean(t, l.A); after.N <= before.N {
			t.Errorf("its heart does not beat on: %v", &after)
		}
	})
}
