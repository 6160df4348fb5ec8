//go:build lab

package labtest

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/xenferry/xenferry/scripts/lab/xfg"
)

// onceOnly skips a test of the lab itself on all pairs but one.
func (l *Lab) onceOnly(t *testing.T) {
	t.Helper()
	if !l.SameRelease() || l.A.Release != oldest {
		t.Skipf("the lab itself is tried on the pair of Xen %s", oldest)
	}
}

// longOnly skips a test that takes so long that it is a suite of its own.
func longOnly(t *testing.T) {
	t.Helper()
	if os.Getenv("XENFERRY_LAB_LONG") == "" {
		t.Skip("takes long: run make lab-test-long")
	}
}

// TestStockMigrate moves a guest with stock xl: the known-good case. If the
// checkers found fault with it, they would be wrong.
func TestStockMigrate(t *testing.T) {
	Find(t).onceOnly(t)
	l := Open(t)
	g := l.CreateGuest(t, l.A, "stock", GuestOptions{})
	before := g.AssertClean(t, l.A)
	l.Mark(t)
	took, _ := g.Migrate(t, l.A, "xl")
	after := g.AssertClean(t, l.B)
	t.Logf("xl migrate took %v; %v", took, g.Pause(t, l.B, before.N))
	if after.N <= before.N || after.Writes <= before.Writes || after.BootMs <= before.BootMs {
		t.Errorf("the guest went back in time:\n%v\n%v", &before, &after)
	}
	g.Shutdown(t, l.B)
}

// TestHarmIsSeen makes a guest do each kind of damage to itself, and expects
// that each is found: by the guest, or by the listeners.
func TestHarmIsSeen(t *testing.T) {
	Find(t).onceOnly(t)
	l := Open(t)
	g := l.CreateGuest(t, l.A, "harm", GuestOptions{Args: []string{"xfg.image=8 xfg.harm=mem:20,still:20,disk:20,net:20"}})
	g.WaitBeat(t, l.A, CheckLimit, "with bad memory of both kinds and a bad disk", func(b xfg.Beat) bool {
		return b.Bad > 1 && b.DiskBad > 0
	})
	alarms := g.Alarms(t)
	for _, want := range []string{xfg.BadWord + " memory: ", xfg.BadWord + " memory that nobody writes: ", xfg.BadWord + " disk: ", "packets twice or late"} {
		if !slices.ContainsFunc(alarms, func(a string) bool { return strings.Contains(a, want) }) {
			t.Errorf("no alarm with %q; all there are: %q", want, alarms)
		}
	}
}

// TestSecondCopyIsSeen runs two copies of one guest at once, what a migration
// must never do, and expects that beats, disk and network tell.
func TestSecondCopyIsSeen(t *testing.T) {
	Find(t).onceOnly(t)
	l := Open(t)
	g := l.CreateGuest(t, l.A, "copy", GuestOptions{MemoryMB: 160, Args: []string{"xfg.mem=16"}})
	g.AssertClean(t, l.A)
	l.A.Must(t, "xl save -c copy /tmp/copy.save")
	l.B.Must(t, "(nc -l -p 7000 > /tmp/copy.save) > /dev/null 2>&1 < /dev/null &")
	l.A.Must(t, "nc -N hostB 7000 < /tmp/copy.save && rm /tmp/copy.save")
	l.B.Must(t, "xl restore /tmp/copy.save; s=$?; rm /tmp/copy.save; exit $s")
	want := []string{"two copies ran", xfg.BadWord + " disk: ", "packets twice or late"}
	var alarms []string
	for end := time.Now().Add(CheckLimit); time.Now().Before(end) && len(want) > 0; time.Sleep(2 * time.Second) {
		alarms = g.Alarms(t)
		want = slices.DeleteFunc(want, func(w string) bool {
			return slices.ContainsFunc(alarms, func(a string) bool { return strings.Contains(a, w) })
		})
	}
	if len(want) > 0 {
		t.Errorf("no alarms with %q; all there are: %q", want, alarms)
	}
}
