//go:build lab

package labtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
	"github.com/xenferry/xenferry/xen"
)

// busy is a guest that writes as much as emulation gives.
var busy = []string{"xfg.mem=48", "xfg.verify=16MB", "xfg.workload=hot:20MB/s,set=16MiB"}

// TestFerry is the main job: a guest under its checker goes from A to B and
// back with xenferry, and stock xl works on it afterwards.
func TestFerry(t *testing.T) {
	if !Find(t).SameRelease() {
		t.Skip("tried on pairs of one release; see TestRollingUpgrade")
	}
	for _, kind := range []string{"pvh", "hvm"} {
		t.Run(kind, func(t *testing.T) {
			l := Open(t)
			g := l.CreateGuest(t, l.A, "ferry-"+kind, GuestOptions{Type: kind, Args: busy})
			at := g.AssertClean(t, l.A)
			at = g.ferryAndCheck(t, l.A, at, "")
			g.ferryAndCheck(t, l.B, at, "--data plain --connections 2")
			g.stockStillWorks(t, l.A)
			g.Shutdown(t, l.B)
		})
	}
}

// TestRollingUpgrade moves a PVH guest from an older Xen to a newer one.
func TestRollingUpgrade(t *testing.T) {
	if Find(t).SameRelease() {
		t.Skip("tried on the pair of two releases")
	}
	l := Open(t)
	g := l.CreateGuest(t, l.A, "upgrade", GuestOptions{Args: busy})
	g.ferryAndCheck(t, l.A, g.AssertClean(t, l.A), "--data ssh")
	g.Shutdown(t, l.B)
}

// ferryAndCheck moves the guest away from a host, where it was found clean at
// the heartbeat before, and checks everything that can be seen of it. It
// returns the newest heartbeat.
func (g *Guest) ferryAndCheck(t testing.TB, from *Host, before xfg.Beat, options string) xfg.Beat {
	t.Helper()
	to := g.Lab.Other(from)
	g.Lab.Mark(t)
	report := g.Ferry(t, from, options)
	after := g.AssertClean(t, to)
	t.Logf("%s %s %s→%s: %s", g.Name, options, from.Name, to.Name, summary(report))
	t.Logf("seen from outside: %v", g.Pause(t, to, before.N))
	if after.N <= before.N || after.Writes <= before.Writes || after.BootMs <= before.BootMs {
		t.Errorf("the guest went back in time:\n%v\n%v", &before, &after)
	}
	return after
}

// summary is a report in a line for a test's log.
func summary(r *xen.Report) string {
	phases := make([]string, 0, len(r.Phases))
	for _, p := range r.Phases {
		phases = append(phases, fmt.Sprintf("%s %.2f", p.Name, p.Time.Seconds()))
	}
	return fmt.Sprintf("total %.1f s, downtime %.2f s, %d rounds, %.1f MB on the wire, data over %s; phases in s: %s",
		r.Total.Seconds(), r.Downtime.Seconds(), len(r.Rounds), float64(r.WireBytes)/1e6, r.Data, strings.Join(phases, ", "))
}

// stockStillWorks saves and restores the guest with stock xl where it is, and
// migrates it to the other host.
func (g *Guest) stockStillWorks(t testing.TB, h *Host) {
	t.Helper()
	file := "/var/lib/" + g.Name + ".save"
	h.Must(t, fmt.Sprintf("xl save %s %s && xl restore %[2]s && rm %[2]s", g.Name, file))
	g.Migrate(t, h, "xl")
	g.AssertClean(t, g.Lab.Other(h))
}

// TestRefused is what the destination says no to: the guest is not touched.
func TestRefused(t *testing.T) {
	Find(t).onceOnly(t)
	l := Open(t)
	g := l.CreateGuest(t, l.A, "refused", GuestOptions{Args: []string{"xfg.mem=16", "xfg.verify=16MB"}})
	t.Run("name taken", func(t *testing.T) {
		l.B.Must(t, "sed 's/^disk.*/disk=[]/; s/^vif.*/vif=[]/; s/^name.*/name=\"refused\"/' /root/guest/pvh.cfg > /tmp/taken.cfg && xl create -q -p /tmp/taken.cfg")
		expectRefused(t, g, "", 5, "already in use")
		l.B.Must(t, "xl destroy refused")
	})
	t.Run("no memory", func(t *testing.T) {
		fillMemory(t, l.B, "ballast", 100)
		expectRefused(t, g, "", 5, "not enough free memory")
		l.B.Must(t, "xl destroy ballast")
	})
	t.Run("no receiver", func(t *testing.T) {
		expectRefused(t, g, "--receiver /nonexistent/xenferry", 4, "install xenferry")
	})
	t.Run("no such host", func(t *testing.T) {
		out, err := l.A.Run(t.Context(), "xenferry migrate refused 192.168.77.9")
		expectFailure(t, out, err, 4, "192.168.77.9")
	})
	t.Run("no such domain", func(t *testing.T) {
		out, err := l.A.Run(t.Context(), "xenferry migrate nobody hostB")
		expectFailure(t, out, err, 3, "nobody")
	})
	g.AssertClean(t, l.A)
}

func expectRefused(t *testing.T, g *Guest, options string, code int, want string) {
	t.Helper()
	out, err := g.Lab.A.Run(t.Context(), fmt.Sprintf("xenferry migrate %s %s hostB", options, g.Name))
	expectFailure(t, out, err, code, want)
}

func expectFailure(t *testing.T, out string, err error, code int, want string) {
	t.Helper()
	run, ok := err.(*RunError)
	if !ok || run.Code != code || !strings.Contains(out, want) {
		t.Errorf("want exit code %d and %q, got %v\n%s", code, want, err, out)
	}
}

// fillMemory creates a paused guest that leaves only leaveMB of a host's
// memory free.
func fillMemory(t testing.TB, h *Host, name string, leaveMB int) {
	t.Helper()
	h.Must(t, fmt.Sprintf(`mb=$(( $(xl info free_memory) - %d - 12 )) &&
sed "s/^disk.*/disk=[]/; s/^vif.*/vif=[]/; s/^name.*/name=\"%s\"/; s/^memory.*/memory=$mb/" /root/guest/pvh.cfg > /tmp/%[2]s.cfg &&
xl create -q -p /tmp/%[2]s.cfg`, leaveMB, name))
}
