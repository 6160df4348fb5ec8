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

// fault is something that goes wrong during a migration from A to B.
type fault struct {
	name   string
	strike func(t testing.TB, l *Lab)
	// undo puts the host right again.
	undo func(t testing.TB, l *Lab)
}

// run runs a command of which it is known only that it does harm.
func run(t testing.TB, h *Host, command string) {
	t.Helper()
	if out, err := h.Run(context.Background(), command); err != nil {
		t.Errorf("the fault could not be made: %v\n%s", err, out)
	}
}

const receiverPattern = "'^xenferry .*migrate-receive|^xenferry migrate-receive'"

var faults = []fault{
	{
		name:   "receiver killed",
		strike: func(t testing.TB, l *Lab) { run(t, l.B, "pkill -KILL -f "+receiverPattern) },
	},
	{
		name:   "ssh cut",
		strike: func(t testing.TB, l *Lab) { run(t, l.A, "pkill -KILL -f '^ssh .*migrate-receive'") },
	},
}

// outOfMemoryWhileCopying takes the memory that the guest's pages need, once
// the destination has found that there is enough.
var outOfMemoryWhileCopying = fault{
	name:   "out of memory",
	strike: func(t testing.TB, l *Lab) { fillMemory(t, l.B, "ballast", 4) },
	undo:   func(t testing.TB, l *Lab) { l.B.Must(t, "xl destroy ballast") },
}

// outOfMemoryWhileSuspended leaves the receiver no more address space: the
// next mapping fails with ENOMEM. By then the guest's pages have their memory.
var outOfMemoryWhileSuspended = fault{
	name: "out of memory",
	strike: func(t testing.TB, l *Lab) {
		run(t, l.B, "prlimit --as=1 --pid $(pgrep -o -f "+receiverPattern+")")
	},
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
	whileCopying   = moment{"pre-copy", "copy", []string{"copy"}}
	whileSuspended = moment{"suspended", "verify", []string{"verify", "final state", "destination ready"}}
)

// TestFaults lets each thing go wrong, while memory is copied and while the
// guest is suspended: it runs on at the source within ResumeLimit, whole, with
// its devices, and nothing of it is left at the destination.
func TestFaults(t *testing.T) {
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			if !l.SameRelease() {
				t.Skip("tried on pairs of one release")
			}
			g := l.CreateGuest(t, l.A, "fault-"+kind, GuestOptions{Type: kind, Args: []string{"xfg.mem=48", "xfg.workload=hot:20MB/s,set=8MiB"}})
			g.AssertClean(t, l.A)
			for _, f := range append(slices.Clone(faults), outOfMemoryWhileCopying) {
				g.suffer(t, f, whileCopying)
			}
			for _, f := range append(slices.Clone(faults), outOfMemoryWhileSuspended) {
				g.suffer(t, f, whileSuspended)
			}
			// After all that it can still go.
			g.ferryAndCheck(t, l.A, "")
			g.Shutdown(t, l.B)
		})
	}
}

// suffer starts a migration, lets the fault strike, and checks what is left.
func (g *Guest) suffer(t *testing.T, f fault, at moment) {
	t.Run(fmt.Sprintf("%s/%s", at.name, f.name), func(t *testing.T) {
		l := g.Lab
		before := g.WaitBeat(t, l.A, CheckLimit, "before", func(b xfg.Beat) bool { return true })
		m := g.Start(t, l.A, "--debug")
		m.AwaitPhase(t, at.phase)
		f.strike(t, l)
		code, report, stderr := m.End(t)
		if f.undo != nil {
			f.undo(t, l)
		}
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
		if report.ResumedAfter > ResumeLimit {
			t.Errorf("the guest ran again only after %v", report.ResumedAfter)
		}
		if after := g.AssertClean(t, l.A); after.N <= before.N {
			t.Errorf("its heart does not beat on: %v", &after)
		}
	})
}
