package xen

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestLanePriority: a thread that compresses is one that others come before, and
// only while it does.
func TestLanePriority(t *testing.T) {
	done := make(chan struct{})
	go func() { // its thread ends with it where the priority cannot be restored
		defer close(done)
		l := &lane{}
		usual := nice()
		l.restorePriority()
		if got := nice(); got != usual {
			t.Errorf("restored before it was lowered: nice %d, want %d", got, usual)
		}
		for range 2 {
			l.lowerPriority()
			l.lowerPriority()
			if got := nice(); got != min(usual+lowPriority, 19) {
				t.Errorf("lowered: nice %d, want %d", got, usual+lowPriority)
			}
			l.restorePriority()
			if got := nice(); !l.quiet && got != usual {
				t.Errorf("restored: nice %d, want %d", got, usual)
			}
			if unix.Geteuid() == 0 && l.quiet {
				t.Error("root may not restore it")
			}
		}
	}()
	<-done
}
